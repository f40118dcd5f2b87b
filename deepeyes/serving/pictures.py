"""Images of a request: from a data URI or a URL to bytes that are safe to decode."""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
import warnings
from typing import TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from deepeyes.serving.errors import refused

if TYPE_CHECKING:
    from deepeyes.serving.errors import ApiError
    from deepeyes.serving.fetching import Fetcher
    from deepeyes.serving.limits import Limits

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")
"""What browsers, cameras and scanners write. Pillow knows more, each a parser that strangers could reach."""
DATA_URI = re.compile(r"data:[\w.+/-]*(;[\w.+=-]*)*,", re.ASCII)
ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = 1
HEAD = 300  # characters; a data URI's beginning is shorter


def allow_pixels(pixels: int) -> None:
    """Has Pillow open images of up to so many pixels; its own limit is lower than ours may be set."""
    Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS or 0, pixels)


async def read_picture(url: str, param: str, limits: Limits, fetcher: Fetcher) -> bytes:
    """Returns an image in encoded form, upright, within the limits.

    Args:
        url: A data URI in base64, or an http(s) URL.
        param: The field of the request that holds it, for the error.
        limits: Bytes and pixels of an image.
        fetcher: What gets a URL.

    Raises:
        ApiError: It can't be had, is too large or is no image.
    """
    if url[:5].lower() == "data:":
        return await asyncio.to_thread(lambda: check_picture(_decode(url, param, limits), param, limits))
    content = await fetcher.fetch(url, param)
    return await asyncio.to_thread(check_picture, content, param, limits)


def _decode(uri: str, param: str, limits: Limits) -> bytes:
    head = DATA_URI.match(uri[:HEAD])
    if head is None or not head[0].lower().endswith(";base64,"):
        raise refused(f"expected data:image/...;base64,... found {uri[:40]!r}", param, "invalid_image_url")
    if (len(uri) - head.end()) * 3 // 4 > limits.image_bytes + 2:
        raise refused(
            f"the image is larger than {limits.image_bytes} bytes (--max-image-bytes)", param, "image_too_large"
        )
    try:
        return base64.b64decode(uri[head.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise refused(f"the data URI is not base64: {error}", param, "invalid_base64") from error


def check_picture(content: bytes, param: str, limits: Limits) -> bytes:
    """Returns an encoded image as it is, or turned upright where its EXIF data says that it lies.

    The model would see it lying, and whoever looks at boxes in a browser would see it upright.

    Raises:
        ApiError: It is no image, is broken, or has too many pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
            image = Image.open(io.BytesIO(content), formats=FORMATS)
        if (pixels := image.width * image.height) > limits.image_pixels:
            raise _too_large(f"{image.width} x {image.height} = {pixels}", param, limits)
        if image.getexif().get(ORIENTATION, UPRIGHT) == UPRIGHT:
            return content
        buffer = io.BytesIO()
        ImageOps.exif_transpose(image).convert("RGB").save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()
    except Image.DecompressionBombError as error:
        raise _too_large("far too many", param, limits) from error
    except UnidentifiedImageError as error:
        raise refused(
            f"not an image that can be read; expected {', '.join(FORMATS)}", param, "invalid_image"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise refused(f"not an image that can be read: {error}"[:200], param, "invalid_image") from error


def _too_large(pixels: str, param: str, limits: Limits) -> ApiError:
    message = f"the image has {pixels} pixels; at most {limits.image_pixels} are taken (--max-image-pixels)"
    return refused(message, param, "image_too_large")
