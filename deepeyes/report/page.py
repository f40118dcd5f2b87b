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
from typing import Any

from deepeyes.report.curves import advantages, make_curves
from deepeyes.report.gallery import Gallery, pictures_of
from deepeyes.report.logs import find_run, read_completions, read_generations, read_log
from deepeyes.report.traces import MAX_TRAJECTORIES, Record, ReportError, choose, read_traces

TEMPLATE = Path(__file__).with_name("page.html")


def make_page(
    title: str,
    curves: list[dict[str, Any]],
    records: list[Record],
    notes: list[str],
    generations: int | None = None,
) -> str:
    """Fill the template.

    Args:
        title: Name of the run.
        curves: See `make_curves`.
        records: The trajectories to show, those of a group next to each other.
        notes: What a reader must know of where this comes from.
        generations: How many a group has, where that is known; else as many as the ranks that recorded it had.
    """
    gallery = Gallery([picture for record in records for picture in pictures_of(record) if picture])
    prompts: dict[str, int] = {}
    groups: dict[Any, dict[str, Any]] = {}
    trajectories: list[dict[str, Any]] = []
    for record in records:
        prompt = prompts.setdefault(json.dumps(record["prompt"]), len(prompts))
        group = groups.setdefault(
            record["group"],
            {
                **{name: record[name] for name in ("step", "source", "row", "question", "reference", "view_size")},
                "prompt": prompt,
                "members": [],
                "expected": {},
            },
        )
        group["members"].append(len(trajectories))
        group["expected"][record["rank"]] = record["group_size"]
        images = [gallery.place(picture) for picture in pictures_of(record)]
        delivered = max(0, len(images) - record["num_zooms"])
        crops = iter(images[delivered:])
        zooms = [{**zoom, "image": None if zoom["error"] else next(crops, None)} for zoom in record["zooms"]]
        names = ("turns", "observations", "answer", "verdict", "score", "weights", "num_zooms", "num_zoom_errors")
        trajectories.append(
            {
                **{name: record[name] for name in names},
                "zooms": zooms,
                "views": images[:delivered],
                "advantage": record.get("advantage"),
            }
        )
    for group in groups.values():
        members = [trajectories[place] for place in group["members"]]
        expected = group.pop("expected").values()
        group["missing"] = 0 if None in expected else max(generations or 0, sum(expected)) - len(members)
        rewards = [member["score"]["total"] for member in members]
        if all(member["advantage"] is None for member in members) and None not in rewards:
            for member, advantage in zip(members, advantages(rewards), strict=True):
                member["advantage"] = advantage
    data = {
        "title": title,
        "notes": notes,
        "curves": curves,
        "prompts": [json.loads(prompt) for prompt in prompts],
        "images": gallery.sizes,
        "groups": list(groups.values()),
        "trajectories": trajectories,
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    code = template.partition("<script>")[2].partition("</script>")[0]
    parts = {
        "TITLE": _escape(f"{title} - DeepEyes report"),
        "CODE_HASH": "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode(),
        "DATA": script_json(data),
        "IMAGES": "\n".join(
            f'<script type="text/plain" id="image-{place}">{uri}</script>' for place, uri in enumerate(gallery.uris)
        ),
    }
    return re.sub(r"\{\{([A-Z_]+)\}\}", lambda match: parts[match[1]], template)


def script_json(value: object) -> str:
    r"""Encode for a script element: `<` becomes \u003c, so that no text can end the element or open another."""
    text = json.dumps(_finite(value), separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not know, by None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _escape(text: str) -> str:
    return html.escape(text).encode("ascii", "xmlcharrefreplace").decode()


def write_report(run_dir: Path, out: Path | None = None, limit: int = MAX_TRAJECTORIES) -> Path:
    """Write the page of the newest run in or below `run_dir`.

    Args:
        run_dir: Folder of a run, or of several.
        out: The page; by default `report.html` in `run_dir`.
        limit: Trajectories in the page at the most, or a little more so that groups are whole.

    Returns:
        Path of the page.

    Raises:
        ReportError: There is nothing to report on.
    """
    run_dir = run_dir.expanduser().resolve()
    found = find_run(run_dir)
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
    if not records and not log:
        raise ReportError(f"{', '.join(map(str, found.values()))} is empty; nothing was logged yet")
    shown = choose(records, limit)
    if len(shown) < len(records):
        notes.append(
            f"The page shows {len(shown):,} of {len(records):,} recorded trajectories: whole groups, spread evenly "
            "over the steps. --limit changes it. The curves are of all."
        )
    several = len({record["rank"] for record in records}) > 1  # one rank alone has all of a group
    generations = read_generations(found["log"].parent) if several and "log" in found else None
    page = make_page(run_dir.name, make_curves(log, records), shown, notes, generations)
    out = out or run_dir / "report.html"
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(out)
    return out
