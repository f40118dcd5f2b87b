"""The curves of the demo, and what they are read from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from PIL import Image

from deepeyes.demo import logs, plot

if TYPE_CHECKING:
    from pathlib import Path


class TestPlot:
    """The picture of the curves."""

    def test_curves_of_a_run_become_a_png(self, tmp_path: Path) -> None:
        steps = [dict.fromkeys(("reward", "accuracy", "tool_use", "turns"), at / 20) for at in range(20)]
        plot.draw(steps, tmp_path / "demo.png")
        assert Image.open(tmp_path / "demo.png").width > 1000

    def test_tool_use_is_read_from_the_trace(self, tmp_path: Path) -> None:
        lines = [{"step": step, "num_zooms": zooms} for step, zooms in ((1, 0), (1, 2), (2, 1), (2, 1))]
        (tmp_path / "trajectories-0.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        assert logs.read_tool_use(tmp_path) == [0.5, 1.0]

    def test_mean_trails(self) -> None:
        assert plot.trailing_mean([1, 2, 3, 4], window=2) == [1, 1.5, 2.5, 3.5]
