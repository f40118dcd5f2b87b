"""Files of rows, read a few rows at a time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from deepeyes.dataset.official import REQUIRED_COLUMNS
from deepeyes.dataset.quoting import MAX_QUOTE
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATA_SUFFIXES = (".parquet", ".jsonl")
BATCH_ROWS = 16  # rows read at a time: with images of 10 MB, 160 MB
MAX_DEPTH = 32  # levels of lists and objects in a line of JSON
PREPARED = b"deepeyes.prepared"  # key in the schema metadata of the files that `--out` writes


def data_files(directory: Path) -> list[Path]:
    """Returns the data files of a folder, by name."""
    return sorted(file for suffix in DATA_SUFFIXES for file in directory.glob(f"*{suffix}"))


def read_rows(path: Path) -> Iterator[list[Any]]:
    """Yields the rows of a file, a few at a time; of a JSON line that can't be read or is nested too deep, None.

    Raises:
        DataFileError: The file is damaged.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    yield batch.to_pylist()
            return
        with path.open("rb") as lines:
            rows = []
            for line in lines:
                if line.strip():
                    rows.append(_parse_line(line))
                if len(rows) == BATCH_ROWS:
                    yield rows
                    rows = []
            if rows:
                yield rows
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{path} can't be read: {error}. Delete it and get it again") from error


def _parse_line(line: bytes) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return None if _is_deeper(value, MAX_DEPTH) else value


def _is_deeper(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in items))


def open_parquet(path: Path) -> tuple[pa.Schema, int]:
    """Returns the schema and the number of rows of a parquet file that has the columns that training needs.

    Raises:
        DataFileError: It is no parquet file, or a column is missing.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{path} is no whole parquet file: {error}. Delete it and get it again") from error
    missing = [name for name in REQUIRED_COLUMNS if name not in schema.names]
    if not {"prompt", "messages"} & set(schema.names):
        missing.append("prompt (or messages)")
    if missing:
        raise DataFileError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(schema.names):.{MAX_QUOTE}}. "
            "docs/own_data.md describes each"
        )
    return schema, rows


def is_prepared(path: Path) -> bool:
    """Tells whether `--out` wrote a file."""
    return path.suffix == ".parquet" and PREPARED in (open_parquet(path)[0].metadata or {})
