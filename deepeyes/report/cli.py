"""The report as a program: one HTML page of a run, which needs nothing but a browser.

It reads what the plugin writes with DEEPEYES_TRACE_DIR (`trajectories-<rank>.jsonl`, `images/`), what swift logs
(`logging.jsonl`, and, where there is no trace, `completions.jsonl`), and the folder of an evaluation.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.arguments import Parser
from deepeyes.report.page import write_report
from deepeyes.report.screenshots import write_screenshots
from deepeyes.report.traces import ReportError
from deepeyes.traces import MAX_TRAJECTORIES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

WATCH = 30  # seconds between two looks at a running training


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line of a report."""
    parser = Parser(prog="deepeyes.sh report", description=(__doc__ or "").partition(":")[2].strip())
    parser.add_argument("run_dir", type=Path, help="folder of a run (trace, swift's output), or of several: the newest")
    parser.add_argument(
        "others", type=Path, nargs="*", help="further runs: their curves, or answers, over those of the first"
    )
    parser.add_argument("--out", type=Path, help="the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--limit", type=int, default=MAX_TRAJECTORIES, help="trajectories in the page (default: %(default)s)"
    )
    parser.add_argument(
        "--screenshots", type=Path, metavar="FOLDER", help="also take two pictures of the page (Playwright, Chromium)"
    )
    parser.add_argument(
        "--watch",
        type=int,
        nargs="?",
        const=WATCH,
        metavar="SECONDS",
        help="keep the page of a running training up to date, every so many seconds (default: %(const)s), until Ctrl-C",
    )
    return parser.parse_args(arguments)


def _newest(folders: Sequence[Path]) -> float:
    """Returns when a run wrote last."""
    files = (path for folder in folders for path in folder.rglob("*.json*"))
    return max((path.stat().st_mtime for path in files if path.is_file()), default=0.0)


def _watch(options: argparse.Namespace) -> None:
    """Writes the page anew whenever the run has written."""
    folders, written = [options.run_dir, *options.others], _newest([options.run_dir, *options.others])
    while True:
        time.sleep(options.watch)
        if (now := _newest(folders)) > written:
            written = now
            with contextlib.suppress(ReportError):  # a log that is just being begun
                write_report(options.run_dir, options.out, options.limit, options.others, options.watch)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    options = parse(arguments)
    try:
        page = write_report(options.run_dir, options.out, options.limit, options.others, options.watch)
        pictures = write_screenshots(page, options.screenshots) if options.screenshots else []
    except (ReportError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(*[page, *pictures], sep="\n", flush=True)
    if options.watch:
        with contextlib.suppress(KeyboardInterrupt):
            _watch(options)
    return 0
