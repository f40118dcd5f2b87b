"""The evaluation as a program; `deepeyes.evaluation.options` describes it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.arguments import Parser
from deepeyes.environment import read_settings
from deepeyes.errors import SettingsError
from deepeyes.evaluation.bench import read_bench
from deepeyes.evaluation.errors import EvalError, UsageError
from deepeyes.evaluation.folder import say
from deepeyes.evaluation.options import parse
from deepeyes.playing.endpoint import EndpointError

if TYPE_CHECKING:
    from collections.abc import Sequence

RETRIES_APART = 10.0  # seconds between two lines that tell of retries


class _RetryTeller(logging.Handler):
    """Tells the user that requests are tried again: a server that is away else looks like a slow one."""

    last = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("Retrying") and time.monotonic() - self.last > RETRIES_APART:
            self.last = time.monotonic()
            say(f"the endpoint failed or gave no answer; {record.getMessage()[0].lower()}{record.getMessage()[1:]}")


def compare(arguments: Sequence[str]) -> int:
    """Compares two runs and prints the table.

    Returns:
        The exit status.
    """
    from deepeyes.evaluation.comparing import compare_runs  # noqa: PLC0415 - with scipy, which takes a second

    parser = Parser(prog="deepeyes.sh eval compare", description="Compares two runs, question by question.")
    parser.add_argument("run_a", type=Path, help="folder of a run")
    parser.add_argument("run_b", type=Path, help="folder of another")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    options = parser.parse_args(arguments)
    reports = []
    for folder in (options.run_a, options.run_b):
        path = folder / "report.json"
        if not path.is_file():
            raise UsageError(f"{folder} holds no report.json; expected the folder of a finished evaluation")
        reports.append(json.loads(path.read_text(encoding="utf-8")))
    try:
        figures, text, notes = compare_runs(*reports)
    except ValueError as error:
        raise UsageError(str(error)) from error
    if options.json:
        print(json.dumps(figures, indent=1))
    else:
        folders = [f"A is {options.run_a}", f"B is {options.run_b}"]
        print("\n".join([*folders, text, *notes]))
    for note in notes if options.json else ():
        say(note)
    return 0


def _evaluate(words: Sequence[str]) -> int:
    options = parse(words)
    bench = read_bench(options.bench, options.data)
    say(f"{bench.name}: {len(bench.items)} rows, {len(bench.bad)} bad")
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        raise UsageError(str(error)) from error
    from deepeyes.evaluation.dry_run import dry_run  # noqa: PLC0415 - with openai: seconds
    from deepeyes.evaluation.session import evaluate, prepare  # noqa: PLC0415 - likewise

    if options.dry_run:
        print(asyncio.run(dry_run(prepare(options, bench, settings, options.model or ""))))
        return 0
    teller, sdk = _RetryTeller(logging.INFO), logging.getLogger("openai._base_client")
    sdk.addHandler(teller)
    sdk.setLevel(logging.INFO)
    sdk.propagate = False
    try:
        return asyncio.run(evaluate(options, bench, settings))
    finally:
        sdk.removeHandler(teller)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: Command-line words; those of the process by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return compare(words[1:]) if words[:1] == ["compare"] else _evaluate(words)
    except KeyboardInterrupt:
        say("interrupted; what was finished is kept, and the same command goes on from there")
        return 130
    except (EvalError, EndpointError) as error:
        say(str(error))
        return error.status
    except OSError as error:  # a full disk, a folder that can't be written
        say(str(error))
        return 1
