"""Runs swift's commands for the demo: their words, their environment, and the process in which they run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from deepeyes.demo.cache import PLUGIN, ROOT
from deepeyes.demo.logs import Lines
from deepeyes.launch import module_command

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

POLL_SECONDS = 0.3
KILL_AFTER_SECONDS = 5.0
"""How long a stage may take to end on SIGTERM."""
LOG_TAIL_LINES = 12
MICRO_BATCH = 4
PRELOADED = ("swift.pipelines", "swift.rlhf_trainers.grpo_trainer", "swift.infer_engine", "swift.rollout")
"""What the stages import for 40 seconds of a core."""
MALLOC = ":".join(
    f"glibc.malloc.{name}"
    for name in ("hugetlb=1", "mmap_max=0", "arena_max=1", "trim_threshold=17179869184", "top_pad=268435456")
)
"""Keeps freed memory, in huge pages, for the next step: a third of the time went into faulting in fresh logits."""
MODEL_ARGUMENTS = ("--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl", "--torch_dtype", "float32")
TRAINING_ARGUMENTS = (
    *("--tuner_type", "full", "--attn_impl", "sdpa", "--gradient_checkpointing", "false"),
    # 95 % of the weights: each step would move all of its 152 thousand rows, of which the task uses a few hundred.
    *("--freeze_parameters", "model.language_model.embed_tokens"),
    *("--load_from_cache_file", "false", "--split_dataset_ratio", "0", "--dataloader_num_workers", "0"),
    *("--warmup_ratio", "0", "--loss_scale", "default"),
    *("--logging_steps", "1", "--save_only_model", "true", "--report_to", "none", "--add_version", "false"),
    *("--check_model", "false"),  # asks a hub whether there is a newer one: without a network, half a minute
)


class DemoError(RuntimeError):
    """What the user is told in one line."""


def child_environment(env: Mapping[str, str], **settings: str) -> dict[str, str]:
    """Give the environment of a stage: no GPU, no network, and no setting of the plugin but those given.

    Args:
        env: The environment to start from.
        settings: Variables to set.
    """
    own = {name: value for name, value in env.items() if not name.startswith("DEEPEYES_")}
    own.update(
        CUDA_VISIBLE_DEVICES="",
        HF_HUB_OFFLINE="1",
        TOKENIZERS_PARALLELISM="false",
        GLIBC_TUNABLES=MALLOC,
    )
    return own | {"DEEPEYES_JUDGE": "rule", "LOG_LEVEL": "INFO"} | settings


class Worker:
    """A process that runs the stages, in a process group of its own, which `close` ends whatever happens here."""

    def __init__(self, env: Mapping[str, str], log: Path, modules: Sequence[str] = PRELOADED) -> None:
        """Start it; it imports swift while other things go on.

        Args:
            env: Its environment.
            log: File for what its imports say.
            modules: What to import for all stages.
        """
        self._log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                module_command("deepeyes.demo.worker", *modules),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=dict(env),
                cwd=ROOT,
                start_new_session=True,
            )

    def close(self) -> None:
        """End the worker and all that it started."""
        _end_group(self._process)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def run(
        self,
        module: str,
        words: Sequence[str],
        folder: Path,
        on_line: Callable[[dict[str, Any]], None],
        **settings: str,
    ) -> None:
        """Run a module as a program.

        Args:
            module: `swift.cli.sft` runs what the command `swift sft` runs.
            words: Its command line.
            folder: Its `--output_dir`, where it writes `logging.jsonl`; its output goes to `stage.log` there, the
                command to `command.json`.
            on_line: Given each line of `logging.jsonl` as it appears.
            settings: Environment variables beside the worker's.

        Raises:
            DemoError: The stage failed.
        """
        words = [*words, "--output_dir", str(folder)]
        (folder / "command.json").write_text(json.dumps(["python", "-m", module, *words], indent=1), encoding="utf-8")
        log, lines = folder / "stage.log", Lines(folder / "logging.jsonl")
        stage = {"module": module, "words": words, "settings": settings, "log": str(log)}

        def tell() -> None:
            for line in lines.new():
                on_line(line)

        status = self._ask(stage, tell)
        if status is None:
            raise DemoError(f"the process that runs the stages ended; its output is in {self._log}")
        if status:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
            print("\n".join(tail), file=sys.stderr)
            raise DemoError(f"`{module}` ended with status {status}; its whole output is in {log}")

    def _ask(self, stage: dict[str, Any], meanwhile: Callable[[], object]) -> int | None:
        """Hand over a stage and wait; give its exit status, or None if the worker ended."""
        given, answers = self._process.stdin, self._process.stdout
        if given is None or answers is None:
            return None
        try:
            given.write(json.dumps(stage).encode() + b"\n")
            given.flush()
        except BrokenPipeError:
            return None
        while not select.select([answers], [], [], POLL_SECONDS)[0]:
            meanwhile()
        meanwhile()
        answer = answers.readline()
        return int(answer) if answer else None


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KILL_AFTER_SECONDS)


def grpo_words(*, steps: int, batch: int, generations: int) -> list[str]:
    """Give the command line of `swift rlhf` with the plugin, as far as both forms of the demo share it.

    A step's trajectories are generated together, but trained on four at a time: each holds logits over the whole
    vocabulary for a hundred tokens, and sixteen of them would take five gigabytes.
    """
    return [
        *("--rlhf_type", "grpo", *MODEL_ARGUMENTS, *TRAINING_ARGUMENTS),
        *("--external_plugins", str(PLUGIN), str(ROOT / "deepeyes" / "demo" / "sampling.py")),
        *("--multi_turn_scheduler", "deepeyes_scheduler", "--max_turns", "2", "--use_vllm", "false"),
        *("--reward_funcs", "deepeyes_reward", "deepeyes_accuracy", "deepeyes_format", "deepeyes_tool"),
        *("--reward_weights", "1", "0", "0", "0"),
        *("--columns", '{"prompt": "messages"}', "--remove_unused_columns", "false"),
        *("--max_steps", str(steps), "--per_device_train_batch_size", str(MICRO_BATCH)),
        *("--gradient_accumulation_steps", str(batch // MICRO_BATCH)),
        *("--num_generations", str(generations), "--loss_type", "bnpo", "--beta", "0"),
        *("--temperature", "1", "--top_k", "0", "--top_p", "1"),
    ]
