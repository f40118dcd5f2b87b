"""The figures of a run: accuracy by category with intervals, who read the answers, zooms and tokens; and its faults."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.bench import Kind, categories_of
from deepeyes.evaluation.reading import unclosed
from deepeyes.evaluation.stats import accuracy
from deepeyes.evaluation.verdicts import UNPARSEABLE, UNREAD

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from deepeyes.evaluation.verdicts import Result

BY_RULE = ("rule", "equal", "math", "too_long", "forged")
BY_JUDGE = ("judge", UNPARSEABLE)
WEIGHTED = ("accuracy", "low", "high", "yes_no")
"""What counts a question of several categories in each, in the figures of all of them: so POPE is published."""


def distinct(results: Sequence[Result]) -> list[Result]:
    """Returns the results without those to a question that a file repeats: same text, options, image and order.

    One of POPE may stand in each of its categories, and counts in each.
    """
    kept: dict[tuple[Any, ...], Result] = {}
    for result in results:
        record = result.record
        category = record["category"] if record["kind"] == Kind.YESNO.value else None
        key = (record["digest"], tuple(record["options"]), record["cycle"], record["sample"], category)
        kept.setdefault(key, result)
    return list(kept.values())


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Returns the figures of a category, or of all of them."""
    count = len(results)
    groups: dict[str, list[bool]] = {}
    runs: dict[tuple[str, int], list[bool]] = {}
    for result in results:
        groups.setdefault(result.record["group"], []).append(result.correct)
        runs.setdefault((result.record["group"], result.record["sample"]), []).append(result.correct)
    share = accuracy(list(groups.values()))
    letters = Counter(result.picked for result in results if result.picked and result.record["options"])
    chances = [1 / len(result.record["options"]) for result in results if result.record["options"]]
    overlaps = [result.overlap for result in results if result.overlap is not None]
    return {
        "questions": len(groups),
        "answers": count,
        "accuracy": share.value,
        "low": share.low,
        "high": share.high,
        "chance": sum(chances) / len(chances) if chances else None,
        "every_order": sum(map(all, runs.values())) / len(runs) if len(runs) < count else None,
        "iou": sum(overlaps) / len(overlaps) if overlaps else None,
        "yes_no": yes_no([result for result in results if result.record["kind"] == Kind.YESNO.value]),
        "by_rule": _share(result for result in results if result.source in BY_RULE),
        "by_judge": _share(result for result in results if result.source in BY_JUDGE),
        "untagged": _share(result for result in results if result.untagged),
        "unread": sum(result.source == UNREAD for result in results),
        "no_answer": sum(result.source == "no_answer" for result in results),
        **_turns(results),
        "letters": {letter: letters[letter] for letter in sorted(letters)},
    }


def yes_no(results: Sequence[Result]) -> dict[str, float] | None:
    """Returns precision, recall and F1 of "yes", and the share of answers that say it; None where nothing was asked so.

    An answer that says neither is no "yes", and one that the judge read is what its verdict makes of it.

    Sources:
        Li et al. (2023), "Evaluating Object Hallucination in Large Vision-Language Models", section 5 (POPE).
        `POPE_rating` of vlmeval/dataset/utils/yorn.py in github.com/open-compass/VLMEvalKit.
    """
    if not results:
        return None
    meant = [result.record["reference"].casefold() == "yes" for result in results]
    said = [
        result.picked == "yes" if result.picked else right and result.correct
        for result, right in zip(results, meant, strict=True)
    ]
    hits = sum(one and other for one, other in zip(meant, said, strict=True))
    precision, recall = (hits / sum(side) if sum(side) else 0.0 for side in (said, meant))
    both = precision + recall
    return {
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / both if both else 0.0,
        "yes": sum(said) / len(said),
    }


def _share(results: Any) -> dict[str, int]:
    found = [result.correct for result in results]
    return {"answers": len(found), "right": sum(found)}


def _turns(results: Sequence[Result]) -> dict[str, Any]:
    """Returns the figures that come from how trajectories were played."""
    records = [result.record for result in results]
    return {
        "refused_later": sum(record["finish_reason"] == "refused" for record in records),
        "cut_off": sum(record["finish_reason"] == "length" for record in records),
        "unclosed": sum(unclosed(record["turns"][-1]) in ("think", "answer") for record in records),
        "native_calls": sum(bool(record.get("native")) for record in records),
        "zooms": sum(record["num_zooms"] for record in records),
        "zoomed": sum(record["num_zooms"] > 0 for record in records),
        "failed_zooms": dict(Counter(zoom["error"] for record in records for zoom in record["zooms"] if zoom["error"])),
        "shrunk": sum(bool(record.get("shrunk")) for record in records),
        "prompt_tokens": sum(record["tokens"][0] for record in records),
        "completion_tokens": sum(record["tokens"][1] for record in records),
        "seconds": sum(record["seconds"] for record in records),
    }


def make_report(results: Sequence[Result], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole report: `facts` of the run, the figures by category, and the score of every question."""
    counted = distinct(results)
    categories: dict[str, list[Result]] = {}
    scores: dict[str, dict[str, Any]] = {}
    for result in counted:
        record, names = result.record, categories_of(result.record)
        for name in names:
            categories.setdefault(name, []).append(result)
        new = {"category": record["category"], "categories": names, "digests": [], "text": text_key(record)}
        score = scores.setdefault(record["group"], {**new, "right": 0, "answers": 0})
        score["digests"] = sorted({*score["digests"], record["digest"]})
        score["right"] += result.correct
        score["answers"] += 1
    total = summarise(counted) if counted else None
    members = [result for found in categories.values() for result in found]
    if total is not None and len(members) > len(counted):
        total |= {name: value for name, value in summarise(members).items() if name in WEIGHTED}
    report = {
        **facts,
        "repeated": len(results) - len(counted),
        "all": total,
        "categories": {name: summarise(members) for name, members in sorted(categories.items())},
        "scores": scores,
    }
    return {**report, "faults": faults(report, results)}


def text_key(record: Mapping[str, Any]) -> str:
    """Returns what the layouts of one benchmark share of a question: its bare text, options and reference."""
    options = sorted(" ".join(option.split()).casefold() for option in record["options"])
    reference = record["options"][record["right"]] if record["options"] else record["reference"]
    parts = [" ".join(str(record["bare"]).split()).casefold(), options, " ".join(reference.split()).casefold()]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def faults(report: Mapping[str, Any], results: Sequence[Result]) -> list[str]:
    """Returns what makes the figures no measurement of the model, in words for the terminal."""
    total = report["all"]
    if total is None:
        said = report["refused"] or report["bad_rows"]
        reason = f"; the first, {said[0]['where']}: {said[0]['why']}" if said else ""
        return [f"nothing was answered{reason}"]
    found = []
    if total["refused_later"]:
        refusal = next(result.record["refusal"] for result in results if result.record["refusal"])
        found.append(
            f"{total['refused_later']} of {total['answers']} trajectories were refused after the first turn and count "
            f"as no answer. The server said: {refusal}"
        )
    everywhere = {
        "cut_off": "every reply was cut at the limit of tokens; raise --max-tokens",
        "unclosed": (
            "every last turn leaves <think> or <answer> unclosed; does the server stop at </answer>, or cut the "
            "thoughts out? See its stop strings and its reasoning parser"
        ),
        "no_answer": "no reply holds an answer; look at the first in answers.jsonl",
    }
    found += [text for name, text in everywhere.items() if total[name] == total["answers"]][:1]
    return found
