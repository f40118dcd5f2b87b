"""The curves of the demo, and what they are read from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from PIL import Image

from deepeyes.demo import logs, plot

if TYPE_CHECKING:
    from pathlib import Path


def line(step: int, prefix: str = "", **more: Any) -> dict[str, Any]:
    """What swift logs of a step."""
    means = {f"{prefix}rewards/DeepEyes{name}/mean": step / 20 for name in ("Reward", "Accuracy", "Format", "Tool")}
    names = {f"{prefix}reward": step / 20, f"{prefix}num_turns": 1.5, "global_step/max_steps": f"{step}/20"}
    return means | names | more


def write(folder: Path) -> None:
    """Write the log of a run of twenty steps with two looks at the validation."""
    lines = [line(step) for step in range(1, 21)] + [line(step, "eval_") for step in (10, 20)]
    (folder / "logging.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))


class TestLogs:
    """What swift logged."""

    def test_steps_and_looks_at_the_validation_are_told_apart(self, tmp_path: Path) -> None:
        write(tmp_path)
        assert [one["step"] for one in logs.read_steps(tmp_path)] == list(range(1, 21))
        assert logs.read_steps(tmp_path, "eval_") == [
            {"step": step, "turns": 1.5, **dict.fromkeys(("reward", "accuracy", "format", "tool"), step / 20)}
            for step in (10, 20)
        ]

    def test_best_checkpoint_is_the_last_of_those_that_did_best(self, tmp_path: Path) -> None:
        rewards = {5: 0.9, 10: 1.0, 15: 1.0, 20: 0.8}
        looks = [line(at, "eval_") | {"eval_rewards/DeepEyesReward/mean": reward} for at, reward in rewards.items()]
        (tmp_path / "logging.jsonl").write_text("".join(f"{json.dumps(look)}\n" for look in looks))
        assert logs.best_checkpoint(tmp_path) == tmp_path / "checkpoint-15"


class TestPlot:
    """The picture of the curves."""

    def test_curves_of_a_run_become_a_png(self, tmp_path: Path) -> None:
        write(tmp_path)
        plot.draw(logs.read_steps(tmp_path), logs.read_steps(tmp_path, "eval_"), tmp_path / "demo.png")
        assert Image.open(tmp_path / "demo.png").width > 1000
