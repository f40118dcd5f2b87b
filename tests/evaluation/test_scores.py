"""An endpoint scores what it must, against scripted endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from eval_world import (
    COLOURS,
    Script,
    Seen,
    always_a,
    answer,
    call,
    evaluate,
    hrbench_rows,
    perfect,
    serving,
    view_of,
    write_own,
    write_tsv,
    write_vstar,
)

if TYPE_CHECKING:
    from pathlib import Path


class TestScores:
    """An endpoint scores what it must."""

    def test_perfect_endpoint_that_zooms_scores_all(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)
        total = report["all"]
        assert (status, total["accuracy"], total["questions"], total["zooms"]) == (0, 1, 6, 6)
        assert total["failed_zooms"] == {}
        assert total["by_rule"] == {"answers": 6, "right": 6}
        assert total["by_judge"]["answers"] == total["unread"] == total["no_answer"] == 0
        assert {name: block["questions"] for name, block in report["categories"].items()} == {
            "direct_attributes": 4,
            "relative_position": 2,
        }
        assert total["completion_tokens"] == 12 * 7
        assert report["wall_seconds"] > 0
        assert report["view_tokens"]["expected"] == 11 * 9 == report["view_tokens"]["seen"] - 2

    def test_endpoint_that_knows_half_and_never_zooms_scores_half(self, vstar: Path, tmp_path: Path) -> None:
        def half(seen: Seen) -> str:
            knows = seen.square(seen.images[0])[0] % 2 == 0
            wrong = next(letter for letter in "AB" if letter != seen.right())
            return answer(seen.right() if knows else wrong)

        starts = [
            Seen([], [], {}).square(view_of(path)) for path in sorted((vstar / "direct_attributes").glob("*.png"))
        ]
        expected = sum(start[0] % 2 == 0 for start in starts)
        assert 0 < expected < 4
        with serving(Script(half)) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)
        assert report["categories"]["direct_attributes"]["by_rule"]["right"] == expected
        assert report["all"]["zooms"] == report["all"]["zoomed"] == 0

    def test_bad_zooms_are_counted_by_their_fault_and_the_model_is_told(self, vstar: Path, tmp_path: Path) -> None:
        bad = [call([700, 10, 900, 90]), call('"here"'), "<tool_call>{oops}</tool_call>"]

        def clumsy(seen: Seen) -> str:
            return bad[seen.turn - 1] if seen.turn <= 3 else answer(seen.right())

        with serving(Script(clumsy)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)
        assert status == 0
        assert report["all"]["failed_zooms"] == {"empty_box": 6, "bad_box": 6, "bad_json": 6}
        assert (report["all"]["zooms"], report["all"]["accuracy"]) == (0, 1)
        last = max(script.seen, key=lambda seen: seen.turn)
        assert [text.startswith("Error: ") for text in last.texts[3::2]] == [True] * 3
        assert len(last.images) == 1

    def test_endpoint_that_only_zooms_has_no_answer(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(lambda _: call([10, 10, 100, 100]))) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--max-turns", 3)
        assert (report["all"]["accuracy"], report["all"]["no_answer"], report["all"]["zooms"]) == (0, 6, 12)
        assert max(seen.turn for seen in script.seen) == 3

    def test_no_tool_asks_once_and_runs_no_call(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect)) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--no-tool")
        assert len(script.seen) == 6
        assert all("image_zoom_in_tool" not in "".join(seen.texts) for seen in script.seen)
        assert (report["all"]["accuracy"], report["all"]["no_answer"], report["tool"]) == (0, 6, False)

    def test_model_that_reads_crops_fails_where_they_are_blank(self, vstar: Path, tmp_path: Path) -> None:
        def honest(seen: Seen) -> str:
            return "blank" if seen.turn > 1 and not np.ptp(np.asarray(seen.images[-1])) else perfect(seen)

        with serving(Script(honest)) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--blank-crops")
        total = report["all"]
        assert (total["accuracy"], total["untagged"]["answers"], total["zooms"]) == (0, 6, 6)

    @pytest.mark.parametrize("samples", [1, 3])
    def test_always_a_scores_chance_where_options_cycle(self, vstar: Path, tmp_path: Path, samples: int) -> None:
        arguments = ("--bench", "vstar", "--data", vstar, "--options", "cycle", "--samples", samples)
        with serving(Script(always_a)) as script:
            _, report = evaluate(tmp_path / "run", script, *arguments)
        shares = {name: block["accuracy"] for name, block in report["categories"].items()}
        assert shares == {"direct_attributes": 0.25, "relative_position": 0.5}
        assert report["all"]["letters"] == {"A": samples * (4 * 4 + 2 * 2)}
        assert report["all"]["every_order"] == 0

    def test_always_a_scores_chance_where_options_are_shuffled(self, tmp_path: Path) -> None:
        write_vstar(tmp_path / "vstar", colours=48, sides=0)
        with serving(Script(always_a)) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", tmp_path / "vstar")
        total = report["all"]
        assert total["low"] < total["chance"] == 0.25 < total["high"] < 0.6

    def test_always_a_scores_chance_on_hrbench(self, tmp_path: Path) -> None:
        write_tsv(tmp_path / "hr_bench_4k.tsv", hrbench_rows())
        with serving(Script(always_a)) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "hrbench4k", "--data", tmp_path)
        assert (report["all"]["accuracy"], report["all"]["questions"], report["all"]["answers"]) == (0.25, 5, 20)
        assert report["options"] == "keep"
        assert set(report["categories"]) == {"single", "cross"}
        assert report["notes"][:-1] == ["hrbench4k was published with 800 rows; 20 of them can be asked here"]

    def test_perfect_endpoint_scores_all_on_own_rows_by_the_rule_judge(self, tmp_path: Path) -> None:
        def free(seen: Seen) -> str:
            if seen.turn == 1:
                return call(list(seen.square(seen.images[0])))
            colour = np.asarray(seen.images[-1])[20, 20]
            name = min(COLOURS, key=lambda name: int(np.abs(np.array(COLOURS[name]) - colour).sum()))
            return answer(f"It is {name}.")

        path = write_own(tmp_path / "own.parquet")
        with serving(Script(free)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", path)
        assert (status, report["all"]["accuracy"], report["all"]["zooms"]) == (1, 1, 6)
        assert script.seen[0].texts[0] == "own system turn"
        assert report["bad_rows"][0]["where"] == "mystery/6"
        assert "DEEPEYES_SOURCES=mystery=visual" in report["bad_rows"][0]["why"]
