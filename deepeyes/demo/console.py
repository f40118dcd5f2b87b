"""The demo's progress lines: the time, the stage, its step, figures, and the time that is left of its steps."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from deepeyes.demo import logs

if TYPE_CHECKING:
    from collections.abc import Callable


class Console:
    """Prints progress lines."""

    def __init__(self, stages: int) -> None:
        """Start the clock of so many stages."""
        self._stages, self._stage, self._name = stages, 0, ""
        self._start = time.monotonic()
        self._stream = sys.stdout  # also while swift is imported, whose words go nowhere

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._stage, self._name = self._stage + 1, name
        self.say("...")

    def say(self, text: str) -> None:
        """Print a line of the current stage."""
        clock = _clock(time.monotonic() - self._start)
        print(f"{clock} [{self._stage}/{self._stages} {self._name}] {text}", file=self._stream, flush=True)

    def progress(self, line: dict[str, Any]) -> None:
        """Print that a `step` of at most `steps` is done, its `text`, and the time left.

        Args:
            line: Holds these, and the `seconds` that it took so far without the stage's start. Where steps are not all
                that takes time, `share` is how much of the whole is done.
        """
        share = line.get("share", line["step"] / line["steps"])
        left = _clock(line["seconds"] * (1 - share) / share)
        self.say(f"step {line['step']}/{line['steps']}  {line['text']}  at most {left} left")

    def training(self, steps: int, look_after: int = 0, look_costs: float = 0.0) -> Callable[[dict[str, Any]], None]:
        """Give what prints the steps of GRPO from the lines that swift logs.

        Args:
            steps: How many there are.
            look_after: Steps between two looks at validation questions; none by default.
            look_costs: What a look takes, in steps.
        """
        begin = 0.0

        def cost(step: int, before: int) -> float:
            return step + (look_costs * (before // look_after) if look_after else 0)

        def show(line: dict[str, Any]) -> None:
            nonlocal begin
            if "eval_reward" in line:
                self.say(f"validation: {_figures(logs.summary_of(line, 'eval_'))}")
            elif "reward" in line:
                now, figures = time.monotonic(), logs.summary_of(line)
                begin = begin or now - line["step_time"]  # the first step without the start
                step = int(figures["step"])
                share = cost(step, step - 1) / cost(steps, steps)  # the look after this step is yet to come
                of = {"step": step, "steps": steps, "seconds": now - begin, "share": share}
                self.progress({**of, "text": _figures(figures)})

        return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _figures(means: dict[str, float]) -> str:
    return "  ".join(f"{name} {means[name]:.2f}" for name in (*logs.FIGURES, "turns"))
