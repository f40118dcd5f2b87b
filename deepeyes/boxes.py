"""Boxes: from the numbers that a model wrote to whole pixels of an image (pure)."""

from __future__ import annotations

from typing import NamedTuple

from deepeyes.calls import ZoomRefusedError
from deepeyes.settings import Coordinates, Rules

TOKEN_SIDE = 28  # pixels; the vision encoder of Qwen2.5-VL merges 28 x 28 pixels into one token, with patch 16 it is 32
MAX_ASPECT = 100  # longer side / shorter side of a crop
OFFICIAL_MIN_SIDE = 30  # pixels; the authors refuse a box whose shorter side does not exceed this


class Box(NamedTuple):
    """A box in whole pixels: left, top, right, bottom; right and bottom lie outside."""

    x1: int
    y1: int
    x2: int
    y2: int


# What the model is told with a refusal where another frame may be the cause.
FRAMES = {
    Coordinates.PIXEL: "Boxes are in pixels of the image.",
    Coordinates.NORM1000: "Boxes run from 0 to 1000 along each side of the image.",
}


def fit_box(
    bbox_2d: tuple[float, float, float, float],
    size: tuple[int, int],
    coordinates: Coordinates,
    rules: Rules,
    token: int = TOKEN_SIDE,
) -> Box:
    """Turns a box that the model wrote into whole pixels of an image.

    Args:
        bbox_2d: x1, y1, x2, y2 in the frame that `coordinates` names.
        size: Width and height of the image, in pixels.
        coordinates: `pixel` or `norm1000`.
        rules: With `corrected`, a box whose shorter side is below half a token is refused, so neither a box in
            0..1 nor a single pixel earns a crop; a side below one token grows to it around its centre and shifts
            inside the image. With `official`, a side of 30 pixels or less is refused.
        token: Side of the square that becomes one image token, in pixels.

    Returns:
        A box inside the image with at least one pixel on each side.

    Raises:
        ZoomRefusedError: The box is empty, too thin or too small.

    Source: `maybe_resize_bbox` and `validate_bbox` of the authors' `visual_toolbox_v2.py`.
    """
    (x1, y1, x2, y2), (width, height) = bbox_2d, size
    if coordinates is Coordinates.NORM1000:
        x1, y1, x2, y2 = x1 * width / 1000, y1 * height / 1000, x2 * width / 1000, y2 * height / 1000
    x1, y1, x2, y2 = max(0, x1), max(0, y1), min(width, x2), min(height, y2)
    if not (x1 < x2 and y1 < y2):
        raise ZoomRefusedError("empty_box", FRAMES[coordinates])
    if rules is Rules.OFFICIAL:
        if max(x2 - x1, y2 - y1) > MAX_ASPECT * min(x2 - x1, y2 - y1):
            raise ZoomRefusedError("thin_box")
        if min(x2 - x1, y2 - y1) <= OFFICIAL_MIN_SIDE:
            raise ZoomRefusedError("small_box", f"Its sides must be longer than {OFFICIAL_MIN_SIDE} pixels.")
        return Box(round(x1), round(y1), round(x2), round(y2))
    if min(x2 - x1, y2 - y1) < token / 2 or max(bbox_2d) <= 1:
        raise ZoomRefusedError("small_box", FRAMES[coordinates])
    (x1, x2), (y1, y2) = _grow(x1, x2, width, token), _grow(y1, y2, height, token)
    if max(x2 - x1, y2 - y1) > MAX_ASPECT * min(x2 - x1, y2 - y1):
        raise ZoomRefusedError("thin_box")
    return Box(int(x1), int(y1), int(x2), int(y2))


def _grow(low: float, high: float, size: int, token: int) -> tuple[int, int]:
    """Rounds an interval to whole pixels and, where it is shorter than a token, widens it to one inside 0..size."""
    if high - low < token:
        side = min(token, size)
        start = round(min(max((low + high - side) / 2, 0), size - side))
        return start, start + side
    return round(low), round(high)
