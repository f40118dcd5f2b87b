"""How much more a picture shows than its view: where it does, a crop of the view holds no new pixel (pure)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from deepeyes.boxes import TOKEN_SIDE

LARGER = 1.1  # times its view a side, from which on it is worth a word
ADVICE = "set DEEPEYES_CROP_SOURCE=original, or raise MAX_PIXELS"


def view_size(width: int, height: int, max_pixels: int, token: int = TOKEN_SIDE) -> tuple[int, int]:
    """Returns the size of the view that a family with whole tokens makes of a picture, in pixels.

    Args:
        width: Of the picture, in pixels.
        height: Of the picture, in pixels.
        max_pixels: The limit, `MAX_PIXELS`.
        token: Side of the square that becomes one image token, in pixels.

    Source: `smart_resize` of qwen_vl_utils, but for pictures below its least size, which grow.
    """
    rounded = max(token, round(width / token) * token), max(token, round(height / token) * token)
    if rounded[0] * rounded[1] <= max_pixels:
        return rounded
    shrink = math.sqrt(width * height / max_pixels)
    return (
        max(token, math.floor(width / shrink / token) * token),
        max(token, math.floor(height / shrink / token) * token),
    )


def times_larger(picture: tuple[int, int], view: tuple[int, int]) -> float:
    """Returns how many times larger a picture is than its view, a side."""
    return math.sqrt(picture[0] * picture[1] / (view[0] * view[1]))


def is_larger(picture: tuple[int, int], view: tuple[int, int]) -> bool:
    """Tells whether a picture shows more than its view: whether more is lost than rounding to whole tokens takes."""
    lost = max(picture[0] - view[0], picture[1] - view[1])
    return lost > TOKEN_SIDE and times_larger(picture, view) >= LARGER


@dataclass
class Detail:
    """How many pictures are larger than their views, and by how much.

    Attributes:
        pictures: How many were counted.
        larger: Times a side, of each that is larger.
    """

    pictures: int = 0
    larger: list[float] = field(default_factory=list)

    def add(self, picture: tuple[int, int], view: tuple[int, int]) -> None:
        """Counts a picture: its size and that of its view, in pixels."""
        self.pictures += 1
        if is_larger(picture, view):
            self.larger.append(times_larger(picture, view))

    def __str__(self) -> str:
        """Says it; an empty text where no picture is larger."""
        if not self.larger:
            return ""
        middle = sorted(self.larger)[len(self.larger) // 2]
        return (
            f"{len(self.larger)} of {self.pictures} pictures ({len(self.larger) / self.pictures:.0%}) are larger than "
            f"their view, {middle:.1f} times a side in the middle: a zoom into the view shows no new pixel of them; "
            f"{ADVICE}"
        )
