"""What came out: answers read by rule and by the judge, accuracy by category, traces for `report`, runs compared.

An answer to a question with options is read by rule where it names one, by letter or by text, and goes to the judge
where the rule is unsure. A free answer is right where it equals the reference, and goes to the judge otherwise. Both
ways are counted apart. An answer that the judge could not be asked about counts as wrong and is reported as unread.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.answers import Trajectory, read_answer
from deepeyes.evaluation.bench import LETTERS
from deepeyes.evaluation.stats import Share, accuracy, compare
from deepeyes.report.page import group_of
from deepeyes.scoring import score
from deepeyes.settings import WEIGHTS, Rules, Scoring
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from deepeyes.judging.judge import Judge

BY_RULE = ("rule", "equal", "math", "too_long", "forged")
UNPARSEABLE = "unparseable"
BY_JUDGE = ("judge", UNPARSEABLE)
UNREAD = "unread"
REFUSED = "refused the request"
"""In the plugin's JudgeError where the fault may be of one question, and not of the judge."""
CHUNK = 64
"""Questions that the judge is asked at a time: what it said of those before stays where it fails."""
COMPARED = (
    *("bench", "family", "coordinates", "crop_source", "rules", "max_turns", "max_pixels", "max_tokens", "temperature"),
    *("top_p", "extra", "options", "seed", "samples", "judge", "prompt"),
)
"""Settings that two runs which are compared had better share; the model and the tool stand in the title."""
LISTED = 20
"""Bad rows that the terminal shows; the JSON has all of them."""

_LEAD = re.compile(
    r"^(?:(?:so|thus|therefore|hence),? )?(?:the |my )?(?:(?:correct|right|final|best) )?(?:answer|option|choice)\b"
    r"(?: is)?[\s:]*",
    re.IGNORECASE,
)


_OPEN = r"[\s*_`\"'“‘«([{（【]*"  # noqa: RUF001 - as models write them
_CLOSE = r"[\s*_`\"'”’»)\]}）】]*"  # noqa: RUF001


def read_choice(answer: str, options: Sequence[str]) -> int | None:
    """Returns the place of the option that an answer names beyond doubt, else None.

    Named is an option by its letter alone, by its text alone, or by its letter with any text in which no other
    option's letter stands as a word and no other option's text stands.
    """

    def plain(text: str) -> str:
        return " ".join(text.split()).strip("*_`\"' ").rstrip(".!,;: ").casefold()

    if boxed := re.search(r"\\boxed{([^{}]*)}", answer):
        answer = boxed[1]
    answer = " ".join(answer.split()).strip("*_`\"' ")
    texts = [plain(option) for option in options]
    if plain(answer) in texts and len(plain(answer)) > 1:
        return texts.index(plain(answer))
    answer = _LEAD.sub("", answer).strip("*_`\"' ")
    if alone := re.fullmatch(rf"{_OPEN}([A-Za-z]){_CLOSE}[.,:;!]*{_CLOSE}", answer):
        place = LETTERS.find(alone[1].upper())
        return place if place < len(options) else None
    if plain(answer) in texts:
        return texts.index(plain(answer))
    led = re.match(rf"{_OPEN}([A-Z]){_CLOSE}[).:,）]\W*(.+)", answer)  # noqa: RUF001
    place = LETTERS.find(led[1]) if led else len(options)
    if led is None or place >= len(options):
        return None
    said, own = plain(led[2]), texts[place]
    if said == own:
        return place
    doubts = any(
        re.search(rf"(?<![A-Za-z]){LETTERS[other]}(?![A-Za-z])", led[2])
        or _holds(said.replace(own, " ") if text in own else said, text)
        for other, text in enumerate(texts)
        if other != place
    )
    return None if doubts else place


def _holds(said: str, text: str) -> bool:
    """Tells whether a text stands in what was said; within a longer word it does not."""
    return re.search(rf"(?<![a-z0-9]){re.escape(text)}(?![a-z0-9])", said) is not None


# Verdicts


@dataclass(frozen=True)
class Result:
    """A finished trajectory with its verdict; `picked` is the letter that the rule read."""

    record: Mapping[str, Any]
    correct: bool
    source: str
    picked: str | None


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
            if not self._ask(chunk) and not self._ask_singly(chunk):
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

    def _ask_singly(self, asked: Sequence[tuple[str, Question]]) -> bool:
        """Asks one by one what was refused together; tells whether the judge is up and does not refuse everything."""
        answered = 0
        for one in asked:
            if REFUSED not in str(self.error):
                return False
            answered += self._ask([one])
        return answered > 0 and REFUSED in str(self.error)

    def _key(self, question: Question) -> str:
        return hashlib.sha256(json.dumps([self._label, *question]).encode()).hexdigest()


def judge_all(
    records: Sequence[Mapping[str, Any]], verdicts: Verdicts, rules: Rules
) -> tuple[list[Result], list[dict[str, Any]]]:
    """Reads every answer, by rule or by the judge.

    Returns:
        The results, and the records completed to traces in the form of the plugin.
    """
    read, waiting = [], []
    for record in records:
        trajectory = Trajectory(
            Scoring(record["scoring"]),
            record["question"],
            record["reference"],
            tuple(record["turns"]),
            tuple(record["observations"]),
            record["num_zooms"],
        )
        reading = read_answer(trajectory, rules)
        verdict, picked = reading.settled, None
        if record["finish_reason"] == "refused":
            verdict = Verdict(correct=False, source="no_answer")
        if record["right"] is not None and reading.answer and (verdict is None or verdict.correct):
            picked = read_choice(reading.answer, record["options"])
            if picked is not None:
                verdict = Verdict(picked == record["right"], "rule")
        if verdict is None:
            question = (trajectory.scoring, trajectory.question, trajectory.reference, reading.answer or "")
            waiting.append(Question(*question))
        read.append((record, trajectory, reading, verdict, picked))
    answers = iter(verdicts.of(waiting))
    results, traces = [], []
    for record, trajectory, reading, settled, picked in read:
        verdict = settled or Verdict(*next(answers))
        letter = None if picked is None else LETTERS[picked]
        results.append(Result(record, verdict.correct, verdict.source, letter))
        judged = {
            "answer": reading.answer,
            "verdict": verdict._asdict(),
            "score": score(trajectory, reading, verdict)._asdict(),
            "weights": WEIGHTS[trajectory.scoring]._asdict(),
        }
        traces.append({**record, **judged})
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
            file.write(json.dumps({**trace, "run": started, "group_size": sizes[group_of(trace, 0)]}) + "\n")
    temporary.replace(directory / "trajectories-0.jsonl")


# The report


def summarise(results: Sequence[Result]) -> dict[str, Any]:
    """Returns the figures of a category, or of all of them."""
    count = len(results)
    groups: dict[str, list[bool]] = {}
    runs: dict[tuple[str, int], list[bool]] = {}
    for result in results:
        groups.setdefault(result.record["group"], []).append(result.correct)
        runs.setdefault((result.record["group"], result.record["sample"]), []).append(result.correct)
    share = accuracy(list(groups.values()))
    sources = Counter(result.source for result in results)
    right = Counter(result.source for result in results if result.correct)
    letters = Counter(result.picked for result in results if result.picked)
    chances = [1 / len(result.record["options"]) for result in results if result.record["options"]]
    return {
        "questions": len(groups),
        "answers": count,
        "accuracy": share.value,
        "low": share.low,
        "high": share.high,
        "chance": sum(chances) / len(chances) if chances else None,
        "every_order": sum(map(all, runs.values())) / len(runs) if len(runs) < count else None,
        "by_rule": {"answers": sum(sources[name] for name in BY_RULE), "right": sum(right[name] for name in BY_RULE)},
        "by_judge": {
            "answers": sum(sources[name] for name in BY_JUDGE),
            "right": sum(right[name] for name in BY_JUDGE),
        },
        "unread": sources[UNREAD],
        "no_answer": sources["no_answer"],
        "refused_later": sum(result.record["finish_reason"] == "refused" for result in results),
        "cut_off": sum(result.record["finish_reason"] == "length" for result in results),
        "zooms": sum(result.record["num_zooms"] for result in results),
        "zoomed": sum(result.record["num_zooms"] > 0 for result in results),
        "failed_zooms": dict(
            Counter(zoom["error"] for one in results for zoom in one.record["zooms"] if zoom["error"])
        ),
        "letters": {letter: letters[letter] for letter in sorted(letters)},
        "prompt_tokens": sum(result.record["tokens"][0] for result in results),
        "completion_tokens": sum(result.record["tokens"][1] for result in results),
        "seconds": sum(result.record["seconds"] for result in results),
    }


def make_report(results: Sequence[Result], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the whole report: `facts` of the run, the figures by category, and the score of every question."""
    categories: dict[str, list[Result]] = {}
    scores: dict[str, dict[str, Any]] = {}
    for result in results:
        categories.setdefault(result.record["category"], []).append(result)
    for category, members in sorted(categories.items()):
        for result in members:
            new = {"category": category, "digests": [], "right": 0, "answers": 0}
            score = scores.setdefault(result.record["group"], new)
            score["digests"] = sorted({*score["digests"], result.record["digest"]})
            score["right"] += result.correct
            score["answers"] += 1
    return {
        **facts,
        "all": summarise(results) if results else None,
        "categories": {name: summarise(members) for name, members in sorted(categories.items())},
        "scores": scores,
    }


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lays out a table: the first column to the left, all others to the right."""
    lines = [list(header), *[[str(cell) for cell in row] for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def render(report: Mapping[str, Any]) -> str:
    """Returns the report as the terminal shows it."""
    head = f"{_title(report)} | {report['options']}"
    total = report["all"]
    if total is None:
        return f"{head}\nnothing was answered"
    header = (
        "category",
        "questions",
        "answers",
        "accuracy %",
        "95 % interval",
        "by rule",
        "by judge",
        "no answer",
        "zooms",
        "failed",
        "tokens",
    )
    rows = [
        (
            name,
            block["questions"],
            block["answers"],
            f"{100 * block['accuracy']:.1f}",
            f"{100 * block['low']:.1f} - {100 * block['high']:.1f}",
            f"{block['by_rule']['right']}/{block['by_rule']['answers']}",
            f"{block['by_judge']['right']}/{block['by_judge']['answers']}",
            f"{100 * block['no_answer'] / block['answers']:.1f} %",
            f"{block['zooms'] / block['answers']:.2f}",
            sum(block["failed_zooms"].values()),
            round(block["completion_tokens"] / block["answers"]),
        )
        for name, block in [*report["categories"].items(), ("all", total)]
    ]
    lines = [head, "", table(header, rows), ""]
    lines.append("zooms and tokens are per answer; tokens are those that the model wrote")
    if total["chance"] is not None:
        letters = ", ".join(f"{letter} {count}" for letter, count in total["letters"].items())
        lines.append(f"chance {100 * total['chance']:.1f} %; letters picked: {letters or 'none'}")
    if total["every_order"] is not None:
        lines.append(f"right in every order of the options: {100 * total['every_order']:.1f} %")
    if total["failed_zooms"]:
        lines.append("failed zooms: " + ", ".join(f"{name} {count}" for name, count in total["failed_zooms"].items()))
    for kind, text in (
        ("unread", "UNREAD: {} answers that no judge could be asked about count as wrong"),
        (
            "refused_later",
            "refused after the first turn: {} answers, which count as none; answers.jsonl has the reasons",
        ),
        ("cut_off", "cut off at the token limit: {} answers"),
    ):
        if total[kind]:
            lines.append(text.format(total[kind]))
    lines.append(
        f"{total['prompt_tokens'] + total['completion_tokens']:,} tokens; {report['wall_seconds']:.0f} s of wall time, "
        f"{total['seconds'] / total['answers']:.1f} s an answer"
    )
    for kind, title in (("bad_rows", "can't be asked"), ("refused", "were refused by the endpoint")):
        if rows_ := report[kind]:
            lines.append(f"{len(rows_)} rows {title} and are not in the figures:")
            lines += [f"  {row['where']}: {row['why']}" for row in rows_[:LISTED]]
            if len(rows_) > LISTED:
                lines.append(f"  ... and {len(rows_) - LISTED} more in report.json")
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines)


def compare_runs(first: Mapping[str, Any], second: Mapping[str, Any]) -> tuple[dict[str, Any], str, list[str]]:
    """Compares two reports, question by question: those of one name and content.

    Returns:
        The figures by category, the table, and what else differs between the runs or was left out.

    Raises:
        ValueError: The runs have no question in common, or most of those of one name are different ones.
    """
    reports = {"A": first, "B": second}
    named = first["scores"].keys() & second["scores"].keys()
    common = {name for name in named if first["scores"][name]["digests"] == second["scores"][name]["digests"]}
    if len(common) < len(named) / 2:
        raise ValueError(
            f"{len(named) - len(common)} of {len(named)} questions of the same name differ in text, options, "
            "reference or image; expected two runs of the same rows"
        )
    shares = [
        {
            group: (score["right"] / score["answers"], score["category"])
            for group, score in report["scores"].items()
            if group in common or group not in named
        }
        for report in reports.values()
    ]
    names = sorted({shares[0][group][1] for group in common})
    figures = {}
    for name in [*names, "all"]:
        chosen = [
            {group: score for group, (score, category) in share.items() if name in (category, "all")}
            for share in shares
        ]
        figures[name] = asdict(compare(*chosen))
    lines = [
        (
            name,
            figure["questions"],
            f"{100 * figure['first']:.1f}",
            f"{100 * figure['second']:.1f}",
            _signed(Share(**figure["difference"])),
            figure["better"],
            figure["worse"],
            f"{figure['p_value']:.2g}",
        )
        for name, figure in figures.items()
    ]
    header = ("category", "questions", "A %", "B %", "B - A, 95 % interval", "B better", "B worse", "p (McNemar)")
    text = [f"{label}: {_title(report)}" for label, report in reports.items()]
    text += ["", table(header, lines)]
    notes = []
    left_out = [len(share.keys() - common) for share in shares]
    if any(left_out):
        notes.append(f"left out: {left_out[0]} questions that only A answered, {left_out[1]} that only B did")
    if different := len(named - common):
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
    for name in COMPARED:
        then, now = first.get(name), second.get(name)
        if then != now and (name != "prompt" or first["tool"] == second["tool"]):
            notes.append(f"{name} differs: A {then!r:.80}, B {now!r:.80}")
    return figures, "\n".join(text), notes


def _title(report: Mapping[str, Any]) -> str:
    kind = ("blank crops" if report["blank_crops"] else "zoom") if report["tool"] else "no tool"
    return f"{report['bench']} | {report['model']} | {kind}"


def _signed(share: Share) -> str:
    return f"{100 * share.value:+.1f} ({100 * share.low:+.1f} to {100 * share.high:+.1f})"
