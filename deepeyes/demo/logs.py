"""Reads what the demo's stages write: swift's `logging.jsonl`, and the trace of the rewards."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Lines:
    """Reads the complete lines that a JSONL file gains."""

    def __init__(self, path: Path) -> None:
        """Start before its first line."""
        self._path = path
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


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """Read the steps of a GRPO run from swift's `logging.jsonl`."""
    return [line for line in Lines(folder / "logging.jsonl").new() if "reward" in line]


def summary_of(step: Mapping[str, Any]) -> dict[str, float]:
    """Give the figures of a step under our own names."""
    return {
        "reward": step["rewards/DeepEyesReward/mean"],
        "accuracy": step["rewards/DeepEyesAccuracy/mean"],
        "format": step["rewards/DeepEyesFormat/mean"],
        "tool": step["rewards/DeepEyesTool/mean"],
        "turns": step["num_turns"],
    }


def read_tool_use(trace: Path) -> list[float]:
    """Read the share of trajectories that zoomed, a number a step, from the trace of a run that wrote all of them."""
    zoomed: dict[int, list[bool]] = {}
    for file in trace.glob("trajectories-*.jsonl"):
        for line in Lines(file).new():
            zoomed.setdefault(line["step"], []).append(line["num_zooms"] > 0)
    return [sum(zoomed[step]) / len(zoomed[step]) for step in sorted(zoomed)]
