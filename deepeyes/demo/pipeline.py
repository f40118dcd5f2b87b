"""The stages of the demo that learns, one function each, and what is concluded from them.

A random checkpoint; supervised training in plain torch, which leaves open how often to zoom, and where to; `swift rlhf`
with the plugin's scheduler and rewards, which keeps the checkpoint that does best on validation questions; and a
measure on held-out pictures before and after. Each stage is kept, and reused until something that made it changes.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from deepeyes.demo import logs, stages, task, verdict
from deepeyes.demo.plan import ENVIRONMENT, Plan
from deepeyes.launch import module_command

if TYPE_CHECKING:
    from pathlib import Path

    from deepeyes.demo.cache import Cache
    from deepeyes.demo.console import Console

LOOK_COSTS = 0.8
"""What a trajectory of a look at the validation costs, against one that is trained on."""


def build_model(cache: Cache, seed: int) -> Path:
    """Give the random checkpoint."""

    def build(folder: Path) -> None:
        from deepeyes import tiny_model  # noqa: PLC0415 - loads torch

        tiny_model.build(folder, seed=seed)

    return cache.stage("model", seed, lambda folder: stages.run("model", lambda: build(folder), folder))


@dataclass(frozen=True, slots=True)
class Demo:
    """The stages of the demo."""

    plan: Plan
    cache: Cache
    console: Console

    def warm_up(self, model: Path) -> Path:
        """Give the checkpoint that was taught in plain torch, and import swift while that trains."""
        plan = self.plan

        def train(folder: Path) -> None:
            from deepeyes.demo import warmup  # noqa: PLC0415 - loads torch

            warmup.warm_up(model, folder, plan)

        def make(folder: Path) -> None:
            stages.run("warm-up", lambda: train(folder), folder, self.console.progress, stages.load_swift)

        made_by = [model.name, plan.clean_steps, plan.soft_steps, plan.zooms, plan.right, plan.seed]
        return self.cache.stage("warmup", made_by, make)

    def measure(self, checkpoint: Path, *modes: str) -> dict[str, dict[str, Any]]:
        """Give what a checkpoint does on the held-out questions, by the given modes: keys of `measure.MODES`."""
        count, seed = self.plan.held_out, self.plan.seed

        def play(folder: Path) -> None:
            from deepeyes.demo import measure  # noqa: PLC0415 - loads swift

            measure.measure(checkpoint, count, seed, modes, folder)

        def make(folder: Path) -> None:
            stages.load_swift()
            stages.run("measure", lambda: play(folder), folder, self.console.progress)

        made_by = [checkpoint.parent.name, checkpoint.name, modes, count, seed, ENVIRONMENT]
        return {line["mode"]: line for line in logs.read_lines(self.cache.stage("measure", made_by, make))}

    def grpo(self, start: Path) -> Path:
        """Train with `swift rlhf` and the plugin; give the folder of the run."""
        plan, batch = self.plan, self.plan.prompts * self.plan.generations
        words = stages.grpo_words(plan.grpo_steps, batch=batch, generations=plan.generations, seed=plan.seed)
        words += ["--data_seed", str(plan.seed), "--dataset_shuffle", "false", "--model", str(start)]
        words += ["--learning_rate", str(plan.learning_rate), "--warmup_ratio", str(plan.rising)]
        words += ["--lr_scheduler_type", "warmup_stable_decay"]
        words += ["--lr_scheduler_kwargs", json.dumps({"num_decay_steps": plan.decay_steps})]
        words += ["--max_completion_length", "60", "--max_length", "1024", "--log_completions", "true"]
        for name in ("eval", "save"):
            words += [f"--{name}_strategy", "steps", f"--{name}_steps", str(plan.eval_steps)]
        words += ["--num_generations_eval", "1", "--per_device_eval_batch_size", str(plan.validation)]

        def make(folder: Path) -> None:
            from deepeyes.demo import warmup  # noqa: PLC0415 - loads torch

            pictures = task.sample_pictures(plan.prompts * plan.grpo_steps, seed=plan.seed, split="train")
            in_turn = [replace(picture, mat=index % len(task.MATS)) for index, picture in enumerate(pictures)]
            asked = task.sample_pictures(plan.validation, seed=plan.seed, split="validation")
            data = ["--dataset", str(task.write_rows(in_turn, "train", folder))]
            data += ["--val_dataset", str(task.write_rows(asked, "validation", folder))]
            # A look plays a question once where a step plays it several times, and trains on none of it.
            show = self.console.training(plan.grpo_steps, plan.eval_steps, LOOK_COSTS * plan.validation / batch)
            stages.swift_rlhf([*words, *data], folder, show, DEEPEYES_TRACE_DIR=str(folder / "trace"))
            warmup.add_generate(logs.best_checkpoint(folder))

        return self.cache.stage("grpo", [start.name, words, plan.prompts, plan.validation, ENVIRONMENT], make)

    def run(self) -> Path:
        """Run all stages.

        Returns:
            The folder of the GRPO run, with `demo.png` and `demo.json`.

        Raises:
            DemoError: A stage failed, or the policy did not learn.
        """
        self.console.stage("model")
        model = build_model(self.cache, self.plan.seed)
        self.console.stage("warm-up, plain torch")
        warmed = self.warm_up(model)
        self.console.stage("measure before")
        before = self.measure(warmed, "TRUE_CROP")["TRUE_CROP"]
        self.console.stage("grpo, swift rlhf")
        folder = self.grpo(warmed)
        self.console.stage("measure after")
        after = self.measure(logs.best_checkpoint(folder), "TRUE_CROP", "BLANK_CROP", "NO_TOOL")
        return self._conclude(folder, before, after)

    def _conclude(self, folder: Path, before: dict[str, Any], after: dict[str, dict[str, Any]]) -> Path:
        from deepeyes.demo import plot  # noqa: PLC0415 - loads matplotlib

        pictures = task.sample_pictures(self.plan.held_out, seed=self.plan.seed, split="held-out")
        best_guess = max(Counter(picture.pattern for picture in pictures).values()) / len(pictures)
        validation = logs.read_steps(folder, "eval_")
        lacks = verdict.lacks(before, after, best_guess, validation)
        report = {"plan": asdict(self.plan), "before": before, "after": after, "best_guess": best_guess}
        report |= {"learned": not lacks, "lacks": lacks}
        (folder / "demo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        plot.draw(logs.read_steps(folder), validation, folder / "demo.png")
        print(f"\nCurves: {folder / 'demo.png'}\nRun:    {folder}")
        command = module_command("deepeyes.report", str(folder))
        page = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own program
        print(f"Page:   {page.stdout.strip() if page.returncode == 0 else 'none: ' + page.stderr.strip()}")
        if self.plan.held_out < Plan().held_out:
            print("This was the short form: fewer steps and questions, so it proves less than the full one.")
        figures = verdict.figures_of(before, after, best_guess)
        said = [verdict.fall(validation), f"{'NOT LEARNED' if lacks else 'LEARNED'} {figures}", *lacks]
        print("\n" + "\n".join(filter(None, said)))
        if lacks:
            raise stages.DemoError("it did not learn; the lines above say why, the run's folder shows it")
        return folder
