"""From what the processes wrote down to the figures of the table (pure but for reading the files)."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PHASES = ("rollout", "sync", "reward", "step")
_OF_BOTH = {"_generate_completions": "rollout", "_move_model_to_vllm": "sync", "_score_completions": "reward"}
METHODS = {
    "swift.rlhf_trainers.grpo_trainer.GRPOTrainer": {"training_step": "step", "_save_checkpoint": "save", **_OF_BOTH},
    "swift.megatron.trainers.MegatronGRPOTrainer": {"train_step": "step", "save_checkpoint": "save", **_OF_BOTH},
}
"""Trainer of swift -> its method -> what the time of that is called."""


@dataclass(frozen=True)
class Figures:
    """What a step costs.

    Attributes:
        steps: Updates that were timed.
        seconds: Of a step after the first, which warms up: `rollout`, `sync`, `reward`, `training`; `step` is all.
        first: The same of the first step.
        save: Seconds of a checkpoint.
        tokens: The longest sequence of the loss.
        gpu_gigabytes: Rank -> the most that torch reserved.
    """

    steps: int
    seconds: dict[str, float]
    first: dict[str, float]
    save: float
    tokens: int
    gpu_gigabytes: dict[str, float]


def read_measurements(folder: Path) -> list[dict[str, float]]:
    """Reads what all processes wrote down."""
    lines = [line for file in sorted(folder.glob("measured-*.jsonl")) for line in file.read_text("utf-8").splitlines()]
    return [json.loads(line) for line in lines]


def figures_of(measurements: Iterable[dict[str, float]]) -> Figures:
    """Adds them up: the slowest rank of each step counts, since the others wait for it."""
    spent: dict[tuple[str, int, str], float] = defaultdict(float)
    save, tokens, memory = 0.0, 0, dict[str, float]()
    for one in measurements:
        what, value, rank = str(one["what"]), one["value"], str(one["rank"])
        if what in PHASES:
            spent[what, int(one["step"]), rank] += value
        elif what == "save":
            save = max(save, value)
        elif what == "tokens":
            tokens = max(tokens, int(value))
        elif what == "gpu_gigabytes":
            memory[rank] = max(memory.get(rank, 0.0), value)
    steps = sorted({step for _, step, _ in spent})
    each = [_phases_of(spent, step) for step in steps]
    later = each[1:] or each
    mean = {name: sum(one[name] for one in later) / len(later) for name in later[0]} if later else {}
    return Figures(len(steps), mean, each[0] if each else {}, save, tokens, memory)


def _phases_of(spent: dict[tuple[str, int, str], float], step: int) -> dict[str, float]:
    slowest = {
        phase: max((value for (what, at, _), value in spent.items() if (what, at) == (phase, step)), default=0.0)
        for phase in PHASES
    }
    rollout = slowest["rollout"] - slowest["sync"]  # swift sends the weights at the start of a rollout
    training = max(0.0, slowest["step"] - slowest["rollout"] - slowest["reward"])
    return {
        "rollout": rollout,
        "reward": slowest["reward"],
        "training": training,
        "sync": slowest["sync"],
        "step": slowest["step"],
    }
