"""What the terminal shows of a report."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

LISTED = 20  # bad rows that the terminal shows; the JSON has all of them
WIDTH = 160  # characters of a table; a narrower terminal wraps its lines by itself

HEADER = (
    *("category", "questions", "answers", "accuracy %", "95 % interval", "by rule", "by judge", "no <answer>"),
    *("no answer", "zooms", "failed", "tokens"),
)
YES_NO_HEADER = ("category", "F1 %", "precision %", "recall %", "yes %")


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Lays out a table: the first column to the left, all others to the right."""
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(header):
        grid.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(str(cell).replace("[", r"\[") for cell in row))
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def title(report: Mapping[str, Any]) -> str:
    """Returns what a run was of."""
    kind = ("blank crops" if report["blank_crops"] else "zoom") if report["tool"] else "no tool"
    return f"{report['bench']} | {report['model']} | {kind} | protocol {report['protocol']}"


def render(report: Mapping[str, Any]) -> str:
    """Returns the report as the terminal shows it."""
    head = f"{title(report)} | {report['options']}"
    total = report["all"]
    if total is None:
        return "\n".join([head, *_left_out(report), *(f"note: {note}" for note in report["notes"])])
    blocks = [*report["categories"].items(), ("all", total)]
    lines = [head, "", table(HEADER, [_row(name, block) for name, block in blocks]), ""]
    if total["yes_no"] is not None:
        lines += [table(YES_NO_HEADER, [_yes_no_row(name, block["yes_no"]) for name, block in blocks]), ""]
    lines.append("zooms and tokens are per answer; tokens are those that the model wrote")
    lines += _remarks(report, total)
    lines.append(
        f"{total['prompt_tokens'] + total['completion_tokens']:,} tokens; {report['wall_seconds']:.0f} s of wall time, "
        f"{total['seconds'] / total['answers']:.1f} s an answer"
    )
    lines += _left_out(report)
    lines += [f"note: {note}" for note in report["notes"]]
    return "\n".join(lines)


def _row(name: str, block: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        name,
        block["questions"],
        block["answers"],
        f"{100 * block['accuracy']:.1f}",
        f"{100 * block['low']:.1f} - {100 * block['high']:.1f}",
        f"{block['by_rule']['right']}/{block['by_rule']['answers']}",
        f"{block['by_judge']['right']}/{block['by_judge']['answers']}",
        f"{100 * block['untagged']['answers'] / block['answers']:.1f} %",
        f"{100 * block['no_answer'] / block['answers']:.1f} %",
        f"{block['zooms'] / block['answers']:.2f}",
        sum(block["failed_zooms"].values()),
        round(block["completion_tokens"] / block["answers"]),
    )


def _yes_no_row(name: str, figures: Mapping[str, float]) -> tuple[object, ...]:
    return (name, *(f"{100 * figures[part]:.1f}" for part in ("f1", "precision", "recall", "yes")))


def _remarks(report: Mapping[str, Any], total: Mapping[str, Any]) -> list[str]:
    lines = []
    if total["chance"] is not None:
        letters = ", ".join(f"{letter} {count}" for letter, count in total["letters"].items())
        lines.append(f"chance {100 * total['chance']:.1f} %; letters picked: {letters or 'none'}")
    if total["every_order"] is not None:
        lines.append(f"right in every order of the options: {100 * total['every_order']:.1f} %")
    if total["iou"] is not None:
        lines.append(f"mean intersection over union: {total['iou']:.3f}")
    if total["failed_zooms"]:
        lines.append("failed zooms: " + ", ".join(f"{name} {count}" for name, count in total["failed_zooms"].items()))
    for count, text in (
        (total["untagged"]["answers"], "without <answer>, and read from the whole last turn: {} answers"),
        (total["unread"], "UNREAD: {} answers that no judge could be asked about count as wrong"),
        (
            total["refused_later"],
            "refused after the first turn: {} answers, which count as none; answers.jsonl has the reasons",
        ),
        (total["cut_off"], "cut off at the token limit: {} answers"),
        (report["repeated"], "repeated in the file, and counted once: {} answers"),
        (total["native_calls"], "tool calls in the protocol's own field, played like written ones: {} answers"),
        (total["shrunk"], "over a picture larger than its view: {} answers"),
    ):
        if count:
            lines.append(text.format(count))
    return lines


def _left_out(report: Mapping[str, Any]) -> list[str]:
    lines = []
    for kind, text in (("bad_rows", "can't be asked"), ("refused", "were refused by the endpoint")):
        if rows := report[kind]:
            lines.append(f"{len(rows)} rows {text} and are not in the figures:")
            lines += [f"  {row['where']}: {row['why']}" for row in rows[:LISTED]]
            if len(rows) > LISTED:
                lines.append(f"  ... and {len(rows) - LISTED} more in report.json")
    return lines
