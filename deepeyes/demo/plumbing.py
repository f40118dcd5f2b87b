"""`demo --dataset`: a few GRPO steps of a random model on the user's own rows, which shows the plumbing and no more."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from deepeyes.dataset.reading import open_parquet
from deepeyes.demo import logs, stages
from deepeyes.demo.pipeline import build_model
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from pathlib import Path

    from deepeyes.demo.cache import Cache
    from deepeyes.demo.console import Console

STEPS, BATCH, GENERATIONS = 3, 4, 2
"""Steps of GRPO, trajectories a step, trajectories a question."""
SIZES = ("--max_completion_length", "32", "--max_length", "4096", "--save_strategy", "no")
"""Tokens of a turn and of a trajectory at most; no checkpoint is kept."""
PIXELS = 64 * 28 * 28
"""The pixel budget of an image: 64 tokens."""


def check_dataset(path: Path) -> None:
    """Refuse what is no dataset in the official schema.

    Raises:
        DemoError: The file is missing, is no parquet file, lacks a column or holds no row.
    """
    if not path.is_file():
        raise stages.DemoError(
            f"no file {str(path)!r}; --dataset wants a parquet file in the schema of the official ones"
        )
    try:
        _, rows = open_parquet(path)
    except DataFileError as error:
        raise stages.DemoError(str(error)) from error
    if not rows:
        raise stages.DemoError(f"{str(path)!r} holds no rows")


def plumbing(dataset: Path, cache: Cache, console: Console, seed: int) -> None:
    """Run a few GRPO steps of a random model on a dataset."""
    console.stage("model")
    model = build_model(cache, seed)
    console.stage("grpo")
    folder = cache.directory / "plumbing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = stages.grpo_words(STEPS, batch=BATCH, generations=GENERATIONS, seed=seed)
    words += ["--model", str(model), "--dataset", str(dataset.resolve()), *SIZES]
    settings = {"MAX_PIXELS": str(PIXELS), "DEEPEYES_CROP_SOURCE": "view"}
    stages.swift_rlhf(words, folder, console.training(STEPS), **settings)
    if (steps := len(logs.read_steps(folder))) != STEPS:
        raise stages.DemoError(f"swift logged {steps} of {STEPS} steps; its output is in {folder}")
    print(
        f"\nThe rows in {dataset} pass through swift, the scheduler and the rewards. That is all this shows: the model"
    )
    print("is random and learns nothing in these steps.")
