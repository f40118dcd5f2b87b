"""The page of the data check shows what the check found."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from row_maker import make_row, picture, save

from deepeyes.data.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


class TestPage:
    def test_page_shows_sources_findings_and_pictures(self, tmp_path: Path) -> None:
        rows = [make_row(n, reward_model={"ground_truth": str(n), "style": ""}) for n in range(20)]
        rows[3] = make_row(3, source="geo")
        rows[4] = make_row(4, images=[{"bytes": picture(4)[:60], "path": None}])
        rows[5] = make_row(5, extra_info={"question": "Is <b>this</b> inert?"})
        path, page = save(tmp_path / "a.parquet", rows), tmp_path / "page.html"
        assert main([str(path), "--page", str(page), "--max-pixels", "2000", "--workers", "1"]) == 1
        text = page.read_text(encoding="utf-8")
        assert "a.parquet, row 3" in text
        assert "does not decode" in text
        assert "<b>this</b>" not in text
        assert "100%" in text  # 60 x 40 is more than 2000 pixels
        assert len(re.findall(r'<img src="data:image/jpeg;base64,', text)) > 6
        assert "http" not in text  # it needs no network

    def test_place_that_can_not_be_written_ends_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = save(tmp_path / "a.parquet", [make_row()])
        assert main([str(path), "--page", str(tmp_path / "gone" / "page.html"), "--workers", "1"]) == 2
        assert "can't be written" in capsys.readouterr().err
