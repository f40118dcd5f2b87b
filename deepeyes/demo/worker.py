"""Runs the demo's stages in processes forked from one that has imported the modules that its command line names.

A stage is a module to run as a program: `swift.cli.rlhf` is the very file that the command `swift rlhf` starts. Each
line of standard input is one stage in JSON (`module`, `words`, `settings`, `log`); its exit status is printed when it
has ended. The imports of swift take 40 seconds of a core, once, while the warm-up in plain torch trains.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import traceback
from typing import Any, NoReturn


def run_stage(stage: dict[str, Any]) -> None:
    """Run a stage in this process, with its output in its log."""
    log = os.open(stage["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for here, stream in ((os.open(os.devnull, os.O_RDONLY), sys.stdin), (log, sys.stdout), (log, sys.stderr)):
        os.dup2(here, stream.fileno())
    os.environ.update(stage["settings"])
    sys.argv = [stage["module"], *stage["words"]]
    runpy.run_module(stage["module"], run_name="__main__", alter_sys=True)


def _run_and_exit(stage: dict[str, Any]) -> NoReturn:
    """Run a stage and end this process, without seconds of taking swift down object by object."""
    status = 1
    try:
        run_stage(stage)
        status = 0
    except BaseException:  # noqa: BLE001 - the end of a process: whatever it was is told in the log
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Serve stages until standard input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever the imports print is no answer
    for name in sys.argv[1:]:
        importlib.import_module(name)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _run_and_exit(json.loads(line))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
