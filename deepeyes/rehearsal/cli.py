"""`bash deepeyes.sh rehearse`: the commands of a layout on the worst rows, before the bill.

    bash deepeyes.sh rehearse                          # the real MODEL, by the layout and settings of a real run
    LAYOUT=colocate8 bash deepeyes.sh rehearse --judge rule
    LAYOUT=cpu bash deepeyes.sh rehearse --tiny --judge rule

It starts the rollout server of the layout, if it has one, trains some updates, saves, and resumes. All rows are made
up: large pictures, long questions; whatever the model says, every turn is as long as it may be, and zooms. It ends with
a table: seconds, memory, tokens, the time of an epoch at that pace; and for what failed, the setting to lower.

The settings are those of `rollout` and `train`. Files go to a folder of their own, which is removed; nothing is left
running. A rollout server on another host is started there, with the command that is printed.

Exit status: 0 all of it ran, 1 something failed, 2 a wrong command line or setting, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from deepeyes.arguments import Parser
from deepeyes.launch import PlanError
from deepeyes.rehearsal.run import Rehearsal
from deepeyes.rehearsal.table import show_failure, show_figures

if TYPE_CHECKING:
    from collections.abc import Sequence


def interrupt(number: int, _frame: object) -> NoReturn:
    """Lets a signal end the rehearsal as Ctrl-C does."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def make_parser() -> argparse.ArgumentParser:
    """Returns the command line."""
    parser = Parser(
        prog="bash deepeyes.sh rehearse",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--tiny", action="store_true", help="a tiny random model; on the CPU, small settings, too")
    parser.add_argument("--judge", choices=("server", "rule"), help="the judge, in place of DEEPEYES_JUDGE")
    parser.add_argument("--steps", type=int, default=2, help="updates before the save (default: %(default)s)")
    parser.add_argument("--keep", action="store_true", help="keep the folder with rows, logs and checkpoints")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.steps < 1:
        parser.error("--steps must be 1 or more")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    folder = Path(tempfile.mkdtemp(prefix="deepeyes-rehearsal-"))
    rehearsal, failure = Rehearsal(folder, dict(os.environ), tiny=options.tiny, judge=options.judge), None
    keep = options.keep
    try:
        failure = rehearsal.run(options.steps)
        show_figures(rehearsal)
        if failure is not None:
            keep = True
            show_failure(failure, folder)
    except PlanError as error:
        print(f"deepeyes: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("deepeyes: interrupted", file=sys.stderr)
        return 130
    finally:
        rehearsal.stop()
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    if keep:
        print(f"rows, logs and checkpoints: {folder}")
    return int(failure is not None)
