"""The stages of the demo that learns, one function each, and what is concluded from them; and the plumbing form.

A random checkpoint; supervised training in plain torch, which leaves open how often to zoom, and where to; `swift rlhf`
with the plugin's scheduler and rewards, which keeps the checkpoint that does best on validation questions; and a
measure on held-out pictures before and after. Each stage is kept, and reused until something that made it changes.
`demo --dataset` is a few steps of the random model on the user's own rows, which show the plumbing and no more.
"""

from __future__ import annotations

import functools
import importlib
import json
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from deepeyes.dataset.reading import open_parquet
from deepeyes.demo import progress, stages, task, verdict
from deepeyes.demo.plan import Plan
from deepeyes.launch import module_command

if TYPE_CHECKING:
    from pathlib import Path

    from deepeyes.demo.cache import Cache

LOOK_COSTS = 0.8  # of a trajectory of a look at the validation: it is played, and not trained on
STEPS, BATCH, GENERATIONS = 3, 4, 2  # of the plumbing: GRPO steps, trajectories a step and a question
SIZES = ("--max_completion_length", "32", "--max_length", "4096", "--save_strategy", "no")
SETTINGS = {"MAX_PIXELS": str(64 * 28 * 28), "DEEPEYES_CROP_SOURCE": "view"}  # 64 tokens an image


def build_model(cache: Cache, seed: int) -> Path:
    """Give the random checkpoint, and import Transformers while that is drawn."""
    from deepeyes import tiny_model  # noqa: PLC0415 - loads torch

    def make(folder: Path) -> None:
        meanwhile = functools.partial(importlib.import_module, "deepeyes.demo.warmup")
        stages.run("model", lambda: tiny_model.build(folder, seed=seed), folder, meanwhile=meanwhile)
        tiny_model.add_generate(folder)

    return cache.stage("model", seed, make)


@dataclass(frozen=True, slots=True)
class Demo:
    """The stages of the demo."""

    plan: Plan
    cache: Cache
    console: progress.Console

    def warm_up(self, model: Path) -> Path:
        """Give the checkpoint that was taught in plain torch, and import swift while that trains."""
        from deepeyes.demo import warmup  # noqa: PLC0415 - loads torch

        plan = self.plan

        def make(folder: Path) -> None:
            show, meanwhile = self.console.step, stages.load_swift
            stages.run("warm-up", lambda: warmup.warm_up(model, folder, plan), folder, show, meanwhile)

        made_by = [model.name, plan.clean_steps, plan.soft_steps, plan.zooms, plan.right, plan.seed]
        return self.cache.stage("warmup", made_by, make)

    def measure(self, checkpoint: Path, *modes: str) -> dict[str, dict[str, Any]]:
        """Give what a checkpoint does on the held-out questions, by the given modes: keys of `measure.MODES`."""
        count, seed = self.plan.held_out, self.plan.seed

        def make(folder: Path) -> None:
            stages.load_swift()
            from deepeyes.demo.measure import measure  # noqa: PLC0415 - loads swift

            stages.run("measure", lambda: measure(checkpoint, count, seed, modes, folder), folder, self.console.step)

        made_by = [checkpoint.parent.name, checkpoint.name, modes, count, seed]
        return {line["mode"]: line for line in progress.read_lines(self.cache.stage("measure", made_by, make))}

    def grpo(self, start: Path) -> Path:
        """Train with `swift rlhf` and the plugin; give the folder of the run."""
        from deepeyes import tiny_model  # noqa: PLC0415 - loads torch

        plan, batch = self.plan, self.plan.prompts * self.plan.generations
        words = stages.grpo_words(plan.grpo_steps, batch=batch, generations=plan.generations, seed=plan.seed)
        words += f"""--data_seed {plan.seed} --dataset_shuffle false
            --learning_rate {plan.learning_rate} --warmup_ratio {plan.rising} --lr_scheduler_type warmup_stable_decay
            --max_completion_length 60 --max_length 1024 --log_completions true
            --save_strategy steps --save_steps {plan.eval_steps} --eval_strategy steps --eval_steps {plan.eval_steps}
            --num_generations_eval 1 --per_device_eval_batch_size {plan.validation}""".split()
        words += ["--lr_scheduler_kwargs", json.dumps({"num_decay_steps": plan.decay_steps}), "--model", str(start)]

        def make(folder: Path) -> None:
            pictures = task.sample_pictures(plan.prompts * plan.grpo_steps, seed=plan.seed, split="train")
            in_turn = [replace(picture, mat=index % len(task.MATS)) for index, picture in enumerate(pictures)]
            asked = task.sample_pictures(plan.validation, seed=plan.seed, split="validation")
            data = ["--dataset", str(task.write_rows(in_turn, "train", folder))]
            data += ["--val_dataset", str(task.write_rows(asked, "validation", folder))]
            looks = plan.grpo_steps // plan.eval_steps
            show = self.console.training(plan.grpo_steps, looks, LOOK_COSTS * plan.validation / batch)
            stages.swift_rlhf([*words, *data], folder, show, DEEPEYES_TRACE_DIR=str(folder / "trace"))
            tiny_model.add_generate(progress.best_checkpoint(folder))

        return self.cache.stage("grpo", [start.name, words, plan.prompts, plan.validation], make)

    def run(self) -> None:
        """Run all stages; the folder of the GRPO run gets `demo.json` and the page.

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
        after = self.measure(progress.best_checkpoint(folder), "TRUE_CROP", "BLANK_CROP", "NO_TOOL")
        pictures = task.sample_pictures(self.plan.held_out, seed=self.plan.seed, split="held-out")
        best_guess = max(Counter(picture.pattern for picture in pictures).values()) / len(pictures)
        validation = progress.read_steps(folder, "eval_")
        lacks = verdict.lacks(before, after, best_guess, validation)
        report = {"plan": asdict(self.plan), "before": before, "after": after, "best_guess": best_guess}
        report |= {"learned": not lacks, "lacks": lacks}
        (folder / "demo.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        command = module_command("deepeyes.report", str(folder))
        page = subprocess.run(command, check=False, capture_output=True, text=True)  # noqa: S603 - our own program
        print(f"\nRun:  {folder}")
        print(f"Page: {page.stdout.strip() if page.returncode == 0 else 'none: ' + page.stderr.strip()}")
        if self.plan.held_out < Plan().held_out:
            print("This was the short form: fewer steps and questions, so it proves less than the full one.")
        figures = verdict.figures_of(before, after, best_guess)
        said = [verdict.fall(validation), f"{'NOT LEARNED' if lacks else 'LEARNED'} {figures}", *lacks]
        print("\n" + "\n".join(filter(None, said)))
        if lacks:
            raise stages.DemoError("it did not learn; the lines above say why, the run's folder shows it")


def plumbing(dataset: Path, cache: Cache, console: progress.Console, seed: int) -> None:
    """Run the steps on a dataset in the official schema.

    Raises:
        DataFileError: It is no parquet file or lacks a column.
        DemoError: It is missing or holds no row, or a step failed.
    """
    if not dataset.is_file():
        raise stages.DemoError(f"no file {str(dataset)!r}; --dataset wants a parquet file in the official schema")
    if not open_parquet(dataset)[1]:
        raise stages.DemoError(f"{str(dataset)!r} holds no rows")
    console.stage("model")
    model = build_model(cache, seed)
    console.stage("grpo")
    folder = cache.directory / "plumbing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = stages.grpo_words(STEPS, batch=BATCH, generations=GENERATIONS, seed=seed)
    words += ["--model", str(model), "--dataset", str(dataset.resolve()), *SIZES]
    stages.swift_rlhf(words, folder, console.training(STEPS), **SETTINGS)
    if (steps := len(progress.read_steps(folder))) != STEPS:
        raise stages.DemoError(f"swift logged {steps} of {STEPS} steps; its output is in {folder}")
    print(f"\nThe rows in {dataset} pass through swift, the scheduler and the rewards. That is all this shows:")
    print("the model is random and learns nothing in these steps.")
