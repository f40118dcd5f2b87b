"""The demo's progress lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from deepeyes.demo.console import Console

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the clock."""
    now = [0.0]
    monkeypatch.setattr("deepeyes.demo.console.time.monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, without the clock and the stage."""
    return [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]


def logged(step: int, prefix: str = "") -> dict[str, Any]:
    """What swift logs of a step."""
    means = {f"{prefix}rewards/DeepEyes{name}/mean": 0.5 for name in ("Reward", "Accuracy", "Format", "Tool")}
    own = {f"{prefix}reward": 0.5, f"{prefix}num_turns": 1.5, "step_time": 10.0, "global_step/max_steps": f"{step}/4"}
    return means | own


class TestConsole:
    """Progress lines."""

    def test_time_left_is_that_of_the_steps_without_the_start(
        self, capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
    ) -> None:
        console = Console(2)
        clock(61)
        console.stage("warm-up")
        console.progress({"step": 10, "steps": 40, "seconds": 20.0, "text": "fine"})
        assert capsys.readouterr().out.splitlines() == [
            "1:01 [1/2 warm-up] ...",
            "1:01 [1/2 warm-up] step 10/40  fine  at most 1:00 left",
        ]

    def test_time_left_of_training_counts_the_looks_from_the_first_step_on(
        self, capsys: pytest.CaptureFixture[str], clock: Callable[[float], None]
    ) -> None:
        show = Console(1).training(4, look_after=2, look_costs=1.5)
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
