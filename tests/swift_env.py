"""Python environments of other versions of ms-swift, made by uv on the fly and kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Sequence

ROOT = Path(__file__).resolve().parent.parent
COMMON = (
    "torch==2.11.0",
    "torchvision==0.26.0",
    "math-verify",
    "msgspec",
    "pydantic-settings",
    "cachetools",
    "json-repair",
)
VERSIONS = {
    "3.7.3": ("ms-swift==3.7.3", "transformers<4.57", "trl<0.21", "qwen-vl-utils==0.0.11", "setuptools<80"),
    "3.12.6": ("ms-swift==3.12.6", "transformers<4.58", "qwen-vl-utils==0.0.14", "setuptools<80"),
    "4.5.2": ("ms-swift==4.5.2", "qwen-vl-utils==0.0.14", "setuptools<80"),
    "4.6.0": (),  # the environment that runs the tests
}
WITH_GPUS = "4.6.0 with Megatron and DeepSpeed"
PACKAGES = VERSIONS | {
    WITH_GPUS: ("ms-swift==4.6.0", "qwen-vl-utils==0.0.14", "setuptools<80", "megatron-core==0.16.1", "deepspeed")
}


def python_of(version: str) -> Path:
    """Returns a Python that has this version of ms-swift, installing it at the first call.

    Args:
        version: A key of `PACKAGES`.
    """
    packages = PACKAGES[version]
    if not packages:
        return Path(sys.executable)
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepeyes" / "swift"
    key = hashlib.sha256(repr((packages, COMMON, sys.version_info[:2])).encode()).hexdigest()[:8]
    directory = cache / f"{version.replace(' ', '-')}-{key}"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{directory.name}.lock"):  # two processes of pytest may want it
        if not (directory / "ready").exists():
            install(directory, packages)
    return directory / "bin" / "python"


def install(directory: Path, packages: Sequence[str]) -> None:
    """Makes an environment."""
    uv = shutil.which("uv") or str(ROOT / ".uv" / "bin" / "uv")
    python = directory / "bin" / "python"
    subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, directory], check=True)
    subprocess.run([uv, "pip", "install", "--quiet", "--python", python, *COMMON, *packages], check=True)
    (directory / "ready").touch()


def run_in(version: str, script: Path, *arguments: str | Path) -> Any:
    """Runs a script under a version of ms-swift and returns the JSON in the last line of its output."""
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "DEEPEYES_JUDGE": "rule"}
    done = subprocess.run(
        [python_of(version), script, *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (
        f"{script.name} under ms-swift {version}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
    return json.loads(done.stdout.splitlines()[-1])
