"""Rows compared with each other, over all files, and with the pictures of benchmarks."""

from __future__ import annotations

import base64
import csv
import sys
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from deepeyes.dataset.pictures import FINGERPRINT_BYTES, image_of, look, pieces
from deepeyes.dataset.reading import read_rows
from deepeyes.dataset.remarks import Remark
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from deepeyes.data.findings import FileReport

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ROW_SUFFIXES = (".parquet", ".jsonl", ".json", ".tsv")
MAX_BITS = 24
"""Bits of 256 in which fingerprints of one picture differ at most.

Measured: a picture scaled to a half and saved as JPEG of quality 50 differs from itself in 4 at most, two scenes in 104
and more, two bar charts of one style in 84 and more.
"""
BATCH = 64  # pictures of a benchmark that a worker takes at a time


def find_repeats(reports: Sequence[FileReport]) -> None:
    """Notes rows that repeat an earlier one, and rows that contradict each other.

    Two rows ask the same when their questions are equal and their pictures are the same pixels.
    """
    asked: dict[tuple[bytes, bytes], list[tuple[int, int]]] = defaultdict(list)
    for file, report in enumerate(reports):
        columns = report.columns
        for row, key in enumerate(zip(columns.digests, columns.questions, strict=True)):
            if all(key):
                asked[key].append((file, row))
    for rows in asked.values():
        if len(rows) == 1:
            continue
        first = rows[0]
        answers = {reports[file].columns.references[row] for file, row in rows}
        for file, row in rows if len(answers) > 1 else rows[1:]:
            other = first if (file, row) != first else rows[1]
            place = f"{reports[other[0]].path.name}, row {other[1]}"
            if len(answers) > 1:
                remark = Remark("the question and picture of another row, with another reference", place)
            else:
                remark = Remark("the question, picture and reference of an earlier row", place)
            reports[file].notes.add(remark, row)


def find_known(reports: Sequence[FileReport], benchmark: Path, pool: concurrent.futures.Executor) -> int:
    """Takes rows for bad whose picture a benchmark holds, and returns the number of its pictures.

    Raises:
        DataFileError: There is no picture.
    """
    batches, batch = [], []
    for picture in pictures_of(benchmark):
        batch.append(picture)
        if len(batch) == BATCH:
            batches.append(pool.submit(look, batch, fingerprints=True))
            batch = []
    batches.append(pool.submit(look, batch, fingerprints=True))
    known = {fact.fingerprint for future in batches for fact in future.result() if fact.fingerprint}
    if not known:
        raise DataFileError(
            f"--against {benchmark} holds no picture; expected a folder with {', '.join(PICTURE_SUFFIXES)}, or one of "
            f"{', '.join(ROW_SUFFIXES)} with a column image or images"
        )
    table = np.frombuffer(b"".join(sorted(known)), np.uint8).reshape(len(known), -1)
    for report in reports:
        near: dict[bytes, bool] = {}
        for row, joined in enumerate(report.columns.fingerprints):
            fingerprints = pieces(joined, FINGERPRINT_BYTES)
            near |= {one: _nearest(table, one) <= MAX_BITS for one in fingerprints if one not in near}
            if any(near[one] for one in fingerprints):
                report.problems.add(Remark(f"{benchmark.name} holds this picture (--against)"), row)
    return len(known)


def _nearest(table: np.ndarray[Any, np.dtype[np.uint8]], fingerprint: bytes) -> int:
    """Returns the least number of bits in which a fingerprint differs from one of a table, a row each."""
    differing = np.unpackbits(table ^ np.frombuffer(fingerprint, np.uint8), axis=1)
    return int(differing.sum(axis=1).min())


def pictures_of(benchmark: Path) -> Iterator[bytes | str]:
    """Yields the pictures of a benchmark: those in a folder, and those in columns `image` or `images` of its files.

    Raises:
        DataFileError: There is no such file, or it can't be read.
    """
    if not benchmark.exists():
        raise DataFileError(f"--against {benchmark}: there is no such file or folder")
    for path in sorted(benchmark.rglob("*")) if benchmark.is_dir() else [benchmark]:
        suffix = path.suffix.lower()
        if suffix in PICTURE_SUFFIXES:
            yield path.read_bytes()
        elif suffix == ".tsv" or (suffix in ROW_SUFFIXES and _has_pictures(path)):
            for row in _cells(path):
                for entry in row if isinstance(row, list) else [row]:
                    if (picture := image_of(entry)) is not None:
                        yield picture


def _has_pictures(path: Path) -> bool:
    if path.suffix != ".parquet":
        return True
    with pq.ParquetFile(path) as file:
        return bool({"image", "images"} & set(file.schema_arrow.names))


def _cells(path: Path) -> Iterator[Any]:
    """Yields what stands in the picture column of a file. A TSV holds base64, or the index of another row."""
    if path.suffix.lower() == ".tsv":
        csv.field_size_limit(sys.maxsize)
        with path.open(newline="", encoding="utf-8") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                if len(text := row.get("image") or "") > 64:  # noqa: PLR2004 - shorter cells name a row
                    yield base64.b64decode(text)
        return
    for rows in read_rows(path):
        for row in rows:
            if isinstance(row, dict):
                yield row["images"] if row.get("images") is not None else row.get("image")
