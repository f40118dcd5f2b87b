"""Curves of a run, and the advantages of a group."""

from __future__ import annotations

import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deepeyes.report.traces import Record

ADVANTAGE_EPSILON = 1e-4  # swift adds it to the standard deviation (swift/rl_core/advantage.py)

Points = list[tuple[int, float]]
"""A curve: step and value, by rising step."""


def divided_by_deviation(arguments: Mapping[str, Any]) -> bool | None:
    """Tell from swift's arguments whether a run divides advantages by the standard deviation of their group.

    Args:
        arguments: Those in `args.json`; what is missing is swift's default, `--scale_rewards group`.

    Returns:
        None where the advantages do not follow from the rewards of a group alone, or by another estimator.

    Source: swift/rl_core/advantage.py; in swift 3.7.3 the argument is a bool.
    """
    scale = arguments.get("scale_rewards")
    scale = {None: "group", True: "group", False: "none"}.get(scale, scale)
    estimator = arguments.get("advantage_estimator") or "grpo"
    return scale == "group" if estimator == "grpo" and scale in ("group", "none") else None


def advantages(rewards: Sequence[float], *, divided: bool = True) -> list[float]:
    """Give the advantages of a group as GRPO does: reward - mean, by default over (standard deviation + 0.0001).

    The deviation is that of a sample (n - 1).
    """
    deviation = statistics.stdev(rewards) + ADVANTAGE_EPSILON if divided and len(rewards) > 1 else 1.0
    mean = statistics.fmean(rewards)
    return [(reward - mean) / deviation for reward in rewards]


def mean_curve(records: Sequence[Record], value: Callable[[Record], float | None]) -> Points:
    """Average a value of the trajectories over each step."""
    steps: dict[int, list[float]] = defaultdict(list)
    for record in records:
        if (number := value(record)) is not None:
            steps[record["step"]].append(number)
    return [(step, statistics.fmean(numbers)) for step, numbers in sorted(steps.items())]


def make_curves(log: dict[str, Points], records: Sequence[Record]) -> list[dict[str, Any]]:
    """Make the curves: first what tells whether a run learns, then all else that swift logged.

    Trajectories that never trained are in none; those of an evaluation pass make a curve of their own beside it.
    """
    evaluated = [
        record | {"step": record["step"] - 1}  # as in the log: the step before it, and not the one after it
        for record in records
        if record.get("untrained") == "evaluation"
    ]
    records = [record for record in records if not record.get("untrained")]
    accuracy, formats, tool = (f"rewards/DeepEyes{name}/mean" for name in ("Accuracy", "Format", "Tool"))
    main: list[tuple[str, str, str, Callable[[Record], float | None]]] = [
        ("Reward", "mean reward", "reward", lambda record: record["score"]["total"]),
        ("Accuracy", "share of right answers", accuracy, lambda record: record["score"]["accuracy"]),
        ("Tool use", "share that got a crop", "", lambda record: float(record["num_zooms"] > 0)),
        ("Tool reward", "share: right and zoomed", tool, lambda record: record["score"]["tool"]),
        ("Format errors", "share of trajectories", formats, lambda record: record["score"]["format"]),
        ("Turns", "mean a trajectory", "num_turns", lambda record: float(len(record["turns"]))),
    ]
    curves, shown = [], {"epoch", "train_speed(s/it)"}
    for name, hint, key, value in main:
        sign = -1 if key == formats else 1
        points, validation = (
            [(step, sign * mean) for step, mean in log.get(f"{prefix}{key}") or mean_curve(played, value)]
            for prefix, played in (("", records), ("eval_", evaluated))
        )
        if points:
            shown |= {key, f"eval_{key}"}
            origin = "all, from logging.jsonl" if log.get(key) else "of the recorded trajectories"
            curve = {"name": name, "hint": hint, "origin": origin, "points": points, "main": True}
            curves.append(curve | ({"others": [{"run": "validation", "points": validation}]} if validation else {}))
    for name, points in log.items():
        if name not in shown:
            curves.append({"name": name, "hint": "", "origin": "logging.jsonl", "points": points, "main": False})
    return curves


def overlay(curves: list[dict[str, Any]], others: list[dict[str, Any]], run: str) -> None:
    """Lays the curves of another run over those of the same name."""
    by_name = {curve["name"]: curve for curve in others}
    for curve in curves:
        if (other := by_name.get(curve["name"])) is not None:
            curve.setdefault("others", []).append({"run": run, "points": other["points"]})
