"""How far the demo is: stages write a line of JSON a step, as swift does, and the console shows each as it appears.

Both kinds of line stand in the `logging.jsonl` of a stage's folder. The console adds the time, and the time left.
"""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NAME = "logging.jsonl"
FIGURES = ("reward", "accuracy", "tool", "format")  # of which swift logs the means


class Writer:
    """Writes the lines of a stage that is not swift's."""

    def __init__(self, folder: Path) -> None:
        """Begin the file; the time of the steps begins with it."""
        self._file = (folder / NAME).open("w", encoding="utf-8", buffering=1)
        self._begin = time.monotonic()

    def step(self, step: int, steps: int, text: str, **figures: object) -> None:
        """Write that a step of so many is done, and what it found."""
        line = {"step": step, "steps": steps, "seconds": time.monotonic() - self._begin, "text": text, **figures}
        self._file.write(json.dumps(line) + "\n")


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a stage; none where it has written nothing yet."""
    text = (folder / NAME).read_bytes() if (folder / NAME).is_file() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def summary_of(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Give the figures of a step of swift's under our own names; those of a look at the validation begin `eval_`."""
    step = int(line["global_step/max_steps"].partition("/")[0])
    means = {name: line[f"{prefix}rewards/DeepEyes{name.capitalize()}/mean"] for name in FIGURES}
    return {"step": step, **means, "turns": line[f"{prefix}num_turns"]}


def read_steps(folder: Path, prefix: str = "") -> list[dict[str, float]]:
    """Read the steps of a GRPO run, or with `eval_` what it scored on its validation questions."""
    return [summary_of(line, prefix) for line in read_lines(folder) if f"{prefix}reward" in line]


def best_checkpoint(folder: Path) -> Path:
    """Give the checkpoint of a GRPO run that did best on its validation questions; of equals, the last."""
    best = max(read_steps(folder, "eval_"), key=lambda look: (look["reward"], look["step"]))
    return folder / f"checkpoint-{best['step']}"


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

    def step(self, line: Mapping[str, Any], share: float = 0.0) -> None:
        """Print a line of `Writer`'s, and the time left: a share of the whole is done, by default that of the steps."""
        share = share or line["step"] / line["steps"]
        left = _clock(line["seconds"] * (1 - share) / share)
        self.say(f"step {line['step']}/{line['steps']}  {line['text']}  at most {left} left")

    def training(self, steps: int, looks: int = 0, look_costs: float = 0.0) -> Callable[[dict[str, Any]], None]:
        """Give what prints swift's lines: of steps, and of looks at validation questions, which cost so many steps."""
        begin = done = 0.0

        def show(line: dict[str, Any]) -> None:
            nonlocal begin, done
            if "eval_reward" in line:
                done += look_costs
                self.say(f"validation: {_figures(summary_of(line, 'eval_'))}")
            elif "reward" in line:
                done += 1
                now, figures = time.monotonic(), summary_of(line)
                begin = begin or now - line["step_time"]  # the first step without the start
                own = {"step": int(figures["step"]), "steps": steps, "seconds": now - begin, "text": _figures(figures)}
                self.step(own, done / (steps + looks * look_costs))

        return show


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _figures(means: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {means[name]:.2f}" for name in (*FIGURES, "turns"))
