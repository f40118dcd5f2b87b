"""The rows to choose from: prepared parquet files, read a few rows at a time."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.dataset.loading import load
from deepeyes.dataset.official import HOLDOUT_NAME
from deepeyes.dataset.pictures import look, pictures_of
from deepeyes.dataset.reading import data_files, open_parquet, read_rows
from deepeyes.errors import DataFileError
from deepeyes.rows import has_tool
from deepeyes.selection.rates import RATES_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from deepeyes.settings import Settings


@dataclass(frozen=True)
class SourceFile:
    """A file to choose from.

    Attributes:
        path: The file.
        rows: Rows in it.
        start: Number of its first row, counted over all files.
    """

    path: Path
    rows: int
    start: int

    def identity(self) -> dict[str, Any]:
        """Returns what tells whether it is still the same file."""
        return {"name": self.path.name, "rows": self.rows, "bytes": self.path.stat().st_size}


def find_sources(paths: Sequence[Path]) -> list[SourceFile]:
    """Returns the files to choose from: those named, and those in a folder but for the held-out one.

    Raises:
        DataFileError: A path is no parquet file in the official columns, or two files have one name.
    """
    files: list[Path] = []
    for path in paths:
        if path.is_dir():
            files += [file for file in data_files(path) if file.name not in (HOLDOUT_NAME, RATES_NAME)]
        else:
            files.append(path)
    files = list(dict.fromkeys(files))
    if wrong := [str(file) for file in files if file.suffix != ".parquet" or not file.is_file()]:
        raise DataFileError(
            f"{', '.join(wrong)}: no parquet file; write one first: bash deepeyes.sh data {wrong[0]} --out prepared"
        )
    if not files:
        raise DataFileError(f"{', '.join(map(str, paths))}: no parquet file; bash deepeyes.sh data --out writes them")
    if len({file.name for file in files}) < len(files):
        raise DataFileError("two files have one name, and what is kept is written under it; rename one of them")
    sources, start = [], 0
    for file in files:
        rows = open_parquet(file)[1]
        sources.append(SourceFile(file, rows, start))
        start += rows
    return sources


def rows_of(sources: Sequence[SourceFile]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields every row with its number over all files."""
    for source in sources:
        number = source.start
        for rows in read_rows(source.path):
            for row in rows:
                yield number, load(row).row
                number += 1


def held_out_pictures(paths: Sequence[Path]) -> frozenset[bytes]:
    """Returns the digests of the pictures of held-out files.

    Raises:
        DataFileError: A file can't be read.
    """
    return frozenset(digest for path in paths for rows in read_rows(path) for row in rows for digest in digests_of(row))


def digests_of(row: Any) -> list[bytes]:
    """Returns the digests of a row's pictures, the same for equal pixels."""
    return [fact.digest for fact in look(pictures_of(row)) if fact.digest]


def question_key(row: dict[str, Any]) -> str:
    """Returns what tells whether a row asks what it asked: a hash of its prompt and reference."""
    asked = repr((row.get("prompt"), row.get("reward_model"), row.get("env_name")))
    return hashlib.blake2b(asked.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def columns_of(sources: Sequence[SourceFile], settings: Settings, held_out: frozenset[bytes]) -> dict[str, list[Any]]:
    """Returns what the file of pass rates says of each row besides the counts; see `deepeyes.selection.rates`.

    Args:
        sources: The files.
        settings: They name further data sources and their scoring.
        held_out: Digests of the pictures of held-out rows.
    """
    columns: dict[str, list[Any]] = {
        name: [] for name in ("file", "row", "data_source", "index", "asked", "tool", "held_out")
    }
    for source in sources:
        for number, row in rows_of([source]):
            index = (row.get("extra_info") or {}).get("index")
            values = (
                source.path.name,
                number - source.start,
                str(row.get("data_source")),
                None if index is None else str(index),
                question_key(row),
                has_tool(row, settings),
                bool(held_out) and not held_out.isdisjoint(digests_of(row)),
            )
            for column, value in zip(columns.values(), values, strict=True):
                column.append(value)
    return columns


def require_same_rows(sources: Sequence[SourceFile], rates: pa.Table, path: Path) -> None:
    """Raises `DataFileError` where pass rates are not those of the rows."""
    found = list(zip(*(rates.column(name).to_pylist() for name in ("file", "row", "asked")), strict=True))
    number = 0
    for source in sources:
        for place, (_, row) in enumerate(rows_of([source])):
            if number >= len(found) or found[number] != (source.path.name, place, question_key(row)):
                raise DataFileError(f"{path} is not of these rows; name the files that were played, in the same order")
            number += 1
    if number < len(found):
        raise DataFileError(f"{path} holds {len(found):,} rows, the files {number:,}; name all that were played")
