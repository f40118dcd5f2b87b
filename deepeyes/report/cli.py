"""The report as a program: one HTML page of a run, which needs nothing but a browser.

It reads what the plugin writes with DEEPEYES_TRACE_DIR (`trajectories-<rank>.jsonl`, `images/`), what swift logs
(`logging.jsonl`, and, where there is no trace, `completions.jsonl`), and the folder of an evaluation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.report.page import write_report
from deepeyes.report.screenshots import write_screenshots
from deepeyes.report.traces import MAX_TRAJECTORIES, ReportError

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line of a report."""
    parser = argparse.ArgumentParser(prog="deepeyes.sh report", description=(__doc__ or "").partition(":")[2].strip())
    parser.add_argument("run_dir", type=Path, help="folder of a run (trace, swift's output), or of several: the newest")
    parser.add_argument("--out", type=Path, help="the page (default: RUN_DIR/report.html)")
    parser.add_argument(
        "--limit", type=int, default=MAX_TRAJECTORIES, help="trajectories in the page (default: %(default)s)"
    )
    parser.add_argument(
        "--screenshots", type=Path, metavar="FOLDER", help="also take two pictures of the page (Playwright, Chromium)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit status."""
    options = parse(arguments)
    try:
        page = write_report(options.run_dir, options.out, options.limit)
        pictures = write_screenshots(page, options.screenshots) if options.screenshots else []
    except (ReportError, OSError) as error:
        print(f"report: {error}", file=sys.stderr)
        return 1
    print(*[page, *pictures], sep="\n")
    return 0
