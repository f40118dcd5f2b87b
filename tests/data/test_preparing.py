"""What `--out` writes loads with swift and loses nothing."""

from __future__ import annotations

import base64
import hashlib
import re
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from row_maker import VSTAR, images_in, make_row, picture, save, save_any, three_files

from deepeyes.data.checking import Plan, check_file, make_pool
from deepeyes.data.cli import main
from deepeyes.data.preparing import write
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from pathlib import Path


class TestOut:
    @pytest.mark.slow  # swift alone takes half a minute to import on two cores
    def test_files_load_together_with_swift_and_lose_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from swift.dataset import load_dataset  # noqa: PLC0415 - takes long

        monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "cache"))
        sources = three_files(tmp_path)
        columns = {"prompt": "messages"}
        with pytest.raises(ValueError, match="features can't be aligned"):
            load_dataset([str(path) for path in sources], columns=columns, remove_unused_columns=False)

        assert main([*map(str, sources), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        written = [tmp_path / "out" / path.name for path in sources]
        loaded, _ = load_dataset([str(path) for path in written], columns=columns, remove_unused_columns=False)
        assert len(loaded) == 36
        assert images_in(*written) == images_in(*sources)
        assert sorted(hashlib.sha256(row["images"][0]["bytes"]).hexdigest() for row in loaded) == images_in(*sources)
        assert {row["extra_info"]["index"] for row in loaded} >= {"0", "100", "200"}
        assert {row["data_source"] for row in loaded} == {"vstar", "chart", "thinklite_eureka"}
        assert {row["messages"][-1]["role"] for row in loaded} == {"user"}

    def test_rows_are_as_they_were_but_for_the_schema_of_the_tool(self, tmp_path: Path) -> None:
        sources = three_files(tmp_path)
        assert main([str(tmp_path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        for source in sources:
            before, after = pq.read_table(source).to_pylist(), pq.read_table(tmp_path / "out" / source.name).to_pylist()
            for row in before:
                row["prompt"][0]["content"] = row["prompt"][0]["content"].replace('["bbox"]', '["bbox_2d"]')
                row["extra_info"]["index"] = str(row["extra_info"]["index"])
            assert after == before

    def test_row_of_several_pictures_keeps_them_all(self, tmp_path: Path) -> None:
        images = [{"bytes": picture(seed), "path": f"{seed}.png"} for seed in (1, 2)]
        prompt = make_row()["prompt"]
        prompt[1]["content"] = "<image>" + prompt[1]["content"]
        source = save(tmp_path / VSTAR, [make_row(0, images=images, prompt=prompt), make_row(1)])
        assert main([str(source), "--out", str(tmp_path / "out"), "--workers", "1"]) in (0, 1)
        several, one = pq.read_table(tmp_path / "out" / VSTAR).to_pylist()
        assert several["images"] == images
        assert len(one["images"]) == 1

    def test_bad_rows_are_left_out_and_prepared_files_are_recognised(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [make_row(n, source="vstar" if n else "what") for n in range(4)]
        assert main([str(save(tmp_path / VSTAR, rows)), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        assert f"{VSTAR}: 3 rows" in capsys.readouterr().out
        assert main([str(tmp_path / "out"), "--hub", "none", "--workers", "1"]) == 0
        out = capsys.readouterr().out
        assert "written by --out" in out
        assert "Remarks" not in out

    def test_own_json_lines_become_a_file_of_their_own_kind(self, tmp_path: Path) -> None:
        rows = [make_row(n, level=n or "easy", more={"a": [1.5]}) for n in range(3)]
        for row in rows:
            row["messages"] = row.pop("prompt")
        path = save_any(tmp_path / "mine.jsonl", rows)
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        written = pq.read_table(tmp_path / "out" / "mine.parquet").to_pylist()
        assert [row["level"] for row in written] == ["easy", "1", "2"]
        assert [row["more"] for row in written] == [{"a": [1.5]}] * 3
        assert [row["images"][0]["bytes"] for row in written] == [picture(n) for n in range(3)]

    def test_nothing_is_overwritten(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = save(tmp_path / "a.parquet", [make_row()])
        before = path.read_bytes()
        assert main([str(path), "--out", str(tmp_path), "--workers", "1"]) == 2
        assert "already has a.parquet; name a new folder" in capsys.readouterr().err
        assert path.read_bytes() == before

    def test_failure_half_way_leaves_nothing_behind(self, tmp_path: Path) -> None:
        path = save_any(tmp_path / "a.jsonl", [make_row(n) for n in range(3)])
        with make_pool(1) as pool:
            report = check_file(path, pool, Plan(str))
        (tmp_path / "2-0.bin").unlink()
        with pytest.raises(DataFileError, match="the image file is not in"):
            write([report], tmp_path / "out", 0, 0)
        assert list((tmp_path / "out").iterdir()) == []

    def test_types_that_do_not_go_together_are_named(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        files = [save(tmp_path / f"{n}.parquet", [make_row(extra=extra)], None) for n, extra in enumerate(("a", ["a"]))]
        assert main([*map(str, files), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert f"{files[1]}: column extra is list<element: string> here and string before" in capsys.readouterr().err

    def test_type_of_a_bad_row_is_passed_over_and_that_of_a_good_one_named_with_its_row(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def rows(third: Any) -> list[dict[str, Any]]:
            return [make_row(n, level=third if n == 2 else "easy") for n in range(3)]

        bad = [{**row, "extra_info": ["no object"]} if n == 2 else row for n, row in enumerate(rows(["a"]))]
        path = save_any(tmp_path / "bad.jsonl", bad)
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 1
        assert pq.read_table(tmp_path / "out" / "bad.parquet").num_rows == 2
        path = save_any(tmp_path / "mixed.jsonl", rows(["a"]))
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert f"{path}, row 2: column level is list<item: string> here and string before" in capsys.readouterr().err

    def test_type_that_parquet_lacks_ends_with_one_line_and_leaves_nothing_behind(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = save_any(tmp_path / "a.jsonl", [make_row(meta={})])
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert re.match(r"data: a column can't be written as parquet: .*'meta'.*\n$", capsys.readouterr().err)
        assert list((tmp_path / "out").iterdir()) == []

    def test_base64_is_read_as_swift_reads_it_and_written_as_bytes(self, tmp_path: Path) -> None:
        images = [picture(1), picture(2, (300, 300), "BMP")]
        texts = [base64.b64encode(image).decode() for image in images]
        entries = [*texts, f"data:image/png;base64,{texts[0]}", {"bytes": None, "path": texts[0]}, f" {texts[0]}\n"]
        path = save(tmp_path / "a.jsonl", [make_row(n, images=[entry]) for n, entry in enumerate(entries)])
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 0
        written = pq.read_table(tmp_path / "out" / "a.parquet").to_pylist()
        expected = [images[0], images[1], images[0], images[0], images[0]]
        assert [row["images"] for row in written] == [[{"bytes": image, "path": None}] for image in expected]

    @pytest.mark.parametrize(
        ("rows", "holdout", "message"),
        [
            ([make_row(n, source="what") for n in range(3)], 0, "there is no good row to write in"),
            ([], 0, "there is no good row to write in"),
            ([make_row(n) for n in range(6)], 100, "leaves no row to train on .* fewer than the 6 good rows"),
            (
                [make_row(n, images=[{"bytes": picture(1)}]) for n in range(6)],
                2,
                "finds no row: those that share an image stay together, and are more",
            ),
        ],
        ids=["all bad", "empty", "all held out", "one image"],
    )
    def test_file_that_would_be_empty_is_refused_and_nothing_written(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[dict[str, Any]], holdout: int, message: str
    ) -> None:
        path = save(tmp_path / "a.parquet", rows)
        arguments = ["--out", str(tmp_path / "out"), "--holdout", str(holdout), "--workers", "1"]
        assert main([str(path), *arguments]) == 2
        assert re.search(message, capsys.readouterr().err)
        assert not (tmp_path / "out").exists()

    def test_disk_that_runs_full_is_told_with_what_is_needed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image = {"bytes": picture(1, (1200, 1000), "BMP"), "path": None}
        path = save(tmp_path / "a.parquet", [make_row(n, images=[image]) for n in range(3)])
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "a.parquet.part").symlink_to("/dev/full")
        assert main([str(path), "--out", str(tmp_path / "out"), "--workers", "1"]) == 2
        assert re.search(
            r"the disk of \S+ ran full: 0\.0 GB are needed in all, [\d,.]+ GB are left", capsys.readouterr().err
        )
        assert list((tmp_path / "out").iterdir()) == []
