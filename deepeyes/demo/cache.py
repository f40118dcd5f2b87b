"""Keeps what the demo's stages made, each in a folder whose name says what made it, so that a second run reuses it.

What made a stage is its command and settings, this checkout's sources, the versions of the packages, the number of
threads and the instruction set of the processor: the last two decide how sums are rounded, and so what is learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "deepeyes_plugin.py"
PACKAGES = ("ms-swift", "torch", "transformers", "trl", "qwen-vl-utils", "pillow", "numpy")


def cache_directory(env: Mapping[str, str]) -> Path:
    """Find the cache: `DEEPEYES_CACHE`, or a folder in the user's cache."""
    if named := env.get("DEEPEYES_CACHE"):
        return Path(named).expanduser().resolve()
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepeyes-swift"


def source_hash(root: Path) -> str:
    """Hash the plugin and the package of a checkout."""
    digest = hashlib.sha256((root / PLUGIN.name).read_bytes())
    for file in sorted(root.glob("deepeyes/**/*.py")):
        digest.update(f"{file.relative_to(root)}\n".encode() + file.read_bytes())
    return digest.hexdigest()


def instruction_set(env: Mapping[str, str]) -> list[str]:
    """Give the set that torch uses on this processor, and what the user held torch and oneDNN to."""
    import torch  # noqa: PLC0415 - two seconds, which `--help` does without

    own = torch.backends.cpu.get_cpu_capability()
    return [own, env.get("ATEN_CPU_CAPABILITY", ""), env.get("ONEDNN_MAX_CPU_ISA", "")]


class Cache(NamedTuple):
    """Results of stages: the directory that holds them, and what is told of each that is reused."""

    directory: Path
    tell: Callable[[str], None]

    def stage(self, name: str, made_by: object, make: Callable[[Path], None]) -> Path:
        """Give the folder of a stage, and have it filled if nothing like it was made before.

        What it is `made_by`, beside sources, packages and machine, is JSON. A folder that could not be filled is kept
        apart, for its logs, and is never reused.
        """
        versions = [version(package) for package in PACKAGES]
        threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
        all_of_it = [name, made_by, source_hash(ROOT), versions, threads, instruction_set(os.environ)]
        key = hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.directory / f"{name}-{key}"
        if folder.is_dir():
            self.tell(f"reused from {folder}")
            return folder
        working = folder.with_suffix(".unfinished")
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        make(working)
        return working.rename(folder)
