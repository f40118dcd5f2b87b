"""The stages of the demo that learns, one method each, and what is concluded from them.

A random checkpoint; supervised training in plain torch on clean trajectories; `swift sft` on a mix in which a part of
the trajectories zooms, often to the wrong place, and the others guess; `swift rlhf` with the plugin's scheduler and
rewards; and a measure on held-out pictures before and after. Each stage is kept, and reused as long as nothing that
made it has changed.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from deepeyes.demo import logs, stages
from deepeyes.demo.cache import PLUGIN_FILES, TINY_MODEL_FILES, Cache, source_hash
from deepeyes.demo.console import Console, describe, every, show_grpo
from deepeyes.demo.plan import ENVIRONMENT, TOOL_USE_WANTED, Plan
from deepeyes.demo.verdict import judge
from deepeyes.launch import module_command

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def build_model(cache: Cache, seed: int) -> Path:
    """Give the random checkpoint."""
    made_by = {"seed": seed, "sources": source_hash(*TINY_MODEL_FILES)}

    def make(folder: Path) -> None:
        from deepeyes import tiny_model  # noqa: PLC0415 - loads torch

        tiny_model.build(folder, seed=seed)

    return cache.stage("model", made_by, make)


def warm_up(cache: Cache, model: Path, plan: Plan, progress: Callable[[int, int, str], None]) -> Path:
    """Give the checkpoint that was taught clean trajectories in plain torch."""
    sources = source_hash("demo/task.py", "demo/warmup.py")
    made_by = {"model": model.name, "steps": plan.warmup_steps, "seed": plan.seed, "sources": sources}

    def make(folder: Path) -> None:
        from deepeyes.demo import warmup as demo_warmup  # noqa: PLC0415 - loads torch

        settings = demo_warmup.WarmupSettings(steps=plan.warmup_steps, seed=plan.seed)
        demo_warmup.warm_up(model, folder, settings, progress)

    return cache.stage("warmup", made_by, make)


class Demo:
    """The stages of the demo, one method each."""

    def __init__(self, plan: Plan, cache: Cache, console: Console, worker: stages.Worker) -> None:
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
        sources = source_hash("demo/task.py", "demo/measure.py", "demo/sampling.py", *PLUGIN_FILES)
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
            self._console.say(f"{line['mode'].lower().replace('_', ' ')}: {describe(line)}")
        else:
            self._console.step(line["step"], line["steps"], "turns written")

    def mix(self, warmed: Path) -> Path:
        """Train with `swift sft` on a mix of zooms and guesses, and choose a checkpoint by its tool use."""
        plan = self._plan
        shares = {"zooms": plan.mix_zooms, "hits": plan.mix_hits}
        words = [*stages.MODEL_ARGUMENTS, *stages.TRAINING_ARGUMENTS]
        words += ["--max_steps", str(plan.mix_steps), "--learning_rate", str(plan.mix_rate)]
        words += ["--per_device_train_batch_size", "8", "--gradient_accumulation_steps", "1"]
        words += ["--use_logits_to_keep", "true", "--max_length", "1024", "--seed", str(plan.seed)]
        words += ["--save_steps", str(plan.mix_every), "--lr_scheduler_type", "linear"]
        made_by = {"warmed": warmed.name, "words": words, "environment": ENVIRONMENT, "shares": shares}
        sources = source_hash("demo/task.py")

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
        words = stages.grpo_words(steps=plan.grpo_steps, batch=batch, generations=plan.generations)
        words += ["--seed", str(plan.seed), "--data_seed", str(plan.seed), "--dataset_shuffle", "false"]
        words += ["--learning_rate", str(plan.learning_rate), "--lr_scheduler_type", "warmup_stable_decay"]
        words += ["--lr_scheduler_kwargs", json.dumps({"num_decay_steps": plan.decay_steps})]
        words += ["--max_grad_norm", str(plan.max_grad_norm)]
        words += ["--max_completion_length", "60", "--max_length", "1024"]
        words += ["--save_steps", str(plan.grpo_steps), "--log_completions", "true"]
        parent = [start.parent.name, start.name]
        sources = source_hash("demo/task.py", "demo/sampling.py", *PLUGIN_FILES)
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
                lambda line: show_grpo(self._console, line, plan.grpo_steps),
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
        at_most = every(10, lambda step, steps, text: console.step(step, steps, f"{text}, at most"))
        warmed = warm_up(self._cache, model, plan, at_most)
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
        uses = logs.read_tool_use(folder / "trace")
        steps = [logs.summary_of(step) for step in logs.read_steps(folder)]
        verdict = judge(before, after, best_guess, [step["accuracy"] for step in steps])
        report = {"plan": asdict(self._plan), "before": before, "after": after, "best_guess": best_guess}
        report |= {"learned": verdict.learned, "lacks": verdict.lacks}
        (folder / "demo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        demo_plot.draw([step | {"tool_use": use} for step, use in zip(steps, uses, strict=True)], folder / "demo.png")
        print(f"\nCurves: {folder / 'demo.png'}\nRun:    {folder}")
        page = subprocess.run(  # noqa: S603 - our own program
            module_command("deepeyes.report", str(folder)),
            check=False,
            capture_output=True,
            text=True,
        )
        print(f"Page:   {page.stdout.strip() if page.returncode == 0 else 'none: ' + page.stderr.strip()}")
        if self._plan.held_out < Plan().held_out:
            print("This was the short form: fewer steps and questions, so it proves less than the full one.")
        print(f"\n{verdict}")
        if not verdict.learned:
            raise stages.DemoError("it did not learn; the lines above say why, the run's folder shows it")
        return folder
