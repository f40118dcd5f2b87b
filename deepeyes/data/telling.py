"""The findings as text for people, and as JSON for machines."""

from __future__ import annotations

import io
import json
import statistics
from collections import Counter
from itertools import groupby, islice
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepeyes.data.answers import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deepeyes.data.findings import FileReport, Group, Groups

WIDEST = 1000
"""Characters of a line: what reads a table from a pipe wants a row on a line."""
MAX_RANGES = 8
"""Ranges of row numbers that a line gives; `--json` gives every row."""


class SourceFacts(NamedTuple):
    """A data source in numbers, over all files.

    Attributes:
        rows: Rows of it.
        larger: Share of the pictures that have more pixels than their view.
        median: Characters of a reference.
        longest: Likewise.
        kinds: Kind of answer -> rows.
    """

    rows: int
    larger: float
    median: int
    longest: int
    kinds: Counter[str]


def facts_of(reports: Sequence[FileReport]) -> dict[str, SourceFacts]:
    """Returns the numbers of every data source, by name."""
    rows: dict[str, list[tuple[str, int, bool, bool]]] = {}
    for report in reports:
        columns = report.columns
        for source, kind, length, larger, digest in zip(
            columns.sources, columns.kinds, columns.lengths, columns.larger, columns.digests, strict=True
        ):
            rows.setdefault(source, []).append((kind, length, bool(larger), bool(digest)))
    facts = {}
    for source in sorted(rows):
        texts = [length for kind, length, _, _ in rows[source] if kind] or [0]
        share = sum(one[2] for one in rows[source]) / max(1, sum(one[3] for one in rows[source]))
        counts = Counter(one[0] for one in rows[source] if one[0])
        facts[source] = SourceFacts(len(rows[source]), share, round(statistics.median(texts)), max(texts), counts)
    return facts


def ranges(rows: Iterable[int]) -> str:
    """Returns row numbers, which come in order, in short: `0-2, 7`."""
    runs = groupby(enumerate(rows), lambda numbered: numbered[1] - numbered[0])
    texts = []
    for _, run in islice(runs, MAX_RANGES):
        numbers = [row for _, row in run]
        texts.append(f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else str(numbers[0]))
    return ", ".join([*texts, "..."] if next(runs, None) else texts)


def as_table(rows: Sequence[Sequence[str]], names: int) -> str:
    """Lays rows out in columns below a head: names, to the left, then numbers, to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if place < names else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console = Console(width=WIDEST, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def describe(reports: Sequence[FileReport], max_pixels: int) -> str:
    """Returns the tables of files and of sources, the remarks, what `--out` mends, and the rows to drop."""
    rows = [("file", "source", "rows", "images", "to drop", "megabytes")]
    for report in reports:
        names = sorted(report.sources)
        source = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")  # noqa: PLR2004 - as many as are named
        numbers = f"{report.rows:,}", f"{report.images:,}", f"{len(report.dropped):,}"
        rows.append((report.path.name, source, *numbers, f"{report.path.stat().st_size / 1e6:,.1f}"))
    lines = [as_table(rows, 2), ""]
    if facts := facts_of(reports):
        lines += [
            as_table(source_table(facts), 1),
            f"(larger: pictures of more than {max_pixels:,} pixels, of which the view",
        ]
        lines[-1] += " shows fewer; chars: of the references, the middle one and the longest)"
        lines.append("")
    lines += [f"{report.path.name}: {report.snapshot}" for report in reports]
    for title, findings in (
        ("Remarks on rows that are kept:", [report.notes for report in reports]),
        ("Not as training needs them, and mended by --out:", [report.mended for report in reports]),
        ("Rows to drop:", [report.problems for report in reports]),
    ):
        if any(findings):
            lines += ["", title]
        for report, found in zip(reports, findings, strict=True):
            lines += [_line(report.path.name, text, group) for text, group in found.items()]
    return "\n".join(lines)


def source_table(facts: Mapping[str, SourceFacts]) -> list[tuple[str, ...]]:
    """Returns a head and a row a source: shares of the kinds of answers, lengths, pictures larger than their view."""
    kinds = [kind for kind in KINDS if any(one.kinds[kind] for one in facts.values())]
    table: list[tuple[str, ...]] = [("source", "rows", "larger", "chars", "longest", *kinds)]
    for source, one in facts.items():
        numbers = f"{one.rows:,}", f"{one.larger:.0%}", f"{one.median:,}", f"{one.longest:,}"
        total = max(1, sum(one.kinds.values()))
        table.append((source, *numbers, *(f"{one.kinds[kind] / total:.0%}" for kind in kinds)))
    return table


def _line(name: str, text: str, group: Group) -> str:
    count = len(group.rows)
    examples = f", such as {'; '.join(group.examples)}" if count > 1 else f": {'; '.join(group.examples)}"
    word = "row" if count == 1 else "rows"
    return f"  {name}, {count:,} {word} ({ranges(group.rows)}): {text}{examples if group.examples else ''}"


def as_json(reports: Sequence[FileReport], conflict: str | None, written: Mapping[str, int]) -> str:
    """Returns the same for machines."""
    files = [
        {
            "path": str(report.path),
            "snapshot": report.snapshot,
            "differs": report.differs,
            "rows": report.rows,
            "images": report.images,
            "sources": dict(report.sources),
            "problems": _rows_of(report.problems),
            "mended": _rows_of(report.mended),
            "notes": _rows_of(report.notes),
            "examples": {
                text: group.examples
                for groups in (report.problems, report.mended, report.notes)
                for text, group in groups.items()
                if group.examples
            },
        }
        for report in reports
    ]
    sources = {source: one._asdict() for source, one in facts_of(reports).items()}
    found = {"files": files, "sources": sources, "conflict": conflict, "written": dict(written)}
    return json.dumps(found, indent=2, ensure_ascii=False)


def _rows_of(groups: Groups) -> dict[str, list[int]]:
    return {text: group.rows for text, group in groups.items()}
