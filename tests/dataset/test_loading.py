"""Rows that swift loads are read as swift reads them, and what training would stop at is mended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_maker import findings, make_row, picture, save, user

from deepeyes.data.cli import main
from deepeyes.dataset.loading import as_text, load
from deepeyes.dataset.official import HOLDOUT_NAME
from deepeyes.dataset.rows import row_problems

if TYPE_CHECKING:
    from pathlib import Path


def shapes(directory: Path) -> dict[str, dict[str, Any]]:
    """Rows that swift loads though they are not in the usual shape."""
    file = directory / "1.png"
    file.write_bytes(picture(1))
    whole = make_row(1, images=[str(file)])
    without = {name: value for name, value in whole.items() if name != "images"}
    return {
        "images is a text": {**whole, "images": str(file)},
        "images is an object": {**whole, "images": {"bytes": None, "path": str(file)}},
        "a column image": {**without, "image": str(file)},
        "a column image with an object": {**without, "image": {"bytes": None, "path": str(file)}},
        "no tag": {**whole, "prompt": user("What is shown?")},
        "no tag after a system turn": {
            **whole,
            "prompt": [{"role": "system", "content": "Look."}, *user("What is shown?")],
        },
        "messages": {("messages" if name == "prompt" else name): value for name, value in whole.items()},
    }


class TestAsSwiftReads:
    @pytest.mark.parametrize(
        "name",
        [
            "images is a text",
            "images is an object",
            "a column image",
            "a column image with an object",
            "no tag",
            "no tag after a system turn",
            "messages",
        ],
    )
    def test_row_is_kept_and_written_in_the_usual_shape(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        row = shapes(tmp_path)[name]
        path = save(tmp_path / "a.jsonl", [row])
        found = findings(capsys, path)
        assert (found["problems"], found["mended"]) == ({}, {})
        assert main([str(path), "--workers", "1"]) == 0
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        (written,) = pq.read_table(tmp_path / "out" / "a.parquet").to_pylist()
        assert written["images"][0]["bytes"] == picture(1)
        assert "image" not in written
        assert sum(turn["content"].count("<image>") for turn in written["prompt"] if turn["role"] == "user") == 1

    @pytest.mark.slow  # swift takes half a minute to import on two cores
    def test_swift_itself_reads_each_of_them_so(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        from swift.dataset import load_dataset  # noqa: PLC0415 - takes long

        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        for number, (name, row) in enumerate(shapes(tmp_path).items()):
            path = save(tmp_path / f"{number}.jsonl", [row])
            rows, _ = load_dataset([str(path)], columns={"prompt": "messages"}, remove_unused_columns=False)
            ours = load(row).row
            assert [image["path"] for image in rows[0]["images"]] == [
                image if isinstance(image, str) else image["path"] for image in ours["images"]
            ], name
            if "tag" not in name:  # that is the template's doing, when it encodes the row
                assert rows[0]["messages"] == ours["prompt"], name

    @given(
        st.dictionaries(
            st.sampled_from(["prompt", "messages", "image", "images", "reward_model", "extra_info"]),
            st.recursive(
                st.none() | st.text(max_size=9) | st.integers(),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(st.sampled_from(["role", "content", "bytes", "ground_truth"]), inner, max_size=3)
                ),
            ),
        )
    )
    def test_any_row_is_read_or_told_of(self, row: dict[str, Any]) -> None:
        before = json.dumps(row)
        row_problems(load(row).row, str)
        assert json.dumps(row) == before  # nothing is changed in place


REFERENCES = {
    "a number": (5, "5"),
    "a fraction": (0.25, "0.25"),
    "a list of one": (["a line"], "a line"),
    "a list": (["a line", "a dot"], "a line, a dot"),
    "within a tag": ("<answer> a line </answer>", "a line"),
    "within a tag, in capitals": ("<ANSWER>a line</ANSWER>\n", "a line"),
}


class TestMended:
    @pytest.mark.parametrize("name", REFERENCES)
    def test_reference_is_told_and_written_as_text(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        value, text = REFERENCES[name]
        path = save(tmp_path / "a.parquet", [make_row(0, reward_model={"ground_truth": value, "style": "m"})], None)
        found = findings(capsys, path)
        assert found["problems"] == {}
        (told,) = found["mended"]
        assert told.startswith("reward_model.ground_truth ")
        assert main([str(path), "--workers", "1"]) == 1
        assert "Write them mended: bash deepeyes.sh data" in capsys.readouterr().out
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        assert pq.read_table(tmp_path / "out" / "a.parquet").to_pylist()[0]["reward_model"]["ground_truth"] == text

    @pytest.mark.parametrize("reference", [None, [], True, {"a": 1}, [None], "", " "])
    def test_what_is_no_reference_stays_a_problem(self, reference: Any) -> None:
        row = load(make_row(0, reward_model={"ground_truth": reference})).row
        assert [problem.text for problem in row_problems(row, str)] == [
            "reward_model.ground_truth is empty or no text; expected a text"
        ]

    def test_prompt_beside_messages_is_mended(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        rows = [make_row(n, messages=user("<image>another")) for n in range(2)]
        path = save(tmp_path / "a.parquet", rows, None)
        (told,) = findings(capsys, path)["mended"]
        assert "with which swift stops" in told
        assert main([str(path), "--workers", "1"]) == 1
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        table = pq.read_table(tmp_path / "out" / "a.parquet")
        assert "messages" not in table.column_names
        assert [row["prompt"][1]["content"] for row in table.to_pylist()] == [
            row["prompt"][1]["content"] for row in rows
        ]

    def test_empty_prompt_beside_messages_gives_way(self) -> None:
        assert load(make_row(0, prompt=None, messages=user("<image>q"))).row["prompt"] == user("<image>q")

    @pytest.mark.parametrize(
        ("value", "text"), [("a", "a"), (1.5, "1.5"), ([["a"], 1], "a, 1"), ([None], None), (None, None)]
    )
    def test_text_of_a_value(self, value: Any, text: str | None) -> None:
        assert as_text(value) == text


class TestSeveralPictures:
    """Rows with more than one picture, which swift and the plugin take."""

    def row(self, *seeds: int, tags: int | None = None, number: int = 0) -> dict[str, Any]:
        images = [{"bytes": picture(seed), "path": None} for seed in seeds]
        return make_row(number, images=images, prompt=user("<image>" * (len(seeds) if tags is None else tags) + "q"))

    @pytest.mark.parametrize(("tags", "told"), [(2, 0), (1, 1), (0, 1)])
    def test_row_is_kept_with_as_many_tags_as_pictures(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], tags: int, told: int
    ) -> None:
        path = save(tmp_path / "a.parquet", [self.row(1, 2, tags=tags)])
        found = findings(capsys, path)
        assert (found["problems"], found["images"]) == ({}, 2)
        assert sum("fewer `<image>`" in text for text in found["notes"]) == told
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        (written,) = pq.read_table(tmp_path / "out" / "a.parquet").to_pylist()
        assert [image["bytes"] for image in written["images"]] == [picture(1), picture(2)]
        assert written["prompt"][0]["content"] == "<image><image>q"

    def test_rows_that_share_a_picture_by_a_third_are_held_out_together(self, tmp_path: Path) -> None:
        chain = [self.row(n, n + 1, number=n) for n in range(6)]
        path = save(tmp_path / "a.parquet", [*chain, *(self.row(20 + n, number=20 + n) for n in range(6))])
        for seed in range(4):
            out = tmp_path / str(seed)
            assert main([str(path), "--out", str(out), "--holdout", "4", "--seed", str(seed), "--workers", "1"]) == 0
            held = {int(row["extra_info"]["index"]) for row in pq.read_table(out / HOLDOUT_NAME).to_pylist()}
            assert len(held) == 4
            assert held <= set(range(20, 26))


class TestEnvironment:
    @pytest.mark.parametrize(("name", "told"), [("visual_toolbox_v2", 0), ("visual_toolbx", 1), ("", 0), (None, 0)])
    def test_unknown_name_is_told(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str | None, told: int
    ) -> None:
        found = findings(capsys, save(tmp_path / "a.parquet", [make_row(0, env_name=name)]))
        assert sum("env_name is not 'visual_toolbox_v2'" in text for text in found["notes"]) == told


class TestArrays:
    @pytest.mark.parametrize("indent", [None, 2])
    def test_array_of_json_is_read_row_by_row(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], indent: int | None
    ) -> None:
        (tmp_path / "1.png").write_bytes(picture(1))
        rows = [make_row(n, images=[str(tmp_path / "1.png")], level=0.5) for n in range(20)]
        path = tmp_path / "a.json"
        path.write_text(json.dumps(rows, indent=indent), encoding="utf-8")
        found = findings(capsys, path)
        assert (found["rows"], found["problems"]) == (20, {})
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        assert pq.read_table(tmp_path / "out" / "a.parquet").column("level").type == pa.float64()

    def test_lines_under_the_name_of_an_array_are_read_too(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "1.png").write_bytes(picture(1))
        path = tmp_path / "a.json"
        path.write_text("".join(json.dumps(make_row(n, images=[str(tmp_path / "1.png")])) + "\n" for n in range(2)))
        assert findings(capsys, path)["rows"] == 2

    def test_array_that_is_cut_off_ends_with_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "a.json"
        path.write_text('[{"data_source": "vstar"}, {"data', encoding="utf-8")
        assert main([str(path), "--workers", "1"]) == 2
        told = capsys.readouterr().err
        assert "can't be read" in told
        assert "get it again" not in told  # nobody else has it
