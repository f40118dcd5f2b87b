"""What is printed: one line a fault, and numbers a source."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from row_maker import make_row, picture, save, save_any

from deepeyes.data.answers import KINDS, answer_kind, key_of
from deepeyes.data.cli import main
from deepeyes.data.telling import ranges

if TYPE_CHECKING:
    from pathlib import Path


class TestLines:
    def test_three_hundred_missing_pictures_are_one_line_with_examples(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("ROOT_IMAGE_DIR", raising=False)
        rows = [make_row(n, images=[f"gone/{n}.png"]) for n in range(300)]
        assert main([str(save(tmp_path / "a.jsonl", rows)), "--workers", "1"]) == 1
        out = capsys.readouterr().out
        (line,) = (line for line in out.splitlines() if "ROOT_IMAGE_DIR" in line)
        assert line.startswith("  a.jsonl, 300 rows (0-299): the image file is not in ")
        assert line.endswith(", such as 'gone/0.png'; 'gone/1.png'; 'gone/2.png'")
        assert out.count("\n") < 20

    def test_scattered_rows_are_cut_short_but_not_in_json(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        rows = [make_row(n, source="what" if n % 2 else "vstar") for n in range(40)]
        path = save(tmp_path / "a.parquet", rows)
        main([str(path), "--workers", "1"])
        assert "20 rows (1, 3, 5, 7, 9, 11, 13, 15, ...): data_source 'what'" in capsys.readouterr().out
        main([str(path), "--workers", "1", "--json"])
        (found,) = json.loads(capsys.readouterr().out)["files"]
        assert sorted(found["problems"].values()) == [list(range(1, 40, 2))]

    def test_empty_pictures_are_called_empty(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty.png").touch()
        rows = [make_row(0, images=[str(tmp_path / "empty.png")]), make_row(1, images=[{"bytes": None, "path": ""}])]
        main([str(save_any(tmp_path / "a.jsonl", rows)), "--workers", "1"])
        out = capsys.readouterr().out
        assert "the picture is empty: 0 bytes" in out
        assert "does not decode" not in out

    def test_own_file_that_is_damaged_is_not_to_be_got_again(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = {"mine.parquet": "Make it again", "data_0.1.2_visual_toolbox_v2.parquet": "Delete it and get it again"}
        for name, told in names.items():
            (tmp_path / name).write_bytes(b"PAR1 not")
            assert main([str(tmp_path / name), "--workers", "1"]) == 2
            assert capsys.readouterr().err.strip().endswith(told)

    @given(st.sets(st.integers(0, 60)))
    def test_ranges_hold_the_first_rows(self, rows: set[int]) -> None:
        text = ranges(sorted(rows))
        shown: list[int] = []
        for part in filter(None, text.removesuffix(", ...").split(", ")):
            start, _, end = part.partition("-")
            shown += range(int(start), int(end or start) + 1)
        assert shown == sorted(rows)[: len(shown)]
        assert text.endswith("...") == (len(shown) < len(rows))


class TestSources:
    def test_lengths_kinds_and_pictures_larger_than_their_view_are_counted(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        sides = (60, 60, 60, 10)
        rows = [
            make_row(
                n,
                source,
                images=[{"bytes": picture(n, (60, side)), "path": None}],
                reward_model={"ground_truth": text, "style": ""},
            )
            for n, (source, side, text) in enumerate(
                zip(("vstar", "vstar", "chart", "vstar"), sides, ("yes", "12", "B", "a red boat"), strict=True)
            )
        ]
        main([str(save(tmp_path / "a.parquet", rows)), "--json", "--max-pixels", "3000", "--workers", "1"])
        sources = json.loads(capsys.readouterr().out)["sources"]
        assert sources["vstar"] == {
            "rows": 3,
            "larger": 2 / 3,
            "median": 3,
            "longest": 10,
            "kinds": {"yes or no": 1, "number": 1, "words": 1},
        }
        assert sources["chart"]["kinds"] == {"option": 1}

    @pytest.mark.parametrize(
        ("text", "kind"),
        [
            ("B", "option"),
            ("(C)", "option"),
            ("D.", "option"),
            ("A. the left one", "option"),
            ("Yes", "yes or no"),
            ("no.", "yes or no"),
            ("12", "number"),
            ("-3.5 cm", "number"),
            ("1,200", "number"),
            ("45°", "number"),
            ("$3", "number"),
            ("40%", "number"),
            (r"\frac{1}{2}", "expression"),
            ("x = 3", "expression"),
            ("2/3", "expression"),
            ("a cat", "words"),
            ("A cat", "words"),
            ("I", "words"),
            ("red", "words"),
            ("The cup on the shelf is white.", "sentence"),
        ],
    )
    def test_kind_of_an_answer(self, text: str, kind: str) -> None:
        assert answer_kind(text) == kind

    @given(st.text())
    def test_every_text_has_a_kind_and_a_key(self, text: str) -> None:
        assert answer_kind(text) in KINDS
        assert len(key_of(text, loose=True)) == 8
