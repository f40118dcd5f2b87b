"""dataset_info.json: swift's own loader finds the three official files and brings every row, image and column."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from swift.dataset import DATASET_MAPPING, load_dataset, register_dataset_info
from swift.template.vision_utils import load_file, load_image

from deepeyes.dataset.joining import schema_conflict
from deepeyes.dataset.pictures import look, read_image

PROJECT = Path(__file__).parents[2]
NAMES = ["deepeyes_vstar", "deepeyes_chart", "deepeyes_thinklite"]

# The schema of the official files, as `pyarrow.parquet` reads it from them.
MESSAGE = pa.struct([("content", pa.string()), ("role", pa.string())])
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
EXTRA = ("answer", "index", "question", "split")
SCHEMA = pa.schema(
    [
        ("data_source", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("images", pa.list_(IMAGE)),
        ("ability", pa.string()),
        ("env_name", pa.string()),
        ("reward_model", pa.struct([("ground_truth", pa.string()), ("style", pa.string())])),
        ("extra_info", pa.struct([(name, pa.string()) for name in EXTRA])),
    ]
)


def png(color: tuple[int, int, int]) -> bytes:
    """Encode a small image of one colour, which tells rows apart."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32), color).save(file, "PNG")
    return file.getvalue()


def official_rows(source: str, count: int) -> list[dict[str, Any]]:
    """Make rows as the official file of `source` holds them; ThinkLite has no tool and no image path."""
    tool = source != "thinklite_eureka"
    return [
        {
            "data_source": source,
            "prompt": [
                {"content": f"system of {source}", "role": "system"},
                {"content": f"<image>\n{source} question {i}", "role": "user"},
            ],
            "images": [{"bytes": png((len(source), i, 0)), "path": f"{i}.jpg" if tool else None}],
            "ability": "vl_chart",
            "env_name": "visual_toolbox_v2" if tool else None,
            "reward_model": {"ground_truth": f"{source} answer {i}", "style": "model"},
            "extra_info": {
                "answer": f"{source} answer {i}",
                "index": str(i),
                "question": f"{source} question {i}",
                "split": "train",
            },
        }
        for i in range(count)
    ]


ROWS = {
    "data_0.1.2_visual_toolbox_v2.parquet": official_rows("vstar", 5),
    "data_v0.8_visual_toolbox_v2.parquet": official_rows("chart", 4),
    "data_thinklite_reasoning_acc.parquet": official_rows("thinklite_eureka", 3),
}


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Lay out dataset_info.json with data/ beside it, register it with swift, and stand somewhere else."""
    folder = tmp_path / "checkout"
    (folder / "data").mkdir(parents=True)
    shutil.copy(PROJECT / "dataset_info.json", folder)
    for name, rows in ROWS.items():
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), folder / "data" / name, row_group_size=2)
    for name in NAMES:
        monkeypatch.delitem(DATASET_MAPPING, name, raising=False)
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    register_dataset_info(str(folder / "dataset_info.json"))
    return folder


def load(*datasets: str, columns: dict[str, str] | None = None) -> list[dict[str, Any]]:
    """Load as `swift rlhf --rlhf_type grpo` does, which keeps every column."""
    dataset, _ = load_dataset(list(datasets), remove_unused_columns=False, columns=columns)
    return [dict(row) for row in dataset]


def expected(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Say what a row must look like to the plugin: as in the file, with the prompt as messages."""
    result = []
    for row in rows:
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in row["prompt"]]
        result.append({name: value for name, value in row.items() if name != "prompt"} | {"messages": messages})
    return result


def without_tag(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Drop `dataset`, the file that a row came from, which swift adds."""
    return [{name: value for name, value in row.items() if name != "dataset"} for row in rows]


class TestNames:
    """The registered names."""

    def test_all_three_names_loaded_together_give_every_row_image_and_column(self, checkout: Path) -> None:
        assert checkout.is_dir()
        assert without_tag(load(*NAMES)) == expected([row for rows in ROWS.values() for row in rows])

    def test_a_number_of_rows_after_the_name_takes_so_many(self, checkout: Path) -> None:
        assert checkout.is_dir()
        assert len(load("deepeyes_chart#2")) == 2

    def test_every_name_points_at_a_different_official_file_in_data(self) -> None:
        entries = json.loads((PROJECT / "dataset_info.json").read_text())
        assert [entry["dataset_name"] for entry in entries] == NAMES
        assert [entry["dataset_path"] for entry in entries] == [f"data/{name}" for name in ROWS]


class TestFiles:
    """The same files by path, which is what `DATA_DIR` and `DATASET` of deepeyes.sh come to."""

    def test_an_official_file_in_another_folder_loads_the_same(self, checkout: Path, tmp_path: Path) -> None:
        name, rows = next(iter(ROWS.items()))
        moved = shutil.move(checkout / "data" / name, tmp_path / name)
        assert without_tag(load(str(moved))) == expected(rows)

    def test_a_file_of_another_name_needs_the_columns_that_train_passes(self, checkout: Path, tmp_path: Path) -> None:
        name, rows = next(iter(ROWS.items()))
        own = str(shutil.copy(checkout / "data" / name, tmp_path / "own.parquet"))
        assert without_tag(load(own, columns={"prompt": "messages"})) == expected(rows)
        # Without them swift takes the whole list of turns for the text of one question, and says nothing.
        assert [turn["role"] for turn in load(own)[0]["messages"]] == ["user"]

    def test_columns_of_other_nested_types_are_refused_by_name(self, checkout: Path) -> None:
        file = checkout / "data" / "data_v0.8_visual_toolbox_v2.parquet"
        rows = pq.read_table(file).to_pylist()
        for row in rows:
            row["extra_info"]["index"] = int(row["extra_info"]["index"])
        pq.write_table(pa.Table.from_pylist(rows), file)
        with pytest.raises(ValueError, match=r"can't be aligned because the key .*index"):
            load(*NAMES)
        conflict = schema_conflict([checkout / "data" / name for name in ROWS])
        assert conflict
        assert re.search(r"extra_info.index is string in .*v2.parquet and int64 in .*data_v0.8", conflict)


class TestImages:
    """The data check takes for one image what swift takes for one, and reads what swift reads."""

    @pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "L", "CMYK", "1"])
    def test_digest_is_that_of_the_pixels_that_swift_hands_to_the_model(self, mode: str) -> None:
        file = io.BytesIO()
        image = Image.linear_gradient("L").resize((40, 30)).convert(mode)
        if mode == "RGBA":
            image.putalpha(Image.linear_gradient("L").resize((40, 30)))
        image.save(file, "TIFF")
        plain = io.BytesIO()
        load_image(file.getvalue()).save(plain, "PNG")
        one, other = look([file.getvalue(), plain.getvalue()])
        assert one == other

    def test_text_is_read_as_swift_reads_it(self, tmp_path: Path) -> None:
        content = png((1, 2, 3))
        (tmp_path / "a.png").write_bytes(content)
        text = base64.b64encode(content).decode()
        for image in (text, f"{text[:20]}\n{text[20:]}", f"data:image/png;base64,{text}", str(tmp_path / "a.png")):
            assert read_image(image) == load_file(image).getvalue() == content
