"""The demo samples from the whole softmax that GRPO trains, though swift hands `--top_k 0` on as no word at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deepeyes.demo import stages

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, pathlib, sys
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
rows = [task.row(0, picture, "script") for picture in task.sample_pictures(1, seed=1, split="script")]
config = folder / "generation_config.json"
for said in (json.loads(config.read_text()), json.loads(config.read_text()) | {"top_k": None}):
    config.write_text(json.dumps({name: value for name, value in said.items() if value is not None}))
    cuts.clear()
    evaluator = measure.Evaluator(folder)
    evaluator._config.max_tokens = 2
    assert len(evaluator.answer(rows, 0)) == 1
    print("cut" if cuts else "whole")
"""


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """From what a tiny model draws as the demo makes it, and without the word in its `generation_config.json`."""
    folder = tmp_path_factory.mktemp("measure")
    (script := folder / "script.py").write_text(SCRIPT, encoding="utf-8")
    env = stages.child_environment(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, str(script), str(folder / "model")]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()[-2:]


def test_no_token_is_cut(drawn: list[str]) -> None:
    assert drawn[0] == "whole"


def test_without_the_word_in_the_checkpoint_the_likeliest_fifty_are_left(drawn: list[str]) -> None:
    assert drawn[1] == "cut"
