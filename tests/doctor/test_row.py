"""One row, loaded by swift itself."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from doctor_world import only
from row_maker import make_row, picture, save

from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import Command, Plan
from deepeyes.doctor.row import check_row

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
class TestRow:
    """swift itself loads the row; it takes most of a minute to import on two cores."""

    def check(self, tiny_model: Path, path: Path, room: int) -> Finding:
        options = {
            "dataset": (str(path),),
            "columns": ('{"prompt": "messages"}',),
            "model": (str(tiny_model),),
            "model_type": ("qwen2_5_vl",),
            "template": ("qwen2_5_vl",),
        }
        rollout = Command({}, {"vllm_max_model_len": (str(room),)})
        return only(check_row(Plan("train", Command({"MAX_PIXELS": str(28 * 28 * 40)}, options), rollout)))

    def test_tokens_of_a_row_are_counted(self, tmp_path: Path, tiny_model: Path) -> None:
        row = make_row(images=[{"bytes": picture(1, (560, 560)), "path": None}])
        finding = self.check(tiny_model, save(tmp_path / "a.parquet", [row]), 4096)
        assert finding.level is Level.OK, finding
        image_tokens = int(re.search(r", (\d+) of them image", finding.found)[1])  # type: ignore[index]
        assert image_tokens == 36  # 560 x 560 scaled to 168 x 168: 6 x 6 tokens, the most squares within 40

    def test_row_that_swift_refuses_is_an_error(self, tmp_path: Path, tiny_model: Path) -> None:
        row = make_row(images=[{"bytes": b"none", "path": None}])
        finding = self.check(tiny_model, save(tmp_path / "a.parquet", [row]), 4096)
        assert finding.level is Level.ERROR
        assert "swift can't load a row" in finding.found
