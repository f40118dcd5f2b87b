"""Tables with one heavy column: TSV as VLMEvalKit writes it, and parquet.

The light columns are read at once, and an image when its turn comes, so that HR-Bench 8K, several gigabytes of base64,
takes no more memory than the questions that are under way.
"""

from __future__ import annotations

import base64
import binascii
import csv
import itertools
import re
import sys
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from deepeyes.evaluation.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from pathlib import Path

ASKED = frozenset({"index", "question", "answer", "image"})
REFERENCE_CHARS = 64
"""An image cell of no more than this many characters names the row that holds the image, as VLMEvalKit's files do."""
FAULT = "\0fault"
"""In the place of the columns of a row that can't be read, with the reason; no column has this name."""


class Table(Protocol):
    """A table whose image column is read cell by cell."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Gives every row, its image left out; one that can't be read holds only a `FAULT`."""

    def image(self, place: int) -> Any:
        """Returns one cell of the image column."""


@dataclass(frozen=True)
class Cell:
    """An image cell; called, it returns the image's bytes, following a reference to another row."""

    table: Table
    place: int
    places: Mapping[str, int]

    def __call__(self) -> bytes:
        """Reads the image.

        Raises:
            ValueError: The cell holds none.
        """
        value = self.table.image(self.place)
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, str) and len(value) <= REFERENCE_CHARS and value.strip() in self.places:
            value = self.table.image(self.places[value.strip()])
        if isinstance(value, str):
            try:
                value = base64.b64decode(value.partition("base64,")[2] or value, validate=True)
            except binascii.Error as error:
                raise ValueError(f"the image is no base64: {error}") from error
        if not isinstance(value, bytes) or not value:
            raise ValueError(f"the image cell holds {value!r:.60}; expected base64 or bytes")
        return value


_LONG = re.compile(rb"[A-Za-z0-9+/]{10000,}={0,2}")


class _Lines:
    """The lines of a binary file as text, and how far into the file they reach."""

    def __init__(self, file: IO[bytes], offset: int = 0, *, images: bool) -> None:
        file.seek(offset)
        self._file = file
        self._images = images
        self.offset = offset

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            start, self.offset = self.offset, self.offset + len(line)
            text = line if self._images else _LONG.sub(b"", line)  # the csv module would go through it bit by bit
            yield text.decode("utf-8" if start else "utf-8-sig", "surrogateescape")  # `text_of` tells


class Tsv:
    """A TSV with an `image` column. Where each row begins is noted once; an image is read again from there."""

    def __init__(self, path: Path, required: AbstractSet[str]) -> None:
        """Makes a table with these columns at least; nothing is read yet."""
        csv.field_size_limit(sys.maxsize)
        self._path, self._required = path, required
        self._offsets: list[int] = []
        self._names: list[str] = []

    def rows(self) -> Iterator[dict[str, Any]]:
        """See `Table`.

        Raises:
            BenchError: The head can't be read, or lacks a column.
        """
        with self._path.open("rb") as file:
            lines = _Lines(file, images=False)
            reader = csv.reader(lines, delimiter="\t")
            try:
                self._names = next(reader, [])
            except csv.Error as error:
                raise BenchError(f"{self._path}: the head can't be read: {error}") from error
            if missing := self._required - set(self._names):
                raise BenchError(f"{self._path}: no column {', '.join(sorted(missing))}; found {self._names!r:.300}")
            while True:
                start = lines.offset
                try:
                    row = dict(zip(self._names, next(reader), strict=False))
                except StopIteration:
                    return
                except csv.Error as error:
                    row = {FAULT: f"the line can't be read: {error}"}
                self._offsets.append(start)
                row.pop("image", None)
                yield row

    def image(self, place: int) -> Any:
        """See `Table`."""
        with self._path.open("rb") as file:
            cells = next(csv.reader(_Lines(file, self._offsets[place], images=True), delimiter="\t"), [])
        return dict(zip(self._names, cells, strict=False)).get("image")


def parquet_columns(path: Path) -> list[str]:
    """Returns the names of a parquet file's columns.

    Raises:
        BenchError: It is none.
    """
    import pyarrow as pa  # noqa: PLC0415 - only where a parquet is read
    import pyarrow.parquet as pq  # noqa: PLC0415 - likewise

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise BenchError(f"{path} is no readable parquet file: {error}") from error


class Parquet:
    """A parquet file with one heavy column, whose cells are read in order or from the start of a row group."""

    def __init__(self, path: Path, heavy: str, unused: tuple[str, ...] = ()) -> None:
        """Opens a table.

        Args:
            path: The file.
            heavy: Its image column.
            unused: Further heavy columns, which are never read.

        Raises:
            BenchError: It is no parquet file, or has no such column.
        """
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where a parquet is read

        self._path = path
        self._columns = parquet_columns(path)
        if heavy not in self._columns:
            raise BenchError(f"{path}: no column {heavy}; found {self._columns!r:.300}")
        self._heavy, self._unused = heavy, {heavy, *unused}
        self._file = pq.ParquetFile(path, memory_map=True)
        self._lock = threading.Lock()
        self._cells: Iterator[Any] = iter(())
        self._next = -1

    def rows(self) -> Iterator[dict[str, Any]]:
        """See `Table`.

        Raises:
            BenchError: The file is damaged.
        """
        import pyarrow as pa  # noqa: PLC0415 - only where a parquet is read

        light = [name for name in self._columns if name not in self._unused]
        try:
            for batch in self._file.iter_batches(batch_size=512, columns=light):
                yield from batch.to_pylist()
        except (pa.ArrowException, ValueError, OSError) as error:
            raise BenchError(f"{self._path} is damaged; expected a whole parquet file: {error}") from error

    def image(self, place: int) -> Any:
        """See `Table`."""
        with self._lock:
            first, self._next = self._next, -1  # stays so where a cell can't be read: a generator that raised is over
            if not 0 <= first <= place:
                first = self._rewind(place)
            try:
                cell = next(itertools.islice(self._cells, place - first, None))
            except StopIteration as error:  # asyncio would wait for ever
                raise ValueError(f"{self._path} ends before row {place}") from error
            self._next = place + 1
            return cell

    def _rewind(self, place: int) -> int:
        """Goes back to the start of a row's group, and returns the first row there."""
        start = 0
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if place < start + rows:
                break
            start += rows
        groups = list(range(group, self._file.num_row_groups))
        batches = self._file.iter_batches(batch_size=1, row_groups=groups, columns=[self._heavy])
        self._cells = (batch.to_pylist()[0][self._heavy] for batch in batches)
        return start


def open_table(path: Path, required: AbstractSet[str] = ASKED, unused: tuple[str, ...] = ()) -> Table:
    """Opens a TSV or a parquet file with its images in `image`, or in `bytes` as MME-RealWorld's parquet has them.

    Raises:
        BenchError: It has no such column, or is no parquet file.
    """
    if path.suffix == ".tsv":
        return Tsv(path, required)
    heavy = "bytes" if "image" not in (columns := parquet_columns(path)) and "bytes" in columns else "image"
    return Parquet(path, heavy, unused)


def cells_of(table: Table, rows: list[dict[str, Any]]) -> list[Cell]:
    """Returns the image cell of each row."""
    places = {str(row.get("index")): place for place, row in enumerate(rows)}
    return [Cell(table, place, places) for place in range(len(rows))]
