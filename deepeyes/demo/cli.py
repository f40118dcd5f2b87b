"""The demo's command line.

    bash deepeyes.sh demo                           teach it, and measure whether it learned
    bash deepeyes.sh demo --quick                   the same with fewer steps and questions
    bash deepeyes.sh demo --dataset FILE.parquet    a few steps of a random model on your own rows: the plumbing only

Each stage is kept under DEEPEYES_CACHE and reused as long as nothing that made it has changed.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

from deepeyes.arguments import Parser
from deepeyes.demo import stages
from deepeyes.demo.cache import Cache, cache_directory
from deepeyes.demo.pipeline import Demo, plumbing
from deepeyes.demo.plan import QUICK, Plan
from deepeyes.demo.progress import Console
from deepeyes.errors import DataFileError


def main(arguments: list[str] | None = None) -> int:
    """Run the command line, by default that of the process; returns the exit status."""
    parser = Parser(
        prog="deepeyes.sh demo",
        description="A tiny Qwen2.5-VL learns by GRPO to zoom, on the CPU, through the real swift rlhf and the plugin.",
    )
    parser.add_argument("--dataset", type=Path, help="own rows in the official schema: a few steps of a random model")
    parser.add_argument("--quick", action="store_true", help="fewer steps and questions")
    parser.add_argument("--seed", type=int, default=Plan().seed, help="seed of everything (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.quick and options.dataset:
        parser.error("--quick is the short form of the demo that learns, which makes its own pictures")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # all end the stage and what it started
        signal.signal(number, signal.default_int_handler)
    errors = sys.stderr  # also while swift is imported, whose words go nowhere
    console = Console(2 if options.dataset else 5)
    cache = Cache(cache_directory(os.environ), console.say)
    try:
        if options.dataset:
            plumbing(options.dataset, cache, console, options.seed)
        else:
            Demo(replace(Plan(seed=options.seed), **(QUICK if options.quick else {})), cache, console).run()
    except (stages.DemoError, DataFileError) as error:
        print(f"demo: {error}", file=errors)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; finished stages are kept and will be reused", file=errors)
        return 130
    return 0
