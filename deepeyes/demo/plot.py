"""Draws the curves of the demo's GRPO run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from pathlib import Path

PANELS = ("reward", "accuracy", "tool", "turns")


def draw(steps: list[dict[str, float]], validation: list[dict[str, float]], path: Path) -> None:
    """Draw one panel a figure: every step as a point, the validation questions as a line.

    Args:
        steps: The figures of each step, by the names of the panels, and the step's number.
        validation: The same of the looks at the validation questions.
        path: The PNG to write.
    """
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.2), layout="constrained")
    for axis, name in zip(axes, PANELS, strict=True):
        axis.plot([one["step"] for one in steps], [one[name] for one in steps], "o", color="0.65", markersize=3)
        axis.plot([one["step"] for one in validation], [one[name] for one in validation], "o-", color="C0")
        axis.set(title=name, xlabel="GRPO step")
        axis.grid(alpha=0.3)
    axes[0].legend(["a step", "validation"])
    figure.savefig(path, dpi=110)
    plt.close(figure)
