"""The demo's progress lines: the time, the stage, its step, figures, and the time that is left of its steps."""

from __future__ import annotations

import sys
import time
from typing import Any

from deepeyes.demo import logs


class Console:
    """Prints progress lines."""

    def __init__(self, stages: int) -> None:
        """Start counting.

        Args:
            stages: How many stages there are.
        """
        self._stages = stages
        self._stage = 0
        self._name = ""
        self._start = time.monotonic()
        self._stream = sys.stdout  # also while swift is imported, whose words go nowhere

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._stage += 1
        self._name = name
        self.say("...")

    def say(self, text: str) -> None:
        """Print a line of the current stage."""
        clock = _clock(time.monotonic() - self._start)
        print(f"{clock} [{self._stage}/{self._stages} {self._name}] {text}", file=self._stream, flush=True)

    def step(self, step: int, steps: int, text: str, left: float) -> None:
        """Print a step of the current stage, and how many seconds its further steps take at most."""
        self.say(f"step {step}/{steps}  {text}  at most {_clock(left)} left")

    def progress(self, line: dict[str, Any]) -> None:
        """Print the progress line of a stage of ours.

        Args:
            line: `step` of at most `steps`, the `seconds` that these took without the stage's start, and a `text`.
        """
        left = line["seconds"] / line["step"] * (line["steps"] - line["step"])
        self.step(line["step"], line["steps"], line["text"], left)


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Training:
    """Prints the steps of GRPO from the lines that swift logs."""

    def __init__(self, console: Console, steps: int, look_after: int = 0, look_costs: float = 0.0) -> None:
        """Start before the first step.

        Args:
            console: Where to print.
            steps: How many steps there are at most.
            look_after: Steps between two looks at validation questions; none by default.
            look_costs: What a look takes, in steps.
        """
        self._console, self._steps = console, steps
        self._look_after, self._look_costs = look_after, look_costs
        self._begin = 0.0

    def _cost(self, step: int, looks: int) -> float:
        return step + self._look_costs * looks

    def show(self, line: dict[str, Any]) -> None:
        """Print the figures of a step or a look."""
        if "eval_reward" in line:
            self._console.say(f"validation: {_figures(logs.summary_of(line, 'eval_'))}")
        elif "reward" in line:
            now, step = time.monotonic(), logs.step_of(line)
            self._begin = self._begin or now - line["step_time"]  # the first step without the start
            looks = [(at - 1) // self._look_after if self._look_after else 0 for at in (step, self._steps + 1)]
            done, whole = self._cost(step, looks[0]), self._cost(self._steps, looks[1])
            left = (now - self._begin) / done * (whole - done)
            self._console.step(step, self._steps, _figures(logs.summary_of(line)), left)


def _figures(means: dict[str, float]) -> str:
    return f"reward {means['reward']:.2f}  accuracy {means['accuracy']:.2f}  turns {means['turns']:.2f}"
