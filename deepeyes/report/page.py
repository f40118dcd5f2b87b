"""Makes one HTML page of a run: its curves or its accuracies, and its trajectories with images, boxes and rewards."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import math
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.report.curves import divided_by_deviation, make_curves, overlay
from deepeyes.report.evaluations import name_runs, read_evaluations, read_summary
from deepeyes.report.grouping import Groups
from deepeyes.report.logs import find_run, read_arguments, read_completions, read_log
from deepeyes.report.traces import Record, ReportError, choose, read_traces
from deepeyes.traces import MAX_TRAJECTORIES

if TYPE_CHECKING:
    from collections.abc import Sequence

ASSETS = Path(__file__).with_name("assets")
CODE = ("core", "overview", "list", "trajectory", "group", "start")  # in this order


def make_page(  # noqa: PLR0913 - what a page is made of
    title: str,
    curves: list[dict[str, Any]],
    records: list[Record],
    notes: list[str],
    *,
    generations: int | None = None,
    divided: bool | None = True,
    evaluation: dict[str, Any] | None = None,
    watch: int | None = None,
) -> str:
    """Fills the template.

    Args:
        title: Name of the run.
        curves: See `make_curves`.
        records: The trajectories to show, those of a group next to each other.
        notes: What a reader must know of where this comes from.
        generations: How many a group has, where that is known; else as many as the ranks that recorded it had.
        divided: See `divided_by_deviation`.
        evaluation: See `read_evaluations`; None for a training.
        watch: Seconds after which the page looks for a newer one, where nobody touches it.
    """
    made = Groups(records, generations, evaluation=evaluation is not None, divided=divided)
    data = {
        "title": title,
        "notes": notes,
        "curves": curves,
        "evaluation": evaluation,
        "divided": divided,
        "watch": watch,
        "prompts": made.prompts,
        "images": made.gallery.sizes,
        "groups": made.groups,
        "trajectories": made.trajectories,
    }
    code = "\n".join((ASSETS / f"{name}.js").read_text(encoding="utf-8") for name in CODE)
    parts = {
        "TITLE": _escape(f"{title} - DeepEyes report"),
        "CODE_HASH": "sha256-" + base64.b64encode(hashlib.sha256(f"\n{code}".encode()).digest()).decode(),
        "STYLE": (ASSETS / "style.css").read_text(encoding="utf-8"),
        "CODE": code,
        "DATA": script_json(data),
        "IMAGES": "\n".join(
            f'<script type="text/plain" id="image-{place}">{uri}</script>'
            for place, uri in enumerate(made.gallery.uris)
        ),
    }
    template = (ASSETS / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda match: parts[match[1]], template)


def script_json(value: object) -> str:
    r"""Encodes for a script element: `<` becomes \u003c, so that no text can end the element or open another."""
    text = json.dumps(_finite(value), separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """Replaces NaN and infinities, which JSON does not know, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _escape(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def write_report(
    run_dir: Path,
    out: Path | None = None,
    limit: int = MAX_TRAJECTORIES,
    others: Sequence[Path] = (),
    watch: int | None = None,
) -> Path:
    """Writes the page of the newest run in or below `run_dir`.

    Args:
        run_dir: Folder of a run, or of several.
        out: The page; by default `report.html` in `run_dir`.
        limit: Trajectories in the page at the most, or a little more so that groups are whole.
        others: Folders of further runs that are shown over it: their curves, or their answers to the same questions.
        watch: See `make_page`.

    Returns:
        Path of the page.

    Raises:
        ReportError: There is nothing to report on.
    """
    run_dir = run_dir.expanduser().resolve()
    found = find_run(run_dir)
    rest = [folder.expanduser().resolve() for folder in others]
    if "trace" in found and read_summary(found["trace"]) is not None:
        page = _evaluation_page(
            [found["trace"], *(find_run(folder).get("trace", folder) for folder in rest)], limit, watch
        )
    else:
        page = _training_page(run_dir, found, rest, limit, watch)
    out = out or run_dir / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(out)
    return out


def _evaluation_page(folders: list[Path], limit: int, watch: int | None) -> str:
    if missing := [folder for folder in folders if read_summary(folder) is None]:
        raise ReportError(f"{missing[0]} holds no finished evaluation; an evaluation is shown over evaluations only")
    records, evaluation, notes = read_evaluations(folders)
    shown = choose(records, limit)
    return make_page(
        " and ".join(name_runs(folders)), [], shown, notes + _chosen(shown, records), evaluation=evaluation, watch=watch
    )


def _training_page(run_dir: Path, found: dict[str, Path], others: list[Path], limit: int, watch: int | None) -> str:
    log, records, notes = _read_training(run_dir, found)
    if not records and not log:
        raise ReportError(f"{', '.join(map(str, found.values()))} is empty; nothing was logged yet")
    shown = choose(records, limit)
    notes += _chosen(shown, records)
    several = len({record["rank"] for record in records}) > 1  # one rank alone has all of a group
    arguments = read_arguments(found["log"].parent) if "log" in found else {}
    curves = make_curves(log, records)
    for folder in others:
        other = find_run(folder)
        if "trace" in other and read_summary(other["trace"]) is not None:
            raise ReportError(f"{folder} holds an evaluation; a training is shown over trainings only")
        other_log, other_records, _ = _read_training(folder, other)
        overlay(curves, make_curves(other_log, other_records), folder.name)
    if others:
        names = ", ".join(one.name for one in others)
        notes.append(f"The trajectories are of {run_dir.name}; the curves of {names} lie over its own.")
    return make_page(
        run_dir.name,
        curves,
        shown,
        notes,
        generations=arguments.get("num_generations") if several else None,
        divided=divided_by_deviation(arguments),
        watch=watch,
    )


def _read_training(run_dir: Path, found: dict[str, Path]) -> tuple[dict[str, Any], list[Record], list[str]]:
    """Returns the log of a run, its trajectories and notes on where they come from."""
    log = read_log(found["log"]) if "log" in found else {}
    records = read_traces(found["trace"]) if "trace" in found else []
    read = [path for name, path in found.items() if name != "completions" or not records]
    notes = [f"Made of {' and '.join(os.path.relpath(path, run_dir.parent) for path in read)}"]
    if not records and "completions" in found:
        records = read_completions(found["completions"])
        notes.append(
            "This run wrote no trace, so there are no images, boxes, references or judge's verdicts. "
            "Train with DEEPEYES_TRACE_DIR=<folder> to see them."
        )
    elif not records:
        notes.append("No trajectories were recorded. Train with DEEPEYES_TRACE_DIR=<folder> to see them.")
    return log, records, notes


def _chosen(shown: Sequence[Record], records: Sequence[Record]) -> list[str]:
    if len(shown) == len(records):
        return []
    told = f"The page shows {len(shown):,} of {len(records):,} recorded trajectories: whole groups, spread evenly "
    return [f"{told}over the steps. --limit changes it. The curves are of all."]
