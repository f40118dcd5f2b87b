"""The kept rows written as they are, and the choice in numbers and as a picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from deepeyes.dataset.reading import BATCH_ROWS
from deepeyes.errors import DataFileError
from deepeyes.selection.choosing import rate
from deepeyes.selection.rates import counts_of

mpl.use("Agg")
from matplotlib import pyplot as plt

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from deepeyes.selection.source import SourceFile

HEAD = ("source", "rows", "played", "pass rate", "without tool", "crop brings it", "always", "never", "kept", "share")
BINS = 10  # of the histogram
GROUP_ROWS = 500  # of a row group
WIDEST = 1000  # characters of a line of a table that is read from a pipe


def write_kept(sources: Sequence[SourceFile], kept: NDArray[np.bool_], out: Path) -> dict[str, int]:
    """Writes the kept rows of each file, unchanged, into a file of its name.

    Returns:
        Rows written, by file name; a file without a kept row is not written.

    Raises:
        DataFileError: A file to write is one that is read.
    """
    if any((out / source.path.name).resolve() == source.path.resolve() for source in sources):
        raise DataFileError(f"--out {out} holds the rows themselves; name a new folder")
    written = {}
    for source in sources:
        target = out / source.path.name
        rows = kept[source.start : source.start + source.rows]
        target.unlink(missing_ok=True)  # of an earlier choice
        if rows.any():
            written[target.name] = int(rows.sum())
            _copy(source.path, rows, target)
    return written


def _copy(path: Path, kept: NDArray[np.bool_], target: Path) -> None:
    part = target.with_name(f"{target.name}.part")
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
        images = {"images.list.element.bytes": "NONE"}  # they are compressed already
        with pq.ParquetWriter(part, file.schema_arrow, compression=images, write_batch_size=BATCH_ROWS) as writer:
            start, waiting, rows = 0, [], 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                chosen = batch.filter(pa.array(kept[start : start + batch.num_rows]))
                start, rows = start + batch.num_rows, rows + chosen.num_rows
                waiting.append(chosen)
                if rows >= GROUP_ROWS or sum(one.nbytes for one in waiting) > 32 << 20:
                    writer.write_table(pa.Table.from_batches(waiting))
                    waiting, rows = [], 0
            if rows:
                writer.write_table(pa.Table.from_batches(waiting))
    part.rename(target)


def summary(rates: pa.Table, kept: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Returns the choice in numbers, a data source each and all together."""
    names = np.asarray(rates.column("data_source").to_pylist())
    counts = counts_of(rates)
    passed, alone = rate(counts.right, counts.played), rate(counts.plain_right, counts.plain)
    rows = []
    for source in [*sorted(set(names)), None]:
        these = np.ones(len(names), bool) if source is None else names == source
        rows.append(
            {
                "source": source or "all",
                "rows": int(these.sum()),
                "played": int((counts.played[these] > 0).sum()),
                "pass_rate": _mean(passed[these]),
                "without_tool": _mean(alone[these]),
                "crop_brings_it": int(((counts.right_with_crop > 0) & (alone == 0))[these].sum()),
                "always": int((passed[these] == 1).sum()),
                "never": int((passed[these] == 0).sum()),
                "kept": int(kept[these].sum()),
            }
        )
    return rows if len(rows) > 2 else rows[:1]  # noqa: PLR2004 - one source is all there is


def _mean(values: NDArray[np.float64]) -> float | None:
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


def as_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns the summary as text."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for place, name in enumerate(HEAD):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    for row in rows:
        shares = ("-" if row[name] is None else f"{row[name]:.2f}" for name in ("pass_rate", "without_tool"))
        numbers = (f"{row[name]:,}" for name in ("crop_brings_it", "always", "never", "kept"))
        table.add_row(
            escape(row["source"]),
            f"{row['rows']:,}",
            f"{row['played']:,}",
            *shares,
            *numbers,
            f"{row['kept'] / max(1, row['rows']):.0%}",
        )
    console = Console(width=WIDEST, color_system=None, file=io.StringIO())
    with console.capture() as capture:
        console.print(table)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


def draw(rates: pa.Table, kept: NDArray[np.bool_], path: Path) -> None:
    """Draws a histogram of the pass rates of each data source, with what was kept of each bar."""
    names = np.asarray(rates.column("data_source").to_pylist())
    counts = counts_of(rates)
    passed = rate(counts.right, counts.played)
    sources = sorted(set(names))
    figure, grid = plt.subplots(
        len(sources), 1, figsize=(7, 1 + 2.2 * len(sources)), sharex=True, squeeze=False, layout="constrained"
    )
    edges = np.linspace(0, 1, BINS + 1)
    for axes, source in zip(grid[:, 0], sources, strict=True):
        these = (names == source) & ~np.isnan(passed)
        axes.hist(passed[these], edges, color="#c9ced6", label="played")
        axes.hist(passed[these & kept], edges, color="#2a6f97", label="kept")
        axes.set(title=f"{source}: {int((these & kept).sum()):,} of {int(these.sum()):,} kept", ylabel="rows")
    grid[0, 0].legend()
    grid[-1, 0].set_xlabel("share of right trajectories, as in training")
    figure.savefig(path, dpi=120)
    plt.close(figure)
