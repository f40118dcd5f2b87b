"""Every row of a file checked, every image decoded in worker processes."""

from __future__ import annotations

import concurrent.futures
import hashlib
import multiprocessing
import signal
from collections import deque
from typing import TYPE_CHECKING, Any

from deepeyes.data.findings import FileReport
from deepeyes.dataset.official import OFFICIAL
from deepeyes.dataset.pictures import MIN_SIDE, ImageFacts, image_of, look
from deepeyes.dataset.progress import row_bar
from deepeyes.dataset.quoting import shorten
from deepeyes.dataset.reading import is_prepared, open_parquet, read_rows
from deepeyes.dataset.rows import arrow_problem, row_notes, row_problems

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

BATCHES_AHEAD = 4  # batches a worker has waiting, so that it never idles


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


def check_file(
    path: Path, pool: concurrent.futures.Executor, workers: int, scoring_of: Callable[[object], object]
) -> FileReport:
    """Checks every row of a file, with a progress bar on a terminal.

    Args:
        path: A parquet or JSON-lines file.
        pool: Where images are decoded.
        workers: Processes in the pool.
        scoring_of: See `row_problems`.

    Raises:
        DataFileError: The file can't be read, or lacks a column.
    """
    report = FileReport(path)
    total = open_parquet(path)[1] if path.suffix == ".parquet" else None
    prepared = is_prepared(path)
    official = None if prepared else OFFICIAL.get(path.name)
    size = path.stat().st_size
    sha256 = pool.submit(sha256_of, path) if official and size == official.size else None
    waiting: deque[concurrent.futures.Future[list[ImageFacts]]] = deque()
    with row_bar(path.name[:24], total) as advance:
        for rows in read_rows(path):
            for row in rows:
                _note_row(report, row, scoring_of)
            waiting.append(pool.submit(look, [_image(row) for row in rows]))
            if len(waiting) > BATCHES_AHEAD * workers:
                _note_images(report, waiting.popleft().result())
            advance(len(rows))
        for future in waiting:
            _note_images(report, future.result())
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


def _note_row(report: FileReport, row: Any, scoring_of: Callable[[object], object]) -> None:
    problems = row_problems(row, scoring_of)
    if not problems and report.path.suffix == ".jsonl" and (problem := arrow_problem(row)):
        problems = [problem]
    for problem in problems:
        report.problems[problem].append(report.rows)
    for note in row_notes(row):
        report.notes[note].append(report.rows)
    report.sources[str(shorten(row.get("data_source"))) if isinstance(row, dict) else "none"] += 1
    report.rows += 1


def _note_images(report: FileReport, facts: Iterable[ImageFacts]) -> None:
    for row, fact in enumerate(facts, len(report.digests)):
        if fact.problem:
            report.problems[fact.problem].append(row)
        elif fact.digest and min(fact.width, fact.height) < MIN_SIDE:
            report.notes[f"a side of the image is under {MIN_SIDE} pixels; it is scaled up"].append(row)
        report.digests.append(fact.digest)


def _image(row: Any) -> bytes | str | None:
    """Returns the one image of a row, if it has just one."""
    images = row.get("images") if isinstance(row, dict) else None
    return image_of(images[0]) if isinstance(images, list) and len(images) == 1 else None
