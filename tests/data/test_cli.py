"""The program: what it reads, prints and ends with."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_maker import ROOT, findings, make_row, picture, run_program, save, save_any

from deepeyes.data.cli import main
from deepeyes.dataset.official import SCHEMA

if TYPE_CHECKING:
    from pathlib import Path


class TestFiles:
    def test_clean_file_ends_with_a_table_and_status_0(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [make_row(n) for n in range(40)]
        assert main([str(save(tmp_path / "a.parquet", rows))]) == 0
        out = capsys.readouterr().out
        assert re.search(r"a\.parquet +vstar +40 +40 +0 ", out)
        assert "40 rows (0-39): the tool schema requires `bbox`" in out
        assert "Rows to drop" not in out
        assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]

    def test_bad_rows_end_with_status_1_and_their_numbers(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [make_row(n, source="vstar" if n in (0, 4) else "mine") for n in range(7)]
        assert main([str(save(tmp_path / "a.parquet", rows)), "--workers", "1"]) == 1
        assert "a.parquet, 5 rows (1-3, 5-6): data_source 'mine' is not known" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda path: path / "gone.parquet", r"gone\.parquet is no file"),
            (
                lambda path: save(path / "a.parquet", [{"images": [], "prompt": []}], None),
                "lacks the columns data_source",
            ),
            (lambda path: (path / "b.parquet", (path / "b.parquet").write_bytes(b"PAR1 not"))[0], "no whole parquet"),
            (lambda path: path, r"lacks data_0\.1\.2_visual.*--hub modelscope or huggingface"),
        ],
    )
    def test_what_is_no_data_ends_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, message: str
    ) -> None:
        assert main([str(make(tmp_path)), "--hub", "none"]) == 2
        captured = capsys.readouterr()
        assert re.search(message, captured.err)
        assert captured.err.count("\n") == 1

    def test_json_lines_with_a_broken_one(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = save_any(tmp_path / "a.jsonl", [make_row(n) for n in range(3)])
        path.write_text(path.read_text() + "{oops\n\n[1]\n" + "[" * 99_999 + "\n", encoding="utf-8")
        found = findings(capsys, path)
        assert (found["rows"], found["problems"]) == (
            6,
            {"the line is no JSON object of 32 levels or fewer": [3, 4, 5]},
        )

    def test_paths_are_found_as_swift_finds_them(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "pictures").mkdir()
        (tmp_path / "pictures" / "1.png").write_bytes(picture(1))
        path = save(tmp_path / "a.jsonl", [make_row(1, images=["1.png"])])
        monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
        assert len(findings(capsys, path)["problems"]) == 1
        monkeypatch.setenv("ROOT_IMAGE_DIR", str(tmp_path / "pictures"))
        assert findings(capsys, path)["problems"] == {}

    def test_own_source_is_known_by_setting(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.parquet", [make_row(1, source="my_vqa")])
        done = run_program(path, DEEPEYES_SOURCES="my_vqa=visual")
        assert (done.returncode, done.stderr) == (0, "")
        assert run_program(path, DEEPEYES_SOURCES="my_vqa=vision").returncode == 2

    def test_large_row_group_is_read_in_bounded_memory(self, tmp_path: Path) -> None:
        image = picture(1, (500, 300), "BMP")  # 450 kB
        small, large = tmp_path / "small.parquet", tmp_path / "large.parquet"
        for path, rows in ((small, 20), (large, 250)):
            table = pa.Table.from_pylist([make_row(n, images=[{"bytes": image}]) for n in range(rows)], SCHEMA)
            pq.write_table(table, path, use_dictionary=False, compression="NONE", write_batch_size=16)
        assert pq.ParquetFile(large).num_row_groups == 1
        code = (
            "import resource, sys\n"
            "from deepeyes.data.cli import main\n"
            "main([sys.argv[1], '--workers', '1'])\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        peaks = [
            int(
                subprocess.run(
                    [
                        sys.executable,
                        "-c",
                        f"if __name__ == '__main__':\n    {code.replace(chr(10), chr(10) + '    ')}",
                        path,
                    ],
                    capture_output=True,
                    text=True,
                    check=True,
                    env={**os.environ, "PYTHONPATH": str(ROOT)},
                ).stdout.split()[-1]
            )
            for path in (small, large)
        ]
        assert large.stat().st_size > 110e6
        assert peaks[1] - peaks[0] < 60_000  # kB

    @pytest.mark.parametrize("name", ["a.parquet", "a.jsonl"])
    def test_empty_file_is_a_finding(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
        assert main([str(save(tmp_path / name, [])), "--workers", "1"]) == 1
        assert f"{name}: own data; it holds no row" in capsys.readouterr().out

    def test_folder_with_own_data_alone_is_checked_without_a_download(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        save(tmp_path / "mine.parquet", [make_row()])
        assert main([str(tmp_path), "--workers", "1", "--hub", "none"]) == 0
        assert "holds own data, which is checked alone; name another folder for the official" in capsys.readouterr().err
