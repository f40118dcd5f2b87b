"""What the demo needs around its stages: a cache, the child processes of swift, progress lines."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import select
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "deepeyes_plugin.py"
PLUGIN_FILES = (
    PLUGIN.name,
    *sorted(str(path.relative_to(ROOT / "deepeyes")) for path in (ROOT / "deepeyes").glob("*.py")),
    *sorted(str(path.relative_to(ROOT / "deepeyes")) for path in (ROOT / "deepeyes").glob("[ij]*/*.py")),
)
"""The plugin and the parts of the package that it stands on."""
TINY_MODEL_FILES = tuple(f"tiny_model/{path.name}" for path in sorted((ROOT / "deepeyes" / "tiny_model").glob("*.py")))
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
PACKAGES = ("ms-swift", "torch", "transformers", "trl", "qwen-vl-utils", "pillow", "numpy")
"""Their versions are a part of what made a stage."""
Z95 = 1.959964
"""Two-sided 95 % quantile of the normal distribution."""
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


def cache_directory(env: Mapping[str, str]) -> Path:
    """Find the cache: `DEEPEYES_CACHE`, or a folder in the user's cache."""
    if named := env.get("DEEPEYES_CACHE"):
        return Path(named).expanduser().resolve()
    return Path(env.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deepeyes-swift"


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


def source_hash(*files: str) -> str:
    """Hash source files, by their paths in the package or, for the plugin, beside it."""
    digest = hashlib.sha256()
    for name in files:
        digest.update((PLUGIN if name == PLUGIN.name else ROOT / "deepeyes" / name).read_bytes())
    return digest.hexdigest()


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
        threads = os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))  # they round sums differently
        key = hashlib.sha256(json.dumps([name, made_by, versions, threads], sort_keys=True).encode()).hexdigest()[:12]
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
                [sys.executable, "-m", "deepeyes.demo.worker", *modules],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env={**env, "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [env.get("PYTHONPATH")])])},
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
        log, lines = folder / "stage.log", _Lines(folder / "logging.jsonl")
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


class _Lines:
    """Reads the complete lines that a JSONL file gains."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> list[dict[str, Any]]:
        if not self._path.is_file():
            return []
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        complete = text[: text.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]


def interval(share: float, count: int) -> tuple[float, float]:
    """Give the 95 % Wilson score interval of a share.

    Args:
        share: Observed share, 0 to 1.
        count: Number of observations, at least 1.

    Returns:
        The lower and the upper bound.
    """
    square = Z95 * Z95 / count
    centre = (share + square / 2) / (1 + square)
    half = Z95 * math.sqrt(share * (1 - share) / count + square / count / 4) / (1 + square)
    return max(0.0, centre - half), min(1.0, centre + half)


def read_steps(folder: Path) -> list[dict[str, Any]]:
    """Read the steps of a GRPO run from swift's `logging.jsonl`."""
    return [line for line in _Lines(folder / "logging.jsonl").new() if "reward" in line]


def summary_of(step: Mapping[str, Any]) -> dict[str, float]:
    """Give the figures of a step under our own names."""
    return {
        "reward": step["rewards/DeepEyesReward/mean"],
        "accuracy": step["rewards/DeepEyesAccuracy/mean"],
        "format": step["rewards/DeepEyesFormat/mean"],
        "tool": step["rewards/DeepEyesTool/mean"],
        "turns": step["num_turns"],
    }


def read_tool_use(trace: Path) -> list[float]:
    """Read the share of trajectories that zoomed, a number a step, from the trace of a run that wrote all of them."""
    zoomed: dict[int, list[bool]] = {}
    for file in trace.glob("trajectories-*.jsonl"):
        for line in _Lines(file).new():
            zoomed.setdefault(line["step"], []).append(line["num_zooms"] > 0)
    return [sum(zoomed[step]) / len(zoomed[step]) for step in sorted(zoomed)]


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
