"""Made-up rows that are the worst case on purpose: large pictures, long questions."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

QUESTION_WORDS = 1100
"""Tokens of the question. With instructions and tools it fills the 1536 that `MAX_MODEL_LEN` leaves for it."""
PICTURE_FACTOR = 2
"""Sides of a picture against those of its view, so that each is decoded and scaled, too."""
REFERENCE = "a red kite"
SYSTEM = (
    "You are a helpful assistant. You may call the function image_zoom_in_tool with a bbox_2d to look at a part of the "
    "image; write the call as JSON within <tool_call></tool_call>."
)


def write_rows(folder: Path, count: int, max_pixels: int, words: int = QUESTION_WORDS) -> Path:
    """Writes rows of the official schema.

    Args:
        folder: Where to; made if need be.
        count: How many.
        max_pixels: The most pixels that an image is shown with.
        words: Of a question, about a token each.

    Returns:
        The file, JSON lines.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "rows.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number in range(count):
            picture = folder / f"{number}.jpg"
            make_picture(max_pixels, seed=number).save(picture, quality=90)
            lines.write(json.dumps(make_row(number, str(picture), words)) + "\n")
    return file


def make_picture(max_pixels: int, seed: int) -> Image.Image:
    """Draws noise, which no codec makes small.

    Args:
        max_pixels: Of the view. The picture has more, at 4:3, so that the view takes all of them.
        seed: Of the noise.
    """
    height = max(56, round((max_pixels * 3 / 4) ** 0.5) * PICTURE_FACTOR)
    width = round(height * 4 / 3)
    noise = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.NEAREST)


def make_row(number: int, picture: str, words: int) -> dict[str, Any]:
    """Returns one visual row with the zoom tool; its reference answer is `REFERENCE`."""
    question = f"Question {number}: what flies over the hill? " + "look " * words
    return {
        "prompt": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": f"<image>{question}"}],
        "images": [picture],
        "data_source": "vstar",
        "ability": "visual",
        "env_name": "visual_toolbox_v2",
        "reward_model": {"ground_truth": REFERENCE, "style": "model"},
        "extra_info": {"index": str(number), "question": question, "answer": REFERENCE, "split": "train"},
    }
