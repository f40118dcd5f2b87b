"""What a failure in a log means, and which setting to lower (pure)."""

from __future__ import annotations

import re
from typing import NamedTuple


class Advice(NamedTuple):
    """A failure that is known.

    Attributes:
        what: It, in a few words.
        mend: What to set.
    """

    what: str
    mend: str


TRAINER = {
    "out of memory|OutOfMemoryError": Advice(
        "out of memory in the trainer",
        "lower MAX_TURNS, MAX_PIXELS, MAX_COMPLETION_LENGTH or PER_DEVICE_BATCH; or TUNER=lora, or more TRAIN_GPUS",
    ),
    "no judge answered": Advice(
        "the judge does not answer", "bash deploy_judge.sh and DEEPEYES_JUDGE_URLS, or --judge rule"
    ),
    "did not answer at .* within": Advice("the rollout server was not ready in time", "raise ROLLOUT_WAIT"),
    "NCCL|init_communicator": Advice(
        "the connection to the rollout server failed", "open the ports from 51216; NCCL_DEBUG=INFO tells more"
    ),
}
ROLLOUT = {
    "No available memory for the cache|KV cache.*(larger|needed)|max seq len": Advice(
        "vLLM has no room for one trajectory",
        "lower MAX_TURNS, MAX_PIXELS or MAX_COMPLETION_LENGTH; raise ROLLOUT_TENSOR_PARALLEL",
    ),
    "out of memory|OutOfMemoryError": Advice(
        "out of memory in vLLM", "raise ROLLOUT_TENSOR_PARALLEL; `rollout --vllm_gpu_memory_utilization 0.8`"
    ),
    "less than desired GPU memory utilization": Advice("another program holds the GPU", "nvidia-smi  # shows it"),
}
COLOCATED = {
    "No available memory for the cache|KV cache.*(larger|needed)": Advice(
        "vLLM has no room inside the trainer",
        "lower MAX_TURNS, MAX_PIXELS or MAX_COMPLETION_LENGTH; or a layout with a higher --vllm_gpu_memory_utilization",
    ),
}
BOTH = {
    "No space left on device": Advice("the disk is full", "TMPDIR=/larger/disk bash deepeyes.sh rehearse"),
    "is taken: something holds that port": Advice("the port is taken", "set ROLLOUT_PORT"),
}


def advise(program: str, log: str) -> Advice | None:
    """Looks for a known failure.

    Args:
        program: `rollout`, or the trainer.
        log: Its output.
    """
    known = {**ROLLOUT, **BOTH} if program == "rollout" else {**COLOCATED, **TRAINER, **BOTH}
    return next((advice for pattern, advice in known.items() if re.search(pattern, log)), None)
