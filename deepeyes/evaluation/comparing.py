"""Two runs, question by question."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.rendering import table, title
from deepeyes.evaluation.stats import Share, compare

if TYPE_CHECKING:
    from collections.abc import Mapping

COMPARED = (
    *("bench", "protocol", "family", "coordinates", "crop_source", "rules", "max_turns", "max_pixels", "max_tokens"),
    *("temperature", "top_p", "extra", "options", "seed", "samples", "judge", "prompt"),
)
"""Settings that two runs which are compared had better share; the model and the tool stand in the title."""
HEADER = ("category", "questions", "A %", "B %", "B - A, 95 % interval", "B better", "B worse", "p (McNemar)")


def pair(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[dict[str, str], int]:
    """Finds the questions that two runs share.

    In one layout those of one name and content are. Another layout of a benchmark names its questions differently, and
    may hold its images in other bytes: there, questions of one content are paired, else those of the same text,
    options and reference, as long as there is one of them in each run.

    Args:
        first: A report.
        second: Another.

    Returns:
        The name in `second` for each name in `first`, and how many of one name differ in content.

    Raises:
        ValueError: Most of those of one name differ.
    """
    scores = first["scores"], second["scores"]
    if first.get("layout") != second.get("layout"):
        pairs: dict[str, str] = {}
        for key in ("digests", "text"):
            pairs |= _pair_by(*scores, key, pairs)
        return pairs, 0
    named = scores[0].keys() & scores[1].keys()
    pairs = {name: name for name in named if scores[0][name]["digests"] == scores[1][name]["digests"]}
    different = len(named) - len(pairs)
    if len(pairs) < len(named) / 2:
        raise ValueError(
            f"{different} of {len(named)} questions of the same name differ in text, options, reference or image; "
            "expected two runs of the same rows"
        )
    return pairs, different


def _pair_by(first: Mapping[str, Any], second: Mapping[str, Any], key: str, known: Mapping[str, str]) -> dict[str, str]:
    """Pairs what is alike in a field, and unlike all else in it."""
    sides = [
        {str(score.get(key)): name for name, score in scores.items() if name not in taken}
        for scores, taken in ((first, known.keys()), (second, set(known.values())))
    ]
    counts = [Counter(str(score.get(key)) for score in scores.values()) for scores in (first, second)]
    alone = [value for value in sides[0].keys() & sides[1].keys() if counts[0][value] == counts[1][value] == 1]
    return {sides[0][value]: sides[1][value] for value in alone if value != "None"}


def compare_runs(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[dict[str, Any], str, list[str]]:
    """Compares two reports.

    Returns:
        The figures by category, the table, and what else differs between the runs or was left out.

    Raises:
        ValueError: The runs have no question in common, or most of those of one name are different ones.
    """
    pairs, different = pair(first, second)
    shares = (
        {name: _share(first["scores"][name]) for name in pairs},
        {name: _share(second["scores"][other]) for name, other in pairs.items()},
    )
    categories = {name: [*_categories(first["scores"][name]), "all"] for name in pairs}
    figures = {}
    for category in [*sorted({name for names in categories.values() for name in names[:-1]}), "all"]:
        chosen = [{name: share for name, share in side.items() if category in categories[name]} for side in shares]
        figures[category] = asdict(compare(*chosen))
    rows = [_row(name, figure) for name, figure in figures.items()]
    reports = {"A": first, "B": second}
    text = [f"{label}: {title(report)}" for label, report in reports.items()]
    left_out = [len(first["scores"]) - len(pairs) - different, len(second["scores"]) - len(pairs) - different]
    return figures, "\n".join([*text, "", table(HEADER, rows)]), _notes(reports, left_out, different)


def _share(score: Mapping[str, Any]) -> float:
    return float(score["right"]) / float(score["answers"])


def _categories(score: Mapping[str, Any]) -> list[str]:
    return list(score.get("categories") or [score["category"]])


def _row(name: str, figure: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        name,
        figure["questions"],
        f"{100 * figure['first']:.1f}",
        f"{100 * figure['second']:.1f}",
        _signed(Share(**figure["difference"])),
        figure["better"],
        figure["worse"],
        f"{figure['p_value']:.2g}",
    )


def _signed(share: Share) -> str:
    return f"{100 * share.value:+.1f} ({100 * share.low:+.1f} to {100 * share.high:+.1f})"


def _notes(reports: Mapping[str, Mapping[str, Any]], left_out: list[int], different: int) -> list[str]:
    notes = []
    if any(left_out):
        notes.append(f"left out: {left_out[0]} questions that only A answered, {left_out[1]} that only B did")
    if different:
        notes.append(
            f"left out: {different} questions of the same name that differ in text, options, reference or image"
        )
    for label, report in reports.items():
        if unread := (report["all"] or {"unread": 0})["unread"]:
            notes.append(
                f"{label}: {unread} answers are unread and count as wrong; its eval command reads them, with a judge"
            )
        if refused := len(report["refused"]):
            notes.append(f"{label}: {refused} answers were refused by the endpoint and are left out")
    first, second = reports.values()
    for name in COMPARED:
        then, now = first.get(name), second.get(name)
        if then != now and (name != "prompt" or first["tool"] == second["tool"]):
            notes.append(f"{name} differs: A {then!r:.80}, B {now!r:.80}")
    return notes
