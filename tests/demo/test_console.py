"""The demo's progress lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepeyes.demo import console as progress

if TYPE_CHECKING:
    import pytest


class TestConsole:
    """Progress lines."""

    def test_time_left_is_that_of_the_steps_and_starts_anew_with_them(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 1000, 20))
        monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))  # every look at it is 20 seconds later
        console = progress.Console(1)
        console.stage("grpo")
        for step in (1, 2, 4, 1):
            console.step(step, 4, "reward 1")
        ends = [line.partition("reward 1")[2] for line in capsys.readouterr().out.splitlines()[1:]]
        assert ends == ["", "  1:20 left", "  0:00 left", ""]
