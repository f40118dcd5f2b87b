"""Rows of known pass rates are played, and those kept that were asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from row_maker import make_row, picture, save
from scripted_policy import Policy, select, serving, write_rows

from deepeyes.dataset.official import HOLDOUT_NAME
from deepeyes.selection.cli import main
from deepeyes.selection.rates import RATES_NAME

if TYPE_CHECKING:
    from pathlib import Path

RATES = {0: (0, 0), 1: (1, 0), 2: (2, 2), 3: (3, 0), 4: (4, 4), 5: (4, 0)}
"""Right trajectories of four, as trained and without the tool."""


@pytest.fixture(autouse=True)
def rule_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPEYES_JUDGE", "rule")


def rows_in(*paths: Path) -> list[int]:
    rows = [row for path in paths if path.is_file() for row in pq.read_table(path).to_pylist()]
    return [int(row["extra_info"]["index"]) for row in rows]


class TestRates:
    def test_pass_rates_are_those_of_the_policy(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.parquet", 6)
        with serving(Policy(RATES, zooms=frozenset({1, 2, 5}))) as policy:
            assert select(policy, tmp_path / "out", path)[0] == 0
        assert policy.asked == {(row, tool): 4 for row in RATES for tool in (True, False)}
        rates = pq.read_table(tmp_path / "out" / RATES_NAME).to_pylist()
        assert [(rate["right"], rate["plain_right"]) for rate in rates] == list(RATES.values())
        assert [rate["right_with_crop"] for rate in rates] == [0, 1, 2, 0, 0, 4]
        assert all((rate["played"], rate["plain"], rate["tool"]) == (4, 4, True) for rate in rates)

    def test_row_without_the_tool_is_played_as_trained_alone(self, tmp_path: Path) -> None:
        path = write_rows(
            tmp_path / "a.parquet", 2, env_name="", prompt=[{"role": "user", "content": "<image>What is shown in 1?"}]
        )
        with serving(Policy({1: (4, 3)})) as policy:
            select(policy, tmp_path / "out", path)
        assert policy.asked == {(1, False): 8}
        assert [rate["plain"] for rate in pq.read_table(tmp_path / "out" / RATES_NAME).to_pylist()] == [0, 0]

    def test_each_trajectory_has_a_seed_of_its_own(self, tmp_path: Path) -> None:
        seeds: list[Any] = []

        class Watching(Policy):
            def reply(self, body: dict[str, Any]) -> tuple[int, str]:
                seeds.append((body["seed"], body["temperature"]))
                return super().reply(body)

        path = write_rows(tmp_path / "a.parquet", 2)
        for _ in range(2):
            with serving(Watching(RATES)) as policy:
                select(policy, tmp_path / str(len(seeds)), path)
        assert len(set(seeds)) == 16
        assert sorted(seeds[:16]) == sorted(seeds[16:])


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Six rows of the rates above, and the folder of the run that played them."""
    folder = tmp_path_factory.mktemp("played")
    path = write_rows(folder / "a.parquet", 6)
    with pytest.MonkeyPatch.context() as patch, serving(Policy(RATES, zooms=frozenset({1, 2, 5}))) as policy:
        patch.setenv("DEEPEYES_JUDGE", "rule")
        assert select(policy, folder / "out", path, "--keep", "0.1..0.9")[0] == 0
    return path, folder / "out"


class TestKeep:
    @pytest.mark.parametrize(
        ("criteria", "kept"),
        [
            ([], [0, 1, 2, 3, 4, 5]),
            (["--keep", "0.1..0.9"], [1, 2, 3]),
            (["--keep", "0.5..0.75"], [2, 3]),
            (["--tool-helps"], [1, 5]),
            (["--tool-helps", "0.5"], [1, 2, 5]),
            (["--tool-helps", "--keep", "0.1..0.9"], [1]),
        ],
    )
    def test_criteria_choose_rows_and_leave_them_as_they_are(
        self, tmp_path: Path, played: tuple[Path, Path], criteria: list[str], kept: list[int]
    ) -> None:
        path, run = played
        assert main([str(path), "--rates", str(run / RATES_NAME), "--out", str(tmp_path), *criteria]) == 0
        assert rows_in(tmp_path / path.name) == kept
        rows = pq.read_table(path).to_pylist()
        assert pq.read_table(tmp_path / path.name).to_pylist() == [rows[number] for number in kept]

    def test_choice_from_the_file_is_that_of_the_run(self, tmp_path: Path, played: tuple[Path, Path]) -> None:
        path, run = played
        words = ["--rates", str(run / RATES_NAME), "--out", str(tmp_path), "--keep", "0.1..0.9"]
        assert main([str(path), *words]) == 0
        for name in (path.name, "choice.json", "rates.png"):
            assert (tmp_path / name).read_bytes() == (run / name).read_bytes()

    def test_nothing_kept_ends_with_status_1_and_leaves_no_file_of_an_earlier_choice(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = write_rows(tmp_path / "a.parquet", 1), tmp_path / "out"
        with serving(Policy(RATES)) as policy:
            assert select(policy, out, path)[0] == 0
            assert select(policy, out, path, "--keep", "0.5..1")[0] == 1
        assert "No row is kept" in capsys.readouterr().out
        assert not (out / "a.parquet").exists()

    def test_several_files_and_sources_are_told_apart(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "prepared"
        folder.mkdir()
        write_rows(folder / "a.parquet", 3)
        write_rows(folder / "b.parquet", 3, start=3, data_source="chart")
        with serving(Policy(RATES)) as policy:
            status, choice = select(policy, tmp_path / "out", folder, "--keep", "0.1..0.9")
        assert status == 0
        assert {
            row["source"]: (row["rows"], row["always"], row["never"], row["kept"]) for row in choice["sources"]
        } == {
            "chart": (3, 2, 0, 1),
            "vstar": (3, 0, 1, 2),
            "all": (6, 2, 1, 3),
        }
        assert choice["written"] == {"a.parquet": 2, "b.parquet": 1}
        assert "chart" in capsys.readouterr().out
        assert (tmp_path / "out" / "rates.png").read_bytes().startswith(b"\x89PNG")


class TestHeldOut:
    def test_no_picture_is_on_both_sides(self, tmp_path: Path) -> None:
        folder = tmp_path / "prepared"
        folder.mkdir()
        write_rows(folder / "a.parquet", 6)
        same = [{"bytes": picture(3, (112, 112), "BMP"), "path": None}]
        save(folder / HOLDOUT_NAME, [make_row(77, images=same)])
        with serving(Policy(RATES)) as policy:
            _, choice = select(policy, tmp_path / "out", folder)
        assert 77 not in {row for row, _ in policy.asked}
        assert (choice["held_out"], rows_in(tmp_path / "out" / "a.parquet")) == (1, [0, 1, 2, 4, 5])

    def test_one_of_several_pictures_is_enough(self, tmp_path: Path) -> None:
        images = [{"bytes": picture(seed, (112, 112)), "path": None} for seed in (50, 3)]
        turns = [{"role": "user", "content": "<image><image>What is shown in 0?"}]
        path = save(tmp_path / "a.parquet", [make_row(0, images=images, prompt=turns)])
        held = write_rows(tmp_path / "held.parquet", 1, start=3)
        with serving(Policy({0: (4, 4)})) as policy:
            status, choice = select(policy, tmp_path / "out", path, "--held-out", held)
        assert (status, choice["held_out"], sum(policy.asked.values())) == (1, 1, 8)

    def test_another_file_is_named(self, tmp_path: Path) -> None:
        path = write_rows(tmp_path / "a.parquet", 3)
        held = write_rows(tmp_path / "held.parquet", 1, start=1)
        with serving(Policy(RATES)) as policy:
            select(policy, tmp_path / "out", path, "--held-out", held)
        assert rows_in(tmp_path / "out" / "a.parquet") == [0, 2]


class TestResumed:
    def test_run_that_broke_off_asks_only_for_what_is_missing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path, out = write_rows(tmp_path / "a.parquet", 6), tmp_path / "out"
        with serving(Policy(RATES, fails_after=20)) as policy:
            assert select(policy, out, path, "--concurrency", 4)[0] == 1
        assert "failed" in capsys.readouterr().err
        finished = (out / "plays.jsonl").read_text().splitlines()
        assert 8 <= len(finished) <= 20
        (out / "plays.jsonl").write_text("\n".join(finished) + "\n[5, 0,")  # as a killed process leaves it
        before = policy.answered.copy()
        with serving(Policy(RATES)) as policy:
            policy.answered.update(before)
            assert select(policy, out, path)[0] == 0
        assert sum(policy.asked.values()) == 48 - len(finished)
        with serving(Policy(RATES)) as policy:
            assert select(policy, out, path, "--keep", "0..0.5")[0] == 0
            assert not policy.asked
            assert select(policy, out, path, "--samples", 6)[0] == 0
        assert sum(policy.asked.values()) == 6 * 2 * 2

    @pytest.mark.parametrize(
        "changes", [["--temperature", "0.5"], ["--max-pixels", "100352"], ["--seed", "1"], ["--model", "n"]]
    )
    def test_other_settings_need_another_folder(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: list[str]
    ) -> None:
        path, out = write_rows(tmp_path / "a.parquet", 1), tmp_path / "out"
        with serving(Policy(RATES)) as policy:
            select(policy, out, path)
            assert select(policy, out, path, *changes)[0] == 2
        assert "holds a run with other settings" in capsys.readouterr().err

    def test_other_rows_need_another_folder(self, tmp_path: Path) -> None:
        path, out = write_rows(tmp_path / "a.parquet", 1), tmp_path / "out"
        with serving(Policy(RATES)) as policy:
            select(policy, out, path)
            assert select(policy, out, write_rows(tmp_path / "a.parquet", 2))[0] == 2

    def test_refused_rows_are_told_and_the_others_are_chosen_from(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_rows(tmp_path / "a.parquet", 3)
        with serving(Policy(RATES, refused=frozenset({1}))) as policy:
            status, choice = select(policy, tmp_path / "out", path)
        assert (status, choice["missing"], rows_in(tmp_path / "out" / "a.parquet")) == (1, 8, [0, 2])
        assert "the prompt is too long" in capsys.readouterr().out


class TestUsage:
    @pytest.mark.parametrize(
        ("words", "told"),
        [
            (["--keep", "0.9..0.1"], "no range"),
            (["--keep", "some"], "no range"),
            (["--samples", "65"], "from 0 to 64"),
            (["--tool-helps", "2"], "no share"),
            (["--tool-helps", "--plain-samples", "0"], "plays none"),
        ],
    )
    def test_wrong_words_are_refused(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main([str(tmp_path), "--out", str(tmp_path / "out"), "--url", "http://127.0.0.1:9/v1", *words])
        assert told in capsys.readouterr().err

    @pytest.mark.parametrize("name", ["a.jsonl", "gone.parquet"])
    def test_what_is_no_prepared_file_is_refused_with_the_command_that_makes_one(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
    ) -> None:
        if name == "a.jsonl":
            save(tmp_path / name, [make_row(0, images=["a.png"])])
        assert main([str(tmp_path / name), "--out", str(tmp_path / "out"), "--url", "http://127.0.0.1:9/v1"]) == 2
        assert "bash deepeyes.sh data" in capsys.readouterr().err

    def test_rows_are_not_written_over(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = write_rows(tmp_path / "a.parquet", 1)
        before = path.read_bytes()
        with serving(Policy(RATES)) as policy:
            assert select(policy, tmp_path, path)[0] == 2
        assert "holds the rows themselves" in capsys.readouterr().err
        assert path.read_bytes() == before

    def test_rates_of_other_rows_are_refused(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path, out = write_rows(tmp_path / "a.parquet", 2), tmp_path / "out"
        with serving(Policy(RATES)) as policy:
            select(policy, out, path)
        words = ["--rates", str(out / RATES_NAME), "--out", str(tmp_path / "b")]
        assert main([str(write_rows(tmp_path / "a.parquet", 2, start=1)), *words]) == 2
        assert "is not of these rows" in capsys.readouterr().err
        assert main([str(path), "--rates", str(path), "--out", str(tmp_path / "b")]) == 2
        assert "holds no pass rates" in capsys.readouterr().err

    def test_endpoint_that_is_not_there_ends_with_status_1(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_rows(tmp_path / "a.parquet", 1)
        assert (
            main([str(path), "--out", str(tmp_path / "out"), "--url", "http://127.0.0.1:9/v1", "--retries", "0"]) == 1
        )
        assert "http://127.0.0.1:9/v1" in capsys.readouterr().err
