"""Keeps what the demo's stages made, each in a folder whose name says what made it, so that a second run reuses it.

What made a stage is its command and settings, this checkout's sources, the versions of the packages, the number of
threads and the instruction set of the processor: the last two decide how sums are rounded, and so what is learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "deepeyes_plugin.py"
PACKAGES = ("ms-swift", "torch", "transformers", "trl", "qwen-vl-utils", "pillow", "numpy")


def instruction_set(env: Mapping[str, str]) -> list[str]:
    """Give what decides how torch rounds on this processor: the set that it uses, and what the user held it to.

    Args:
        env: Usually `os.environ`; torch reads `ATEN_CPU_CAPABILITY`, and oneDNN `ONEDNN_MAX_CPU_ISA`.
    """
    import torch  # noqa: PLC0415 - two seconds, which `--help` does without

    held = [env.get(name, "") for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")]
    return [torch.backends.cpu.get_cpu_capability(), *held]


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


@dataclass(frozen=True, slots=True)
class Cache:
    """Results of stages, each in a folder whose name says what made it.

    Attributes:
        directory: Where; made when a stage first writes.
        tell: Told what is reused.
    """

    directory: Path
    tell: Callable[[str], None]

    def stage(self, name: str, made_by: object, make: Callable[[Path], None]) -> Path:
        """Give the folder of a stage, making it if nothing like it was made before.

        Args:
            name: Name of the stage.
            made_by: What the result follows from, beside all that `source_hash` and this machine decide; as JSON.
            make: Fills a new folder. When it fails, the folder is kept apart, for its logs, and is never reused.
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
        working.rename(folder)
        return folder
