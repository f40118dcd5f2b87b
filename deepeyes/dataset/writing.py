"""Rows written as parquet, in row groups of bounded size."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepeyes.dataset.reading import BATCH_ROWS, PREPARED
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from pathlib import Path

GROUP_ROWS, GROUP_BYTES = 500, 32 << 20  # a row group is written when it has that many rows or image bytes


class Writer:
    """Writes rows to a parquet file in groups of bounded size, at first under another name."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Opens `path` with `.part` added to its name.

        Raises:
            DataFileError: Parquet has no such type, as for objects without a key.
        """
        self.rows = 0
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self.schema = schema.with_metadata({PREPARED: b"1"})
        self._group: list[dict[str, Any]] = []
        self._bytes = 0
        try:
            self._writer = pq.ParquetWriter(
                self._part,
                self.schema,
                compression={"images.list.element.bytes": "NONE"},  # they are compressed already
                use_dictionary=["data_source", "ability", "env_name", "prompt.list.element.content"],
                write_batch_size=BATCH_ROWS,  # small pages: readers hold a page at a time
            )
        except OSError:
            self._part.unlink(missing_ok=True)
            raise
        except pa.ArrowException as error:
            self._part.unlink(missing_ok=True)
            raise DataFileError(f"a column can't be written as parquet: {error}") from error

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row."""
        self._group.append(row)
        self._bytes += sum(len(image["bytes"]) for image in row["images"])
        self.rows += 1
        if len(self._group) == GROUP_ROWS or self._bytes > GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Writes what is left."""
        self._flush()
        self._writer.close()

    def publish(self) -> None:
        """Gives the finished file its name."""
        self._part.rename(self._path)

    def discard(self) -> None:
        """Deletes what was written."""
        self._writer.close()
        self._part.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._group:
            self._writer.write_table(pa.Table.from_pylist(self._group, self.schema))
        self._group, self._bytes = [], 0


def full_disk(error: OSError, directory: Path, needed: int) -> DataFileError | None:
    """Returns what to say of a disk that ran full; None for another error."""
    if error.errno != errno.ENOSPC:
        return None
    free = shutil.disk_usage(directory).free
    return DataFileError(
        f"the disk of {directory} ran full: {needed / 1e9:,.1f} GB are needed in all, {free / 1e9:,.1f} GB are left"
    )


def require_room(directory: Path, needed: int) -> None:
    """Raises `DataFileError` where a disk has less than `needed` bytes, and some to spare, left."""
    free = shutil.disk_usage(directory).free
    if free < needed * 1.02:
        raise DataFileError(f"{directory} has {free / 1e9:.1f} GB left; expected {needed * 1.02 / 1e9:.1f} GB or more")
