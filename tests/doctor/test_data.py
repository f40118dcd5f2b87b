"""Files that can't be trained on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from doctor_world import only
from row_maker import make_row, picture, save

from deepeyes.doctor.data import check_data
from deepeyes.doctor.findings import Finding, Level
from deepeyes.doctor.plan import Command, Plan

if TYPE_CHECKING:
    from pathlib import Path


class TestData:
    def check(self, *names: object, info: object = "") -> list[Finding]:
        options = {"dataset": tuple(map(str, names)), "custom_dataset_info": (str(info),)}

        def scoring_of(source: object) -> None:
            if source != "vstar":
                raise ValueError(f"data_source {source!r} is not known")

        return check_data(Plan("train", Command({}, options)), scoring_of)

    def test_sound_file_is_fine(self, tmp_path: Path) -> None:
        finding = only(self.check(f"{save(tmp_path / 'a.parquet', [make_row(n) for n in range(20)])}#5"))
        assert finding.level is Level.OK
        assert finding.found.endswith("20 rows, the first 16 are sound")

    def test_registered_name_is_found(self, tmp_path: Path) -> None:
        save(tmp_path / "a.parquet", [make_row()])
        info = tmp_path / "dataset_info.json"
        info.write_text(json.dumps([{"dataset_name": "mine", "dataset_path": "a.parquet"}]), encoding="utf-8")
        assert only(self.check("mine", info=info)).level is Level.OK

    @pytest.mark.parametrize(
        ("changes", "text"),
        [({"data_source": "geo"}, "'geo' is not known"), ({"images": [{"bytes": picture(1)[:60]}]}, "does not decode")],
    )
    def test_bad_rows_are_an_error(self, tmp_path: Path, changes: dict[str, Any], text: str) -> None:
        finding = only(self.check(save(tmp_path / "a.parquet", [make_row(n, **changes) for n in range(2)])))
        assert finding.level is Level.ERROR
        assert text in finding.found
        assert finding.mend.startswith("bash deepeyes.sh data ")

    def test_what_is_missing_or_damaged_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "b.parquet").write_bytes(b"PAR1")
        for name in (tmp_path / "a.parquet", tmp_path / "b.parquet"):
            assert only(self.check(name)).level is Level.ERROR
        assert only(self.check()).level is Level.ERROR

    def test_files_that_swift_can_not_join_are_an_error(self, tmp_path: Path) -> None:
        rows = make_row(), make_row(extra_info={**make_row()["extra_info"], "index": 7})
        names = [str(save(tmp_path / f"{place}.parquet", [row], schema=None)) for place, row in enumerate(rows)]
        finding = self.check(*names)[-1]
        assert finding.level is Level.ERROR
        assert "extra_info.index" in finding.found
        assert finding.mend.startswith(f"bash deepeyes.sh data {' '.join(names)} --out prepared")

    def test_hub_id_is_left_to_swift(self) -> None:
        assert only(self.check("AI-ModelScope/some-data")).level is Level.WARNING

    @pytest.mark.parametrize(
        "changes", [{"reward_model": {"ground_truth": 5}}, {"messages": [{"role": "user", "content": "<image>q"}]}]
    )
    def test_rows_that_have_to_be_mended_are_an_error_with_the_command(
        self, tmp_path: Path, changes: dict[str, Any]
    ) -> None:
        finding = only(
            self.check(save(tmp_path / "a.parquet", [make_row(n, **changes) for n in range(2)], schema=None))
        )
        assert finding.level is Level.ERROR
        assert "--out prepared" in finding.mend

    def test_rows_in_another_shape_that_swift_reads_are_fine(self, tmp_path: Path) -> None:
        (tmp_path / "1.png").write_bytes(picture(1))
        path = save(tmp_path / "a.jsonl", [make_row(0, images=str(tmp_path / "1.png"))])
        assert only(self.check(path)).level is Level.OK
