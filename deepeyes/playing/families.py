"""Families of models: what an endpoint does not say of the one behind it (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass

from deepeyes.settings import Coordinates

MERGE = 2  # patches along each side of an image token


@dataclass(frozen=True)
class Family:
    """How a model looks at images.

    Attributes:
        name: As `--family` takes it.
        patch: Side of a patch of the vision encoder, in pixels.
        coordinates: Frame of the boxes that the model writes.
    """

    name: str
    patch: int
    coordinates: Coordinates

    @property
    def side(self) -> int:
        """Side of an image token, in pixels."""
        return self.patch * MERGE


FAMILIES = {
    family.name: family
    for family in (
        Family("qwen2.5-vl", 14, Coordinates.PIXEL),
        Family("qwen3-vl", 16, Coordinates.NORM1000),
    )
}


def family_of(model: str) -> Family:
    """Guesses the family from a served name; DeepEyes itself is a Qwen2.5-VL. `check_view` finds a wrong guess."""
    return FAMILIES["qwen3-vl" if re.search(r"qwen-?3", model, re.IGNORECASE) else "qwen2.5-vl"]
