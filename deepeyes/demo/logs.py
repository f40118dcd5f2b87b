"""What the demo's stages say of their steps, a line of JSON each: swift's own `logging.jsonl`, and ours."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "logging.jsonl"


class Writer:
    """Writes what a stage of ours has done to the `logging.jsonl` of its folder, where swift writes what it did."""

    def __init__(self, folder: Path) -> None:
        """Begin the file; the time of the steps begins with it."""
        self._file = (folder / NAME).open("w", encoding="utf-8", buffering=1)
        self._begin = time.monotonic()

    def step(self, step: int, steps: int, text: str, **figures: object) -> None:
        """Write that a step of so many is done, and what it found."""
        line = {"step": step, "steps": steps, "seconds": time.monotonic() - self._begin, "text": text, **figures}
        self._file.write(json.dumps(line) + "\n")


class Lines:
    """Reads the complete lines that the file gains."""

    def __init__(self, folder: Path) -> None:
        """Start before the first line of a folder's `logging.jsonl`."""
        self._path = folder / NAME
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        """Give the lines that were completed since the last call."""
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]


def step_of(line: Mapping[str, Any]) -> int:
    """Give the step of a line of swift's."""
    return int(line["global_step/max_steps"].partition("/")[0])


def summary_of(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Give the figures of a step under our own names; those of a look at the validation questions begin `eval_`."""
    names = {"reward": "Reward", "accuracy": "Accuracy", "format": "Format", "tool": "Tool"}
    means = {ours: line[f"{prefix}rewards/DeepEyes{theirs}/mean"] for ours, theirs in names.items()}
    return {"step": step_of(line), **means, "turns": line[f"{prefix}num_turns"]}


def read_steps(folder: Path) -> list[dict[str, float]]:
    """Read the steps of a GRPO run."""
    return [summary_of(line) for line in Lines(folder).new() if "reward" in line]


def read_validation(folder: Path) -> list[dict[str, float]]:
    """Read what a GRPO run scored on its validation questions."""
    return [summary_of(line, "eval_") for line in Lines(folder).new() if "eval_reward" in line]


def best_checkpoint(folder: Path) -> Path:
    """Give the checkpoint of a GRPO run that did best on its validation questions; of equals, the last."""
    best = max(read_validation(folder), key=lambda look: (look["reward"], look["step"]))
    return folder / f"checkpoint-{best['step']}"
