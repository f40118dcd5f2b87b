"""The image of a row: found and read as swift does, and decoded."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import os
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from deepeyes.dataset.quoting import MAX_QUOTE
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_SIDE = 28  # pixels: one image token of Qwen2.5-VL; smaller images are scaled up
LONGEST_PATH = 2000  # characters; what is longer, swift takes for base64
MAX_RATIO = 200  # longer side / shorter side; qwen-vl-utils refuses more


class ImageFacts(NamedTuple):
    """What decoding an image told.

    Attributes:
        problem: Why it can't be used, or an empty text.
        width: Pixels.
        height: Pixels.
        digest: The same for images that are the same pixels in RGB, whatever their encoding.
    """

    problem: str
    width: int = 0
    height: int = 0
    digest: bytes = b""


def image_of(image: Any) -> bytes | str | None:
    """Returns the bytes of an image column's entry, else its path or base64 text, else None."""
    if isinstance(image, dict):
        content = image.get("bytes") or image.get("path")
        image = None if content is image.get("bytes") and isinstance(content, str) else content
    return image if isinstance(image, (bytes, str)) and image else None


def find_image(path: str) -> Path:
    """Returns the file that swift would open for a path in a dataset.

    Raises:
        DataFileError: There is none, or it is an address.
    """
    if re.match(r"(https?|data):", path):
        raise DataFileError(f"the image is {path[:40]!r}; expected bytes, base64 or a file on this machine")
    if place := _file_at(path):
        return place
    root = os.environ.get("ROOT_IMAGE_DIR")
    where = f"ROOT_IMAGE_DIR={root}" if root else f"ROOT_IMAGE_DIR (not set) or {Path.cwd()}"
    raise DataFileError(f"the image file is not in {where}: {path!r:.{MAX_QUOTE}}")


def _file_at(path: str) -> Path | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no name that a file can have
        for place in (Path(path), Path(os.environ.get("ROOT_IMAGE_DIR") or "", path).expanduser()):
            if place.is_file():
                return place
    return None


def inline_image(text: str) -> bytes | None:
    """Returns what a text holds in base64, bare or as a `data:` address, or None for a path. As swift tells them."""
    if not (address := re.match(r"data:[^,]+;base64,", text)) and len(text) <= LONGEST_PATH and _file_at(text):
        return None
    try:
        return base64.b64decode("".join(text[address.end() if address else 0 :].split()), validate=True)
    except ValueError:
        return None


def read_image(image: bytes | str) -> bytes:
    """Returns the bytes of an image that is there as such, in base64 or as a path."""
    if isinstance(image, bytes):
        return image
    content = inline_image(image.strip())
    return find_image(image.strip()).read_bytes() if content is None else content


def look(images: Sequence[bytes | str | None]) -> list[ImageFacts]:
    """Decodes images whole. Runs in a worker process."""
    return [_look(image) for image in images]


def _look(image: bytes | str | None) -> ImageFacts:
    if image is None:
        return ImageFacts("")  # `row_problems` has said it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(read_image(image))) as opened:
                opened.load()
                width, height = opened.size
                # Swift's load_image drops transparency in the same way: this is what the model sees.
                pixels = (opened if opened.mode == "RGB" else opened.convert("RGB")).tobytes()
    except DataFileError as error:
        return ImageFacts(str(error))
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise anything on damaged bytes
        reason = re.sub(r"<_io.BytesIO object at \w+>", "its bytes", str(error))
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return ImageFacts(f"the image does not decode: {kind}{reason:.{MAX_QUOTE}}")
    if max(width, height) > MAX_RATIO * min(width, height):
        return ImageFacts(f"a side of the image is more than {MAX_RATIO} times the other; the template refuses it")
    digest = hashlib.sha1(pixels, usedforsecurity=False)  # the fastest that processors bring instructions for
    digest.update(b"%d" % width)
    return ImageFacts("", width, height, digest.digest())
