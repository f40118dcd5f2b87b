"""Files that swift can not join are told apart from those that it can."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import datasets
import pyarrow as pa
import pytest
from row_maker import make_row, save, three_files

from deepeyes.data.cli import main
from deepeyes.dataset.joining import schema_conflict

if TYPE_CHECKING:
    from pathlib import Path

EXTRA = {"answer": "a", "index": "1", "question": "q", "split": "train"}
LARGE = pa.large_list(pa.string())
# The rows of two files or three, what they are written as, and what is told of them.
JOINED: dict[str, tuple[list[list[dict[str, Any]]], str | None]] = {
    "equal": ([[{}], [{}]], None),
    "numbers and texts": (
        [[{}], [{"extra_info": {**EXTRA, "index": 1}}]],
        "extra_info.index is string in .*0.parquet and int64 in .*1.parquet",
    ),
    "fields in another order": ([[{}], [{"extra_info": dict(reversed(EXTRA.items()))}]], None),
    "one field more": ([[{}], [{"extra_info": {**EXTRA, "level": 1}}]], None),
    "one column more": ([[{}], [{"level": 1}]], None),
    "integers and floats": ([[{"level": 1}], [{"level": 1.5}]], "level is int64 .* double"),
    "nothing, then texts": ([[{"level": None}], [{"level": "a"}], [{"level": None}]], None),
    "nothing, texts, numbers": ([[{"level": None}], [{"level": "a"}], [{"level": 1}]], "level is string .* int64"),
    "nothing, then a struct": ([[{"level": None}], [{"level": {"a": 1}}]], "level is null .* struct"),
    "a struct, then nothing": ([[{"level": {"a": 1}}], [{"level": None}]], None),
    "no element, then texts": ([[{"level": []}], [{"level": ["a"]}]], None),
    "elements with another field": (
        [[{"level": [{"a": 1}]}], [{"level": [{"a": 1, "b": 1}]}]],
        "level is list<struct<a",
    ),
    "elements in another order": ([[{"level": [{"b": 1, "a": 1}]}], [{"level": [{"a": 1, "b": 1}]}]], None),
    "large lists": (
        [[{"level": ["a"]}], [{"level": ["a"], "type": LARGE}]],
        "level is list<string> .* large_list<string>",
    ),
    "large texts": ([[{"level": "a"}], [{"level": "a", "type": pa.large_string()}]], "level is string .* large_string"),
    "dictionaries": ([[{"level": "a"}], [{"level": "a", "type": pa.dictionary(pa.int32(), pa.string())}]], None),
    "lines": ([[{}], [{"jsonl": True}]], None),
    "lines with a date": ([[{}], [{"jsonl": True, "ability": "2020-01-01"}]], "ability is string .* timestamp"),
    "lines of two types": (
        [[{}], [{"jsonl": True}, {"extra_info": {**EXTRA, "index": 1}}]],
        "extra_info.index is string .* several types",
    ),
}


class TestConflict:
    @pytest.mark.parametrize("name", JOINED)
    def test_files_are_refused_that_datasets_refuses(self, tmp_path: Path, name: str) -> None:
        contents, message = JOINED[name]
        paths = []
        for number, changes in enumerate(contents):
            kind, lines = changes[0].pop("type", None), changes[0].pop("jsonl", False)
            rows = [{**make_row(), "extra_info": EXTRA, "images": ["a.png"], **change} for change in changes]
            plain = pa.Table.from_pylist(rows).schema if not lines else None
            schema = plain.set(plain.get_field_index("level"), pa.field("level", kind)) if plain and kind else plain
            paths.append(save(tmp_path / (f"{number}.jsonl" if lines else f"{number}.parquet"), rows, schema))
        loaded = [
            datasets.load_dataset(
                "json" if path.suffix == ".jsonl" else "parquet",
                data_files=str(path),
                split="train",
                cache_dir=str(tmp_path / "cache"),
            ).remove_columns(["prompt", "images"])
            for path in paths
        ]
        found = schema_conflict(paths)
        if message is None:
            assert found is None
            assert len(datasets.concatenate_datasets(loaded)) == len(paths)
        else:
            assert found
            assert re.search(message, found)
            with pytest.raises((ValueError, AttributeError)):  # for a column that was null before: no attribute items
                datasets.concatenate_datasets(loaded)

    def test_check_ends_with_the_command_that_mends_it(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        paths = three_files(tmp_path)
        own = [path.rename(tmp_path / f"own {number}.parquet") for number, path in enumerate(paths)]
        assert main([*map(str, own), "--workers", "1"]) == 1
        out = capsys.readouterr().out
        assert "extra_info.index is string in " in out
        command = shlex.split(out.splitlines()[-1].partition("Write them alike: ")[2])
        assert command[:3] == ["bash", "deepeyes.sh", "data"]
        assert main([*command[3:-1], str(tmp_path / "out"), "--workers", "1"]) == 0
        assert schema_conflict(sorted((tmp_path / "out").iterdir())) is None

    def test_one_file_or_one_that_is_no_table_conflicts_with_nothing(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.parquet", [make_row()])
        broken = [tmp_path / "b.parquet", tmp_path / "c.jsonl", tmp_path / "gone.parquet"]
        for file in broken[:2]:
            file.write_text("{oops\n")
        assert schema_conflict([path]) is None
        assert schema_conflict([path, *broken]) is None
