"""The images of a page, each in it once, and no larger than the eye needs."""

from __future__ import annotations

import base64
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.report.traces import Record

MAX_SIDE = 1024  # pixels of an image in the page; a larger one is scaled down, and the page says so
SMALL_SIDE = 256  # pixels; an image of up to this size loses nothing
MAX_IMAGE_BYTES = 60_000  # an image of up to this size goes in as it is

Picture = tuple[Path, tuple[int, int] | None]
"""An image file, and the size in which the model saw it where that is known."""


class Gallery:
    """The images of a page, each in it once.

    Attributes:
        sizes: For each image its width and height in pixels, and those of what the page holds; None if unreadable.
        uris: For each image what the page holds, as a data URI.
    """

    def __init__(self, pictures: Sequence[Picture]) -> None:
        """Read the images, in the size that the model saw and no larger than `MAX_SIDE`."""
        self._places = {picture: place for place, picture in enumerate(dict.fromkeys(pictures))}
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:  # Pillow releases the GIL
            made = list(pool.map(_inline, self._places))
        self.sizes = [image and image[:2] for image in made]
        self.uris = [image[2] if image else "" for image in made]

    def place(self, picture: Picture | None) -> int | None:
        """Give the number of an image in the page."""
        return self._places[picture] if picture else None


def _inline(picture: Picture) -> tuple[tuple[int, int], tuple[int, int], str] | None:
    """Return an image's size, its size in the page, and it as a data URI; None where it can't be read."""
    path, seen = picture
    try:
        content = path.read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            size, kind = image.size, (image.format or "").lower()
            seen = seen or size
            shrink = min(1, MAX_SIDE / max(seen))
            inside = (max(1, round(seen[0] * shrink)), max(1, round(seen[1] * shrink)))
            image.load()
            if inside != size or len(content) > MAX_IMAGE_BYTES or kind not in ("png", "jpeg", "webp", "gif"):
                small = image.convert("RGBA" if image.has_transparency_data else "RGB").resize(inside)
                buffer = io.BytesIO()
                small.save(buffer, "WEBP", quality=85, method=2, lossless=max(inside) <= SMALL_SIDE)
                content, kind = buffer.getvalue(), "webp"
            return size, inside, f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    except Exception:  # noqa: BLE001 - Pillow raises anything for a broken file, and the text is worth having
        return None


def pictures_of(record: Record) -> list[Picture | None]:
    """Give the images of a record; the first is what boxes refer to, and may be recorded in another size."""
    seen = [tuple(record["view_size"])] if record["view_size"] else []
    sizes = [*seen, *[None] * len(record["images"])]
    return [path and (path, size) for path, size in zip(record["images"], sizes, strict=False)]
