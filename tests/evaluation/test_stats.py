"""Intervals and tests against scipy, and two runs compared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
from eval_world import (
    Script,
    always_a,
    answer,
    evaluate,
    perfect,
    serving,
    write_own,
)
from hypothesis import given
from hypothesis import strategies as st

from deepeyes.evaluation import cli
from deepeyes.evaluation import stats as eval_stats
from deepeyes.evaluation.bench.vstar import FOLDERS

if TYPE_CHECKING:
    from pathlib import Path


class TestStatistics:
    """Intervals and tests against scipy, and against their definition."""

    @given(st.integers(1, 400).flatmap(lambda count: st.tuples(st.integers(0, count), st.just(count))))
    def test_interval_of_single_answers_is_wilsons(self, numbers: tuple[int, int]) -> None:
        right, count = numbers
        share = eval_stats.accuracy([[True]] * right + [[False]] * (count - right))
        theirs = scipy.stats.binomtest(right, count).proportion_ci(method="wilson")
        assert (share.low, share.high) == pytest.approx((theirs.low, theirs.high))
        assert 0 <= share.low <= share.value == right / count <= share.high <= 1

    def test_answers_that_repeat_each_other_count_once(self) -> None:
        once = eval_stats.accuracy([[True]] * 30 + [[False]] * 20)
        repeated = eval_stats.accuracy([[True] * 4] * 30 + [[False] * 4] * 20)
        assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))
        independent = eval_stats.accuracy([[True, False]] * 50)
        exact = scipy.stats.binomtest(50, 100).proportion_ci(method="wilson")
        assert (independent.low, independent.high) == pytest.approx((exact.low, exact.high))

    def test_interval_covers_the_truth_about_95_times_in_100(self) -> None:
        rng = np.random.default_rng(0)
        hits = 0
        for _ in range(600):
            skill = rng.beta(3, 2, size=80)
            clusters = (rng.random((80, 4)) < skill[:, None]).tolist()
            share = eval_stats.accuracy(clusters)
            hits += share.low <= 0.6 <= share.high
        assert 0.92 < hits / 600 < 0.98

    @given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
    def test_comparison_is_the_exact_mcnemar_test(self, better: int, worse: int, equal: int) -> None:
        pairs = [(0.0, 1.0)] * better + [(1.0, 0.0)] * worse + [(1.0, 1.0)] * (equal + 1)
        first, second = ({str(at): pair[side] for at, pair in enumerate(pairs)} for side in (0, 1))
        result = eval_stats.compare(first, second)
        tail = 2 * scipy.stats.binom.cdf(min(better, worse), better + worse, 0.5)
        assert result.p_value == pytest.approx(min(1.0, tail))
        assert (result.better, result.worse, result.questions) == (better, worse, len(pairs))
        assert result.difference.value == pytest.approx((better - worse) / len(pairs))
        assert result.difference.low <= result.difference.value <= result.difference.high

    def test_two_runs_are_compared_question_by_question(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "zoom", script, "--bench", "vstar", "--data", vstar, "--limit", 5)
            evaluate(tmp_path / "plain", script, "--bench", "vstar", "--data", vstar, "--no-tool")
        capsys.readouterr()
        assert cli.main(["compare", str(tmp_path / "plain"), str(tmp_path / "zoom"), "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert {**figures["all"], "difference": None} == {
            "questions": 5,
            "first": 0.0,
            "second": 1.0,
            "difference": None,
            "better": 5,
            "worse": 0,
            "p_value": pytest.approx(2 * 0.5**5),
        }
        assert sum(figures[name]["questions"] for name in FOLDERS) == 5
        cli.main(["compare", str(tmp_path / "plain"), str(tmp_path / "zoom")])
        assert "left out: 1 questions that only A answered" in capsys.readouterr().out
        assert cli.main(["compare", str(tmp_path / "plain"), str(tmp_path)]) == 2

    def test_what_makes_two_runs_no_pair_is_told(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_own(tmp_path / "own.parquet")
        rows = pq.read_table(path).to_pylist()
        with serving(Script(always_a)) as script:
            evaluate(tmp_path / "a", script, "--bench", path)
            rows[0]["images"] = rows[1]["images"]
            pq.write_table(pa.Table.from_pylist(rows), path)
            script.policy = lambda _: answer("what?")
            evaluate(tmp_path / "c", script, "--bench", path, "--seed", 7, "--judge", "none", "--limit", 6)
            pq.write_table(pa.Table.from_pylist(rows[1:6]), path)
            evaluate(tmp_path / "d", script, "--bench", path)
        capsys.readouterr()
        assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "c")]) == 0
        told = capsys.readouterr().out
        assert "left out: 1 questions of the same name that differ in text, options, reference or image" in told
        assert "B: 6 answers are unread and count as wrong" in told
        assert "seed differs: A 0, B 7" in told
        assert "judge differs: A 'rule', B 'none'" in told
        assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "d")]) == 2
        assert "5 of 5 questions of the same name differ in text, options" in capsys.readouterr().err
        assert cli.main(["compare", str(tmp_path / "a"), str(tmp_path / "c"), "--json"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out).keys() == {"vstar", "all"}
        assert "seed differs: A 0, B 7" in told.err
