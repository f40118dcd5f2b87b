"""Says whether the demo's policy learned to zoom because it needs to, and whether it kept what it had learned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Figures = Mapping[str, Any]
"""What `measure.outcome_of` gives, or of a look at the validation questions its `step` and `accuracy`."""
MOST = 0.5  # share of zooms that must go to the right one of the four places; a quarter does by chance
ACCURACY_WANTED = 0.8  # on the held-out questions at the end
FALL_ALLOWED = 0.1  # by which accuracy may end below the best on the validation questions
RISES = {"tool_use": "tool use", "hits": "the share of zooms to the right place", "accuracy": "accuracy"}


def interval(share: float, count: int) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a share of so many observations."""
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # noqa: PLC0415 - a second, for the end alone

    low, high = binomtest(round(share * count), count).proportion_ci(method="wilson")
    return float(low), float(high)


def _bounds(outcome: Figures, name: str) -> tuple[float, float]:
    count = outcome["questions"]
    return interval(outcome[name], max(1, round(count * outcome["tool_use"])) if name == "hits" else count)


def _share(outcome: Figures, name: str) -> str:
    low, high = _bounds(outcome, name)
    return f"{outcome[name]:.2f} [{low:.2f}, {high:.2f}]"


def fall(validation: Sequence[Figures]) -> str:
    """Tell in a line whether accuracy on the validation questions ended far below its best there, or nothing."""
    best, last = max(validation, key=lambda look: (look["accuracy"], look["step"])), validation[-1]
    if last["accuracy"] >= best["accuracy"] - FALL_ALLOWED:
        return ""
    was, now = (f"{look['accuracy']:.2f} after step {look['step']}" for look in (best, last))
    return f"It fell: accuracy on the validation questions was {was}, and {now}. The better checkpoint is kept."


def lacks(before: Figures, after: Mapping[str, Figures], best_guess: float, validation: Sequence[Figures]) -> list[str]:
    """Tell in a sentence each what is missing for LEARNED; rises and differences want disjoint 95 % intervals.

    It is about the held-out questions before GRPO, and after it by mode. The best guess is the accuracy of the best
    answer that is always the same.
    """
    true = after["TRUE_CROP"]
    found = [
        f"{words} did not rise: {_share(before, name)} before, {_share(true, name)} after"
        for name, words in RISES.items()
        if _bounds(true, name)[0] <= _bounds(before, name)[1]
    ]
    if true["hits"] <= MOST:
        found.append(f"zooms to the right place are {true['hits']:.2f} of all, and more than {MOST} are wanted")
    if true["accuracy"] < ACCURACY_WANTED:
        found.append(f"accuracy is {true['accuracy']:.2f}, and {ACCURACY_WANTED} is wanted")
    best = max(validation, key=lambda look: look["accuracy"], default=None)
    if best and true["accuracy"] < best["accuracy"] - FALL_ALLOWED:
        found.append(f"it fell apart after step {best['step']}: accuracy on the validation was {best['accuracy']:.2f}")
    for mode, words in (("BLANK_CROP", "with the crop blanked"), ("NO_TOOL", "with the tool off")):
        low, high = _bounds(after[mode], "accuracy")
        if _bounds(true, "accuracy")[0] <= high or low > best_guess:
            found.append(f"accuracy {words} is {_share(after[mode], 'accuracy')}: it does not come from the crop")
    return found


def figures_of(before: Figures, after: Mapping[str, Figures], best_guess: float) -> str:
    """Give the figures that `lacks` judges in one line."""
    true = after["TRUE_CROP"]
    names = {"tool_use": "tool use", "hits": "right place", "accuracy": "accuracy"}
    rises = ", ".join(f"{words} {_share(before, name)} -> {_share(true, name)}" for name, words in names.items())
    blank, off = (_share(after[mode], "accuracy") for mode in ("BLANK_CROP", "NO_TOOL"))
    return (
        f"on {true['questions']} held-out pictures: {rises} "
        f"(crop blanked {blank}, tool off {off}, the best constant guess {best_guess:.2f}), "
        f"reward {before['reward']:.2f} -> {true['reward']:.2f}"
    )
