"""Pictures: the view of an image that is sent to an endpoint, and crops.

A view is what training shows of an image: scaled and rounded to whole image tokens within a pixel budget, in the very
pixels of `qwen_vl_utils.fetch_image`, which swift's templates of Qwen's models call. It is sent without loss, and the
server's own preprocessing leaves an image of such a size as it is. No torch is needed here, and no swift.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import io
import math
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from cachetools import LRUCache
from PIL import Image

from deepeyes.boxes import Box, fit_box
from deepeyes.calls import ZoomRefusedError
from deepeyes.images.encoding import content_key, is_url, to_data_uri
from deepeyes.images.store import ImageStore
from deepeyes.settings import Coordinates, CropSource

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepeyes.calls import ToolCall
    from deepeyes.playing.families import Family
    from deepeyes.settings import Settings

MIN_IMAGE_TOKENS = 4  # of every image; qwen_vl_utils scales smaller ones up
MAX_RATIO = 200  # longer side / shorter side of an image; qwen_vl_utils refuses more
DOWNLOAD_TIMEOUT = 20.0  # seconds, as swift's
THREADS = min(8, os.cpu_count() or 1)  # Pillow releases the GIL while it decodes, scales and encodes
STORE_BYTES = 256 << 20  # pictures that are kept for another trajectory over the same image
DECODED_BYTES = 768 << 20  # decoded at a time; an image of 33 megapixels (8K) takes 270 MB until its view is made
WIRE_BYTES = 2  # of a pixel of a view, in base64; photographs take 1.5 to 3
ON_THE_WAY = 3  # times that a view is in memory while it is sent: itself, in the request, and in the socket's buffer


def fit_view(width: int, height: int, family: Family, max_pixels: int) -> tuple[int, int]:
    """Returns the size of the view of an image.

    Args:
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        family: Of the model.
        max_pixels: The most pixels of a view.

    Returns:
        Width and height, both multiples of an image token's side.

    Raises:
        ValueError: The image is too thin.

    Source: `smart_resize` of qwen_vl_utils 0.0.14.
    """
    if max(width, height) > MAX_RATIO * min(width, height):
        raise ValueError(f"{width} x {height} pixels: the longer side is more than {MAX_RATIO} times the shorter")
    side = family.side
    area = side**2
    most, least = max_pixels // area * area, MIN_IMAGE_TOKENS * area
    columns, rows = (max(1, round(length / side)) for length in (width, height))
    if columns * rows * area > most:
        scale = math.sqrt(width * height / most)
        columns, rows = (max(1, math.floor(length / scale / side)) for length in (width, height))
    elif columns * rows * area < least:
        scale = math.sqrt(least / (width * height))
        columns, rows = (math.ceil(length * scale / side) for length in (width, height))
    return columns * side, rows * side


@dataclass(frozen=True, eq=False)
class Picture:
    """An image as it is played with.

    Attributes:
        encoded: The image as it came.
        original: Its width and height in pixels.
        size: Width and height of its view, which boxes refer to.
        uri: The view without loss, as a data URI.
        tokens: Image tokens of the view.
    """

    encoded: bytes
    original: tuple[int, int]
    size: tuple[int, int]
    uri: str
    tokens: int

    @property
    def nbytes(self) -> int:
        """Memory that it takes, in bytes."""
        return len(self.encoded) + len(self.uri)

    @property
    def shrunk(self) -> bool:
        """Tells whether the view holds fewer pixels than the image."""
        return self.size[0] * self.size[1] < self.original[0] * self.original[1]

    def encode(self) -> bytes:
        """Returns the file that is sent: the view without loss."""
        return base64.b64decode(self.uri.partition(",")[2])

    def view(self) -> Image.Image:
        """Returns the view, decoded anew."""
        return Image.open(io.BytesIO(self.encode())).convert("RGB")


class Viewer:
    """Makes pictures of images, and cuts crops out of them; what `deepeyes.turns.ZoomTool` calls a processor."""

    def __init__(self, family: Family, settings: Settings, max_pixels: int, kept_bytes: int = 0) -> None:
        """Makes a viewer.

        Args:
            family: Of the model.
            settings: Rules, source of the crops, and frame of the boxes; `auto` is that of the family.
            max_pixels: The most pixels of a view or a crop. As in swift, it is rounded down to whole image tokens.
            kept_bytes: Of decoded originals that are kept for the next crop of them.

        Raises:
            ValueError: That is less than the smallest view.
        """
        least = MIN_IMAGE_TOKENS * family.side**2
        if max_pixels < least:
            raise ValueError(f"max_pixels={max_pixels}: {family.name} takes no fewer than {least}")
        self.family, self.settings, self.max_pixels = family, settings, max_pixels
        auto = settings.coordinates is Coordinates.AUTO
        self.coordinates = family.coordinates if auto else settings.coordinates
        self._store = ImageStore(STORE_BYTES)
        self._decoding = _Gate(DECODED_BYTES)
        self._originals: LRUCache[Picture, Image.Image] = LRUCache(kept_bytes, _nbytes)
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="deepeyes-picture")

    async def look(self, source: Any) -> Picture:
        """Returns the picture of an image, made off the event loop and once for equal images.

        Args:
            source: Path, URL, data URI, base64, bytes, a dict with `bytes` or `path`, or a PIL image.

        Raises:
            OSError: The image can't be read.
            ValueError: Likewise.
        """
        loop = asyncio.get_running_loop()
        source = str(source) if isinstance(source, Path) else source
        key = await loop.run_in_executor(None, content_key, source)
        return await asyncio.wrap_future(self._store.get(key, lambda: self._make(source), self._pool))

    async def uri_of(self, image: Image.Image) -> str:
        """Encodes a crop for the way to the endpoint, off the event loop."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, to_data_uri, image)

    def weight(self, encoded: bytes) -> int:
        """Estimates what a trajectory over an image takes in memory: it, its view on the wire, and a request.

        Returns:
            Bytes; those of the encoded image alone where its head can't be read.
        """
        try:
            width, height = self.head(encoded).size
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return len(encoded)
        return len(encoded) + ON_THE_WAY * WIRE_BYTES * width * height

    def decoding(self, size: tuple[int, int]) -> AbstractContextManager[None]:
        """Holds what an image of `size` takes while it is decoded: waits in a thread until there is room for it."""
        return self._decoding.held(8 * size[0] * size[1])  # as it is decoded, and in RGB

    def head(self, encoded: bytes) -> Picture:
        """Returns the picture of an image without its pixels: what its head says.

        Raises:
            OSError: It is no image.
            ValueError: It is too thin.
        """
        with Image.open(io.BytesIO(encoded)) as image:
            original = image.size
        size = fit_view(*original, self.family, self.max_pixels)
        return Picture(encoded, original, size, "", self.tokens(size))

    def scale(self, image: Image.Image) -> Image.Image:
        """Scales an RGB image to the size of its view, as `qwen_vl_utils.fetch_image` does."""
        return image.resize(fit_view(*image.size, self.family, self.max_pixels))

    def smallest(self) -> Image.Image:
        """Returns an image of the smallest size that a view or a crop can have."""
        return self.scale(Image.new("RGB", (1, 1)))

    def tokens(self, size: tuple[int, int]) -> int:
        """Returns how many image tokens a view of `size` takes."""
        return size[0] * size[1] // self.family.side**2

    def zoom(
        self, view: Any, call: ToolCall, _chat_template_kwargs: dict[str, Any] | None = None
    ) -> tuple[Box, Image.Image]:
        """Cuts the box of a call out of a picture; see `deepeyes.images.processor.ImageProcessor.zoom`.

        Raises:
            ZoomRefusedError: There is no picture, or see `fit_box`.
        """
        if view is None:
            raise ZoomRefusedError("bad_image")
        picture: Picture = view
        width, height = picture.size
        box = fit_box(call.bbox_2d, picture.size, self.coordinates, self.settings.rules, self.family.side)
        if self.settings.crop_source is CropSource.VIEW:
            with self._decoding.held(4 * width * height):
                return box, picture.view().crop(box)
        x, y = picture.original[0] / width, picture.original[1] / height
        corners = (int(box.x1 * x), int(box.y1 * y), math.ceil(box.x2 * x), math.ceil(box.y2 * y))
        with self._lock:
            kept = self._originals.get(picture)
        if kept is not None:
            return box, self.scale(kept.crop(corners))
        with self._decoding.held(4 * picture.original[0] * picture.original[1]):
            original = _decode(picture.encoded)
            crop = self.scale(original.crop(corners))
        with self._lock, contextlib.suppress(ValueError):  # for one that is larger than all that is kept
            self._originals[picture] = original
        return box, crop

    def _make(self, source: Any) -> tuple[Picture, int]:
        picture = self.head(read_image(source))
        (width, height), size = picture.original, picture.size
        with self._decoding.held(4 * (width * height + size[0] * height + size[0] * size[1])):  # scaled in two passes
            picture = replace(picture, uri=to_data_uri(_decode(picture.encoded).resize(size)))
        return picture, picture.nbytes


def _nbytes(image: Image.Image) -> int:
    return 4 * image.width * image.height  # Pillow keeps RGB in four bytes a pixel


def read_image(source: Any) -> bytes:
    """Returns an image in encoded form.

    Args:
        source: Path, URL, data URI, base64, bytes, a dict with `bytes` or `path`, or a PIL image.

    Raises:
        OSError: There is no such file, or the server of a URL refuses.
        ValueError: A text is neither a path nor base64.
    """
    if isinstance(source, dict):
        source = source.get("bytes") or source.get("path")
    if isinstance(source, Image.Image):
        buffer = io.BytesIO()
        source.convert("RGB").save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    if isinstance(source, (str, Path)):
        return _read_text(str(source).strip())
    if not isinstance(source, (bytes, bytearray, memoryview)) or not source:
        raise ValueError(f"the image is {source!r:.80}; expected bytes, a path, a URL or base64")
    return bytes(source)


def _read_text(source: str) -> bytes:
    if is_url(source):
        try:
            response = httpx.get(source, timeout=DOWNLOAD_TIMEOUT, follow_redirects=True)
            return response.raise_for_status().content
        except httpx.HTTPError as error:
            raise OSError(f"{source:.200}: {error}") from error
    if not source.startswith("data:"):
        try:
            return Path(source).expanduser().read_bytes()
        except OSError:  # nothing of that name, or a base64 text, which is too long for one
            if len(source) < 1 << 10:
                raise
    try:
        return base64.b64decode(source.partition("base64,")[2] or source, validate=True)
    except binascii.Error as error:
        raise ValueError(f"the image is no file and no base64: {source:.60}: {error}") from error


def _decode(encoded: bytes) -> Image.Image:
    """Decodes an image as swift does: in RGB, transparency dropped, and not turned by its EXIF data."""
    image = Image.open(io.BytesIO(encoded))
    return image if image.mode == "RGB" else image.convert("RGB")


class _Gate:
    """Lets threads in as long as what they hold stays within a budget of bytes; one alone always may."""

    def __init__(self, budget: int) -> None:
        self._free = self._budget = budget
        self._changed = threading.Condition()

    @contextmanager
    def held(self, nbytes: int) -> Iterator[None]:
        """Holds `nbytes` for the time of a context."""
        nbytes = min(nbytes, self._budget)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= nbytes)
            self._free -= nbytes
        try:
            yield
        finally:
            with self._changed:
                self._free += nbytes
                self._changed.notify_all()
