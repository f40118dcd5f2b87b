"""What would run: the commands of swift that the scripts print with `--dry-run`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from deepeyes.launch import HERE, Command, PlanError, dry_run, parse_command

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "HERE",
    "PURPOSES",
    "Command",
    "Plan",
    "PlanError",
    "dry_run",
    "has_rollout_server",
    "make_plan",
    "parse_command",
]

PURPOSES = ("train", "rollout", "judge", "demo")


@dataclass(frozen=True)
class Plan:
    """The commands behind what is checked; those that do not matter are empty."""

    purpose: str
    train: Command = field(default_factory=Command)
    rollout: Command = field(default_factory=Command)
    judges: tuple[Command, ...] = ()


def make_plan(purpose: str, extra: Sequence[str]) -> Plan:
    """Returns what the scripts would run for a purpose.

    Args:
        purpose: One of `PURPOSES`.
        extra: Arguments that would be handed to swift.

    Raises:
        PlanError: A script refuses its settings.
    """
    if purpose == "train":
        (train,) = dry_run("deepeyes.sh", "train", *extra)
        if train.get("vllm_mode") == "colocate":  # the trainer has the limits that a rollout server would have
            return Plan(purpose, train=train, rollout=Command(options=train.options))
        (rollout,) = dry_run(
            "deepeyes.sh", "rollout", environment={"ROLLOUT_HOST": "127.0.0.1", "ROLLOUT_PORT": "8001"}
        )
        return Plan(purpose, train=train, rollout=rollout)
    if purpose == "rollout":
        (rollout,) = dry_run("deepeyes.sh", "rollout", *extra)
        return Plan(purpose, rollout=rollout)
    if purpose == "judge":
        return Plan(purpose, judges=dry_run("deploy_judge.sh", *extra))
    return Plan(purpose)


def has_rollout_server(train: Command) -> bool:
    """Tells whether a rollout server plays for the trainer."""
    return train.get("use_vllm") == "true" and train.get("vllm_mode") == "server"
