"""What the numbers mean: intervals for accuracies, and whether two runs differ.

Answers to one question, in several samples or orders of its options, are not independent. So the unit is the question:
intervals take its answers as a cluster, and runs are compared question by question.

Sources:
    Wilson (1927), "Probable inference, the law of succession, and statistical inference": the score interval.
    Korn and Graubard (1998), "Confidence intervals for proportions with small expected number of positive counts
        estimated from survey data": the effective number of answers in clusters.
    McNemar (1947), "Note on the sampling error of the difference between correlated proportions", in its exact form.
    Agresti and Min (2005), "Simple improved confidence intervals for comparing matched proportions".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Z = 1.959963984540054
"""Half the width of a 95 % interval of the normal distribution, in standard deviations."""


@dataclass(frozen=True)
class Share:
    """A proportion with its 95 % interval, each from 0 to 1."""

    value: float
    low: float
    high: float


def wilson(share: float, count: float) -> tuple[float, float]:
    """Returns the 95 % Wilson interval of a share of `count` answers, which need not be whole."""
    centre, spread = share + Z * Z / (2 * count), Z * math.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    scale = 1 + Z * Z / count
    return max(0.0, min(share, (centre - spread) / scale)), min(1.0, max(share, (centre + spread) / scale))


def accuracy(clusters: Sequence[Sequence[bool]]) -> Share:
    """Returns the share of right answers.

    Args:
        clusters: The answers to each question, right or wrong; at least one answer in all. With one answer a
            question the interval is Wilson's; otherwise the number of answers in it is divided by what
            clustering adds to the variance, and is at least the number of questions.
    """
    clusters = [cluster for cluster in clusters if cluster]
    answers, questions = sum(map(len, clusters)), len(clusters)
    share = sum(map(sum, clusters)) / answers
    effective = float(questions)
    if questions > 1 and 0 < share < 1:
        deviations = sum((sum(cluster) - share * len(cluster)) ** 2 for cluster in clusters)
        variance = deviations * questions / (questions - 1) / answers**2
        effective = share * (1 - share) / variance if variance else float(answers)
    return Share(share, *wilson(share, min(max(effective, questions), answers)))


@dataclass(frozen=True)
class Comparison:
    """Run B against run A, over the questions that both answered.

    Attributes:
        questions: Their number.
        first: Accuracy of A.
        second: Accuracy of B.
        difference: Of the accuracies, B minus A, with its 95 % interval.
        better: Questions that B answers better.
        worse: Questions that B answers worse.
        p_value: Of the exact McNemar test, two-sided: how probable a split of those as uneven as this is by chance.
    """

    questions: int
    first: float
    second: float
    difference: Share
    better: int
    worse: int
    p_value: float


def compare(first: Mapping[str, float], second: Mapping[str, float]) -> Comparison:
    """Compares two runs.

    Args:
        first: Run A: the share of right answers to each question.
        second: Run B, likewise.

    Raises:
        ValueError: No question is in both.
    """
    from scipy.stats import binomtest  # type: ignore[import-untyped]  # noqa: PLC0415 - a second that a run can do without

    common = sorted(first.keys() & second.keys())
    if not common:
        raise ValueError("the two runs have no question in common; were they of the same benchmark?")
    changes = [second[question] - first[question] for question in common]
    better, worse = sum(change > 0 for change in changes), sum(change < 0 for change in changes)
    count = len(common) + 2  # and half a change each way, which keeps the interval honest where few questions differ
    mean = sum(changes) / count
    half = Z * math.sqrt(max(0.0, (sum(change**2 for change in changes) + 1) / count - mean**2) / count)
    return Comparison(
        len(common),
        sum(first[question] for question in common) / len(common),
        sum(second[question] for question in common) / len(common),
        Share(sum(changes) / len(common), max(-1.0, mean - half), min(1.0, mean + half)),
        better,
        worse,
        float(binomtest(better, better + worse).pvalue) if better + worse else 1.0,
    )
