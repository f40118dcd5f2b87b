"""Says whether the demo's policy learned to zoom because it needs to, and whether it kept what it had learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""
MOST = 0.5
"""Share of zooms that must go to the right one of the four places; a quarter does by chance."""
ACCURACY_WANTED = 0.8
"""Accuracy on the held-out questions at the end."""
FALL_ALLOWED = 0.1
"""How far accuracy may end below the best that was measured on the way."""
WINDOW = 5
"""Steps of GRPO that are measured together: 80 answers to 20 new questions in the demo's full form."""
RISES = {"tool_use": "tool use", "hits": "the share of zooms to the right place", "accuracy": "accuracy"}


class Best(NamedTuple):
    """The best accuracy on the way: the mean of a window of steps, and the last of these steps."""

    accuracy: float
    step: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run showed.

    Attributes:
        figures: All figures in one line.
        lacks: What is missing for LEARNED, a sentence each; empty where it learned.
    """

    figures: str
    lacks: tuple[str, ...]

    @property
    def learned(self) -> bool:
        """Whether nothing is missing."""
        return not self.lacks

    def __str__(self) -> str:
        """Give the verdict in one line, and what is missing in a line each."""
        return "\n".join([f"{'LEARNED' if self.learned else 'NOT LEARNED'} {self.figures}", *self.lacks])


def interval(share: float, count: int) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a share.

    Args:
        share: Observed share, 0 to 1.
        count: Number of observations, at least 1.

    Returns:
        The lower and the upper bound.
    """
    square = Z95 * Z95 / count
    centre = (share + square / 2) / (1 + square)
    half = Z95 * math.sqrt(share * (1 - share) / count + square / count / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def best_on_the_way(accuracies: Sequence[float], window: int = WINDOW) -> Best | None:
    """Find the best accuracy of GRPO's own steps, whose questions are new at every step.

    Args:
        accuracies: Mean accuracy of each step's trajectories.
        window: Steps to average.

    Returns:
        None where there are fewer steps than a window holds.
    """
    means = [Best(sum(accuracies[end - window : end]) / window, end) for end in range(window, len(accuracies) + 1)]
    return max(means, default=None)


def _bounds(outcome: Mapping[str, Any], name: str) -> tuple[float, float]:
    count = outcome["questions"]
    return interval(outcome[name], max(1, round(count * outcome["tool_use"])) if name == "hits" else count)


def _share(outcome: Mapping[str, Any], name: str) -> str:
    low, high = _bounds(outcome, name)
    return f"{outcome[name]:.2f} [{low:.2f}, {high:.2f}]"


def judge(
    before: Mapping[str, Any], after: Mapping[str, Mapping[str, Any]], best_guess: float, accuracies: Sequence[float]
) -> Verdict:
    """Tell whether the policy learned to zoom because it needs to.

    It did if tool use, the share of zooms that go to the right place, and accuracy rose, each with disjoint 95 %
    intervals; if most zooms go to the right place; if accuracy is at least `ACCURACY_WANTED` and not more than
    `FALL_ALLOWED` below the best on the way; and if accuracy with the crop blanked and with the tool off is lower, with
    disjoint intervals, and no better than a guess.

    Args:
        before: Outcome of the held-out questions before GRPO.
        after: Outcomes after it, by mode.
        best_guess: Accuracy of the best answer that is always the same.
        accuracies: Mean accuracy of each step of GRPO, on its own new questions.
    """
    true, blank, off = after["TRUE_CROP"], after["BLANK_CROP"], after["NO_TOOL"]
    lacks = [
        f"{words} did not rise: {_share(before, name)} before, {_share(true, name)} after"
        for name, words in RISES.items()
        if _bounds(true, name)[0] <= _bounds(before, name)[1]
    ]
    if true["hits"] <= MOST:
        lacks.append(f"zooms to the right place are {true['hits']:.2f} of all, and more than {MOST} are wanted")
    if true["accuracy"] < ACCURACY_WANTED:
        lacks.append(f"accuracy is {true['accuracy']:.2f}, and {ACCURACY_WANTED} is wanted")
    best = best_on_the_way(accuracies)
    if best and true["accuracy"] < best.accuracy - FALL_ALLOWED:
        steps = f"steps {best.step - WINDOW + 1} to {best.step}"
        lacks.append(f"it fell apart after step {best.step}: accuracy was {best.accuracy:.2f} in {steps}")
    for other, words in ((blank, "with the crop blanked"), (off, "with the tool off")):
        low, high = _bounds(other, "accuracy")
        if _bounds(true, "accuracy")[0] <= high or low > best_guess:
            lacks.append(f"accuracy {words} is {_share(other, 'accuracy')}: the answer does not come from the crop")
    figures = (
        f"on {true['questions']} held-out pictures: "
        f"tool use {_share(before, 'tool_use')} -> {_share(true, 'tool_use')}, "
        f"right place {_share(before, 'hits')} -> {_share(true, 'hits')}, "
        f"accuracy {_share(before, 'accuracy')} -> {_share(true, 'accuracy')} "
        f"(crop blanked {_share(blank, 'accuracy')}, tool off {_share(off, 'accuracy')}, "
        f"the best constant guess {best_guess:.2f}), "
        f"reward {before['reward']:.2f} -> {true['reward']:.2f}"
    )
    return Verdict(figures, tuple(lacks))
