"""The trajectories of a run stay on disk, and take little memory whatever their number."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes.errors import DataFileError
from deepeyes.selection.choosing import Criteria, choose, parse_range
from deepeyes.selection.ledger import AS_TRAINED, PLAIN, Counts, Ledger, Play

if TYPE_CHECKING:
    from pathlib import Path

ROWS = 47_052  # of the official files


class TestLedger:
    def test_what_was_added_is_there_when_it_is_opened_again(self, tmp_path: Path) -> None:
        plays = [
            Play(0, AS_TRAINED, 0, right=True, crops=1),
            Play(0, AS_TRAINED, 63, right=True, crops=0),
            Play(1, PLAIN, 2, right=False, crops=0),
        ]
        ledger = Ledger(tmp_path, 2)
        for play in plays:
            ledger.add(play)
        ledger.close()
        ledger = Ledger(tmp_path, 2)
        assert [ledger.holds(*play[:3]) for play in plays] == [True] * 3
        assert not ledger.holds(1, AS_TRAINED, 2)
        assert [column.tolist() for column in ledger.counts()] == [[2, 0], [2, 0], [1, 0], [0, 1], [0, 0]]

    def test_second_process_is_refused(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, 1)
        with pytest.raises(DataFileError, match="another process plays here"):
            Ledger(tmp_path, 1)
        ledger.close()
        Ledger(tmp_path, 1)

    def test_file_of_more_rows_is_refused(self, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path, 3)
        ledger.add(Play(2, AS_TRAINED, 0, right=True, crops=0))
        ledger.close()
        with pytest.raises(DataFileError, match="holds row 2 of 2"):
            Ledger(tmp_path, 2)

    def test_all_official_rows_take_a_few_megabytes(self, tmp_path: Path) -> None:
        with (tmp_path / "plays.jsonl").open("w") as file:
            for row in range(ROWS):
                file.writelines(f"[{row}, 0, {sample}, {row % 2}, 1]\n" for sample in range(2))
        tracemalloc.start()
        ledger = Ledger(tmp_path, ROWS)
        counts = ledger.counts()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert int(counts.played.sum()) == 2 * ROWS
        assert int(counts.right.sum()) == 2 * (ROWS // 2)
        assert peak < 16e6  # bytes; as objects, the trajectories would take many times that


def counts_of(*rows: tuple[int, int, int, int, int]) -> Counts:
    return Counts(*(np.array(column, np.uint8) for column in zip(*rows, strict=True)))


class TestChoice:
    def test_row_that_was_not_played_is_not_kept(self) -> None:
        kept = choose(counts_of((0, 0, 0, 0, 0)), np.array([True]), np.array([False]), Criteria())
        assert not kept.any()

    @given(st.lists(st.tuples(*[st.integers(0, 8)] * 5), min_size=1), st.floats(0, 1), st.floats(0, 1))
    def test_narrower_criteria_keep_no_more(
        self, rows: list[tuple[int, int, int, int, int]], low: float, helps: float
    ) -> None:
        played = [(max(a, b), min(a, b), min(a, b, c), max(d, e), min(d, e)) for a, b, c, d, e in rows]
        counts, flags = counts_of(*played), np.ones(len(rows), bool)
        wide = choose(counts, flags, ~flags, Criteria())
        narrow = choose(counts, flags, ~flags, Criteria(low, 1.0, helps))
        assert not (narrow & ~wide).any()
        assert not choose(counts, flags, flags, Criteria()).any()

    def test_row_without_the_tool_is_judged_by_its_rate_alone(self) -> None:
        counts = counts_of((4, 2, 0, 0, 0), (4, 2, 0, 4, 0))
        kept = choose(counts, np.array([False, True]), np.zeros(2, bool), Criteria(0.1, 0.9, 0.0))
        assert kept.tolist() == [True, False]

    @pytest.mark.parametrize(
        ("text", "found"), [("0.1..0.9", (0.1, 0.9)), ("0..1", (0, 1)), (" .5 .. .5 ", (0.5, 0.5))]
    )
    def test_range_is_read(self, text: str, found: tuple[float, float]) -> None:
        assert parse_range(text) == found

    @pytest.mark.parametrize("text", ["", "0.1", "0.1-0.9", "0.9..0.1", "0..2", "a..b"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(ValueError, match="no range"):
            parse_range(text)
