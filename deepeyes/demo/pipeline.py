"""The stages of the demo that learns, one function each, and what is concluded from them.

A random checkpoint; supervised training in plain torch, which leaves open how often to zoom, and where to; `swift rlhf`
with the plugin's scheduler and rewards, which keeps the checkpoint that does best on validation questions; and a
measure on held-out pictures before and after. Each stage is kept, and reused until something that made it changes.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from deepeyes.demo import logs, stages, task
from deepeyes.demo.cache import PLUGIN_FILES, TINY_MODEL_FILES, Cache, add_generate, source_hash
from deepeyes.demo.console import Console, Training
from deepeyes.demo.plan import ENVIRONMENT, Plan
from deepeyes.demo.verdict import fall, judge
from deepeyes.launch import module_command

if TYPE_CHECKING:
    from pathlib import Path

LOOK_COSTS = 0.8
"""What a trajectory of a look at the validation costs, against one that is trained on."""


def build_model(cache: Cache, seed: int) -> Path:
    """Give the random checkpoint."""
    made_by = {"seed": seed, "sources": source_hash(*TINY_MODEL_FILES)}

    def build(folder: Path) -> None:
        from deepeyes import tiny_model  # noqa: PLC0415 - loads torch

        tiny_model.build(folder, seed=seed)

    return cache.stage("model", made_by, lambda folder: stages.run("model", lambda: build(folder), folder))


class Demo:
    """The stages of the demo."""

    def __init__(self, plan: Plan, cache: Cache, console: Console) -> None:
        """Prepare; nothing runs yet."""
        self._plan = plan
        self._cache = cache
        self._console = console

    def warm_up(self, model: Path) -> Path:
        """Give the checkpoint that was taught in plain torch, and import swift while that trains."""
        plan = self._plan
        shares = [plan.clean_steps, plan.soft_steps, plan.zooms, plan.right]
        sources = source_hash("demo/task.py", "demo/warmup.py", "demo/generate.py", "demo/cache.py")
        made_by = {"model": model.name, "shares": shares, "seed": plan.seed, "sources": sources}

        def train(folder: Path) -> None:
            from deepeyes.demo import warmup  # noqa: PLC0415 - loads torch

            warmup.warm_up(model, folder, plan, logs.Writer(folder))

        def make(folder: Path) -> None:
            stages.run("warm-up", lambda: train(folder), folder, self._console.progress, stages.load_swift)

        return self._cache.stage("warmup", made_by, make)

    def measure(self, checkpoint: Path, *modes: str) -> dict[str, dict[str, Any]]:
        """Give what a checkpoint does on the held-out questions, by the given modes: keys of `measure.MODES`."""
        plan = self._plan
        sources = source_hash("demo/task.py", "demo/measure.py", *PLUGIN_FILES)
        asked = {"count": plan.held_out, "seed": plan.seed, "modes": modes}
        of = {"checkpoint": [checkpoint.parent.name, checkpoint.name], "environment": ENVIRONMENT}

        def play(folder: Path) -> None:
            from deepeyes.demo import measure  # noqa: PLC0415 - loads swift

            measure.measure(checkpoint, plan.held_out, plan.seed, modes, folder)

        def make(folder: Path) -> None:
            stages.load_swift()
            stages.run("measure", lambda: play(folder), folder, self._console.progress)

        folder = self._cache.stage("measure", {**of, **asked, "sources": sources}, make)
        return {line["mode"]: line for line in logs.Lines(folder).new()}

    def grpo(self, start: Path) -> Path:
        """Train with `swift rlhf` and the plugin; give the folder of the run."""
        plan = self._plan
        batch = plan.prompts * plan.generations
        words = stages.grpo_words(plan.grpo_steps, batch=batch, generations=plan.generations)
        words += ["--seed", str(plan.seed), "--data_seed", str(plan.seed), "--dataset_shuffle", "false"]
        words += ["--learning_rate", str(plan.learning_rate), "--lr_scheduler_type", "warmup_stable_decay"]
        words += ["--lr_scheduler_kwargs", json.dumps({"num_decay_steps": plan.decay_steps})]
        words += ["--beta", str(plan.beta), "--max_grad_norm", str(plan.max_grad_norm), "--scale_rewards", "none"]
        words += ["--max_completion_length", "60", "--max_length", "1024", "--log_completions", "true"]
        for name in ("eval", "save"):
            words += [f"--{name}_strategy", "steps", f"--{name}_steps", str(plan.eval_steps)]
        words += ["--num_generations_eval", "1", "--per_device_eval_batch_size", "32"]
        sources = source_hash("demo/task.py", *PLUGIN_FILES)
        sizes = {"start": start.name, "prompts": plan.prompts, "validation": plan.validation}
        made_by = {**sizes, "words": words, "environment": ENVIRONMENT, "sources": sources}

        def make(folder: Path) -> None:
            pictures = task.sample_pictures(plan.prompts * plan.grpo_steps, seed=plan.seed, split="train")
            in_turn = [replace(picture, mat=index % len(task.MATS)) for index, picture in enumerate(pictures)]
            train = task.write_rows(in_turn, "train", folder)
            asked = task.sample_pictures(plan.validation, seed=plan.seed, split="validation")
            data = ["--dataset", str(train), "--val_dataset", str(task.write_rows(asked, "validation", folder))]
            # A look plays a question once where a step plays it several times, and trains on none of it.
            training = Training(self._console, plan.grpo_steps, plan.eval_steps, LOOK_COSTS * plan.validation / batch)
            trace = str(folder / "trace")
            stages.swift_rlhf([*words, "--model", str(start), *data], folder, training.show, DEEPEYES_TRACE_DIR=trace)

        return self._cache.stage("grpo", made_by, make)

    def run(self) -> Path:
        """Run all stages.

        Returns:
            The folder of the GRPO run, with `demo.png` and `demo.json`.

        Raises:
            DemoError: A stage failed, or the policy did not learn.
        """
        console = self._console
        console.stage("model")
        model = build_model(self._cache, self._plan.seed)
        console.stage("warm-up, plain torch")
        warmed = self.warm_up(model)
        console.stage("measure before")
        before = self.measure(warmed, "TRUE_CROP")["TRUE_CROP"]
        console.stage("grpo, swift rlhf")
        folder = self.grpo(warmed)
        console.stage("measure after")
        best = logs.best_checkpoint(folder)
        add_generate(best)
        after = self.measure(best, "TRUE_CROP", "BLANK_CROP", "NO_TOOL")
        return self._conclude(folder, before, after)

    def _conclude(self, folder: Path, before: dict[str, Any], after: dict[str, dict[str, Any]]) -> Path:
        from deepeyes.demo import plot  # noqa: PLC0415 - loads matplotlib

        pictures = task.sample_pictures(self._plan.held_out, seed=self._plan.seed, split="held-out")
        best_guess = max(Counter(picture.pattern for picture in pictures).values()) / len(pictures)
        validation = logs.read_validation(folder)
        verdict = judge(before, after, best_guess, validation)
        report = {"plan": asdict(self._plan), "before": before, "after": after, "best_guess": best_guess}
        report |= {"learned": verdict.learned, "lacks": verdict.lacks}
        (folder / "demo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        plot.draw(logs.read_steps(folder), validation, folder / "demo.png")
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
        print("\n" + "\n".join(filter(None, [fall(validation), str(verdict)])))
        if not verdict.learned:
            raise stages.DemoError("it did not learn; the lines above say why, the run's folder shows it")
        return folder
