"""Reading what swift writes: its log, its completions, and which run in a folder is the newest."""

from __future__ import annotations

import json
import math
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.report.traces import Record, ReportError, read_jsonl

if TYPE_CHECKING:
    from deepeyes.report.curves import Points

TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n?|\Z)", re.DOTALL)
THINK = re.compile(r"<think>.*?</think>", re.DOTALL)
ANSWER = re.compile(r".*<answer>(.*?)</answer>", re.DOTALL)
"""The last one that is complete."""
VISION = re.compile(r"<\|vision_start\|>.*?<\|vision_end\|>|<image>", re.DOTALL)


def read_completions(path: Path) -> list[Record]:
    """Read swift's `completions.jsonl` into the records of `read_traces`, as far as it goes.

    It holds no images, boxes, sources or references, and no verdict but the accuracy reward. At the end of a run swift
    writes the last table once more.
    """
    records = []
    generations = read_arguments(path.parent).get("num_generations")
    tables = list(read_jsonl(path))
    for table in [table for before, table in zip([None, *tables], tables, strict=False) if table != before]:
        columns = {name: values for name, values in table.items() if isinstance(values, list)}
        for number, values in enumerate(zip(*columns.values(), strict=False)):
            row = dict(zip(columns, values, strict=True))
            messages = [match.groups() for match in TURN.finditer(row["prompt"])] or [("user", row["prompt"])]
            if messages[-1] == ("assistant", ""):
                messages.pop()
            length = next((place for place, (role, _) in enumerate(messages) if role == "assistant"), len(messages))
            prompt, rest = messages[:length], messages[length:]
            observations = [VISION.sub("<image>", text) for role, text in rest if role != "assistant"]
            rewards = {name: row.get(f"DeepEyes{name.capitalize()}") for name in ("accuracy", "format", "tool")}
            correct = None if rewards["accuracy"] is None else rewards["accuracy"] > 0
            answer = ANSWER.search(THINK.sub("", row["completion"]))
            question = VISION.sub("", prompt[-1][1]).strip()
            place = number // generations if generations else 0 if question else number
            step = int(row["step"]) if "step" in row else int(row["gen_step"]) + 1  # as Megatron's trainer counts
            records.append(
                {
                    "step": step,
                    "group": (step, place, json.dumps(prompt)),
                    "group_size": None,
                    "rank": "",
                    "source": None,
                    "row": None,
                    "question": question.split("\n")[0],
                    "reference": None,
                    "answer": answer and answer[1].strip(),
                    "verdict": {"correct": correct, "source": None},
                    "score": {**rewards, "total": row.get("DeepEyesReward")},
                    "weights": None,
                    "advantage": row.get("advantages"),
                    "prompt": [{"role": role, "content": VISION.sub("<image>", text)} for role, text in prompt],
                    "turns": [text for role, text in rest if role == "assistant"] + [row["completion"]],
                    "observations": observations,
                    "num_zooms": sum("<image>" in text for text in observations),
                    "num_zoom_errors": sum("<image>" not in text for text in observations),
                    "zooms": [],
                    "view_size": None,
                    "images": [],
                }
            )
    return sorted(records, key=lambda record: record["group"])


def read_arguments(folder: Path) -> dict[str, Any]:
    """Read the arguments of a run from swift's `args.json`; none where there is no such file."""
    try:
        found = json.loads((folder / "args.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_log(path: Path) -> dict[str, Points]:
    """Read the curves of swift's `logging.jsonl`, by their names there; a step that was logged twice counts once."""
    curves: dict[str, dict[int, float]] = defaultdict(dict)
    for line in read_jsonl(path):
        if "train_runtime" in line or "global_step/max_steps" not in line:
            continue  # the summary at the end
        step = int(str(line["global_step/max_steps"]).partition("/")[0])
        for name, value in line.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                curves[name][step] = float(value)
    return {name: sorted(points.items()) for name, points in curves.items()}


def find_run(run_dir: Path) -> dict[str, Path]:
    """Find the files of the newest run in or below a folder.

    Returns:
        Any of `trace` (the folder of the trace files), `log` (logging.jsonl), `completions` (completions.jsonl).

    Raises:
        ReportError: The folder does not exist or holds none of them.
    """
    if not run_dir.is_dir():
        raise ReportError(f"{run_dir} is not a folder; give the folder of a run, such as swift's --output_dir")
    traces: dict[Path, float] = {}
    logs: dict[Path, float] = {}
    for folder, _, names in os.walk(run_dir):
        for name in names:
            path = Path(folder, name)
            if re.fullmatch(r"trajectories-.*\.jsonl", name) and path.stat().st_size:
                traces[path.parent] = max(traces.get(path.parent, 0), path.stat().st_mtime)
            elif name in ("logging.jsonl", "completions.jsonl"):
                logs[path.parent] = max(logs.get(path.parent, 0), path.stat().st_mtime)
    if not traces and not logs:
        raise ReportError(
            f"{run_dir} holds no trajectories-*.jsonl, logging.jsonl or completions.jsonl; "
            "train with DEEPEYES_TRACE_DIR=<folder>, or give the folder that swift trained into"
        )
    trace, log = max(traces, key=traces.__getitem__, default=None), max(logs, key=logs.__getitem__, default=None)
    if trace and log:
        near = _nearest_log(trace, logs)
        begun = near / "args.json"  # swift writes it when it starts
        stale = begun.exists() and traces[trace] < begun.stat().st_mtime <= logs[near]
        if (near != log and logs[log] > traces[trace]) or (stale and not trace.is_relative_to(near)):
            trace = None  # a newer run, which wrote no trace
        else:
            log = near
    found = {"trace": trace, "log": log and log / "logging.jsonl", "completions": log and log / "completions.jsonl"}
    return {name: path for name, path in found.items() if path and path.exists()}


def _nearest_log(trace: Path, logs: dict[Path, float]) -> Path:
    """Give the folder of the log that a trace belongs to: the nearest in the tree, and of those the newest."""

    def shared(folder: Path) -> int:
        return len(Path(os.path.commonpath([str(folder), str(trace)])).parts)

    return max(logs, key=lambda folder: (shared(folder), logs[folder]))
