"""The numbers and options that decide whether training can learn."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import has_rollout_server

if TYPE_CHECKING:
    from deepeyes.doctor.plan import Plan

MIN_PROMPTS = 16  # a step; with fewer, an update is mostly noise


def check_training(plan: Plan) -> list[Finding]:
    """Looks at the numbers that decide whether training can learn."""
    train = plan.train
    processes = int(train.environment.get("NPROC_PER_NODE") or 1) * int(os.environ.get("NNODES") or 1)
    one_by_one = train.number("per_device_train_batch_size", 1) * train.number("gradient_accumulation_steps", 1)
    trajectories = train.number("global_batch_size", processes * one_by_one)  # as Megatron is told
    generations = train.number("num_generations", 8)
    prompts, text = trajectories / generations, f"{trajectories} trajectories / {generations} generations"
    findings = []
    if prompts < MIN_PROMPTS:
        found = f"{prompts:g} = {text}; expected {MIN_PROMPTS} or more: an update of fewer is mostly noise"
        findings.append(Finding("prompts a step", Level.WARNING, found, "PROMPTS_PER_STEP=24 bash deepeyes.sh train"))
    else:
        findings.append(Finding("prompts a step", Level.OK, f"{prompts:g} = {text}"))
    wanted = [
        ("loss_scale", "default", "anything else leaves the tool calls out of the loss"),
        ("multi_turn_scheduler", "deepeyes_scheduler", "without it no tool runs"),
    ]
    if has_rollout_server(train):
        wanted.append(("vllm_server_pass_dataset", "true", "the scheduler reads a row's source and image"))
    for name, value, why in wanted:
        found = train.get(name) or "swift's own default"
        level = Level.OK if found == value else Level.ERROR
        more = "" if level is Level.OK else f"; expected {value}: {why}"
        findings.append(Finding(name.replace("_", " "), level, f"{found}{more}", f"--{name} {value}" if more else ""))
    if train.get("scale_rewards") == "gdpo" and train.options.get("reward_weights") == ("1", "0", "0", "0"):
        found = "gdpo scales each reward by itself, but the weights 1 0 0 0 count the total alone"
        mend = "--reward_weights 0 0.8 0.2 1.2  # the parts; or leave --scale_rewards out"
        findings.append(Finding("scale rewards", Level.WARNING, found, mend))
    return findings
