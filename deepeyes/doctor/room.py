"""Disk and memory."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.gpus import billions

if TYPE_CHECKING:
    from deepeyes.doctor.plan import Plan

DEMO_GIGABYTES = {"memory": 6.0, "disk": 3.0}
CHECKPOINT_BYTES = {"full": 14.0, "lora": 0.2}  # a parameter, with the optimizer


def check_disk(directory: Path, needed: float, wanted: float, what: str) -> Finding:
    """Compares free gigabytes with what is needed at least, and with what is wanted."""
    place = next(folder for folder in (directory, *directory.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(place).free / 1e9
    level = Level.ERROR if free < needed else Level.WARNING if free < wanted else Level.OK
    return Finding("disk", level, f"{free:.0f} GB free in {place}; {what} about {wanted:.0f}")


def check_checkpoints(plan: Plan) -> list[Finding]:
    """Tells whether the checkpoints fit on the disk."""
    size = billions(plan.train.get("model")) or 0.1
    one = size * CHECKPOINT_BYTES.get(plan.train.get("tuner_type", "lora"), CHECKPOINT_BYTES["full"])
    kept = plan.train.number("save_total_limit", 2) + 1  # the oldest goes when the new one is whole
    finding = check_disk(Path(plan.train.get("output_dir", "output")), one, one * kept, f"{kept} checkpoints take")
    mend = "" if finding.level is Level.OK else "OUTPUT_DIR=/larger/disk bash deepeyes.sh train"
    return [finding._replace(mend=mend)]


def check_demo_machine() -> list[Finding]:
    """Tells whether the demo has memory and disk."""
    free = psutil.virtual_memory().available / 1e9
    level = Level.OK if free >= DEMO_GIGABYTES["memory"] else Level.WARNING
    text = f"{free:.0f} GB free, {os.cpu_count()} cores; expected {DEMO_GIGABYTES['memory']:.0f} GB or more"
    cache = Path(os.environ.get("DEEPEYES_CACHE") or Path.home() / ".cache").expanduser()
    disk = check_disk(cache, DEMO_GIGABYTES["disk"], DEMO_GIGABYTES["disk"], "the demo takes")
    mend = "" if disk.level is Level.OK else "DEEPEYES_CACHE=/larger/disk bash deepeyes.sh demo"
    return [Finding("memory", level, text), disk._replace(mend=mend)]
