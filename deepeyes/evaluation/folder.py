"""The folder of a run: its journal, and the settings that all of its answers share."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.errors import UsageError
from deepeyes.playing.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


def say(text: str) -> None:
    """Tells the user what is going on, beside the results."""
    print(f"eval: {text}", file=sys.stderr, flush=True)


def open_journal(out: Path, *, fresh: bool) -> Journal:
    """Opens the journal of a run; a fresh one takes the place of an earlier run, which is renamed."""
    journal = Journal(out)
    if fresh and (out / "run.json").is_file():
        aside = out.with_name(f"{out.name}-until-{time.strftime('%Y%m%d-%H%M%S')}")
        out.rename(aside)
        journal.close()
        journal = Journal(out)
        say(f"the earlier run is in {aside} now")
    return journal


def earlier_model(out: Path | None) -> str | None:
    """Returns the model of a run that is gone on with, which may need no endpoint any more."""
    path = out / "run.json" if out else None
    if path is None or not path.is_file():
        return None
    return str(json.loads(path.read_text(encoding="utf-8"))["settings"]["model"])


def same_settings(out: Path, settings: dict[str, Any]) -> tuple[float, float]:
    """Notes the settings of a new run; refuses to go on with a run of others.

    Returns:
        Seconds that it took so far, and when it was first started.

    Raises:
        UsageError: The folder holds a run of other settings.
    """
    path = out / "run.json"
    if not path.is_file():
        now = round(time.time(), 3)
        write_json(path, {"settings": settings, "started": now, "wall_seconds": 0.0})
        return 0.0, now
    earlier = json.loads(path.read_text(encoding="utf-8"))
    found = earlier["settings"]
    roots = found.get("root"), settings["root"]
    if None in roots:  # not every endpoint says it, nor at any time
        settings["root"] = found["root"] = roots[0] or roots[1]
    differing = [name for name in settings if found.get(name) != settings[name]]
    if differing:
        listed = "; ".join(f"{name}: {found.get(name)!r:.80} then, {settings[name]!r:.80} now" for name in differing)
        raise UsageError(
            f"{out} holds a run with other settings ({listed}). Give this one its own folder with --out, or set the "
            "earlier one aside with --fresh"
        )
    return float(earlier["wall_seconds"]), float(earlier["started"])


def write_json(path: Path, value: object) -> None:
    """Writes a JSON file whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(path)
