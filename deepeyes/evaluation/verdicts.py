"""Verdicts: every answer is read by rule where one is sure, and goes to the judge otherwise; both are counted apart.

An answer that the judge could not be asked about counts as wrong and is reported as unread. A reply without `<answer>`
is read in the same two ways, and its share is reported: baselines and hosted models know no such tag.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.answers import Reading, Trajectory, read_answer
from deepeyes.evaluation.bench import LETTERS, Kind, categories_of
from deepeyes.evaluation.picking import read_choice
from deepeyes.evaluation.reading import RIGHT_IOU, iou, read_box, read_yes_no, untagged
from deepeyes.scoring import score
from deepeyes.settings import WEIGHTS, Coordinates, Rules, Scoring
from deepeyes.traces import group_of
from deepeyes.verdicts import MAX_ANSWER_CHARS, Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from deepeyes.judging.judge import Judge

UNPARSEABLE = "unparseable"
UNREAD = "unread"
CHUNK = 64
"""Questions that the judge is asked at a time: what it said of those before stays where it fails."""


@dataclass(frozen=True)
class Result:
    """A finished trajectory with its verdict.

    Attributes:
        record: The trajectory.
        correct: Whether its answer is right.
        source: Who said so: `rule`, `judge` and the other sources of `deepeyes.verdicts.Verdict`, or `unread`.
        picked: The letter that the rule read, or `yes` or `no`.
        untagged: Whether the answer stood in no `<answer>`.
        overlap: Intersection over union, where the answer is a box.
    """

    record: Mapping[str, Any]
    correct: bool
    source: str
    picked: str | None = None
    untagged: bool = False
    overlap: float | None = None


class Verdicts:
    """Verdicts of the judge that are kept in the folder of a run: a question is judged once."""

    def __init__(self, path: Path, judge: Judge | None, label: str) -> None:
        """Opens a file of verdicts.

        Args:
            path: A file of lines, made where there is none.
            judge: Who is asked; None leaves unread what the rule can't read.
            label: Names the judge: another one is asked anew.
        """
        self._path, self._judge, self._label = path, judge, label
        self._known: dict[str, tuple[bool, str]] = {}
        self.error: Exception | None = None
        if path.exists():
            text = path.read_bytes()
            whole = text.rfind(b"\n") + 1
            os.truncate(path, whole)  # what a killed process left half written
            rows = map(json.loads, text[:whole].splitlines())
            self._known = {row["key"]: (row["correct"], row["source"]) for row in rows}

    def of(self, questions: Sequence[Question]) -> list[tuple[bool, str]]:
        """Returns whether each answer is right and who said so. Where the judge fails, `error` says why."""
        keys = [self._key(question) for question in questions]
        asked = {key: question for key, question in zip(keys, questions, strict=True) if key not in self._known}
        waiting = list(asked.items()) if self._judge is not None else []
        for start in range(0, len(waiting), CHUNK):
            chunk = waiting[start : start + CHUNK]
            if not self._ask(chunk):
                break
        return [self._known.get(key, (False, UNREAD)) for key in keys]

    def _ask(self, asked: Sequence[tuple[str, Question]]) -> bool:
        """Asks the judge, and keeps what it says; tells whether it said something. Else `error` says why."""
        assert self._judge is not None  # noqa: S101 - for mypy: the caller looked
        try:
            verdicts = self._judge.verdicts([question for _, question in asked])
        except RuntimeError as error:  # the plugin's JudgeError: all that was played stays
            self.error = error
            return False
        with self._path.open("a", encoding="utf-8") as file:
            for (key, _), verdict in zip(asked, verdicts, strict=True):
                self._known[key] = (verdict.correct, verdict.source)
                if verdict.source != UNPARSEABLE:  # which is asked again by the next call
                    file.write(json.dumps({"key": key, **verdict._asdict()}) + "\n")
        return True

    def _key(self, question: Question) -> str:
        return hashlib.sha256(json.dumps([self._label, *question]).encode()).hexdigest()


@dataclass(frozen=True)
class _Read:
    """A record as far as rules can read it; without a verdict it waits for the judge."""

    record: Mapping[str, Any]
    trajectory: Trajectory
    reading: Reading
    answer: str | None
    verdict: Verdict | None
    picked: str | None = None
    untagged: bool = False
    overlap: float | None = None


def _read(record: Mapping[str, Any], rules: Rules) -> _Read:
    """Reads a record by rule."""
    turns = tuple(record["turns"])
    trajectory = Trajectory(
        Scoring(record["scoring"]),
        record["question"],
        record["reference"],
        turns,
        tuple(record["observations"]),
        record["num_zooms"],
    )
    reading = read_answer(trajectory, rules)
    answer, verdict, said = reading.answer, reading.settled, None
    if record["finish_reason"] == "refused":
        return _Read(record, trajectory, reading, None, Verdict(correct=False, source="no_answer"))
    if not (answer or "").strip() and trajectory.scoring is Scoring.VISUAL and record["finish_reason"] != "length":
        said = untagged(turns[-1])
        if said:
            answer, verdict = said[-MAX_ANSWER_CHARS + 1 :], None
    picked, overlap = None, None
    if answer and (verdict is None or verdict.correct):
        verdict, picked, overlap = _rule(record, said or answer, verdict)
    return _Read(record, trajectory, reading, answer, verdict, picked, bool(said), overlap)


def _rule(
    record: Mapping[str, Any], answer: str, settled: Verdict | None
) -> tuple[Verdict | None, str | None, float | None]:
    """Returns the verdict of the rule for a kind of question, what it picked, and the overlap."""
    kind = Kind(record["kind"])
    if kind is Kind.CHOICE:
        place = read_choice(answer, record["options"])
        return (settled, None, None) if place is None else (_by_rule(place == record["right"]), LETTERS[place], None)
    if kind is Kind.YESNO:
        said = read_yes_no(answer)
        right = record["reference"].casefold() == "yes"
        return (settled, None, None) if said is None else (_by_rule(said is right), "yes" if said else "no", None)
    if kind is Kind.BOX:
        overlap = _overlap(record, answer)
        return _by_rule(overlap >= RIGHT_IOU), None, overlap
    return settled, None, None


def _by_rule(right: bool) -> Verdict:  # noqa: FBT001 - what is decided
    return Verdict(right, "rule")


def _overlap(record: Mapping[str, Any], answer: str) -> float:
    """Returns the intersection over union of the box in an answer with the nearest target."""
    box = read_box(answer)
    if box is None:
        return 0.0
    frame = (1000, 1000) if record["coordinates"] == Coordinates.NORM1000.value else record["view_size"]
    x, y = (there / here for there, here in zip(record["original_size"], frame, strict=True))
    placed = (box[0] * x, box[1] * y, box[2] * x, box[3] * y)
    return max((iou(placed, tuple(target)) for target in record["targets"]), default=0.0)


def judge_all(
    records: Sequence[Mapping[str, Any]], verdicts: Verdicts, rules: Rules
) -> tuple[list[Result], list[dict[str, Any]]]:
    """Reads every answer, by rule or by the judge.

    Returns:
        The results, and the records completed to traces in the form of the plugin.
    """
    read = [_read(record, rules) for record in records]
    waiting = [
        Question(one.trajectory.scoring, one.trajectory.question, one.trajectory.reference, one.answer or "")
        for one in read
        if one.verdict is None
    ]
    answers = iter(verdicts.of(waiting))
    results, traces = [], []
    for one in read:
        verdict = one.verdict or Verdict(*next(answers))
        results.append(Result(one.record, verdict.correct, verdict.source, one.picked, one.untagged, one.overlap))
        judged = {
            "categories": categories_of(one.record),
            "answer": one.answer,
            "picked": one.picked,
            "untagged": one.untagged,
            "verdict": verdict._asdict(),
            "score": score(one.trajectory, one.reading, verdict)._asdict(),
            "weights": WEIGHTS[one.trajectory.scoring]._asdict(),
        }
        traces.append({**one.record, **judged})
    return results, traces


def write_traces(directory: Path, traces: Sequence[dict[str, Any]], started: float) -> None:
    """Writes the trajectories where `report` looks for them, in place of those of an earlier call.

    Args:
        directory: Of the run.
        traces: From `judge_all`.
        started: When the run was first started, in seconds since 1970; `report` tells runs apart by it.
    """
    sizes = Counter(group_of(trace, 0) for trace in traces)
    temporary = directory / ".trajectories-0.jsonl"
    with temporary.open("w", encoding="utf-8") as file:
        for trace in traces:
            file.write(
                json.dumps(
                    {**trace, "question_group": trace["group"], "run": started, "group_size": sizes[group_of(trace, 0)]}
                )
                + "\n"
            )
    temporary.replace(directory / "trajectories-0.jsonl")
