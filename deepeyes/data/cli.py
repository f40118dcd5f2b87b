"""`bash deepeyes.sh data`: fetch the three official files, check every row, and write them mended where asked.

    bash deepeyes.sh data DIR                       # the official files: in DIR, or downloaded into it
    bash deepeyes.sh data FILE.parquet FILE.jsonl   # own data, see docs/own_data.md
    bash deepeyes.sh data DIR --out NEW_DIR --holdout 500
    bash deepeyes.sh data DIR --against vstar_bench --page data.html
    bash deepeyes.sh data train.json --from mini-o3 --out NEW_DIR

A check reads all rows in bounded memory and decodes every image, in one process a core. It ends with a table and the
rows that it would drop. Nothing but missing official files is written, unless `--out` names a folder; what is written
there loads in one go with swift, holds every image byte for byte, and lacks the bad rows.

Exit status: 0 all well; 1 rows to drop, or to mend by `--out`, no row at all, a file that is not the
published one, or files that swift can't join as they are; 2 the check could not be made, or `--out` has nothing to
write.
"""

from __future__ import annotations

import concurrent.futures.process
import contextlib
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.arguments import Parser
from deepeyes.data.checking import MAX_PIXELS, Plan, check_file, make_pool
from deepeyes.data.comparing import find_known, find_repeats
from deepeyes.data.converting import READERS, converter, source_names
from deepeyes.data.download import ask, find_files
from deepeyes.data.page import write_page
from deepeyes.data.preparing import write
from deepeyes.data.telling import as_json, describe
from deepeyes.dataset.joining import schema_conflict
from deepeyes.dataset.official import HOLDOUT_NAME, HUBS
from deepeyes.dataset.reading import FOLDER_SUFFIXES
from deepeyes.environment import read_settings
from deepeyes.errors import DataFileError
from deepeyes.settings import Coordinates

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from deepeyes.data.findings import FileReport
    from deepeyes.settings import Settings


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="bash deepeyes.sh data",
        description="Fetch the official data, check every row of it or of own data, and write it mended.",
        epilog="Exit status: 0 all well; 1 rows to drop or to mend, no row, a file that is not the published one, or "
        "files that swift can't join; 2 no check was made, or nothing is left to write.",
    )
    pixels = os.environ.get("MAX_PIXELS") or MAX_PIXELS
    add = parser.add_argument
    add("paths", nargs="+", type=Path, metavar="PATH", help="a folder, or .parquet, .jsonl and .json files")
    add("--hub", choices=[*HUBS, "none"], default="modelscope", help="where official files come from (%(default)s)")
    add("--download", action="store_true", help="make a folder that does not exist, and download into it")
    add("--from", dest="reader", choices=READERS, help="the rows have the columns of another project")
    add("--source", metavar="NAME", help="what rows of --from are called, as data_source (the project)")
    add(
        "--against",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="benchmarks of which no picture may be trained on: folders or files",
    )
    add("--max-pixels", type=int, default=pixels, help="of the view (MAX_PIXELS, %(default)s)")
    add("--out", type=Path, metavar="DIR", help="write the good rows there, mended, as parquet")
    add("--holdout", type=int, default=0, metavar="N", help="N of them go to DIR/holdout.parquet")
    add("--seed", type=int, default=0, help="of the held-out choice (%(default)s)")
    add("--page", type=Path, metavar="FILE.html", help="write a page with the tables and pictures to look at")
    add("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    add("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    if options.holdout and not options.out:
        parser.error("--holdout needs --out")
    if options.holdout < 0 or options.workers < 1:
        parser.error("--holdout and --workers can't be below 0 and 1")
    if options.source and not options.reader:
        parser.error("--source names the rows that --from converts; own rows have a data_source")
    return options


def make_plan(options: argparse.Namespace, settings: Settings) -> Plan:
    """Returns how files are to be checked."""
    scoring_of, convert = settings.scoring_of, None
    if options.reader:
        source = options.source or options.reader.replace("-", "_")
        frame = Coordinates.PIXEL if settings.coordinates is Coordinates.AUTO else settings.coordinates
        convert = converter(options.reader, source, frame)
        known = tuple(source_names(options.reader, source).items())
        scoring_of = replace(settings, sources=(*settings.sources, *known)).scoring_of
    return Plan(scoring_of, options.workers, options.max_pixels, bool(options.against), convert)


def run(options: argparse.Namespace) -> int:
    """Does what the command line says and returns the exit status.

    Raises:
        DataFileError: It can't be done.
    """
    settings = read_settings(os.environ)
    plan = make_plan(options, settings)
    files = find_files(options.paths, options.hub, (lambda _: True) if options.download else ask)
    if not files:
        raise DataFileError(f"no {' or '.join(FOLDER_SUFFIXES)} files in {', '.join(map(str, options.paths))}")
    with make_pool(options.workers) as pool:
        reports = [check_file(path, pool, plan) for path in files]
        find_repeats(reports)
        for benchmark in options.against:
            find_known(reports, benchmark, pool)
    conflict = None if options.out or options.reader else schema_conflict(files)
    if not options.json:
        print(describe(reports, options.max_pixels))
        _say_how_to_mend(options, reports, conflict)
    if options.page:
        write_page(options.page, reports, options.max_pixels)
    written = write(reports, options.out, options.holdout, options.seed) if options.out else {}
    if options.json:
        print(as_json(reports, conflict, written))
    elif written:
        _say_what_was_written(options, written)
    return int(conflict is not None or not all(report.sound(written=bool(written)) for report in reports))


def _say_how_to_mend(options: argparse.Namespace, reports: Sequence[FileReport], conflict: str | None) -> None:
    if options.out or not (conflict or any(report.mended for report in reports)):
        return
    words = ["bash", "deepeyes.sh", "data", *map(str, options.paths)]
    words += ["--from", options.reader] if options.reader else []
    mend_it = shlex.join([*words, "--out", "prepared"])
    print(f"\n{conflict}. Write them alike: {mend_it}" if conflict else f"\nWrite them mended: {mend_it}")


def _say_what_was_written(options: argparse.Namespace, written: Mapping[str, int]) -> None:
    print(f"\nWritten to {options.out}:")
    print("\n".join(f"  {name}: {rows:,} rows" for name, rows in written.items()))
    if written.get(HOLDOUT_NAME, 0) < options.holdout:
        print(f"  (not {options.holdout:,}: rows that share an image stay together)")
    if options.reader:
        source = options.source or options.reader.replace("-", "_")
        sources = ",".join(f"{name}={scoring.value}" for name, scoring in source_names(options.reader, source).items())
        print(f"Set this for rollout and train: export DEEPEYES_SOURCES={sources}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; whatever can't be done ends with one line."""
    options = parse(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return run(options)
    except concurrent.futures.process.BrokenProcessPool:
        print("data: a worker died, out of memory perhaps; go on with --workers 1", file=sys.stderr)
        return 2
    except (DataFileError, ValueError, OSError) as error:
        print(f"data: {error}", file=sys.stderr)
        return 2
    return 130
