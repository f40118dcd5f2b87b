"""Evaluations that nobody here wrote, against `serve`, each in an environment of its own that the test makes.

The accuracies are what the scripted model must give: one that looks at the crop is always right, one that looks at the
view alone knows nothing, and one that says A is right where A is.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from serve_world import CARD, NAME, Asked, Script, call, playing, read_stripes, serving, stripes

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [pytest.mark.lengthy, pytest.mark.timeout(3600)]

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENTS = ROOT / ".cache" / "foreign"
EVALSCOPE = ("evalscope==1.14.1",)
LMMS_EVAL = ("lmms-eval==0.7.3", "filelock<4", "torch==2.11.0", "torchvision==0.26.0")
"""It reads a private module that filelock 4 has no longer; torch is that of the lock, which is there already."""
SIZE = (4000, 3000)
LETTERS = "ABCD"
WAYS = ("upright", "level")
TEXT = {"dtype": "string", "_type": "Value"}
FEATURES = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            **dict.fromkeys(("text", "category", "label", "question_id"), TEXT),
        }
    }
}
"""What `datasets` reads of a parquet file: which column is an image."""
RUN_EVALSCOPE = """
import json, sys
from evalscope import TaskConfig, run_task
url, model, data, work = sys.argv[1:]
run_task(TaskConfig(
    model=model, api_url=url, api_key="any", eval_type="openai_api", datasets=["vstar_bench"],
    dataset_args={"vstar_bench": {"dataset_id": data}}, eval_batch_size=4, work_dir=work,
    generation_config={"max_tokens": 512, "temperature": 0.0, "stream": STREAM},
))
"""

LMMS_TASK = """
include: {package}/tasks/vstar_bench/vstar_bench.yaml
task: vstar_here
dataset_path: {data}
"""
"""lmms-eval's own task, with another dataset."""


def write_vstar(folder: Path, rows: int = 8) -> Path:
    """V*Bench in the layout of lmms-lab/vstar-bench, with stripes that no view shows."""
    made = []
    for at in range(rows):
        way = WAYS[at % 2]
        buffer = io.BytesIO()
        stripes(upright=way == "upright", size=SIZE).save(buffer, "PNG")
        options = ["slanted", "crossed"]
        options.insert(at // 2 % 2, WAYS[1 - at % 2])
        options.insert(at % 4, way)
        lines = [f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=True)]
        made.append(
            {
                "image": {"bytes": buffer.getvalue(), "path": f"{at}.png"},
                "text": "\n".join(["How do the stripes on the card run?", *lines]),
                "category": "direct_attributes",
                "label": LETTERS[options.index(way)],
                "question_id": str(at),
            }
        )
    (folder / "data").mkdir(parents=True)
    table = pa.Table.from_pylist(made).replace_schema_metadata({"huggingface": json.dumps(FEATURES)})
    pq.write_table(table, folder / "data" / "test-00000-of-00001.parquet")
    return folder


def answer(asked: Asked, way: str) -> str:
    """The letter of an option, `(B) level` or `B. level`, in the form that is asked for; A where there is none."""
    found = re.search(rf"^\(?([A-D])[).] {way}$", asked.texts[1], re.MULTILINE)
    form = "ANSWER: " if "ANSWER:" in asked.texts[1] else ""
    return f"<answer>{form}{found[1] if found else 'A'}</answer>"


def zooms(asked: Asked) -> str:
    """Reads the crop, which alone shows the stripes."""
    if asked.turn == 1:
        width, height = asked.images[0].size
        box = [side * view / whole for side, view, whole in zip(CARD, (width, height) * 2, SIZE * 2, strict=True)]
        return call(*box)
    return answer(asked, read_stripes(asked.images[-1]))


def looks_at_the_view(asked: Asked) -> str:
    return answer(asked, read_stripes(asked.images[0]))


def says_a(asked: Asked) -> str:
    return answer(asked, "none of the options")


def python_with(*requirements: str) -> Path:
    """The Python of an environment with some packages, made once."""
    folder = ENVIRONMENTS / requirements[0].replace("=", "")
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        uv = str(ROOT / ".uv" / "bin" / "uv")
        if not Path(uv).exists():
            pytest.skip("uv is not there; `bash deepeyes.sh setup` brings it")
        for words in (
            ["venv", "--clear", "--python", sys.executable, folder],
            ["pip", "install", "--python", python, *requirements],
        ):
            done = subprocess.run([uv, *map(str, words)], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{requirements[0]} can't be installed: {done.stderr[-300:]}")
        (folder / "made").touch()
    return python


def run(*words: object, **settings: object) -> str:
    """Runs a program to its end, without the hub; returns what it said."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **{name: str(value) for name, value in settings.items()}}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


class TestEvalScope:
    @pytest.mark.parametrize(
        ("policy", "accuracy", "stream"),
        [(zooms, 1.0, "False"), (zooms, 1.0, "True"), (looks_at_the_view, 0.25, "False"), (says_a, 0.25, "False")],
    )
    def test_vstar_bench_gives_what_the_script_must(
        self, policy: Callable[[Asked], str], accuracy: float, stream: str, tmp_path: Path
    ) -> None:
        python, data = python_with(*EVALSCOPE), write_vstar(tmp_path / "vstar")
        with playing(Script(policy)) as script, serving(script.url, "--family", "qwen2.5-vl") as url:
            code = RUN_EVALSCOPE.replace("STREAM", stream)
            run(python, "-c", code, url, NAME, data, tmp_path / "work")
        (report,) = (tmp_path / "work").rglob("reports/**/*.json")
        assert json.loads(report.read_text())["metrics"][0]["score"] == accuracy
        assert sum(asked.turn == 1 for asked in script.asked) == 8


class TestLmmsEval:
    @pytest.mark.parametrize(("policy", "accuracy"), [(zooms, 1.0), (looks_at_the_view, 0.25), (says_a, 0.25)])
    def test_vstar_bench_gives_what_the_script_must(
        self, policy: Callable[[Asked], str], accuracy: float, tmp_path: Path
    ) -> None:
        python, data = python_with(*LMMS_EVAL), write_vstar(tmp_path / "vstar")
        package = run(python, "-c", "import lmms_eval; print(lmms_eval.__path__[0])").strip()
        (tmp_path / "tasks").mkdir()
        (tmp_path / "tasks" / "here.yaml").write_text(LMMS_TASK.format(package=package, data=data))
        words = ["--tasks", "vstar_here", "--include_path", tmp_path / "tasks", "--output_path", tmp_path / "out"]
        words += ["--verbosity", "DEBUG"]  # without it a failure has status 0
        words += ["--gen_kwargs", "max_new_tokens=512"]  # its own 16 are too few for a call
        with playing(Script(policy)) as script, serving(script.url, "--family", "qwen2.5-vl") as url:
            model = f"model_version={NAME},base_url={url},api_key=any,timeout=120"
            arguments = ["--model", "openai", "--model_args", model, *words]
            run(python, "-m", "lmms_eval", *arguments, HF_HOME=tmp_path / "hub", LMMS_EVAL_HOME=tmp_path)
        (report,) = (tmp_path / "out").rglob("*_results.json")
        found = json.loads(report.read_text())["results"]["vstar_here"]
        assert found["vstar_overall_acc,none"] == 100 * accuracy
        assert sum(asked.turn == 1 for asked in script.asked) == 8
