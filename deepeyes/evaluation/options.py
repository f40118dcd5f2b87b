"""The command line of an evaluation."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.arguments import Parser
from deepeyes.evaluation.bench import KNOWN, LAYOUTS

if TYPE_CHECKING:
    from collections.abc import Sequence

DESCRIPTION = """Evaluates a model with the very zoom that trained it, behind any OpenAI-compatible URL.

    bash deepeyes.sh eval --bench vstar --data DIR --url http://127.0.0.1:8000/v1
    bash deepeyes.sh eval --bench vstar --data DIR --url http://127.0.0.1:8000/v1 --no-tool
    bash deepeyes.sh eval compare output/eval/vstar-MODEL-zoom output/eval/vstar-MODEL-notool

The model is served by anything that speaks the OpenAI protocol: `swift deploy`, `vllm serve`, a hosted API (its key in
`OPENAI_API_KEY`). The folder of a run holds `answers.jsonl` (what was played: a run that is started again goes on
there), `report.json`, and the trajectories for `bash deepeyes.sh report FOLDER`. The judge of the plugin, with its
`DEEPEYES_JUDGE_*` settings, is asked only about answers that the rule can't read.

Exit status: 0 every row was asked, answered and read; 1 something was not, and the message says what; 2 wrong usage.
"""
PROTOCOLS = ("paper", "training")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line of an evaluation."""
    parser = Parser(
        prog="deepeyes.sh eval",
        description=DESCRIPTION,
        epilog=LAYOUTS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what(parser.add_argument)
    _add_how(parser.add_argument)
    _add_run(parser.add_argument)
    options = parser.parse_args(arguments)
    if options.url is None and not options.dry_run:
        parser.error("the following arguments are required: --url")
    if options.url is not None and not options.url.startswith(("http://", "https://")):
        parser.error(f"--url {options.url}: expected a base URL, as http://127.0.0.1:8000/v1")
    options.protocol = options.protocol or ("paper" if options.bench.lower() in KNOWN else "training")
    return options


def _add_what(add: Any) -> None:
    add("--bench", required=True, help="a name or a file, see below")
    add("--data", type=Path, help="folder (or file) of the benchmark")
    add("--url", help="base URL, as http://127.0.0.1:8000/v1")
    add("--model", help="served name (default: the first of /models)")
    add("--family", choices=["qwen2.5-vl", "qwen3-vl"], help="patch size and box frame (default: by the name)")
    add("--coordinates", choices=["pixel", "norm1000"], help="box frame (default: that of the family)")
    add("--no-tool", action="store_true", help="the baseline: one turn and no zoom")
    add("--blank-crops", action="store_true", help="a control: zooms work, but every crop is grey")
    add("--prompt-from", type=Path, metavar="PARQUET", help="take the system turn and the instruction of these rows")


def _add_how(add: Any) -> None:
    add(
        "--protocol",
        choices=PROTOCOLS,
        help="paper: pictures, limits and wording of the authors' evaluation, the default for benchmarks by name; "
        "training: the settings of training, the default for files. Each flag below changes a part of it",
    )
    add("--max-turns", type=whole, help="paper: 11; training: MAX_TURNS, else 5")
    add("--max-pixels", type=whole, help="of a view; paper: 16384 image tokens; training: MAX_PIXELS, else 602112")
    add("--max-tokens", type=whole, help="of a turn; paper: 10240; training: 2048")
    add("--temperature", type=float, help="default: 0")
    add("--crop-source", choices=["view", "original"], help="paper: original; training: DEEPEYES_CROP_SOURCE")
    add("--rules", choices=["corrected", "official"], help="default: DEEPEYES_RULES")
    add("--top-p", type=float, help="default: that of the server")
    add("--extra", type=_json_object, help="further fields of every request, as JSON: '{\"top_k\": 20}'")
    add("--samples", type=whole, default=1, help="answers a question (default: %(default)s)")
    add("--options", choices=["shuffle", "cycle", "keep"], help="order (default: keep in a cycled file, else shuffle)")
    add("--seed", type=int, default=0, help="of the order and of sampling (default: %(default)s)")
    add("--limit", type=whole, help="a random choice of so many questions, by the seed")
    add("--judge", choices=["server", "rule", "none"], help="for answers that the rule can't read; DEEPEYES_JUDGE")


def _add_run(add: Any) -> None:
    add("--dry-run", action="store_true", help="show one prompt and one view as they would be sent, and ask nobody")
    add("--concurrency", type=whole, default=16, help="trajectories under way at the most (default: %(default)s)")
    add("--retries", type=int, default=20, help="of a request, with backoff up to 8 s (default: %(default)s)")
    add("--timeout", type=float, default=300.0, help="seconds for one reply (default: %(default)s)")
    add("--patience", type=float, default=600.0, help="for one reply with its retries (default: %(default)s)")
    add("--skip-view-check", action="store_true", help="do not ask what the server makes of views and crops")
    add("--out", type=Path, help="folder of the run (default: output/eval/BENCH-MODEL-zoom, -blank or -notool)")
    add("--fresh", action="store_true", help="begin anew: what the folder of the run holds is renamed")


def whole(text: str) -> int:
    """Reads a whole number above 0."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value
