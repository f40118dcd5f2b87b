"""The GPUs: whether they are there, and have room for the model by estimate."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from deepeyes.doctor.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepeyes.doctor.plan import Command, Plan

# What a GPU needs, in gigabytes. Estimates on the safe side: they end in a warning, never in an error.
TRAIN_BYTES = {"full": 16.0, "lora": 2.0}  # a parameter: bf16 weights and gradients, fp32 master and Adam; frozen bf16
TRAIN_EXTRA, SERVE_EXTRA = 20.0, 6.0  # activations of a long trajectory; caches
SERVE_FACTOR = 1.1  # buffers beside the weights


class Gpu(NamedTuple):
    """A GPU as nvidia-smi lists it; memory in gigabytes."""

    name: str
    total: float
    used: float


def list_gpus() -> dict[int, Gpu]:
    """Returns the GPUs of this machine by number; none where nvidia-smi does not answer."""
    query = ["nvidia-smi", "--query-gpu=index,name,memory.total,memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()  # noqa: S603 - our own words
        rows = [[part.strip() for part in line.split(",")] for line in lines]
        return {int(index): Gpu(name, float(total) / 1024, float(used) / 1024) for index, name, total, used in rows}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


def billions(model: str) -> float | None:
    """Returns a model's parameters in billions, from its name or else its weights on disk, if either tells."""
    sizes = re.findall(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", Path(model).name.replace("_", "-").lower())
    if sizes:
        return float(sizes[0])
    weights = [file.stat().st_size for file in Path(model).expanduser().glob("*.safetensors")]
    return sum(weights) / 2e9 if weights else None


def weight_bytes(model: str) -> float:
    """Returns bytes a parameter of a served model, from its name."""
    for pattern, size in (("awq|gptq|int4|4bit", 0.65), ("fp8|int8|w8a8", 1.05)):
        if re.search(pattern, model.lower()):
            return size
    return 2.0


def check_gpus(role: str, variable: str, gpus: Sequence[int], needed: float | None) -> list[Finding]:
    """Tells whether GPUs are there and have room.

    Args:
        role: Who wants them.
        variable: The setting that names them.
        gpus: Their numbers; none means the CPU.
        needed: Gigabytes on each, by estimate; None where the model's size is not known.
    """
    check = f"gpus for {role}"
    if not gpus:
        return [Finding(check, Level.OK, "none are wanted: it runs on the CPU, which is for tests and tiny models")]
    there = list_gpus()
    if missing := [gpu for gpu in gpus if gpu not in there]:
        found = f"this machine has {len(there)}" if there else "nvidia-smi lists none"
        other = "JUDGE_MODEL: bash deploy_judge.sh --help" if _is_judge(variable) else "LAYOUT: bash deepeyes.sh help"
        mend = f"{variable}=..., or another {other}"
        return [Finding(check, Level.ERROR, f"GPU {', '.join(map(str, missing))} is wanted, but {found}", mend)]
    room = {gpu: there[gpu].total - there[gpu].used for gpu in gpus}
    tight = min(room, key=lambda gpu: room[gpu])
    text = f"{len(gpus)} x {there[gpus[0]].name}, {room[tight]:.0f} of {there[tight].total:.0f} GB free on GPU {tight}"
    if needed is None:
        return [Finding(check, Level.OK, f"{text}; the size of the model is not known")]
    if room[tight] < needed:
        less = "a quantized JUDGE_MODEL" if _is_judge(variable) else "a smaller model, TUNER=lora"
        mend = f"nvidia-smi  # shows who holds it; or more {variable}, {less}"
        return [Finding(check, Level.WARNING, f"{text}; about {needed:.0f} GB are needed", mend)]
    return [Finding(check, Level.OK, f"{text}, about {needed:.0f} needed")]


def _is_judge(variable: str) -> bool:
    return variable == "JUDGE_GPUS"


def _check_npus() -> list[Finding]:
    return [Finding("npus", Level.WARNING, "Ascend NPUs are not looked at", "npu-smi info")]


def check_train_gpus(plan: Plan) -> list[Finding]:
    """Looks at the GPUs of the trainer, and whether the rollout server of the same machine wants one of them."""
    if plan.train.on_npus:
        return _check_npus()
    size, tuner, gpus = billions(plan.train.get("model")), plan.train.get("tuner_type", "lora"), plan.train.gpus
    shards_by = ("deepspeed", "tensor_model_parallel_size", "fsdp")
    sharded = tuner == "full" and any(plan.train.get(name) for name in shards_by)
    shards = len(gpus) * int(os.environ.get("NNODES") or 1) if sharded else 1
    needed = size * TRAIN_BYTES.get(tuner, 2.0) / max(1, shards) + TRAIN_EXTRA if size else None
    findings = check_gpus("the trainer", "TRAIN_GPUS", gpus, needed)
    shared = set(gpus) & set(plan.rollout.gpus)
    local = plan.train.get("vllm_server_host", "127.0.0.1") in ("127.0.0.1", "localhost")
    if shared and local and plan.train.get("use_vllm") == "true":
        text = f"GPU {', '.join(map(str, sorted(shared)))} is the trainer's and the rollout server's"
        findings.append(Finding("gpus", Level.ERROR, text, "set TRAIN_GPUS and ROLLOUT_GPUS apart"))
    return findings


def check_server_gpus(role: str, variable: str, command: Command) -> list[Finding]:
    """Looks at the GPUs of a server."""
    if command.on_npus:
        return _check_npus()
    model = command.get("model")
    size, parallel = billions(model), command.number("vllm_tensor_parallel_size", 1)
    needed = size * weight_bytes(model) / parallel * SERVE_FACTOR + SERVE_EXTRA if size else None
    return check_gpus(role, variable, command.gpus, needed)
