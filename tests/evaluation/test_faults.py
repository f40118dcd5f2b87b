"""Nothing that was finished is lost, and what failed is named."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from eval_world import (
    Script,
    Seen,
    always_a,
    call,
    evaluate,
    perfect,
    picture,
    serving,
    write_own,
    write_vstar,
)

from deepeyes.playing.journal import Journal

if TYPE_CHECKING:
    from pathlib import Path


class TestFaults:
    """Nothing that was finished is lost, and what failed is named."""

    def test_endpoint_that_dies_is_named_and_the_run_goes_on_later(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def dying(seen: Seen) -> Any:
            return perfect(seen) if len(script.seen) <= 5 else (500, {"error": {"message": "out of memory, key EMPTY"}})

        arguments = ("--bench", "vstar", "--data", vstar, "--concurrency", 2)
        with serving(Script(dying)) as script:
            status, _ = evaluate(tmp_path / "run", script, *arguments)
            error = capsys.readouterr().err
            assert status == 1
            assert f"{script.url}/chat/completions failed" in error
            assert "out of memory, key ***" in error
            lines = (tmp_path / "run" / "answers.jsonl").read_bytes().splitlines()
            assert 1 <= len(lines) <= 2
            with (tmp_path / "run" / "answers.jsonl").open("ab") as file:
                file.write(b'{"id": "half a li')  # what a killed process leaves
            script.policy, script.seen = perfect, []
            status, report = evaluate(tmp_path / "run", script, *arguments)
        assert (status, report["all"]["accuracy"], report["all"]["answers"]) == (0, 1, 6)
        assert len(script.seen) == 2 * (6 - len(lines))
        assert len((tmp_path / "run" / "answers.jsonl").read_bytes().splitlines()) == 6

    def test_fault_that_passes_costs_a_retry(self, vstar: Path, tmp_path: Path) -> None:
        def busy(seen: Seen) -> Any:
            return (429, {"error": {"message": "busy"}}) if len(script.seen) == 3 else perfect(seen)

        with serving(Script(busy)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 3)
        assert (status, report["all"]["accuracy"], len(script.seen)) == (0, 1, 7)

    @pytest.mark.parametrize(
        "reply",
        [
            (400, {"message": "EngineCore encountered an issue. See stack trace", "object": "error"}),
            (200, {"message": "EngineCore encountered an issue", "choices": []}),
        ],
    )
    def test_fault_under_the_status_of_another_is_retried_and_named(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], reply: Any
    ) -> None:
        arguments = ("--bench", "vstar", "--data", vstar, "--limit", 2, "--concurrency", 1)
        with serving(Script(lambda seen: reply if len(script.seen) == 1 else perfect(seen))) as script:
            status, report = evaluate(tmp_path / "passes", script, *arguments)
            assert (status, report["all"]["answers"], len(script.seen)) == (0, 2, 5)
            script.policy, script.seen = lambda _: reply, []
            assert evaluate(tmp_path / "stays", script, *arguments) == (1, {})
        assert len(script.seen) == 2
        assert re.search("/chat/completions failed.*EngineCore encountered", capsys.readouterr().err)

    def test_server_that_hangs_is_named_within_the_patience(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--bench", "vstar", "--data", vstar, "--limit", 1, "--retries", 99, "--patience", 1.5)
        start = time.monotonic()
        with serving(Script(lambda _: time.sleep(2) or "late")) as script:
            assert evaluate(tmp_path / "run", script, *arguments, "--timeout", 0.5) == (1, {})
        assert time.monotonic() - start < 20
        assert len(script.seen) > 1
        assert "/chat/completions gave no reply in 1.5 s, retries included" in capsys.readouterr().err

    def test_endpoint_that_takes_no_max_tokens_is_asked_in_its_words(self, vstar: Path, tmp_path: Path) -> None:
        said = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )

        def picky(seen: Seen) -> Any:
            return (400, {"error": {"message": said}}) if "max_tokens" in seen.body else perfect(seen)

        arguments = ("--bench", "vstar", "--data", vstar, "--concurrency", 1, "--temperature", 1, "--limit", 5)
        with serving(Script(picky)) as script:
            status, report = evaluate(tmp_path / "run", script, *arguments, "--max-tokens", 99)
        assert (status, report["all"]["accuracy"], len(script.seen)) == (0, 1, 11)
        assert {seen.body["max_completion_tokens"] for seen in script.seen[1:]} == {99}
        assert all(seen.body["seed"] < 2**31 for seen in script.seen)

    @pytest.mark.parametrize("rules", ["corrected", "official"])
    def test_trajectory_that_is_refused_later_counts_as_no_answer(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], rules: str
    ) -> None:
        def overflows(seen: Seen) -> Any:
            long = "side" in seen.question and seen.turn == 3
            zooms = "side" in seen.question and seen.turn < 3
            return (400, {"message": "too long"}) if long else call([9, 9, 99, 99]) if zooms else perfect(seen)

        arguments = ("--bench", "vstar", "--data", vstar, "--rules", rules)
        with serving(Script(overflows)) as script:
            status, report = evaluate(tmp_path / "run", script, *arguments)
            total = report["all"]
            assert (status, total["answers"], total["no_answer"], total["accuracy"]) == (1, 6, 2, 4 / 6)
            assert (total["refused_later"], total["zooms"], report["refused"]) == (2, 4 + 2 * 2, [])
            told = capsys.readouterr()
            assert "refused after the first turn: 2 answers" in told.out
            assert re.search(
                "2 of 6 trajectories were refused after the first turn.*The server said.*too long", told.err
            )
            asked = len(script.seen)
            evaluate(tmp_path / "run", script, *arguments)
        assert len(script.seen) == asked
        records = [json.loads(line) for line in (tmp_path / "run" / "answers.jsonl").read_text().splitlines()]
        assert sorted("too long" in (record["refusal"] or "") for record in records) == [False] * 4 + [True] * 2

    def test_question_that_is_refused_does_not_stop_the_check_of_the_view(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--bench", "vstar", "--data", vstar)
        too_long = (400, {"error": {"message": "too long"}})
        with serving(Script(perfect, check=lambda _: too_long)) as script:
            assert evaluate(tmp_path / "run", script, *arguments) == (1, {})
            assert script.seen == []
            assert "refuses all of the first questions with their images: status 400" in capsys.readouterr().err
            script.check = lambda seen: "x" if "side" in seen.question else too_long
            status, report = evaluate(tmp_path / "run", script, *arguments)
            assert (status, report["all"]["answers"], report["view_tokens"]["note"]) == (0, 6, None)
            script.check = lambda seen: "x" if not seen.images or min(seen.images[-1].size) > 56 else too_long
            report = evaluate(tmp_path / "other", script, *arguments)[1]
        assert any(note.startswith("the endpoint refuses the smallest crop") for note in report["notes"])

    def test_refused_question_is_reported_and_asked_again(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def strict(seen: Seen) -> Any:
            return (400, {"error": {"message": "too long"}}) if "side" in seen.question else perfect(seen)

        arguments = ("--bench", "vstar", "--data", vstar)
        with serving(Script(strict)) as script:
            status, report = evaluate(tmp_path / "run", script, *arguments)
            assert (status, report["all"]["answers"], len(report["refused"])) == (1, 4, 2)
            assert "2 rows were refused by the endpoint" in capsys.readouterr().out
            script.policy, script.seen = perfect, []
            status, report = evaluate(tmp_path / "run", script, *arguments)
        assert (status, report["all"]["answers"], len(report["refused"]), len(script.seen)) == (0, 6, 0, 4)

    def test_finished_run_needs_no_endpoint(self, vstar: Path, tmp_path: Path) -> None:
        arguments = ("--bench", "vstar", "--data", vstar)
        with serving(Script(perfect)) as script:
            first = evaluate(tmp_path / "run", script, *arguments)[1]
        second = evaluate(tmp_path / "run", script, *arguments)[1]
        assert {**second, "wall_seconds": 0} == {**first, "wall_seconds": 0, "view_tokens": None} | {
            "view_tokens": None
        }

    def test_run_of_other_settings_is_not_mixed_in(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--bench", "vstar", "--data", vstar, "--limit", 1)
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "run", script, *arguments)
            assert evaluate(tmp_path / "run", script, *arguments, "--temperature", 1)[0] == 2
        assert "temperature: 0.0 then, 1.0 now" in capsys.readouterr().err

    def test_other_checkpoint_under_the_same_name_gets_no_answers_of_the_first(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        out, arguments = tmp_path / "run", ("--bench", "vstar", "--data", vstar)
        model = {"id": "org/tuned", "object": "model"}
        with serving(Script(perfect, models=[{**model, "root": "/checkpoint-1"}])) as script:
            report = evaluate(out, script, *arguments, "--limit", 4)[1]
            assert (report["model"], report["root"]) == ("org/tuned", "/checkpoint-1")
            evaluate(out, script, *arguments)
            assert "4 answers are kept from the run started 2" in capsys.readouterr().err
            for models, words in (
                ([{**model, "root": "/checkpoint-2"}], "root: '/checkpoint-1' then, '/checkpoint-2' now"),
                ([{"id": "org/other", "object": "model"}], "model: 'org/tuned' then, 'org/other' now"),
            ):
                script.models = models
                assert evaluate(out, script, *arguments)[0] == 2
                assert words in capsys.readouterr().err
            script.policy, script.seen = always_a, []
            report = evaluate(out, script, *arguments, "--fresh")[1]
            assert (report["model"], report["root"], len(script.seen)) == ("org/other", None, 6)
        [aside] = tmp_path.glob("run-until-*")
        assert json.loads((aside / "report.json").read_text())["all"]["accuracy"] == 1

    def test_rows_that_changed_are_asked_again_and_no_others(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = write_own(tmp_path / "own.parquet")
        rows = pq.read_table(path).to_pylist()
        with serving(Script(always_a)) as script:
            assert evaluate(tmp_path / "run", script, "--bench", path)[0] == 1
            assert len(script.seen) == 6
            rows[1]["reward_model"]["ground_truth"] = "mended"
            rows[2]["prompt"][0]["content"] = "another system turn"
            rows[3]["images"][0]["bytes"] = picture("white", 99)
            rows[4]["extra_info"]["index"] = "of no matter"
            rows[6]["data_source"] = "vstar"
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)
            script.seen = []
            status, report = evaluate(tmp_path / "run", script, "--bench", path)
            assert (status, report["all"]["answers"], report["bad_rows"], len(script.seen)) == (0, 7, [], 4)
            assert "3 of them were to rows that have changed since" in capsys.readouterr().err
            evaluate(tmp_path / "run", script, "--bench", path)
        assert len(script.seen) == 4

    def test_two_evaluations_do_not_share_a_folder(self, vstar: Path, tmp_path: Path) -> None:
        journal = Journal(tmp_path / "run")
        with serving(Script(perfect)) as script:
            assert evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--model", "m")[0] == 1
        journal.close()

    def test_unreadable_images_and_rows_are_reported(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = write_vstar(tmp_path / "vstar") / "direct_attributes"
        (folder / "sa_0.png").write_bytes(picture("red", 40)[:300])
        (folder / "sa_1.png").unlink()
        (folder / "sa_2.json").write_text('{"question": "?"}')
        (folder / "sa_3.json").write_text('{"question": "?", "options": ["one"]}')
        with serving(Script(perfect)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", tmp_path / "vstar")
        assert (status, report["all"]["answers"], report["all"]["accuracy"]) == (1, 2, 1)
        assert sorted(row["where"][-4:] for row in report["bad_rows"]) == ["sa_0", "sa_1", "sa_2", "sa_3"]
        assert "no field 'options'" in str(report["bad_rows"])
        assert "4 rows can't be asked and are not in the figures" in capsys.readouterr().out

    def test_missing_endpoint_is_named(self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        script = Script(perfect, url="http://127.0.0.1:9/v1")
        assert evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)[0] == 1
        assert "http://127.0.0.1:9/v1/models failed after 3 retries" in capsys.readouterr().err
