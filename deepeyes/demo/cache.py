"""Keeps what the demo's stages made, each in a folder whose name says what made it, so that a second run reuses it.

What made a stage is its command, its settings, the sources behind it, the versions of the packages, the number of
threads and the instruction set of the processor: the last two decide how sums are rounded, and so what is learned.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "deepeyes"
PLUGIN = ROOT / "deepeyes_plugin.py"
ROOMS = ("calls", "images", "judging")
"""Folders of the package that the plugin imports."""
PLUGIN_FILES = (
    PLUGIN.name,
    *sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("*.py")),
    *sorted(str(path.relative_to(PACKAGE)) for room in ROOMS for path in PACKAGE.glob(f"{room}/*.py")),
)
"""The plugin and the parts of the package that it stands on."""
TINY_MODEL_FILES = tuple(sorted(str(path.relative_to(PACKAGE)) for path in PACKAGE.glob("tiny_model/*.py")))
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


def source_hash(*files: str) -> str:
    """Hash source files, by their paths in the package or, for the plugin, beside it."""
    digest = hashlib.sha256()
    for name in files:
        digest.update((PLUGIN if name == PLUGIN.name else PACKAGE / name).read_bytes())
    return digest.hexdigest()


def add_generate(checkpoint: Path) -> None:
    """Give a checkpoint the demo's `generate`, and make it draw from the whole softmax, which is what GRPO trains.

    swift hands no `--top_k 0` on to Transformers, and that takes 50 where nobody says otherwise.
    """
    (checkpoint / "custom_generate").mkdir(exist_ok=True)
    shutil.copy(PACKAGE / "demo" / "generate.py", checkpoint / "custom_generate")
    config = checkpoint / "generation_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text(encoding="utf-8")) | {"top_k": 0}, indent=2), encoding="utf-8"
    )


class Cache:
    """Results of stages, each in a folder whose name says what made it."""

    def __init__(self, directory: Path, tell: Callable[[str], None]) -> None:
        """Open a cache.

        Args:
            directory: Where; made when a stage first writes.
            tell: Told what is reused.
        """
        self.directory = directory
        self._tell = tell

    def stage(self, name: str, made_by: object, make: Callable[[Path], None]) -> Path:
        """Give the folder of a stage, making it if nothing like it was made before.

        Args:
            name: Name of the stage.
            made_by: All that the result follows from; anything that JSON can hold.
            make: Fills a new folder. When it fails, the folder is kept apart, for its logs, and is never reused.
        """
        versions = [version(package) for package in PACKAGES]
        threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))
        all_of_it = [name, made_by, versions, threads, instruction_set(os.environ)]
        key = hashlib.sha256(json.dumps(all_of_it, sort_keys=True).encode()).hexdigest()[:12]
        folder = self.directory / f"{name}-{key}"
        if folder.is_dir():
            self._tell(f"reused from {folder}")
            return folder
        working = self.directory / f"{name}-{key}.unfinished"
        shutil.rmtree(working, ignore_errors=True)
        working.mkdir(parents=True)
        make(working)
        working.rename(folder)
        return folder
