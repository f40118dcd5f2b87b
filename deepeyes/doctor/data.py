"""The first rows of every file that would be trained on."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.dataset.joining import schema_conflict
from deepeyes.dataset.loading import load
from deepeyes.dataset.pictures import look_at_rows, pictures_of
from deepeyes.dataset.reading import DATA_SUFFIXES, open_parquet, read_rows
from deepeyes.dataset.rows import row_problems
from deepeyes.doctor.findings import Finding, Level
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepeyes.doctor.plan import Plan


def check_data(plan: Plan, scoring_of: Callable[[object], object]) -> list[Finding]:
    """Looks at the first rows of every file that would be trained on."""
    mend = "bash deepeyes.sh data data --download"
    names = [name.partition("#")[0] for name in plan.train.options.get("dataset", ())]
    if not names:
        return [Finding("data", Level.ERROR, "no dataset is named", mend)]
    registered = registered_files(plan.train.get("custom_dataset_info"))
    findings, there = [], []
    for name in names:
        path = Path(registered.get(name, name)).expanduser()
        if path.suffix not in DATA_SUFFIXES:
            findings.append(Finding("data", Level.WARNING, f"{name} is left to swift: no parquet or jsonl file"))
        elif not path.is_file():
            findings.append(
                Finding(
                    "data",
                    Level.ERROR,
                    f"{path} is missing",
                    f"bash deepeyes.sh data {path.parent} --download, or set DATA_DIR or DATASET",
                )
            )
        else:
            there.append(path)
            findings.append(_check_rows(path, scoring_of))
    if conflict := schema_conflict(there):
        mend = (
            f"{shlex.join(['bash', 'deepeyes.sh', 'data', *map(str, there), '--out', 'prepared'])}  # writes them alike"
        )
        findings.append(Finding("data", Level.ERROR, conflict, mend))
    return findings


def registered_files(info: str) -> dict[str, str]:
    """Returns the files that a dataset_info.json gives names to."""
    try:
        entries = json.loads(Path(info).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {
        entry["dataset_name"]: str(Path(info).parent / entry["dataset_path"])
        for entry in entries
        if isinstance(entry, dict) and {"dataset_name", "dataset_path"} <= entry.keys()
    }


def _check_rows(path: Path, scoring_of: Callable[[object], object]) -> Finding:
    mend = f"bash deepeyes.sh data {path}"
    try:
        count = f"{open_parquet(path)[1]:,} rows" if path.suffix == ".parquet" else "JSON lines"
        rows = next(read_rows(path), [])
    except DataFileError as error:
        return Finding("data", Level.ERROR, str(error), mend)
    loaded = [load(row) if isinstance(row, dict) else None for row in rows]
    problems = [problem for one in loaded for problem in row_problems(one.row if one else None, scoring_of)]
    if not problems:
        facts = look_at_rows([pictures_of(one.row) for one in loaded if one])
        problems = [fact.problem for fact in facts if fact.problem]
    mended = [remark for one in loaded if one for remark in one.mended]
    if mended and not problems:
        return Finding(
            "data", Level.ERROR, f"{path}: {mended[0]}", f"{mend} --out prepared  # then DATASET=prepared/..."
        )
    if not rows or problems:
        found = problems[0] if problems else "no rows"
        return Finding(
            "data", Level.ERROR if not rows or len(problems) >= len(rows) else Level.WARNING, f"{path}: {found}", mend
        )
    return Finding("data", Level.OK, f"{path}: {count}, the first {len(rows)} are sound")
