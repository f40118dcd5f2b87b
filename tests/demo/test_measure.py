"""The demo samples from the whole softmax that GRPO trains, though swift hands `--top_k 0` on as no word at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from deepeyes.demo import stages

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import pathlib, sys
from transformers.generation import utils
from deepeyes import tiny_model
from deepeyes.demo import measure, task

cuts = []

def cut(**_):
    cuts.append(1)
    return lambda _, scores: scores

utils.TopKLogitsWarper = utils.TopPLogitsWarper = utils.MinPLogitsWarper = cut
folder = pathlib.Path(sys.argv[1])
tiny_model.build(folder)
tiny_model.add_generate(folder)
config = folder / "generation_config.json"
config.write_text(config.read_text().replace(*sys.argv[2:]))
rows = [task.row(0, picture, "script") for picture in task.sample_pictures(1, seed=1, split="script")]
evaluator = measure.Evaluator(folder)
evaluator._config.max_tokens = 2
assert len(evaluator.answer(rows, 0)) == 1
print("cut" if cuts else "whole")
"""


def sampled(folder: Path, *replaced: str) -> str:
    """From what a tiny model samples, once its `generation_config.json` has a word replaced."""
    (script := folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    env = stages.child_environment(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, str(script), str(folder / "model"), *replaced]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    *_, said = done.stdout.split()
    return said


def test_no_token_is_cut(tmp_path: Path) -> None:
    assert sampled(tmp_path, "", "") == "whole"


def test_without_the_word_in_the_checkpoint_the_likeliest_fifty_are_left(tmp_path: Path) -> None:
    assert sampled(tmp_path, ',\n  "top_k": 0', "") == "cut"
