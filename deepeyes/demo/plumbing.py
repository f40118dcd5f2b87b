"""`demo --dataset`: a few GRPO steps of a random model on the user's own rows, which shows the plumbing and no more."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

from deepeyes.demo import logs, stages
from deepeyes.demo.console import Training
from deepeyes.demo.pipeline import build_model

if TYPE_CHECKING:
    from pathlib import Path

    from deepeyes.demo.cache import Cache
    from deepeyes.demo.console import Console


COLUMNS = ("data_source", "prompt", "images", "env_name", "reward_model", "extra_info")
"""Columns of the official files that the plugin reads."""
STEPS, BATCH, GENERATIONS = 3, 4, 2
"""Steps of GRPO, trajectories a step, trajectories a question."""
TURN_TOKENS, TRAJECTORY_TOKENS = 32, 4096
PIXELS = 64 * 28 * 28
"""The pixel budget of an image: 64 tokens."""
TABLE_NAMES = ("reward", "accuracy", "format", "tool", "turns")


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
        table = pq.ParquetFile(path)
    except (OSError, ValueError) as error:
        raise stages.DemoError(f"{str(path)!r} is no parquet file: {str(error).splitlines()[0]}") from error
    names = table.schema_arrow.names
    if missing := [name for name in COLUMNS if name not in names]:
        raise stages.DemoError(f"{str(path)!r} lacks the column {', '.join(missing)}; it has {', '.join(names)}")
    if not table.metadata.num_rows:
        raise stages.DemoError(f"{str(path)!r} holds no rows")


def plumbing(dataset: Path, cache: Cache, console: Console, seed: int) -> None:
    """Run a few GRPO steps of a random model on a dataset, and print their figures."""
    console.stage("model")
    model = build_model(cache, seed)
    console.stage("grpo")
    folder = cache.directory / "plumbing"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    words = stages.grpo_words(STEPS, batch=BATCH, generations=GENERATIONS)
    words += ["--model", str(model), "--dataset", str(dataset.resolve())]
    words += ["--max_completion_length", str(TURN_TOKENS), "--max_length", str(TRAJECTORY_TOKENS)]
    words += ["--save_strategy", "no", "--seed", str(seed)]
    settings = {"MAX_PIXELS": str(PIXELS), "DEEPEYES_CROP_SOURCE": "view"}
    stages.swift_rlhf(words, folder, Training(console, STEPS).show, **settings)
    steps = logs.read_steps(folder)
    print("\n" + f"{'step':>6}" + "".join(f"{name:>10}" for name in TABLE_NAMES))
    for figures in steps:
        print(f"{figures['step']:>6}" + "".join(f"{figures[name]:>10.2f}" for name in TABLE_NAMES))
    if len(steps) != STEPS:
        raise stages.DemoError(f"swift logged {len(steps)} of {STEPS} steps; its output is in {folder}")
    print(
        f"\nThe rows in {dataset} pass through swift, the scheduler and the rewards. That is all this shows: the model"
    )
    print("is random and learns nothing in these steps.")
