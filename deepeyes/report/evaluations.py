"""Evaluations as the page shows them: accuracy by category, and two runs question by question."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deepeyes.report.traces import read_traces

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from deepeyes.report.traces import Record

SHOWN = ("questions", "answers", "accuracy", "low", "high", "chance", "zooms", "no_answer", "yes_no")
NOTED = ("protocol", "tool", "max_turns", "max_pixels", "max_tokens", "temperature", "crop_source", "options", "judge")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Returns the `report.json` of an evaluation, or None where a folder holds none."""
    try:
        found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and "scores" in found and "categories" in found else None


def name_runs(folders: Sequence[Path]) -> list[str]:
    """Names runs by their folders, with a letter where there are several."""
    if len(folders) == 1:
        return [folders[0].name]
    return [f"{chr(ord('A') + place)}: {folder.name}" for place, folder in enumerate(folders)]


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def read_evaluations(folders: Sequence[Path]) -> tuple[list[Record], dict[str, Any], list[str]]:
    """Reads the trajectories and figures of one evaluation or several of the same benchmark.

    Returns:
        The records, those of one question next to each other; what the page shows above them; and notes.
    """
    records: list[Record] = []
    runs, faults = [], []
    told: dict[str, list[str]] = {}
    for name, folder in zip(name_runs(folders), folders, strict=True):
        summary = read_summary(folder) or {}
        blocks = {**summary["categories"], **({"all": summary["all"]} if summary["all"] else {})}
        runs.append(
            {"name": name, "blocks": {key: {part: block.get(part) for part in SHOWN} for key, block in blocks.items()}}
        )
        letter = name.partition(":")[0]
        prefix = f"{letter}: " if len(folders) > 1 else ""
        faults += [prefix + fault for fault in summary.get("faults", ())]
        settings = ", ".join(f"{key.replace('_', ' ')} {_word(summary[key])}" for key in NOTED if key in summary)
        for note in (f"{summary['bench']}, {summary['model']}, {settings}", *summary["notes"]):
            told.setdefault(note, []).append(letter)
        played = read_traces(folder)
        records += [{**record, "group": record["question_group"], "run_name": name} for record in played]
    notes = [note if len(of) == len(folders) else f"{' and '.join(of)}: {note}" for note, of in told.items()]
    order = {group: place for place, group in enumerate(dict.fromkeys(record["group"] for record in records))}
    records.sort(key=lambda record: order[record["group"]])
    names = sorted({name for run in runs for name in run["blocks"]}, key=lambda name: (name == "all", name))
    return records, {"runs": runs, "categories": names, "faults": faults}, notes
