"""Rows held out share no image with rows that stay."""

from __future__ import annotations

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from row_maker import images_in, three_files

from deepeyes.data.cli import main
from deepeyes.data.findings import Columns, FileReport
from deepeyes.data.holdout import split
from deepeyes.dataset.official import HOLDOUT_NAME


class TestHoldout:
    @pytest.mark.parametrize("seed", [0, 1])
    def test_no_image_is_on_both_sides(self, tmp_path: Path, seed: int) -> None:
        sources = three_files(tmp_path, rows=30)
        out = tmp_path / "out"
        arguments = ["--out", str(out), "--holdout", "12", "--seed", str(seed), "--workers", "1"]
        assert main([*map(str, sources), *arguments]) == 1  # these official files are not the published ones
        held, kept = pq.read_table(out / HOLDOUT_NAME).to_pylist(), []
        for source in sources:
            kept += pq.read_table(out / source.name).to_pylist()
        assert (len(held), len(kept)) == (12, 78)
        pixels = [{Image.open(io.BytesIO(r["images"][0]["bytes"])).tobytes() for r in side} for side in (held, kept)]
        assert not pixels[0] & pixels[1]
        assert {row["data_source"] for row in held} == {"vstar", "chart", "thinklite_eureka"}
        assert images_in(*sources) == sorted(
            images_in(out / HOLDOUT_NAME) + images_in(*(out / s.name for s in sources))
        )

    def test_choice_depends_on_the_seed_alone(self) -> None:
        def report(digests: list[int]) -> FileReport:
            return FileReport(
                Path("a"), rows=len(digests), columns=Columns(digests=[b"%d" % digest for digest in digests])
            )

        one, again, other = (split([report(list(range(100)))], 10, seed) for seed in (0, 0, 1))
        assert one == again != other
        turned = split([report(list(range(99, -1, -1)))], 10, 0)
        assert {99 - row for _, row in turned} == {row for _, row in one}

    @given(st.lists(st.lists(st.integers(0, 9), max_size=30), min_size=1, max_size=3), st.integers(0, 40))
    def test_groups_stay_whole_and_the_count_is_no_more_than_asked(self, files: list[list[int]], count: int) -> None:
        reports = [
            FileReport(Path("a"), rows=len(file), columns=Columns(digests=[b"%d" % d for d in file])) for file in files
        ]
        chosen = split(reports, count, 0)
        inside = {files[file][row] for file, row in chosen}
        assert len(chosen) == sum(digest in inside for file in files for digest in file) <= count
