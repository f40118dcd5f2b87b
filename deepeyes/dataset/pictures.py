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

import numpy as np
from PIL import Image

from deepeyes.dataset.quoting import MAX_QUOTE, quote
from deepeyes.dataset.remarks import Remark
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

MIN_SIDE = 28  # pixels: one image token of Qwen2.5-VL; smaller images are scaled up
LONGEST_PATH = 2000  # characters; what is longer, swift takes for base64
FINGERPRINT_SIDE = 16  # frequencies a side that a fingerprint holds
DIGEST_BYTES, FINGERPRINT_BYTES = 20, FINGERPRINT_SIDE**2 // 8
MAX_RATIO = 200  # longer side / shorter side; qwen-vl-utils refuses more


class ImageFacts(NamedTuple):
    """What decoding an image told.

    Attributes:
        problem: Why it can't be used, or None.
        width: Pixels.
        height: Pixels.
        digest: The same for images that are the same pixels in RGB, whatever their encoding.
        fingerprint: Nearly the same for pictures that look the same; empty where it was not asked for.
    """

    problem: Remark | None = None
    width: int = 0
    height: int = 0
    digest: bytes = b""
    fingerprint: bytes = b""


class PictureError(DataFileError):
    """A picture can't be read; `remark` says why."""

    def __init__(self, text: str, example: str = "") -> None:
        """Takes what a `Remark` takes."""
        self.remark = Remark(text, example)
        super().__init__(str(self.remark))


def image_of(image: Any) -> bytes | str | None:
    """Returns the bytes of an image column's entry, else its path or base64 text, else None."""
    if isinstance(image, dict):
        content = image.get("bytes") or image.get("path")
        image = None if content is image.get("bytes") and isinstance(content, str) else content
    return image if isinstance(image, (bytes, str)) and image else None


def find_image(path: str) -> Path:
    """Returns the file that swift would open for a path in a dataset.

    Raises:
        PictureError: There is none, or it is an address.
    """
    if re.match(r"(https?|data):", path):
        raise PictureError("the image is an address; expected bytes, base64 or a file on this machine", repr(path[:40]))
    if place := _file_at(path):
        return place
    root = os.environ.get("ROOT_IMAGE_DIR")
    where = f"ROOT_IMAGE_DIR={root}" if root else f"ROOT_IMAGE_DIR (not set) or {Path.cwd()}"
    raise PictureError(f"the image file is not in {where}", quote(path))


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
    content = find_image(image.strip()).read_bytes() if content is None else content
    if not content:
        raise PictureError("the picture is empty: 0 bytes", quote(image))
    return content


def pictures_of(row: Any) -> list[bytes | str]:
    """Returns the pictures of a row, as `image_of` does; none where one of them is no picture."""
    images = row.get("images") if isinstance(row, dict) else None
    found = [image_of(entry) for entry in images] if isinstance(images, list) else []
    return [picture for picture in found if picture is not None] if None not in found else []


def look_at_rows(rows: Sequence[Sequence[bytes | str]], *, fingerprints: bool = False) -> list[ImageFacts]:
    """Decodes the pictures of rows. Runs in a worker process.

    Returns:
        One entry a row: the first problem, the size of the largest picture, and digests and fingerprints one after the
        other; see `pieces`.
    """
    facts = []
    for pictures in rows:
        looked = look(pictures, fingerprints=fingerprints) or [ImageFacts()]
        problem = next((fact.problem for fact in looked if fact.problem), None)
        largest = max(looked, key=lambda fact: fact.width * fact.height)
        digest = b"" if problem else b"".join(fact.digest for fact in looked)
        fingerprint = b"".join(fact.fingerprint for fact in looked)
        facts.append(ImageFacts(problem, largest.width, largest.height, digest, fingerprint))
    return facts


def pieces(joined: bytes, size: int) -> list[bytes]:
    """Returns the digests (`DIGEST_BYTES`) or fingerprints (`FINGERPRINT_BYTES`) of a row's pictures."""
    return [joined[place : place + size] for place in range(0, len(joined), size)]


def look(images: Sequence[bytes | str | None], *, fingerprints: bool = False) -> list[ImageFacts]:
    """Decodes images whole. Runs in a worker process.

    Args:
        images: See `image_of`.
        fingerprints: Whether to take the fingerprints, too: that doubles the time for small pictures.
    """
    return [_look(image, fingerprints) for image in images]


def _look(image: bytes | str | None, fingerprints: bool) -> ImageFacts:  # noqa: FBT001 - of `look`
    if image is None:
        return ImageFacts()  # `row_problems` has said it
    try:
        content = read_image(image)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as opened:
                opened.load()
                width, height = opened.size
                # Swift's load_image drops transparency in the same way: this is what the model sees.
                shown = opened if opened.mode == "RGB" else opened.convert("RGB")
                pixels = shown.tobytes()
                fingerprint = fingerprint_of(shown) if fingerprints else b""
    except PictureError as error:
        return ImageFacts(error.remark)
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise anything on damaged bytes
        reason = re.sub(r"<_io.BytesIO object at \w+>", "its bytes", str(error))
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return ImageFacts(Remark("the image does not decode", f"{kind}{reason:.{MAX_QUOTE}}"))
    if max(width, height) > MAX_RATIO * min(width, height):
        return ImageFacts(
            Remark(f"a side of the image is more than {MAX_RATIO} times the other; the template refuses it")
        )
    digest = hashlib.sha1(pixels, usedforsecurity=False)  # the fastest that processors bring instructions for
    digest.update(b"%d" % width)
    return ImageFacts(None, width, height, digest.digest(), fingerprint)


def fingerprint_of(picture: Image.Image) -> bytes:
    """Returns a perceptual hash of 256 bits: pictures that look the same differ in few of them."""
    import imagehash  # noqa: PLC0415 - brings scipy; only where pictures are compared

    bits = imagehash.phash(picture, hash_size=FINGERPRINT_SIDE).hash
    return bytes(np.packbits(bits).tobytes())
