"""Runs swift's commands for the demo: their words, their environment, and the process in which they run."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import logging
import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deepeyes.demo.cache import PLUGIN
from deepeyes.demo.progress import read_lines

if TYPE_CHECKING:
    from pathlib import Path

Action = Callable[[], object]
OnLine = Callable[[dict[str, Any]], object]
_FORK = multiprocessing.get_context("fork")
POLL_SECONDS = 0.3
KILL_AFTER_SECONDS = 5.0  # how long a stage may take to end on SIGTERM
LOG_TAIL_LINES = 12
PRELOADED = ("swift.pipelines", "swift.rlhf_trainers.grpo_trainer", "swift.infer_engine", "swift.rollout")
"""What the stages import for 40 seconds of a core."""
MALLOC = "hugetlb=1 mmap_max=0 arena_max=1 trim_threshold=17179869184 top_pad=268435456"
"""Keeps freed memory, in huge pages, for the next step: a third of the time went into faulting in fresh logits."""
OWN = """CUDA_VISIBLE_DEVICES= HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false DEEPEYES_JUDGE=rule
LOG_LEVEL=INFO TRANSFORMERS_VERBOSITY=error HF_HUB_DISABLE_PROGRESS_BARS=1
DEEPEYES_CROP_SOURCE=original MAX_PIXELS=12544"""  # a view of 112 x 112
MICRO_BATCH = 4  # trajectories trained on at a time: each holds logits of 152 thousand tokens for a hundred places
GRPO = """
--rlhf_type grpo --model_type qwen2_5_vl --template qwen2_5_vl --torch_dtype float32 --tuner_type full
--attn_impl sdpa --gradient_checkpointing false --freeze_parameters model.language_model.embed_tokens
--load_from_cache_file false --split_dataset_ratio 0 --dataloader_num_workers 0 --remove_unused_columns false
--multi_turn_scheduler deepeyes_scheduler --max_turns 2 --use_vllm false
--reward_funcs deepeyes_reward deepeyes_accuracy deepeyes_format deepeyes_tool --reward_weights 1 0 0 0
--loss_type bnpo --loss_scale default --beta 0 --max_grad_norm 0.2 --scale_rewards none
--temperature 1 --top_k 0 --top_p 1
--logging_steps 1 --save_only_model true --report_to none --add_version false --check_model false
"""
"""Words of `swift rlhf` in both forms of the demo. The embedding is 95 % of the weights, and the task uses a few
hundred of its rows; to check for a newer model is to wait half a minute for a hub where there is no network."""


class DemoError(RuntimeError):
    """What the user is told in one line."""


def child_environment(env: Mapping[str, str], **settings: str) -> dict[str, str]:
    """Give the environment of a stage: no GPU, no network, and no setting of the plugin but those given."""
    ours = dict(word.split("=") for word in OWN.split())
    ours["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{word}" for word in MALLOC.split())
    return {name: value for name, value in env.items() if not name.startswith("DEEPEYES_")} | ours | settings


def load_swift() -> None:
    """Import what the stages need, once for all of them, and say nothing of it."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of a CUDA without a GPU
    quiet = io.StringIO()
    with contextlib.redirect_stdout(quiet), contextlib.redirect_stderr(quiet):
        for name in PRELOADED:
            importlib.import_module(name)


def run(
    name: str, action: Action, folder: Path, on_line: OnLine = lambda _: None, meanwhile: Action = lambda: None
) -> None:
    """Run an action in a forked process, in a process group of its own, which ends whatever happens here.

    Args:
        name: What an error calls it.
        action: What to do there.
        folder: Gets what it prints, as `stage.log`; its progress lines are read from `logging.jsonl` there.
        on_line: Given each of those lines as it appears.
        meanwhile: Done here, in a thread.

    Raises:
        DemoError: It failed.
    """
    log, shown = folder / "stage.log", 0
    child = _FORK.Process(target=_act, args=(action, log))
    helper = threading.Thread(target=meanwhile, daemon=True)
    sys.stdout.flush()
    child.start()
    try:
        helper.start()  # not before: a forked process has the locks of other threads and not the threads
        running = True
        while running:
            child.join(POLL_SECONDS)
            running = child.is_alive()
            for line in read_lines(folder)[shown:]:
                shown += 1
                on_line(line)
        helper.join()
    except BaseException:
        _end_group(child)
        raise
    if child.exitcode:
        tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
        print("\n".join(tail), file=sys.stderr)
        raise DemoError(f"`{name}` ended with status {child.exitcode}; its whole output is in {log}")


def _act(action: Action, log: Path) -> None:
    """Act in a process of its own."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    action()


def _end_group(child: Any) -> None:
    """End a process and all that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, number)
        child.join(KILL_AFTER_SECONDS)
    child.kill()  # where it was too young to have a group: this program would wait for it


def swift_rlhf(words: Sequence[str], folder: Path, on_line: OnLine, **settings: str) -> None:
    """Run `swift rlhf` as `run` does, with some environment variables more; the folder is its `--output_dir`.

    `swift.cli.rlhf` is the very file that the command starts. The command goes to `command.json` in the folder.
    """
    words = [*words, "--output_dir", str(folder)]
    (folder / "command.json").write_text(json.dumps(["swift", "rlhf", *words], indent=1), encoding="utf-8")

    def act() -> None:
        os.environ.update(settings)
        sys.argv = ["rlhf", *words]
        runpy.run_module("swift.cli.rlhf", run_name="__main__", alter_sys=True)

    load_swift()
    run("swift rlhf", act, folder, on_line)


def grpo_words(steps: int, *, batch: int, generations: int, seed: int) -> list[str]:
    """Give the command line of `swift rlhf` with the plugin, as far as both forms of the demo share it."""
    sizes = f"""--max_steps {steps} --num_generations {generations} --seed {seed}
        --per_device_train_batch_size {MICRO_BATCH} --gradient_accumulation_steps {batch // MICRO_BATCH}"""
    words = [*GRPO.split(), *sizes.split(), "--external_plugins", str(PLUGIN)]
    return [*words, "--columns", json.dumps({"prompt": "messages"})]
