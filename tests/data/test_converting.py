"""Rows of other projects become rows that pass the check."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_maker import picture, user

from deepeyes.data.cli import main
from deepeyes.data.converting import READERS, ConversionError, converter
from deepeyes.rows import has_tool, instruction_of
from deepeyes.settings import Coordinates, Scoring, Settings

if TYPE_CHECKING:
    from pathlib import Path

QUESTION = "What colour is the boat?"
# A row of each project in the columns that its repository reads, and what becomes of it: data source and scoring.
PUBLISHED: dict[str, tuple[dict[str, Any], str, Scoring]] = {
    "swift": (
        {"messages": user(f"<image>{QUESTION}"), "images": ["1.png"], "solution": "red"},
        "swift",
        Scoring.VISUAL,
    ),
    "mini-o3": (
        {
            "doc_id": 7,
            "data_source": "visual_probe",
            "problem": f"<image>\n{QUESTION}",
            "images": ["1.png"],
            "solution": "red",
        },
        "mini_o3",
        Scoring.VISUAL,
    ),
    "pixel-reasoner": (
        {"qid": "a-1", "question": QUESTION, "image": "1.png", "is_video": False, "answer": ["red"]},
        "pixel_reasoner",
        Scoring.VISUAL,
    ),
    "thyme": (
        {
            "messages": [{"role": "system", "content": "Write code."}, *user("<image>\nLong text about code.")],
            "images": ["1.png"],
            "solution": "red",
            "question": QUESTION,
        },
        "thyme",
        Scoring.VISUAL,
    ),
    "deepeyes-v2": (
        {
            "data_source": "reason",
            "prompt": [{"role": "system", "content": "A sandbox runs your code."}, *user(f"<image>{QUESTION}")],
            "images": ["1.png"],
            "env_name": "code",
            "reward_model": {"ground_truth": "red", "style": "model"},
            "extra_info": {"question": QUESTION, "index": 3},
        },
        "deepeyes_v2_math",
        Scoring.MATH,
    ),
}
UNFIT: dict[str, tuple[str, dict[str, Any], str]] = {
    "a video": ("pixel-reasoner", {"is_video": True, "image": ["1.png", "2.png"]}, "about a video"),
    "a search": ("deepeyes-v2", {"data_source": "search"}, "neither perception nor reason"),
    "no question": ("mini-o3", {"problem": "<image>"}, "the question is empty"),
    "no solution": ("thyme", {"solution": None}, "the reference answer is no text"),
    "two questions": ("swift", {"messages": [*user("a"), *user("b")]}, "2 user turns"),
    "no messages": ("swift", {"messages": "a"}, "no list of messages"),
}


def save_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    (path.parent / "1.png").write_bytes(picture(1))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class TestReaders:
    def test_each_has_a_published_row_here(self) -> None:
        assert set(PUBLISHED) == set(READERS)

    @pytest.mark.parametrize("name", PUBLISHED)
    def test_published_row_becomes_one_that_can_be_trained_on(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        row, source, scoring = PUBLISHED[name]
        monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path))
        path = save_lines(tmp_path / "train.jsonl", [row, row])
        assert main([str(path), "--from", name, "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        told = capsys.readouterr().out
        assert f"{source}={scoring.value}" in told.splitlines()[-1]
        written = pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]
        assert written["data_source"] == source
        assert written["images"][0]["bytes"] == picture(1)
        assert (written["reward_model"]["ground_truth"], written["extra_info"]["question"]) == ("red", QUESTION)
        system, asked = (turn["content"] for turn in written["prompt"])
        assert asked.startswith(f"<image>\n{QUESTION}\n")
        visual = scoring is Scoring.VISUAL
        assert ("image_zoom_in_tool" in system) is visual
        assert has_tool(written, Settings(sources=((source, scoring),))) is visual
        assert ("<answer>" in instruction_of(written, asked)) or not visual
        assert ("\\boxed" in asked) is not visual
        assert "code" not in system + asked
        monkeypatch.setenv("DEEPEYES_SOURCES", f"{source}={scoring.value}")
        assert main([str(tmp_path / "out" / "train.parquet"), "--workers", "1"]) == 0

    @pytest.mark.parametrize("name", UNFIT)
    def test_row_that_does_not_fit_is_told_and_dropped(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        project, changes, told = UNFIT[name]
        row = PUBLISHED[project][0]
        monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path))
        path = save_lines(tmp_path / "train.jsonl", [row, {**row, **changes}])
        assert main([str(path), "--from", project, "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        assert told in capsys.readouterr().out
        assert pq.read_table(tmp_path / "out" / "train.parquet").num_rows == 1

    def test_parquet_needs_none_of_our_columns(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        row = {**PUBLISHED["thyme"][0], "images": [{"bytes": picture(1), "path": None}]}
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / "a.parquet")
        assert main([str(tmp_path / "a.parquet"), "--workers", "1"]) == 2
        assert "are converted with --from" in capsys.readouterr().err
        assert main([str(tmp_path / "a.parquet"), "--from", "thyme", "--workers", "1"]) == 0

    def test_own_name_is_taken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path))
        path = save_lines(tmp_path / "train.jsonl", [PUBLISHED["swift"][0]])
        arguments = ["--from", "swift", "--source", "boats", "--out", str(tmp_path / "out"), "--workers", "1"]
        assert main([str(path), *arguments]) == 0
        assert pq.read_table(tmp_path / "out" / "train.parquet").to_pylist()[0]["data_source"] == "boats"

    def test_boxes_are_asked_for_in_the_frame_of_the_settings(self) -> None:
        rows = [
            converter("mini-o3", "a", frame)(PUBLISHED["mini-o3"][0])
            for frame in (Coordinates.PIXEL, Coordinates.NORM1000)
        ]
        assert ["thousandths" in row["prompt"][0]["content"] for row in rows] == [False, True]

    @pytest.mark.parametrize("row", [None, [], "a", 1])
    def test_what_is_no_row_is_told(self, row: Any) -> None:
        with pytest.raises(ConversionError, match="no JSON object"):
            converter("thyme", "a", Coordinates.PIXEL)(row)
