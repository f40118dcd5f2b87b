"""Every row of a file checked, every image decoded in worker processes."""

from __future__ import annotations

import concurrent.futures
import functools
import hashlib
import multiprocessing
import signal
import sys
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from deepeyes.data.answers import answer_kind, key_of
from deepeyes.data.converting import convert_rows
from deepeyes.data.findings import FileReport, source_of
from deepeyes.dataset.loading import load
from deepeyes.dataset.official import OFFICIAL
from deepeyes.dataset.pictures import MIN_SIDE, ImageFacts, look_at_rows, pictures_of
from deepeyes.dataset.progress import row_bar
from deepeyes.dataset.reading import count_rows, is_prepared, read_rows
from deepeyes.dataset.remarks import Remark
from deepeyes.dataset.rows import arrow_problem, row_notes, row_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

BATCHES_AHEAD = 4  # batches a worker has waiting, so that it never idles
MAX_PIXELS = 602_112  # of a view; the default of deepeyes.sh


@dataclass(frozen=True)
class Plan:
    """How files are checked.

    Attributes:
        scoring_of: Raises an error that explains itself for an unknown data source.
        workers: Processes that decode images.
        max_pixels: The most pixels of a view.
        fingerprints: Whether pictures will be compared with those of a benchmark.
        convert: See `FileReport`.
    """

    scoring_of: Callable[[object], object]
    workers: int = 1
    max_pixels: int = MAX_PIXELS
    fingerprints: bool = False
    convert: Callable[[Any], dict[str, Any]] | None = None


def make_pool(workers: int) -> concurrent.futures.Executor:
    """Returns what decodes images: one process a core, or a thread where there is only one to have."""
    if workers == 1:
        return concurrent.futures.ThreadPoolExecutor(1)
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Arrow's threads
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's to hear
    return concurrent.futures.ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=ignore)


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file. Runs in a worker process."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def check_file(path: Path, pool: concurrent.futures.Executor, plan: Plan) -> FileReport:
    """Checks every row of a file, with a progress bar on a terminal.

    Args:
        path: A parquet or JSON file.
        pool: Where images are decoded.
        plan: How.

    Raises:
        DataFileError: The file can't be read, or lacks a column.
    """
    report = FileReport(path, plan.convert)
    total = count_rows(path, any_columns=plan.convert is not None)
    prepared = plan.convert is None and is_prepared(path)
    official = None if prepared or plan.convert else OFFICIAL.get(path.name)
    size = path.stat().st_size
    sha256 = pool.submit(sha256_of, path) if official and size == official.size else None
    waiting: deque[concurrent.futures.Future[list[ImageFacts]]] = deque()
    decode = functools.partial(look_at_rows, fingerprints=plan.fingerprints)
    with row_bar(path.name[:24], total) as advance:
        for rows in convert_rows(read_rows(path), plan.convert):
            waiting.append(pool.submit(decode, [_note_row(report, row, plan) for row in rows]))
            if len(waiting) > BATCHES_AHEAD * plan.workers:
                _note_images(report, waiting.popleft().result(), plan)
            advance(len(rows))
        for future in waiting:
            _note_images(report, future.result(), plan)
    if prepared:
        report.snapshot = "written by --out"
    elif official:
        found = f"{report.rows:,} rows, {size:,} bytes, SHA-256 {sha256.result()[:8] if sha256 else 'not computed'}"
        report.differs = not (sha256 and sha256.result() == official.sha256 and report.rows == official.rows)
        expected = f"{official.rows:,} rows, {official.size:,} bytes, {official.sha256[:8]}"
        report.snapshot = f"differs: {found}; published: {expected}" if report.differs else "as published"
    if not report.rows:
        report.snapshot += "; it holds no row"
    return report


def _note_row(report: FileReport, row: Any, plan: Plan) -> list[bytes | str]:
    """Notes all that can be told without the pictures, and returns them."""
    number = report.rows
    report.rows += 1
    if isinstance(row, dict):
        loaded = load(row)
        row = loaded.row
        for remark in loaded.told:
            report.notes.add(remark, number)
        for remark in loaded.mended:
            report.mended.add(remark, number)
    problems = [row] if isinstance(row, Remark) else row_problems(row, plan.scoring_of)
    if not problems and report.path.suffix != ".parquet" and (problem := arrow_problem(row)):
        problems = [problem]
    for problem in problems:
        report.problems.add(problem, number)
    for note in row_notes(row):
        report.notes.add(note, number)
    reference, question = _text_of(row, "reward_model", "ground_truth"), _text_of(row, "extra_info", "question")
    columns = report.columns
    columns.sources.append(sys.intern(source_of(row)))
    columns.questions.append(key_of(question))
    columns.references.append(key_of(reference, loose=True))
    columns.kinds.append(answer_kind(reference) if reference else "")
    columns.lengths.append(len(reference))
    return pictures_of(row)


def _text_of(row: Any, column: str, key: str) -> str:
    fields = row.get(column) if isinstance(row, dict) else None
    value = fields.get(key) if isinstance(fields, dict) else None
    return value if isinstance(value, str) else ""


def _note_images(report: FileReport, facts: Iterable[ImageFacts], plan: Plan) -> None:
    columns = report.columns
    for fact in facts:
        row = len(columns.digests)
        if fact.problem:
            report.problems.add(fact.problem, row)
        elif fact.digest and min(fact.width, fact.height) < MIN_SIDE:
            report.notes.add(Remark(f"a side of the image is under {MIN_SIDE} pixels; it is scaled up"), row)
        columns.digests.append(fact.digest)
        columns.fingerprints.append(fact.fingerprint)
        columns.larger.append(fact.width * fact.height > plan.max_pixels)
