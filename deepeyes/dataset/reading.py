"""Files of rows, read a few rows at a time."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any, BinaryIO

import ijson
import pyarrow as pa
import pyarrow.parquet as pq

from deepeyes.dataset.official import OFFICIAL, REQUIRED_COLUMNS
from deepeyes.dataset.quoting import MAX_QUOTE
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FOLDER_SUFFIXES = (".parquet", ".jsonl")  # a .json in a folder may be anything; it is read where it is named
DATA_SUFFIXES = (*FOLDER_SUFFIXES, ".json")
BATCH_ROWS = 16  # rows read at a time: with images of 10 MB, 160 MB
MAX_DEPTH = 32  # levels of lists and objects in a line of JSON
PREPARED = b"deepeyes.prepared"  # key in the schema metadata of the files that `--out` writes


def data_files(directory: Path) -> list[Path]:
    """Returns the data files of a folder, by name."""
    return sorted(file for suffix in FOLDER_SUFFIXES for file in directory.glob(f"*{suffix}"))


def read_rows(path: Path) -> Iterator[list[Any]]:
    """Yields the rows of a file, a few at a time; None for a line of JSON that can't be read or is nested too deep.

    Raises:
        DataFileError: The file is damaged.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    yield batch.to_pylist()
            return
        with path.open("rb") as file:
            rows = _array(file) if _is_array(file) else (_parse_line(line) for line in file if line.strip())
            while batch := list(itertools.islice(rows, BATCH_ROWS)):
                yield batch
    except (pa.ArrowException, OSError, ijson.JSONError) as error:
        raise DataFileError(f"{path} can't be read: {error}. {again(path)}") from error


def again(path: Path) -> str:
    """Returns what to do about a damaged file."""
    return "Delete it and get it again" if path.name in OFFICIAL else "Make it again"


def _is_array(file: BinaryIO) -> bool:
    """Tells whether a file holds one array, as `datasets` does: by its first character. Lines of arrays are no rows."""
    start = file.read(1 << 10).lstrip()[:1]
    file.seek(0)
    return start == b"[" and not file.name.endswith(".jsonl")


def _array(file: BinaryIO) -> Iterator[Any]:
    for value in ijson.items(file, "item", use_float=True):
        yield None if _is_deeper(value, MAX_DEPTH) else value


def _parse_line(line: bytes) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return None if _is_deeper(value, MAX_DEPTH) else value


def _is_deeper(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in items))


def read_schema(path: Path) -> tuple[pa.Schema, int]:
    """Returns the schema and the number of rows of a parquet file.

    Raises:
        DataFileError: It is none.
    """
    try:
        with pq.ParquetFile(path) as file:
            return file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{path} is no whole parquet file: {error}. {again(path)}") from error


def open_parquet(path: Path) -> tuple[pa.Schema, int]:
    """Returns the schema and the number of rows of a parquet file that has the columns that training needs.

    Raises:
        DataFileError: It is no parquet file, or a column is missing.
    """
    schema, rows = read_schema(path)
    missing = [name for name in REQUIRED_COLUMNS if name not in schema.names]
    if "images" in missing and "image" in schema.names:
        missing.remove("images")
    if not {"prompt", "messages"} & set(schema.names):
        missing.append("prompt (or messages)")
    if missing:
        raise DataFileError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(schema.names):.{MAX_QUOTE}}. "
            "docs/own_data.md describes each; rows of another project are converted with --from"
        )
    return schema, rows


def count_rows(path: Path, *, any_columns: bool = False) -> int | None:
    """Returns the rows of a parquet file; None for JSON, which has to be read to know.

    Args:
        path: The file.
        any_columns: Whether it may lack the columns that training needs.

    Raises:
        DataFileError: See `open_parquet`.
    """
    if path.suffix != ".parquet":
        return None
    return read_schema(path)[1] if any_columns else open_parquet(path)[1]


def is_prepared(path: Path) -> bool:
    """Tells whether `--out` wrote a file."""
    return path.suffix == ".parquet" and PREPARED in (open_parquet(path)[0].metadata or {})
