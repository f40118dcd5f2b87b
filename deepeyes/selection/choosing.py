"""Which rows are worth training on (pure).

GRPO learns from groups in which some trajectories are right and some are wrong; of a row that is always right or always
wrong all advantages are zero. The authors filter by the pass rate of the policy, and keep of their perception data the
questions that are answered only with the right crop.

Source: DeepEyes, arXiv 2505.14362, "Training Data".
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from deepeyes.selection.ledger import Counts


@dataclass(frozen=True)
class Criteria:
    """What is kept.

    Attributes:
        low: The least pass rate, as the row is played in training.
        high: The highest.
        tool_helps: Rows with the tool must have been right with a crop, and without the tool in no more than this
            share of the trajectories; None asks for neither.
    """

    low: float = 0.0
    high: float = 1.0
    tool_helps: float | None = None


def parse_range(text: str) -> tuple[float, float]:
    """Reads `0.1..0.9`.

    Raises:
        ValueError: It is no such range.
    """
    found = re.fullmatch(r"\s*(\d*\.?\d+)\s*\.\.\s*(\d*\.?\d+)\s*", text)
    low, high = (float(found[1]), float(found[2])) if found else (1.0, 0.0)
    if not 0 <= low <= high <= 1:
        raise ValueError(f"{text!r} is no range; expected two shares as 0.1..0.9")
    return low, high


def rate(right: NDArray[np.uint8], played: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Returns shares, not-a-number where nothing was played."""
    shares: NDArray[np.float64] = np.divide(right, played, out=np.full(len(right), np.nan), where=played > 0)
    return shares


def choose(
    counts: Counts, tool: NDArray[np.bool_], held_out: NDArray[np.bool_], criteria: Criteria
) -> NDArray[np.bool_]:
    """Returns which rows are kept.

    Args:
        counts: How often each row was played.
        tool: Which rows have the tool.
        held_out: Which rows share a picture with a held-out one; they are never kept.
        criteria: What is kept. A row that was not played is not kept.
    """
    passed = rate(counts.right, counts.played)
    kept = (passed >= criteria.low) & (passed <= criteria.high) & ~held_out
    if criteria.tool_helps is not None:
        alone = rate(counts.plain_right, counts.plain)
        kept &= ~tool | ((counts.right_with_crop > 0) & (alone <= criteria.tool_helps))
    return kept
