"""What the demo's stages say of their steps, a line of JSON each: swift's own `logging.jsonl`, and ours."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NAME = "logging.jsonl"
FIGURES = {"reward": "Reward", "accuracy": "Accuracy", "tool": "Tool", "format": "Format"}
"""Our names of the means that swift logs of each reward function, and its own."""


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


def read_lines(folder: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a folder's `logging.jsonl`; none where there is no such file yet."""
    text = (folder / NAME).read_bytes() if (folder / NAME).is_file() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def summary_of(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Give the figures of a step of swift's under our own names; those of a look at the validation begin `eval_`."""
    step = int(line["global_step/max_steps"].partition("/")[0])
    means = {ours: line[f"{prefix}rewards/DeepEyes{theirs}/mean"] for ours, theirs in FIGURES.items()}
    return {"step": step, **means, "turns": line[f"{prefix}num_turns"]}


def read_steps(folder: Path, prefix: str = "") -> list[dict[str, float]]:
    """Read the steps of a GRPO run, or with `eval_` what it scored on its validation questions."""
    return [summary_of(line, prefix) for line in read_lines(folder) if f"{prefix}reward" in line]


def best_checkpoint(folder: Path) -> Path:
    """Give the checkpoint of a GRPO run that did best on its validation questions; of equals, the last."""
    best = max(read_steps(folder, "eval_"), key=lambda look: (look["reward"], look["step"]))
    return folder / f"checkpoint-{best['step']}"
