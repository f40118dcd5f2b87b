"""Images in encoded form: their bytes, the key that equal ones share, and how they travel between processes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
from typing import Any

from PIL import Image


def image_bytes(source: Any) -> bytes:
    """Returns an image in encoded form.

    Args:
        source: Path, URL, data URI, base64, bytes, a dict with `bytes` or `path`, or a PIL image.
    """
    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, Image.Image):
        return base64.b64decode(to_data_uri(source.convert("RGB")).partition(",")[2])
    try:  # swift is heavy, and those who only encode don't need it
        from swift.template.vision_utils import load_file  # noqa: PLC0415 - ms-swift 4
    except ImportError:
        from swift.llm.template.vision_utils import load_file  # noqa: PLC0415 - ms-swift 3
    return bytes(load_file(source).getvalue())


def to_data_uri(image: Image.Image) -> str:
    """Encodes an RGB image without loss, for the way from the rollout to the trainer.

    Lossless WebP at its fastest setting is written several times as fast as PNG as swift would encode it, at about
    its size (benchmarks/zoom.py); it ends at 16383 pixels a side.
    """
    buffer = io.BytesIO()
    if max(image.size) <= 16383:  # noqa: PLR2004 - limit of the WebP format
        image.save(buffer, "WEBP", lossless=True, quality=0, method=0)
        kind = "webp"
    else:
        image.save(buffer, "PNG", compress_level=1)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def is_url(source: Any) -> bool:
    """Tells whether swift would download an image."""
    return isinstance(source, str) and source.lstrip()[:4] == "http"


def content_key(source: Any) -> str:
    """Returns a key that equal images share."""
    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, Image.Image):
        looks = (source.mode, source.size, source.getpalette("RGBA"), source.info.get("transparency"))
        source = repr(looks).encode() + source.tobytes()
    if isinstance(source, str):
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(source)  # noqa: PTH116 - a base64 text is too long for a Path
            return f"{source} {status.st_mtime_ns} {status.st_size}"
        source = source.encode()
    return hashlib.sha1(source, usedforsecurity=False).hexdigest()
