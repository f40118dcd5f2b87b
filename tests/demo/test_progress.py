"""What the demo's stages say of their steps, and how the console shows it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from deepeyes.demo import progress
from deepeyes.demo.progress import Console

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock."""
    now = [0.0]
    monkeypatch.setattr("deepeyes.demo.progress.time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, without the clock and the stage."""
    return [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]


def logged(step: int, prefix: str = "") -> dict[str, Any]:
    """What swift logs of a step."""
    means = {f"{prefix}rewards/DeepEyes{name}/mean": step / 20 for name in ("Reward", "Accuracy", "Format", "Tool")}
    own = {f"{prefix}reward": step / 20, f"{prefix}num_turns": 1.5, "step_time": 10.0}
    return means | own | {"global_step/max_steps": f"{step}/20"}


def write(folder: Path, *lines: dict[str, Any]) -> None:
    """Write what swift logs of a run."""
    (folder / "logging.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


class TestLog:
    """What swift logged."""

    def test_steps_and_looks_at_the_validation_are_told_apart(self, tmp_path: Path) -> None:
        write(tmp_path, *map(logged, range(1, 21)), *(logged(step, "eval_") for step in (10, 20)))
        assert [one["step"] for one in progress.read_steps(tmp_path)] == list(range(1, 21))
        assert progress.read_steps(tmp_path, "eval_") == [
            {"step": step, "turns": 1.5, **dict.fromkeys(("reward", "accuracy", "format", "tool"), step / 20)}
            for step in (10, 20)
        ]

    def test_best_checkpoint_is_the_last_of_those_that_did_best(self, tmp_path: Path) -> None:
        rewards = {5: 0.9, 10: 1.0, 15: 1.0, 20: 0.8}
        write(tmp_path, *(logged(at, "eval_") | {"eval_rewards/DeepEyesReward/mean": rewards[at]} for at in rewards))
        assert progress.best_checkpoint(tmp_path) == tmp_path / "checkpoint-15"


class TestConsole:
    """Progress lines."""

    def test_time_left_is_that_of_the_steps_without_the_start(
        self, capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
    ) -> None:
        console = Console(2)
        clock(61)
        console.stage("warm-up")
        console.step({"step": 10, "steps": 40, "seconds": 20.0, "text": "fine"})
        assert capsys.readouterr().out.splitlines() == [
            "1:01 [1/2 warm-up] ...",
            "1:01 [1/2 warm-up] step 10/40  fine  at most 1:00 left",
        ]

    def test_time_left_of_training_counts_the_looks_from_the_first_step_on(
        self, capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
    ) -> None:
        show = Console(1).training(4, looks=2, look_costs=1.5)
        clock(100)  # 90 seconds of start, 10 of the step: three more, and two looks of 15
        show(logged(1))
        clock(110)
        show(logged(2))
        clock(125)
        show(logged(2, "eval_"))
        clock(135)
        show(logged(3))
        ends = [line.rpartition("  ")[2] for line in lines(capsys)]
        assert ends == ["at most 1:00 left", "at most 0:50 left", "turns 1.50", "at most 0:25 left"]

    def test_other_lines_of_swift_are_passed_over(self, capsys: pytest.CaptureFixture[str]) -> None:
        Console(1).training(4)({"train_runtime": 1.0})
        assert lines(capsys) == []
