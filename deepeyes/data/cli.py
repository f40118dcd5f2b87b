"""`bash deepeyes.sh data`: fetch the three official files, check every row, and write them mended where asked.

    bash deepeyes.sh data DIR                       # the official files: in DIR, or downloaded into it
    bash deepeyes.sh data FILE.parquet FILE.jsonl   # own data, see docs/own_data.md
    bash deepeyes.sh data DIR --out NEW_DIR --holdout 500

A check reads all rows in bounded memory and decodes every image, in one process a core. It ends with a table and the
rows that it would drop. Nothing but missing official files is written, unless `--out` names a folder; what is written
there loads in one go with swift, holds every image byte for byte, and lacks the bad rows.

Exit status: 0 all well; 1 rows to drop, no row at all, a file that is not the published one, or files that swift can't
join as they are; 2 the check could not be made, or `--out` has nothing to write.
"""

from __future__ import annotations

import argparse
import concurrent.futures.process
import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.data.checking import check_file, make_pool
from deepeyes.data.download import find_files
from deepeyes.data.preparing import HOLDOUT_NAME, write
from deepeyes.data.telling import as_json, describe
from deepeyes.dataset.joining import schema_conflict
from deepeyes.dataset.official import HUBS
from deepeyes.environment import read_settings
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="bash deepeyes.sh data",
        description="Fetch the official data, check every row of it or of own data, and write it mended.",
        epilog="Exit status: 0 all well; 1 rows to drop, no row, a file that is not the published one, or files that "
        "swift can't join; 2 no check was made, or nothing is left to write.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a folder, or .parquet and .jsonl files")
    parser.add_argument(
        "--hub",
        choices=[*HUBS, "none"],
        default="modelscope",
        help="where missing official files come from (%(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the good rows there, mended, as parquet")
    parser.add_argument("--holdout", type=int, default=0, metavar="N", help="N of them go to DIR/holdout.parquet")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out choice (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    if options.holdout and not options.out:
        parser.error("--holdout needs --out")
    if options.holdout < 0 or options.workers < 1:
        parser.error("--holdout and --workers can't be below 0 and 1")
    return options


def run(options: argparse.Namespace) -> int:
    """Does what the command line says and returns the exit status.

    Raises:
        DataFileError: It can't be done.
    """
    settings = read_settings(os.environ)
    files = find_files(options.paths, options.hub)
    if not files:
        raise DataFileError(f"no .parquet or .jsonl files in {', '.join(map(str, options.paths))}")
    with make_pool(options.workers) as pool:
        reports = [check_file(path, pool, options.workers, settings.scoring_of) for path in files]
    conflict = None if options.out else schema_conflict(files)
    if not options.json:
        print(describe(reports))
    if conflict and not options.json:
        mend_it = shlex.join(["bash", "deepeyes.sh", "data", *map(str, options.paths), "--out", "prepared"])
        print(f"\n{conflict}. Write them alike: {mend_it}")
    written = write(reports, options.out, options.holdout, options.seed) if options.out else {}
    if options.json:
        print(as_json(reports, conflict, written))
    elif written:
        print(f"\nWritten to {options.out}:")
        print("\n".join(f"  {name}: {rows:,} rows" for name, rows in written.items()))
        if written.get(HOLDOUT_NAME, 0) < options.holdout:
            print(f"  (not {options.holdout:,}: rows that share an image stay together)")
    return int(conflict is not None or not all(report.sound for report in reports))


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
