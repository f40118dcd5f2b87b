"""The demo's progress lines: the time, the stage, its step, figures, and the time that is left of its steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from deepeyes.demo import logs

if TYPE_CHECKING:
    from collections.abc import Callable


class Console:
    """Prints progress lines: the stage, its step, figures, and the time that is left of its steps."""

    def __init__(self, stages: int) -> None:
        """Start counting.

        Args:
            stages: How many stages there are.
        """
        self._stages = stages
        self._stage = 0
        self._name = ""
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._stage += 1
        self._name = name
        self._first = None
        self.say("...")

    def say(self, text: str) -> None:
        """Print a line of the current stage."""
        clock = _clock(time.monotonic() - self._start)
        print(f"{clock} [{self._stage}/{self._stages} {self._name}] {text}", flush=True)

    def step(self, step: int, steps: int, text: str) -> None:
        """Print a step of the current stage, and from the second on the time left: the first includes the start-up."""
        now = time.monotonic()
        if self._first is None or step <= self._first[0]:
            self._first = step, now
        first, begin = self._first
        left = f"  {_clock((now - begin) / (step - first) * (steps - step))} left" if step > first else ""
        self.say(f"step {step}/{steps}  {text}{left}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def every(steps: int, progress: Callable[[int, int, str], None]) -> Callable[[int, int, str], None]:
    """Thin a progress report out to every so many steps and the last."""

    def thinned(step: int, total: int, text: str) -> None:
        if step % steps == 0 or step == total:
            progress(step, total, text)

    return thinned


def describe(outcome: dict[str, Any]) -> str:
    """Give the figures of a measured checkpoint in one line."""
    return (
        f"tool use {outcome['tool_use']:.2f} (right place {outcome['hits']:.2f})  accuracy {outcome['accuracy']:.2f}  "
        f"reward {outcome['reward']:.2f}"
    )


def show_grpo(console: Console, line: dict[str, Any], steps: int) -> None:
    """Print a step of GRPO, given the line that swift logged of it."""
    if "reward" not in line:
        return
    step = int(line["global_step/max_steps"].partition("/")[0])
    figures = logs.summary_of(line)
    text = f"reward {figures['reward']:.2f}  accuracy {figures['accuracy']:.2f}  turns {figures['turns']:.2f}"
    console.step(step, steps, text)
