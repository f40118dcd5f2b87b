"""Protocols: under which limits, with which pictures and in which words a benchmark is asked (pure)."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from deepeyes.settings import CropSource, Settings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deepeyes.playing.families import Family

PAPER_TOKENS = 16384  # image tokens of a view: `MAX_PIXELS` of the authors' eval/eval_vstar.py
TRAINING_PIXELS = 602112  # the scripts' MAX_PIXELS
TRAINING_TURNS = 5  # the scripts' MAX_TURNS


@dataclass(frozen=True)
class Limits:
    """What a protocol fixes, and a flag of the same name changes.

    Attributes:
        max_turns: Turns of the model in a trajectory.
        max_tokens: Tokens of a turn.
        max_pixels: Pixels of a view or a crop.
        temperature: 0 is greedy.
        crop_source: What crops are cut from.
    """

    max_turns: int
    max_tokens: int
    max_pixels: int
    temperature: float
    crop_source: CropSource

    def plain(self) -> dict[str, Any]:
        """Returns the values as JSON knows them."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "crop_source": self.crop_source.value}


def paper(family: Family) -> Limits:
    """Returns the limits of the authors' evaluation.

    Source: eval/eval_vstar.py of github.com/Visual-Agent/DeepEyes: 11 turns (`try_count > 10`), 10,240 tokens,
    temperature 0, views of up to 16384 tokens, crops of the original. (eval/eval_hrbench.py allows 8,192 tokens.)
    """
    return Limits(11, 10240, PAPER_TOKENS * family.side**2, 0.0, CropSource.ORIGINAL)


def training(env: Mapping[str, str], settings: Settings) -> Limits:
    """Returns the limits of training, as the scripts and the environment set them.

    Raises:
        ValueError: MAX_TURNS or MAX_PIXELS is no number.
    """
    turns, pixels = int(env.get("MAX_TURNS") or TRAINING_TURNS), int(env.get("MAX_PIXELS") or TRAINING_PIXELS)
    return Limits(turns, 2048, pixels, 0.0, settings.crop_source)


def override(limits: Limits, flags: Mapping[str, Any]) -> tuple[Limits, list[str]]:
    """Puts flags that were given in the place of what a protocol fixes.

    Returns:
        The limits, and in words what differs.
    """
    values, told = limits.plain(), []
    for name, value in flags.items():
        if value is not None and values[name] != value:
            told.append(f"{name} is {value}, not {values[name]}")
            values[name] = value
    return Limits(**{**values, "crop_source": CropSource(values["crop_source"])}), told
