"""The findings as text for people, and as JSON for machines."""

from __future__ import annotations

import io
import json
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from deepeyes.data.findings import FileReport

NAMES = 2
"""Columns of names, to the left; the others hold numbers, to the right."""
WIDEST = 1000
"""Characters of a line: what reads a table from a pipe wants a row on a line."""


def ranges(rows: Iterable[int]) -> str:
    """Returns row numbers, which come in order, in short: `0-2, 7`."""
    runs = [[row for _, row in run] for _, run in groupby(enumerate(rows), lambda numbered: numbered[1] - numbered[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Lays rows out in columns below a head, the first two to the left, the others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(rows[0]):
        table.add_column(name, justify="left" if place < NAMES else "right", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    console = Console(width=WIDEST, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def describe(reports: Sequence[FileReport]) -> str:
    """Returns the table of files, the remarks, and the rows to drop."""
    rows = [("file", "source", "rows", "images", "to drop", "megabytes")]
    rows += [
        (
            report.path.name,
            ", ".join(sorted(report.sources)[:3]) + (", ..." if len(report.sources) > 3 else ""),  # noqa: PLR2004
            f"{report.rows:,}",
            f"{report.images:,}",
            f"{len(report.dropped):,}",
            f"{report.path.stat().st_size / 1e6:,.1f}",
        )
        for report in reports
    ]
    lines = [as_table(rows), ""]
    lines += [f"{report.path.name}: {report.snapshot}" for report in reports]
    for title, findings in (
        ("Remarks on rows that are kept:", [report.notes for report in reports]),
        ("Rows to drop:", [report.problems for report in reports]),
    ):
        if any(findings):
            lines += ["", title]
        for report, found in zip(reports, findings, strict=True):
            for reason, numbers in found.items():
                word = "row" if len(numbers) == 1 else "rows"
                lines.append(f"  {report.path.name}, {len(numbers):,} {word} ({ranges(numbers)}): {reason}")
    return "\n".join(lines)


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
            "problems": dict(report.problems),
            "notes": dict(report.notes),
        }
        for report in reports
    ]
    return json.dumps({"files": files, "conflict": conflict, "written": dict(written)}, indent=2, ensure_ascii=False)
