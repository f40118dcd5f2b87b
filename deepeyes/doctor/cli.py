"""`bash deepeyes.sh doctor`: find out in seconds what would stop a run after an hour, and say how to mend it.

    bash deepeyes.sh doctor                          # before `train`
    bash deepeyes.sh doctor --for rollout            # or judge, or demo
    bash deepeyes.sh doctor --json -- --max_turns 7  # for machines; what follows `--` would go to swift, too

One line a check: `ok`, `warning` or `error`, what was found, and after `->` the command that mends it. The settings are
those of the scripts: the commands that `--dry-run` prints are what is checked. Nothing is started or changed; the judge
is asked two questions, and one row of the data goes through swift's template, in a process of its own.

Exit status: 0 no error, 1 an error, 2 a wrong command line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from deepeyes.arguments import Parser
from deepeyes.doctor.checklist import checks_of
from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.packages import PACKAGES, check_packages, check_python
from deepeyes.doctor.plan import PURPOSES, PlanError, make_plan
from deepeyes.doctor.row import load_row
from deepeyes.environment import read_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.doctor.checklist import Check
    from deepeyes.doctor.plan import Plan
    from deepeyes.settings import Settings


def examine(purpose: str, extra: Sequence[str], *, quick: bool, part: str = "all") -> list[Finding]:
    """Runs the checks for a purpose, side by side, and returns their findings in order.

    Args:
        purpose: One of `PURPOSES`.
        extra: Arguments that would be handed to swift.
        quick: Leave out the row that is loaded with swift.
        part: Of training, what can be told `before` the rollout server is up, what `after` it, or `all`.
    """
    try:
        settings = read_settings(os.environ)
    except ValueError as error:
        return [Finding("settings", Level.ERROR, str(error))]
    try:
        plan = make_plan(purpose, extra)
    except (PlanError, OSError, subprocess.SubprocessError, ValueError) as error:
        return [*check_python(), *check_packages(PACKAGES), Finding("settings", Level.ERROR, str(error))]
    checks = checks_of(purpose, quick=quick, part=part)
    with ThreadPoolExecutor(max(1, len(checks))) as pool:
        found = pool.map(lambda check: _guarded(check, plan, settings), checks)
        return [finding for findings in found for finding in findings]


def _guarded(check: Check, plan: Plan, settings: Settings) -> list[Finding]:
    try:
        return check.find(plan, settings)
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide what the others found
        return [Finding("doctor", Level.WARNING, f"a check broke: {type(error).__name__}: {error}")]


def show(findings: Sequence[Finding]) -> str:
    """Returns the report, one line a finding, in colour on a terminal."""
    colours = {Level.OK: "32", Level.WARNING: "33", Level.ERROR: "31"}
    width = max(len(finding.check) for finding in findings)
    lines = []
    for check, level, found, mend in findings:
        word = f"{level.value:7}"
        if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            word = f"\033[{colours[level]}m{word}\033[0m"
        text = " ".join(f"{found} -> {mend}".split() if mend else found.split())
        lines.append(f"{word}  {check:{width}}  {text}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--row"]:
        print(json.dumps(load_row(json.loads(words[1]))))
        return 0
    cut = words.index("--") if "--" in words else len(words)
    parser = Parser(
        prog="bash deepeyes.sh doctor",
        description="Check all that a run needs. What follows -- would go to swift, and is checked with it.",
        epilog="Exit status: 0 no error, 1 an error, 2 a wrong command line.",
    )
    parser.add_argument("--for", dest="purpose", choices=PURPOSES, default="train", help="what is to run (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print a list of findings as JSON")
    parser.add_argument("--quick", action="store_true", help="leave out the row that is loaded with swift")
    parser.add_argument(
        "--part",
        choices=("all", "before", "after"),
        default="all",
        help="of training: what can be told before or after the rollout server is up (%(default)s)",
    )
    options = parser.parse_args(words[:cut])
    findings = examine(options.purpose, words[cut + 1 :], quick=options.quick, part=options.part)
    print(json.dumps([finding._asdict() for finding in findings], indent=2) if options.json else show(findings))
    return int(any(finding.level is Level.ERROR for finding in findings))
