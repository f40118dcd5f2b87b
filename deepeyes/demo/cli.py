"""The demo: a tiny Qwen2.5-VL learns by GRPO to zoom, on the CPU, through the real `swift rlhf` and the plugin.

    bash deepeyes.sh demo                           teach it, and measure whether it learned
    bash deepeyes.sh demo --quick                   the same with fewer steps and questions
    bash deepeyes.sh demo --dataset FILE.parquet    a few steps of a random model on your own rows: the plumbing only

The stages: a random checkpoint (deepeyes.tiny_model), supervised training in plain torch on clean trajectories
(warmup.py), `swift sft` on a mix in which a part of the trajectories zooms, often to the wrong place, and the
others guess; then `swift rlhf` with the plugin's scheduler and rewards, and an evaluation on held-out pictures before
and after. What these commands start runs in forks of one process (worker.py), to import swift once. Each stage is
kept under DEEPEYES_CACHE and reused as long as nothing that made it has changed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from deepeyes.demo import stages as run

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = ("data_source", "prompt", "images", "env_name", "reward_model", "extra_info")
"""Columns of the official files that the plugin reads."""
PLUMBING_STEPS, PLUMBING_BATCH, PLUMBING_GENERATIONS = 3, 4, 2
PLUMBING_TOKENS, PLUMBING_LENGTH = 32, 4096
PLUMBING_PIXELS = 64 * 28 * 28
TABLE_NAMES = ("reward", "accuracy", "format", "tool", "turns")
MOST = 0.5
"""Share of zooms that must go to the right one of the four panels; a quarter does by chance."""
TOOL_USE_WANTED = (0.3, 0.5)
"""Share of trajectories that zoom in the checkpoint from which GRPO starts."""
SEED = 1
"""Of the README's figures."""
WARMUP_STEPS = 400
"""At most; the warm-up ends sooner once it reads boxes and crops right."""
ENVIRONMENT = {"DEEPEYES_CROP_SOURCE": "original", "MAX_PIXELS": "12544"}
QUIET = {"LOG_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
"""For the demo's own process, so that its progress lines stand alone; swift's output goes to a file, in full."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that decides what the demo does.

    Attributes:
        seed: Seed of the weights, the pictures and the sampling.
        warmup_steps: Steps of supervised training in plain torch at most, 16 trajectories each.
        mix_steps: Steps of `swift sft`, 8 trajectories each.
        mix_every: Steps between its checkpoints, of which one is chosen by its tool use.
        mix_zooms: Share of its trajectories that zoom.
        mix_hits: Share of those that zoom to the right place: a quarter, as by chance, takes back where to zoom.
        mix_rate: Its peak learning rate, from which it falls to zero.
        grpo_steps: Steps of `swift rlhf`.
        prompts: Questions a step: one for each place that a card can have, so that no step teaches one place for all.
        generations: Trajectories a question.
        learning_rate: Of GRPO.
        max_grad_norm: Of GRPO. A usual step's norm is 0.1; pushing one long, rambling trajectory down gives ten times
            as much, and undid in a few steps what it had learned.
        decay_steps: Its last steps, in which the rate falls to zero.
        held_out: Questions of each evaluation.
        probes: Questions on which a checkpoint of the mix is measured.
    """

    seed: int = SEED
    warmup_steps: int = WARMUP_STEPS
    mix_steps: int = 60
    mix_every: int = 20
    mix_zooms: float = 0.5
    mix_hits: float = 0.25
    mix_rate: float = 3e-4
    grpo_steps: int = 40
    prompts: int = 4
    generations: int = 4
    learning_rate: float = 2e-4
    max_grad_norm: float = 0.2
    decay_steps: int = 20
    held_out: int = 256
    probes: int = 64


QUICK: dict[str, Any] = {
    "mix_steps": 30,
    "mix_every": 30,
    "mix_rate": 6e-4,
    "grpo_steps": 9,
    "learning_rate": 4e-4,
    "decay_steps": 0,
    "held_out": 96,
}


class Console:
    """Prints progress lines: the stage, its step, figures, and the time that is left of its steps."""

    def __init__(self, stages: int) -> None:
        """Start counting.

        Args:
            stages: How many stages there are.
        """
        self._stages = stages
        self._stage = 0
        self._name = ""
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None

    def stage(self, name: str) -> None:
        """Begin a stage."""
        self._stage += 1
        self._name = name
        self._first = None
        self.say("...")

    def say(self, text: str) -> None:
        """Print a line of the current stage."""
        clock = _clock(time.monotonic() - self._start)
        print(f"{clock} [{self._stage}/{self._stages} {self._name}] {text}", flush=True)

    def step(self, step: int, steps: int, text: str) -> None:
        """Print a step of the current stage; what came before its first step, and that one, say nothing of the time."""
        now = time.monotonic()
        if self._first is None or step <= self._first[0]:
            self._first = step, now
        first, begin = self._first
        left = f"  {_clock((now - begin) / (step - first) * (steps - step))} left" if step > first else ""
        self.say(f"step {step}/{steps}  {text}{left}")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def check_dataset(path: Path) -> None:
    """Refuse what is no dataset in the official schema.

    Raises:
        DemoError: The file is missing, is no parquet file, lacks a column or holds no row.
    """
    if not path.is_file():
        raise run.DemoError(f"no file {str(path)!r}; --dataset wants a parquet file in the schema of the official ones")
    try:
        table = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise run.DemoError(f"{str(path)!r} is no parquet file: {str(error).splitlines()[0]}") from error
    names = table.schema_arrow.names
    if missing := [name for name in COLUMNS if name not in names]:
        raise run.DemoError(f"{str(path)!r} lacks the column {', '.join(missing)}; it has {', '.join(names)}")
    if not table.metadata.num_rows:
        raise run.DemoError(f"{str(path)!r} holds no rows")


def build_model(cache: run.Cache, seed: int) -> Path:
    """Give the random checkpoint."""
    made_by = {"seed": seed, "sources": run.source_hash(*run.TINY_MODEL_FILES)}

    def make(folder: Path) -> None:
        from deepeyes import tiny_model  # noqa: PLC0415 - loads torch

        tiny_model.build(folder, seed=seed)

    return cache.stage("model", made_by, make)


def plumbing(dataset: Path, cache: run.Cache, console: Console, worker: run.Worker, seed: int) -> None:
    """Run a few GRPO steps of a random model on a dataset, and print their figures."""
    console.stage("model")
    model = build_model(cache, seed)
    console.stage("grpo")
    folder = cache.directory / "plumbing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = run.grpo_words(steps=PLUMBING_STEPS, batch=PLUMBING_BATCH, generations=PLUMBING_GENERATIONS)
    words += ["--model", str(model), "--dataset", str(dataset.resolve())]
    words += ["--max_completion_length", str(PLUMBING_TOKENS), "--max_length", str(PLUMBING_LENGTH)]
    words += ["--save_strategy", "no", "--seed", str(seed)]
    settings = {"MAX_PIXELS": str(PLUMBING_PIXELS), "DEEPEYES_CROP_SOURCE": "view"}
    worker.run("swift.cli.rlhf", words, folder, lambda line: _show_grpo(console, line, PLUMBING_STEPS), **settings)
    steps = run.read_steps(folder)
    print("\n" + f"{'step':>6}" + "".join(f"{name:>10}" for name in TABLE_NAMES))
    for number, step in enumerate(steps, start=1):
        figures = run.summary_of(step)
        print(f"{number:>6}" + "".join(f"{figures[name]:>10.2f}" for name in TABLE_NAMES))
    if len(steps) != PLUMBING_STEPS:
        raise run.DemoError(f"swift logged {len(steps)} of {PLUMBING_STEPS} steps; its output is in {folder}")
    print(
        f"\nThe rows in {dataset} pass through swift, the scheduler and the rewards. That is all this shows: the model"
    )
    print("is random and learns nothing in these steps.")


def _show_grpo(console: Console, line: dict[str, Any], steps: int) -> None:
    if "reward" not in line:
        return
    step = int(line["global_step/max_steps"].partition("/")[0])
    figures = run.summary_of(line)
    text = f"reward {figures['reward']:.2f}  accuracy {figures['accuracy']:.2f}  turns {figures['turns']:.2f}"
    console.step(step, steps, text)


def warmed_model(cache_directory: Path, seed: int = SEED, steps: int = WARMUP_STEPS) -> Path:
    """Give a checkpoint that zooms in nearly every trajectory of the demo's task, with valid calls.

    Args:
        cache_directory: Where stages are kept.
        seed: Seed of the weights and pictures.
        steps: Steps of supervised training at most.
    """
    cache = run.Cache(cache_directory, lambda _: None)
    return _warm_up(cache, build_model(cache, seed), replace(Plan(), seed=seed, warmup_steps=steps), lambda *_: None)


def _warm_up(cache: run.Cache, model: Path, plan: Plan, progress: Callable[[int, int, str], None]) -> Path:
    sources = run.source_hash("demo/task.py", "demo/warmup.py")
    made_by = {"model": model.name, "steps": plan.warmup_steps, "seed": plan.seed, "sources": sources}

    def make(folder: Path) -> None:
        from deepeyes.demo import warmup as demo_warmup  # noqa: PLC0415 - loads torch

        settings = demo_warmup.WarmupSettings(steps=plan.warmup_steps, seed=plan.seed)
        demo_warmup.warm_up(model, folder, settings, progress)

    return cache.stage("warmup", made_by, make)


class Demo:
    """The stages of the demo, one method each."""

    def __init__(self, plan: Plan, cache: run.Cache, console: Console, worker: run.Worker) -> None:
        """Prepare; nothing runs yet.

        Args:
            plan: What to do.
            cache: Where stages are kept.
            console: Told of progress.
            worker: Runs the stages that need swift.
        """
        self._plan = plan
        self._cache = cache
        self._console = console
        self._worker = worker

    def measure(self, checkpoint: Path, split: str, count: int, modes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Evaluate a checkpoint, or read the evaluation that was made of it before.

        Args:
            checkpoint: Directory of the checkpoint.
            split: Name of the pictures' stream of random numbers.
            count: Questions.
            modes: Names of members of `measure.Mode`.

        Returns:
            An `Outcome` as a dict, by mode.
        """
        sources = run.source_hash("demo/task.py", "demo/measure.py", "demo/sampling.py", *run.PLUGIN_FILES)
        words = ["--split", split, "--count", str(count), "--seed", str(self._plan.seed), "--modes", *modes]
        parent = [checkpoint.parent.name, checkpoint.name]
        made_by = {"checkpoint": parent, "words": words, "environment": ENVIRONMENT, "sources": sources}

        def make(folder: Path) -> None:
            self._worker.run("deepeyes.demo.measure", [str(checkpoint), *words], folder, self._show_measure)

        folder = self._cache.stage("measure", made_by, make)
        lines = (folder / "logging.jsonl").read_text(encoding="utf-8").splitlines()
        return {line.pop("mode"): line for line in map(json.loads, lines) if "mode" in line}

    def _show_measure(self, line: dict[str, Any]) -> None:
        if "mode" in line:
            self._console.say(f"{line['mode'].lower().replace('_', ' ')}: {_describe(line)}")
        else:
            self._console.step(line["step"], line["steps"], "turns written")

    def mix(self, warmed: Path) -> Path:
        """Train with `swift sft` on a mix of zooms and guesses, and choose a checkpoint by its tool use."""
        plan = self._plan
        shares = {"zooms": plan.mix_zooms, "hits": plan.mix_hits}
        words = [*run.MODEL_ARGUMENTS, *run.TRAINING_ARGUMENTS]
        words += ["--max_steps", str(plan.mix_steps), "--learning_rate", str(plan.mix_rate)]
        words += ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
        words += ["--use_logits_to_keep", "true", "--max_length", "1024", "--seed", str(plan.seed)]
        words += ["--save_steps", str(plan.mix_every), "--lr_scheduler_type", "linear"]
        made_by = {"warmed": warmed.name, "words": words, "environment": ENVIRONMENT, "shares": shares}
        sources = run.source_hash("demo/task.py")

        def make(folder: Path) -> None:
            from deepeyes.demo import task  # noqa: PLC0415

            data = task.write_mix(folder / "data", 8 * plan.mix_steps, seed=plan.seed, **shares)
            inputs = ["--model", str(warmed), "--dataset", str(data)]
            self._worker.run("swift.cli.sft", [*words, *inputs], folder, self._show_sft)

        folder = self._cache.stage("mix", {**made_by, "sources": sources}, make)
        checkpoints = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
        if len(checkpoints) == 1:
            return checkpoints[0]
        low, high = TOOL_USE_WANTED
        measured: dict[Path, float] = {}
        for checkpoint in reversed(checkpoints):
            outcome = self.measure(checkpoint, "probe", plan.probes, ("TRUE_CROP",))["TRUE_CROP"]
            measured[checkpoint] = outcome["tool_use"]
            if low <= outcome["tool_use"] <= high:
                break
        return min(measured, key=lambda checkpoint: abs(measured[checkpoint] - (low + high) / 2))

    def _show_sft(self, line: dict[str, Any]) -> None:
        if "loss" in line:
            step = int(line["global_step/max_steps"].partition("/")[0])
            self._console.step(step, self._plan.mix_steps, f"loss {line['loss']:.3f}")

    def grpo(self, start: Path) -> Path:
        """Train with `swift rlhf` and the plugin; give the folder of the run."""
        plan = self._plan
        batch = plan.prompts * plan.generations
        words = run.grpo_words(steps=plan.grpo_steps, batch=batch, generations=plan.generations)
        words += ["--seed", str(plan.seed), "--data_seed", str(plan.seed), "--dataset_shuffle", "false"]
        words += ["--learning_rate", str(plan.learning_rate), "--lr_scheduler_type", "warmup_stable_decay"]
        words += ["--lr_scheduler_kwargs", json.dumps({"num_decay_steps": plan.decay_steps})]
        words += ["--max_grad_norm", str(plan.max_grad_norm)]
        words += ["--max_completion_length", "60", "--max_length", "1024"]
        words += ["--save_steps", str(plan.grpo_steps), "--log_completions", "true"]
        parent = [start.parent.name, start.name]
        sources = run.source_hash("demo/task.py", "demo/sampling.py", *run.PLUGIN_FILES)
        made_by = {"start": parent, "words": words, "environment": ENVIRONMENT, "sources": sources}

        def make(folder: Path) -> None:
            from deepeyes.demo import task  # noqa: PLC0415

            pictures = task.sample_pictures(plan.prompts * plan.grpo_steps, seed=plan.seed, split="train")
            in_turn = [replace(picture, mat=index % len(task.MATS)) for index, picture in enumerate(pictures)]
            rows = [task.row(index, picture, "train") for index, picture in enumerate(in_turn)]
            data = task.write_parquet(rows, folder / "train.parquet")
            self._worker.run(
                "swift.cli.rlhf",
                [*words, "--model", str(start), "--dataset", str(data)],
                folder,
                lambda line: _show_grpo(self._console, line, plan.grpo_steps),
                DEEPEYES_TRACE_DIR=str(folder / "trace"),
            )

        return self._cache.stage("grpo", made_by, make)

    def run(self) -> Path:
        """Run all stages.

        Returns:
            The folder of the GRPO run, with `demo.png` and `demo.json`.

        Raises:
            DemoError: A stage failed, or the policy did not learn.
        """
        plan, console = self._plan, self._console
        console.stage("model")
        model = build_model(self._cache, plan.seed)
        console.stage("warm-up, plain torch")
        at_most = _every(10, lambda step, steps, text: console.step(step, steps, f"{text}, at most"))
        warmed = _warm_up(self._cache, model, plan, at_most)
        console.stage("warm-up, swift sft")
        start = self.mix(warmed)
        console.stage("measure before")
        before = self.measure(start, "held-out", plan.held_out, ("TRUE_CROP",))["TRUE_CROP"]
        low, high = TOOL_USE_WANTED
        if not low <= before["tool_use"] <= high:
            console.say(f"GRPO starts from tool use {before['tool_use']:.2f}, outside {low} to {high}")
        console.stage("grpo, swift rlhf")
        folder = self.grpo(start)
        console.stage("measure after")
        trained = folder / f"checkpoint-{plan.grpo_steps}"
        after = self.measure(trained, "held-out", plan.held_out, ("TRUE_CROP", "BLANK_CROP", "NO_TOOL"))
        return self._conclude(folder, before, after)

    def _conclude(self, folder: Path, before: dict[str, Any], after: dict[str, dict[str, Any]]) -> Path:
        from deepeyes.demo import plot as demo_plot  # noqa: PLC0415 - loads matplotlib
        from deepeyes.demo import task  # noqa: PLC0415

        pictures = task.sample_pictures(self._plan.held_out, seed=self._plan.seed, split="held-out")
        counts = Counter(picture.pattern for picture in pictures)
        best_guess = max(counts.values()) / len(pictures)
        report = {"plan": asdict(self._plan), "before": before, "after": after, "best_guess": best_guess}
        (folder / "demo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        uses = run.read_tool_use(folder / "trace")
        steps = [run.summary_of(step) for step in run.read_steps(folder)]
        demo_plot.draw([step | {"tool_use": use} for step, use in zip(steps, uses, strict=True)], folder / "demo.png")
        print(f"\nCurves: {folder / 'demo.png'}\nRun:    {folder}")
        page = subprocess.run(  # noqa: S603 - our own program
            [sys.executable, "-m", "deepeyes.report", str(folder)],
            check=False,
            capture_output=True,
            text=True,
        )
        print(f"Page:   {page.stdout.strip() if page.returncode == 0 else 'none: ' + page.stderr.strip()}")
        if self._plan.held_out < Plan().held_out:
            print("This was the short form: fewer steps and questions, so it proves less than the full one.")
        learned, verdict = judge(before, after, best_guess)
        print("\n" + verdict)
        if not learned:
            raise run.DemoError("it did not learn; the figures above say where, the run's folder says why")
        return folder


def _every(steps: int, progress: Callable[[int, int, str], None]) -> Callable[[int, int, str], None]:
    """Thin a progress report out to every so many steps and the last."""

    def thinned(step: int, total: int, text: str) -> None:
        if step % steps == 0 or step == total:
            progress(step, total, text)

    return thinned


def _describe(outcome: dict[str, Any]) -> str:
    return (
        f"tool use {outcome['tool_use']:.2f} (right place {outcome['hits']:.2f})  accuracy {outcome['accuracy']:.2f}  "
        f"reward {outcome['reward']:.2f}"
    )


def judge(before: dict[str, Any], after: dict[str, dict[str, Any]], best_guess: float) -> tuple[bool, str]:
    """Tell whether the policy learned to zoom because it needs to.

    It did if tool use, the share of zooms that go to the right place, and accuracy rose, each with disjoint 95 %
    intervals, if most zooms go to the right place, and if accuracy with the crop blanked and with the tool off is
    lower, likewise, and no better than a guess.

    Args:
        before: Outcome of the held-out questions before GRPO.
        after: Outcomes after it, by mode.
        best_guess: Accuracy of the best answer that is always the same.

    Returns:
        Whether it did, and the verdict in one line.
    """
    true, blank, off = after["TRUE_CROP"], after["BLANK_CROP"], after["NO_TOOL"]

    def bounds(outcome: dict[str, Any], name: str) -> tuple[float, float]:
        count = outcome["questions"]
        return run.interval(outcome[name], max(1, round(count * outcome["tool_use"])) if name == "hits" else count)

    rises = ("tool_use", "hits", "accuracy")
    rose = all(bounds(true, name)[0] > bounds(before, name)[1] for name in rises) and true["hits"] > MOST
    needs_crop = all(
        bounds(true, "accuracy")[0] > bounds(other, "accuracy")[1] and bounds(other, "accuracy")[0] <= best_guess
        for other in (blank, off)
    )

    def share(outcome: dict[str, Any], name: str) -> str:
        low, high = bounds(outcome, name)
        return f"{outcome[name]:.2f} [{low:.2f}, {high:.2f}]"

    verdict = (
        f"{'LEARNED' if rose and needs_crop else 'NOT LEARNED'} on {true['questions']} held-out pictures: "
        f"tool use {share(before, 'tool_use')} -> {share(true, 'tool_use')}, "
        f"right place {share(before, 'hits')} -> {share(true, 'hits')}, "
        f"accuracy {share(before, 'accuracy')} -> {share(true, 'accuracy')} "
        f"(crop blanked {share(blank, 'accuracy')}, tool off {share(off, 'accuracy')}, "
        f"the best constant guess {best_guess:.2f}), "
        f"reward {before['reward']:.2f} -> {true['reward']:.2f}"
    )
    return rose and needs_crop, verdict


def end_on_signals() -> None:
    """Make every signal that asks a program to end do what Ctrl-C does: end the stage and all that it started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Command-line words; those of the process by default.

    Returns:
        The exit status.
    """
    parser = argparse.ArgumentParser(prog="deepeyes.sh demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--dataset", type=Path, help="own rows in the official schema: a few steps of a random model")
    parser.add_argument("--quick", action="store_true", help="fewer steps and questions")
    parser.add_argument("--seed", type=int, default=SEED, help=f"seed of everything (default: {SEED})")
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.quick and options.dataset:
        parser.error("--quick is the short form of the demo that learns, which makes its own pictures")
    directory = run.cache_directory(os.environ)
    console = Console(2 if options.dataset else 6)
    cache = run.Cache(directory, console.say)
    try:
        if options.dataset:
            check_dataset(options.dataset)
        env = run.child_environment(os.environ, **ENVIRONMENT)
        with contextlib.closing(run.Worker(env, directory / "worker.log")) as worker:
            if options.dataset:
                plumbing(options.dataset, cache, console, worker, options.seed)
                return 0
            plan = replace(Plan(seed=options.seed), **(QUICK if options.quick else {}))
            plan = replace(plan, grpo_steps=options.steps or plan.grpo_steps)
            Demo(plan, cache, console, worker).run()
    except run.DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; finished stages are kept and will be reused", file=sys.stderr)
        return 130
    return 0
