"""The settings of the plugin as frozen values, and what is fixed by the paper: sources, scorings and weights.

`deepeyes.environment` reads them from environment variables. docs/settings.md lists the variables.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple

from deepeyes.errors import DataError
from deepeyes.prompts import MATH_PROMPT, VISUAL_PROMPT

if TYPE_CHECKING:
    from pathlib import Path

TOOL_NAME = "image_zoom_in_tool"


class Rules(str, Enum):
    """`official` is the authors' code with its holes; `corrected` closes them (docs/rewards.md, "Deviations")."""

    CORRECTED = "corrected"
    OFFICIAL = "official"


class Scoring(str, Enum):
    r"""How a data source is scored: `<answer>` and the zoom tool, or `\\boxed{}` and no tool."""

    VISUAL = "visual"
    MATH = "math"


class Coordinates(str, Enum):
    """Frame of the boxes that the model writes: pixels of the view, or 0..1000 along each side."""

    AUTO = "auto"
    PIXEL = "pixel"
    NORM1000 = "norm1000"


class CropSource(str, Enum):
    """What a crop is cut from: the preprocessed view, or the image in full resolution."""

    VIEW = "view"
    ORIGINAL = "original"


class JudgeKind(str, Enum):
    """Who decides whether an answer is right: an LLM behind a URL, or a matcher in this process."""

    SERVER = "server"
    RULE = "rule"


class Weights(NamedTuple):
    """Weights of accuracy (0/1), format (-1/0) and tool (0/1) in the total.

    Source: `compute_score` and `compute_score_math` of the authors' `vl_agent.py`.
    """

    accuracy: float
    format: float
    tool: float


WEIGHTS = {Scoring.VISUAL: Weights(0.8, 0.2, 1.2), Scoring.MATH: Weights(1.2, 0.4, 0.0)}
OFFICIAL_SOURCES = {"vstar": Scoring.VISUAL, "chart": Scoring.VISUAL, "thinklite_eureka": Scoring.MATH}


@dataclass(frozen=True)
class JudgeSettings:
    """Where the judge is, what it is sent, and how hard to try; `extra` is merged into each request."""

    kind: JudgeKind = JudgeKind.SERVER
    urls: tuple[str, ...] = ("http://127.0.0.1:18901/v1",)
    model: str | None = None
    api_key: str = field(default="EMPTY", repr=False)
    concurrency: int = 64
    timeout: float = 60.0
    patience: float = 600.0
    max_tokens: int = 64
    extra: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    ahead: bool = True
    visual_prompt: str = field(default=VISUAL_PROMPT, repr=False)
    math_prompt: str = field(default=MATH_PROMPT, repr=False)


@dataclass(frozen=True)
class Settings:
    """All settings of the plugin; see the table on top of this module."""

    judge: JudgeSettings = JudgeSettings()
    rules: Rules = Rules.CORRECTED
    sources: tuple[tuple[str, Scoring], ...] = ()
    coordinates: Coordinates = Coordinates.AUTO
    crop_source: CropSource = CropSource.VIEW
    trace_dir: Path | None = None
    trace_bytes: int = 2_000_000_000

    def scoring_of(self, source: object) -> Scoring:
        """Returns how `source` is scored.

        Raises:
            DataError: The source is not known.
        """
        known = {**OFFICIAL_SOURCES, **dict(self.sources)}
        if isinstance(source, str) and source in known:
            return known[source]
        msg = (
            f"data_source {source!r} is not known; known are {', '.join(sorted(known))}. Add your own with "
            f"DEEPEYES_SOURCES={source if isinstance(source, str) and source else 'my_data'}=visual (or =math)"
        )
        raise DataError(msg)
