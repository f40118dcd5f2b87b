"""Draws the curves of the demo's GRPO run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

WINDOW = 5
"""Steps over which the line averages."""
PANELS = {"reward": "reward", "accuracy": "accuracy", "tool_use": "tool use", "turns": "turns"}


def trailing_mean(values: list[float], window: int = WINDOW) -> list[float]:
    """Average each value with those before it, as many as the window holds."""
    return [sum(part) / len(part) for part in (values[max(0, at - window + 1) : at + 1] for at in range(len(values)))]


def draw(steps: list[dict[str, float]], path: Path) -> None:
    """Draw one panel a figure: every step as a point, the trailing mean as a line.

    Args:
        steps: The figures of each step, by the names of the panels.
        path: The PNG to write.
    """
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.2), layout="constrained")
    numbers = range(1, len(steps) + 1)
    for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
        values = [step[name] for step in steps]
        axis.plot(numbers, values, "o", color="0.65", markersize=3, label="a step")
        axis.plot(numbers, trailing_mean(values), color="C0", label=f"mean of {WINDOW} steps")
        axis.set(title=title, xlabel="GRPO step")
        axis.grid(alpha=0.3)
    axes[0].legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)
