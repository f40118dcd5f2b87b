"""What becomes of a batch that a reward sees: swift trains on it, evaluates with it, or drops groups of it.

swift hands none of that to a reward. Its trainers know it, and one of them is on the stack while a reward runs.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deepeyes.scoring import Score

EVALUATION = "evaluation"
DROPPED = "dynamic_sample"
PARTS = {
    "DeepEyesReward": "total",
    "DeepEyesAccuracy": "accuracy",
    "DeepEyesFormat": "format",
    "DeepEyesTool": "tool",
}
"""The part of a score by swift's name of the reward."""


@dataclass(frozen=True)
class Phase:
    """What a trainer does with its batch.

    Attributes:
        evaluates: It is an evaluation pass, on `--val_dataset`.
        generations: Trajectories of a whole group where `--dynamic_sample` drops those of equal rewards; else 0.
        weights: Of the rewards that count, by their names in `PARTS`.
    """

    evaluates: bool = False
    generations: int = 0
    weights: Mapping[str, float] = field(default_factory=dict)


def phase_of_caller() -> Phase:
    """Asks the trainer that is on the stack; where there is none, a batch is taken to be trained on."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if hasattr(caller, "reward_func_names"):
            return phase_of(caller)
        frame = frame.f_back
    return Phase()


def phase_of(trainer: Any) -> Phase:
    """Reads what a trainer does now.

    Source: ms-swift 4.6.0, `grpo_trainer.py` of `swift/rlhf_trainers` and of `swift/megatron/trainers`: the mode is
    that of the model, and `_dynamic_sampling` replaces groups whose weighted rewards have no deviation.
    """
    models = getattr(trainer, "unwrapped_models", None) or [getattr(trainer, "model", None)]
    evaluates = any(getattr(model, "training", True) is False for model in models)
    weights = {
        name: float(weight)
        for name, weight in zip(trainer.reward_func_names, getattr(trainer, "reward_weights", ()), strict=False)
        if float(weight)
    }
    drops = getattr(trainer, "dynamic_sample", False) and weights.keys() <= PARTS.keys()  # others' values are not known
    return Phase(evaluates, int(getattr(trainer, "num_generations", 0)) if drops else 0, weights)


def untrained(phase: Phase, group: Sequence[Score]) -> str | None:
    """Tells why a group does not train; None where it does, or where nobody can tell.

    Args:
        phase: What the trainer does.
        group: Scores of the group, as far as this process has it. Of one that goes on in another process nobody can
            tell whether all its rewards are equal.
    """
    if phase.evaluates:
        return EVALUATION
    totals = {sum(weight * getattr(score, PARTS[name]) for name, weight in phase.weights.items()) for score in group}
    return DROPPED if len(group) >= phase.generations > 0 and len(totals) == 1 else None
