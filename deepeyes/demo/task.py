"""The demo's task: pictures with a question whose answer is lost in the view and plain in the crop.

A picture is 448 x 448 pixels, the policy's view of it 112 x 112. A pale card lies on one of four coloured mats and
bears one of eight fine patterns. The patterns repeat every four pixels, which is just what the view's bicubic filter
averages away, and they fade out before the card's edge: *the view is the same, byte for byte, whatever the pattern
is*. The view does show where the card lies, and the crop of that place, cut from the original, shows the pattern. So
the only way to beat a guess is to look at the view, zoom to the right place and read the crop.

Rows are in the schema of the official files, so everything after this module is the product's own path.
"""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

VIEW_SIDE = 112  # pixels, also of a crop, since its square is the pixel budget
CELL = 28  # pixels of the view: one image token, and the smallest box that the tool takes as it is
SCALE = 4  # pixels of the original for one pixel of the view
MATS = ((170, 60, 60), (60, 150, 70), (60, 80, 170), (180, 160, 50))
"""Colours of the four mats: top left, top right, bottom left, bottom right."""
TABLE_CELLS = ((0, 0), (2, 0), (0, 2), (2, 2))
"""The cell of the view, as column and row, in which the card on each mat lies: the top left one of the mat.

No number of these boxes repeats a digit. Qwen's tokenizer spells numbers in digits, and so small a model, once GRPO has
moved it, miscounts the ones of 112.
"""
JITTER = 12  # grey levels by which the mats' colours vary
CARD_TINTS = (165, 195)  # range of each channel of the card's colour
PATTERNS = {
    "lines": ("1111", "0000", "0000", "1111"),
    "bars": ("1001", "1001", "1001", "1001"),
    "check": ("1100", "1100", "0011", "0011"),
    "slash": ("0011", "0110", "1100", "1001"),
    "comb": ("1010", "1010", "1010", "1010"),
    "dots": ("1010", "0101", "1010", "0101"),
    "brick": ("1001", "0110", "1001", "0110"),
    "grid": ("1010", "0101", "0101", "1010"),
}
"""Tiles of four by four pixels, half of them light and half dark, so that each averages to the card's colour."""
CONTRAST = 60  # grey levels by which the pixels of a pattern leave the card's colour
BORDER = 8  # pixels of the original of a cell in which the mat shows around the card, in the same image token
MARGIN, FADE = 24, 20  # pixels of a cell's edge without a pattern, and over which it fades in: no outline in the view

SYSTEM = '# Tools\n<tools>\n{"name": "image_zoom_in_tool", "parameters": {"bbox_2d": "[x1, y1, x2, y2]"}}\n</tools>'
QUESTION = "Which pattern is on the card?"
FORMAT = "Zoom if needed, then <answer>."

Box = tuple[int, int, int, int]  # x1, y1, x2, y2 in pixels of the view


@dataclass(frozen=True, slots=True)
class Picture:
    """Colours of the mats, the index of the one with the card, the card's colour, and its pattern."""

    mats: tuple[tuple[int, ...], ...]
    mat: int
    card: tuple[int, ...]
    pattern: str


def card_box(mat: int) -> Box:
    """Give the box in which the card on a mat lies."""
    x, y = (CELL * cell for cell in TABLE_CELLS[mat])
    return x, y, x + CELL, y + CELL


def on_original(box: Box) -> Box:
    """Map a box of the view to the original."""
    x1, y1, x2, y2 = box
    return SCALE * x1, SCALE * y1, SCALE * x2, SCALE * y2


def sample_pictures(count: int, *, seed: int, split: str) -> list[Picture]:
    """Draw colours, places and patterns, independent of each other; two splits share no random numbers."""
    rng, pictures = np.random.default_rng([seed, *split.encode()]), []
    for _ in range(count):
        mats = (np.array(MATS) + rng.integers(-JITTER, JITTER + 1, size=(4, 3))).tolist()
        card = tuple(rng.integers(*CARD_TINTS, size=3).tolist())
        pictures.append(Picture(tuple(map(tuple, mats)), int(rng.integers(4)), card, str(rng.choice(list(PATTERNS)))))
    return pictures


@functools.cache
def _pattern_offsets(pattern: str) -> np.ndarray:
    """Give what a pattern adds to the card's colour: an array of whole grey levels, one a pixel of the original."""
    side = CELL * SCALE
    tile = np.array([[1 if pixel == "1" else -1 for pixel in line] for line in PATTERNS[pattern]])
    centres = np.arange(side) + 0.5
    ramp = np.clip((np.minimum(centres, side - centres) - MARGIN) / FADE, 0, 1)
    window = 0.5 - 0.5 * np.cos(np.pi * ramp)
    amplitude = np.round(CONTRAST * np.outer(window, window)).astype(int)
    return np.asarray(np.tile(tile, (side // len(tile), side // len(tile))) * amplitude)


def draw(picture: Picture) -> Image.Image:
    """Draw the original: 448 x 448 pixels, RGB."""
    half = VIEW_SIDE * SCALE // 2
    pixels = np.empty((2 * half, 2 * half, 3), dtype=int)
    for mat, colour in enumerate(picture.mats):
        top, left = half * (mat // 2), half * (mat % 2)
        pixels[top : top + half, left : left + half] = colour
    left, top, right, bottom = on_original(card_box(picture.mat))
    pixels[top + BORDER : bottom - BORDER, left + BORDER : right - BORDER] = picture.card
    pixels[top:bottom, left:right] += _pattern_offsets(picture.pattern)[..., None]
    return Image.fromarray(pixels.astype(np.uint8))


def row(index: int, picture: Picture, split: str) -> dict[str, Any]:
    """Make one dataset row in the official schema, with the picture as PNG bytes."""
    file = io.BytesIO()
    draw(picture).save(file, format="PNG")
    user = {"content": f"<image>\n{QUESTION}\n{FORMAT}", "role": "user"}
    return {
        "data_source": "vstar",
        "prompt": [{"content": SYSTEM, "role": "system"}, user],
        "images": [{"bytes": file.getvalue(), "path": f"{split}_{index}.png"}],
        "ability": "vl_chart",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": picture.pattern, "style": "model"},
        "extra_info": {"answer": picture.pattern, "index": str(index), "question": QUESTION, "split": split},
    }


def write_rows(pictures: list[Picture], split: str, folder: Path) -> Path:
    """Write pictures with their question as the official files are written; gives the parquet file."""
    table = pa.Table.from_pylist([row(at, picture, split) for at, picture in enumerate(pictures)])
    pq.write_table(table, path := folder / f"{split}.parquet")
    return path


def zoom_turn(box: Box) -> str:
    """Write the assistant's turn that zooms to a box."""
    call = f'{{"name": "image_zoom_in_tool", "arguments": {{"bbox_2d": {list(box)}}}}}'
    return f"<tool_call>\n{call}\n</tool_call>"


def answer_turn(pattern: str) -> str:
    """Write the assistant's turn that answers. It has no thoughts: tokens are what the demo's time goes into."""
    return f"<answer>{pattern}</answer>"
