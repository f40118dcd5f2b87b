"""Evaluations that nobody here wrote, against `serve`, each in an environment of its own that the test makes.

The accuracies are what the scripted model must give: one that looks at the crop is always right, one that looks at the
view alone knows nothing, and one that says A is right where A is.
"""

from __future__ import annotations

import io
import json
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
EVALSCOPE = "evalscope==1.14.1"
SIZE = (4000, 3000)
LETTERS = "ABCD"
WAYS = ("upright", "level")
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
    pq.write_table(pa.Table.from_pylist(made), folder / "data" / "test-00000-of-00001.parquet")
    return folder


def letter(asked: Asked, way: str) -> str:
    """The letter of an option; A where there is none."""
    lines = asked.texts[1].splitlines()
    return next((line[1] for line in lines if line.startswith("(") and line.endswith(f") {way}")), "A")


def zooms(asked: Asked) -> str:
    """Reads the crop, which alone shows the stripes."""
    if asked.turn == 1:
        width, height = asked.images[0].size
        box = [side * view / whole for side, view, whole in zip(CARD, (width, height) * 2, SIZE * 2, strict=True)]
        return call(*box)
    return f"<answer>ANSWER: {letter(asked, read_stripes(asked.images[-1]))}</answer>"


def looks_at_the_view(asked: Asked) -> str:
    return f"<answer>ANSWER: {letter(asked, read_stripes(asked.images[0]))}</answer>"


def says_a(_asked: Asked) -> str:
    return "<answer>ANSWER: A</answer>"


def python_with(requirement: str) -> Path:
    """The Python of an environment with a package, made once."""
    folder = ENVIRONMENTS / requirement.replace("=", "")
    python = folder / "bin" / "python"
    if not (folder / "made").exists():
        uv = str(ROOT / ".uv" / "bin" / "uv")
        if not Path(uv).exists():
            pytest.skip("uv is not there; `bash deepeyes.sh setup` brings it")
        for words in (
            ["venv", "--clear", "--python", sys.executable, folder],
            ["pip", "install", "--python", python, requirement],
        ):
            done = subprocess.run([uv, *map(str, words)], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"{requirement} can't be installed: {done.stderr[-300:]}")
        (folder / "made").touch()
    return python


class TestEvalScope:
    @pytest.mark.parametrize(
        ("policy", "accuracy", "stream"),
        [(zooms, 1.0, "False"), (zooms, 1.0, "True"), (looks_at_the_view, 0.25, "False"), (says_a, 0.25, "False")],
    )
    def test_vstar_bench_gives_what_the_script_must(
        self, policy: Callable[[Asked], str], accuracy: float, stream: str, tmp_path: Path
    ) -> None:
        python, data = python_with(EVALSCOPE), write_vstar(tmp_path / "vstar")
        with playing(Script(policy)) as script, serving(script.url, "--family", "qwen2.5-vl") as url:
            code = RUN_EVALSCOPE.replace("STREAM", stream)
            words = [str(word) for word in (python, "-c", code, url, NAME, data, tmp_path / "work")]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        (report,) = (tmp_path / "work").rglob("reports/**/*.json")
        assert json.loads(report.read_text())["metrics"][0]["score"] == accuracy
        assert sum(asked.turn == 1 for asked in script.asked) == 8
