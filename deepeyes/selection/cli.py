"""`bash deepeyes.sh select`: play a policy on training rows, and keep those that it can learn from.

    bash deepeyes.sh select prepared --url http://127.0.0.1:8000/v1 --out selected --keep 0.1..0.9
    bash deepeyes.sh select prepared --url http://127.0.0.1:8000/v1 --out selected --keep 0.1..0.9 --tool-helps
    bash deepeyes.sh select prepared --rates selected/rates.parquet --keep 0.2..0.8 --out harder

The rows are parquet files as `bash deepeyes.sh data ... --out prepared` writes them; `holdout.parquet` is left out, and
so is every row with a picture of it. Each row is played several times, as in training and without the tool, and judged
as in training (`DEEPEYES_*`). A run that is interrupted goes on where it was. `--out` then holds `plays.jsonl` (a line
a trajectory), `rates.parquet` (pass rates, a row a row), `rates.png`, `choice.json`, and the kept rows, unchanged, in
files of the old names. The same rates and criteria give the same rows; `--rates` makes another choice without playing.

Exit status: 0 all rows were played and some are kept; 1 trajectories are missing, or nothing is kept; 2 wrong usage;
130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.arguments import Parser
from deepeyes.dataset.official import HOLDOUT_NAME
from deepeyes.environment import read_settings
from deepeyes.errors import DataFileError, JudgeError
from deepeyes.playing.endpoint import EndpointError
from deepeyes.playing.families import FAMILIES
from deepeyes.selection.choosing import Criteria, choose, parse_range
from deepeyes.selection.keeping import as_table, draw, summary, write_kept
from deepeyes.selection.ledger import MAX_SAMPLES
from deepeyes.selection.rates import RATES_NAME, counts_of, read_rates, write_rates
from deepeyes.selection.run import Run, play_rows
from deepeyes.selection.source import columns_of, find_sources, held_out_pictures, require_same_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.selection.play import Missing


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = Parser(
        prog="bash deepeyes.sh select",
        description="Play a policy on training rows, and keep those that it can learn from.",
        epilog="Exit status: 0 all rows were played and some are kept; 1 trajectories are missing, or nothing is kept; "
        "2 wrong usage; 130 interrupted.",
    )
    add, env = parser.add_argument, os.environ
    add("paths", nargs="+", type=Path, metavar="PATH", help="folders or files that `data --out` wrote")
    add("--out", type=Path, required=True, metavar="DIR", help="what was played, and the kept rows")
    add("--keep", metavar="LOW..HIGH", default="0..1", help="pass rates of kept rows, as 0.1..0.9 (%(default)s)")
    add(
        "--tool-helps",
        type=_share,
        nargs="?",
        const=0.0,
        metavar="SHARE",
        help="of rows with the tool keep those "
        "that were right with a crop, and without the tool in no more than SHARE of the trajectories (0)",
    )
    add(
        "--held-out",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="rows with a picture of these files are left out (default: holdout.parquet beside the rows)",
    )
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--url", help="who plays: a base URL, as http://127.0.0.1:8000/v1")
    who.add_argument("--rates", type=Path, metavar="FILE", help="choose by the rates.parquet of an earlier run")
    add("--model", help="served name (default: the first of /models)")
    add("--family", choices=FAMILIES, help="patch size and box frame (default: by the name)")
    add("--samples", type=_samples, default=8, help="trajectories a row, as in training (%(default)s)")
    add("--plain-samples", type=_samples, help="without the tool, of rows that have it (default: as --samples)")
    add("--temperature", type=float, default=1.0, help="default: %(default)s")
    add("--max-tokens", type=int, default=env.get("MAX_COMPLETION_LENGTH") or 2048, help="of a turn (%(default)s)")
    add("--max-turns", type=int, default=env.get("MAX_TURNS") or 5, help="default: MAX_TURNS, else %(default)s")
    add("--max-pixels", type=int, default=env.get("MAX_PIXELS") or 602112, help="of a view; as in training")
    add("--extra", type=_json_object, help="further fields of every request, as JSON: '{\"min_p\": 0.05}'")
    add("--seed", type=int, default=0, help="of the sampling (%(default)s)")
    add("--concurrency", type=int, default=32, help="trajectories under way (%(default)s)")
    add("--timeout", type=float, default=300.0, help="seconds for one reply (%(default)s)")
    add("--retries", type=int, default=20, help="of a request, with backoff up to 8 s (%(default)s)")
    add("--skip-view-check", action="store_true", help="do not ask whether the server scales our views again")
    add("--json", action="store_true", help="print the numbers as JSON")
    options = parser.parse_args(arguments)
    try:
        options.keep = parse_range(options.keep)
    except ValueError as error:
        parser.error(f"--keep: {error}")
    if options.plain_samples is None:
        options.plain_samples = options.samples
    if options.samples < 1 or options.concurrency < 1:
        parser.error("--samples and --concurrency can't be below 1")
    if options.tool_helps is not None and options.url and not options.plain_samples:
        parser.error("--tool-helps compares with trajectories without the tool; --plain-samples 0 plays none")
    return options


def _samples(text: str) -> int:
    number = int(text)
    if not 0 <= number <= MAX_SAMPLES:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to {MAX_SAMPLES}")
    return number


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text} is no object of JSON, as '{{\"min_p\": 0.05}}'")
    return value


def _share(text: str) -> float:
    share = float(text)
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text} is no share from 0 to 1")
    return share


def run(options: argparse.Namespace) -> int:
    """Does what the command line says and returns the exit status.

    Raises:
        DataFileError: The rows or the rates can't be used.
        EndpointError: The endpoint can't.
        JudgeError: The judge can't.
    """
    sources = find_sources(options.paths)
    options.out.mkdir(parents=True, exist_ok=True)
    missing = None
    if options.rates:
        rates = read_rates(options.rates)
        require_same_rows(sources, rates, options.rates)
    else:
        settings = read_settings(os.environ)
        counts, missing = asyncio.run(play_rows(Run.of(options, sources, settings)))
        rates = write_rates(options.out / RATES_NAME, columns_of(sources, settings, _held_out(options)), counts)
    low, high = options.keep
    criteria = Criteria(low, high, options.tool_helps)
    tool, held_out = (rates.column(name).to_numpy() for name in ("tool", "held_out"))
    kept = choose(counts_of(rates), tool, held_out, criteria)
    written = write_kept(sources, kept, options.out)
    draw(rates, kept, options.out / "rates.png")
    found = {
        "criteria": {"keep": list(options.keep), "tool_helps": options.tool_helps},
        "sources": summary(rates, kept),
        "held_out": int(held_out.sum()),
        "missing": missing.count if missing else 0,
        "written": written,
    }
    (options.out / "choice.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=2) if options.json else _describe(options, found, missing))
    return int(not written or bool(missing and missing.count))


def _held_out(options: argparse.Namespace) -> frozenset[bytes]:
    """Returns the pictures of the held-out rows: of those named, else of those beside the rows."""
    beside = [path / HOLDOUT_NAME for path in options.paths if (path / HOLDOUT_NAME).is_file()]
    return held_out_pictures(options.held_out or beside)


def _describe(options: argparse.Namespace, found: dict[str, Any], missing: Missing | None) -> str:
    lines = [as_table(found["sources"]), ""]
    low, high = options.keep
    rule = f"pass rate {low:g} to {high:g}"
    if options.tool_helps is not None:
        rule += f"; with the tool: right with a crop, and without it in no more than {options.tool_helps:.0%}"
    lines.append(f"Kept: {rule}.")
    if found["held_out"]:
        lines.append(f"Left out: {found['held_out']:,} rows with a picture of the held-out rows.")
    if missing and missing.count:
        lines.append(f"{missing.count:,} trajectories are missing; the same command plays them. The first:")
        lines += [f"  {reason}" for reason in missing.reasons]
    lines += [f"  {options.out / name}: {rows:,} rows" for name, rows in found["written"].items()]
    if not found["written"]:
        lines.append("No row is kept; widen --keep, or leave --tool-helps out.")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; whatever can't be done ends with one line."""
    options = parse(arguments)
    try:
        return run(options)
    except KeyboardInterrupt:
        print("select: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except (DataFileError, ValueError, OSError) as error:
        print(f"select: {error}", file=sys.stderr)
        return 2
    except (EndpointError, JudgeError) as error:
        print(f"select: {error}", file=sys.stderr)
        return 1
