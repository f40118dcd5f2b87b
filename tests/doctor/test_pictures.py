"""Pictures that are larger than their view."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from doctor_world import only
from row_maker import make_row, picture, save

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.pictures import check_pictures
from deepeyes.doctor.plan import Command, Plan
from deepeyes.settings import CropSource, Settings

if TYPE_CHECKING:
    from pathlib import Path


class TestPictures:
    def check(self, name: object, crop_source: CropSource = CropSource.VIEW, **environment: str) -> list[Finding]:
        command = Command(environment, {"dataset": (str(name),), "custom_dataset_info": ("",)})
        return check_pictures(Plan("train", command), Settings(crop_source=crop_source))

    @pytest.fixture
    @staticmethod
    def rows(tmp_path: Path) -> Path:
        large = {"images": [{"bytes": picture(1, (1200, 900)), "path": None}]}
        return save(tmp_path / "a.parquet", [make_row(0), make_row(1, **large)])

    def test_share_and_remedy_are_said(self, rows: Path) -> None:
        finding = only(self.check(f"{rows}#2", MAX_PIXELS="200704"))
        assert finding.level is Level.OK
        assert "1 of 2 pictures (50%)" in finding.found
        assert "DEEPEYES_CROP_SOURCE=original" in finding.found

    @pytest.mark.parametrize("limit", ["1200000", ""])
    def test_nothing_is_said_where_views_are_as_large_or_nobody_knows(self, rows: Path, limit: str) -> None:
        assert self.check(rows, MAX_PIXELS=limit) == []

    def test_nothing_is_said_where_crops_are_of_the_original(self, rows: Path) -> None:
        assert self.check(rows, CropSource.ORIGINAL, MAX_PIXELS="200704") == []

    def test_file_that_is_not_there_or_can_not_be_read_says_so_elsewhere(self, tmp_path: Path) -> None:
        (tmp_path / "b.parquet").write_bytes(b"no parquet")
        assert self.check(tmp_path / "b.parquet", MAX_PIXELS="200704") == []
        assert self.check("no_such_name", MAX_PIXELS="200704") == []
