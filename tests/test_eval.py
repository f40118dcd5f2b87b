"""Evaluation against scripted endpoints: each must score what it must score, through the real plugin and real swift."""

from __future__ import annotations

import base64
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.stats
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
    picture,
    serving,
    view_of,
    write_own,
    write_tsv,
    write_vstar,
)
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from qwen_vl_utils import fetch_image, vision_process

import deepeyes_plugin as plugin
from deepeyes.answers import Trajectory, read_answer
from deepeyes.calls import parse_call
from deepeyes.evaluation import bench as eval_bench
from deepeyes.evaluation import cli
from deepeyes.evaluation import endpoint as eval_endpoint
from deepeyes.evaluation import reporting as eval_report
from deepeyes.evaluation import run as eval_run
from deepeyes.evaluation import stats as eval_stats
from deepeyes.judging.judge import Judge
from deepeyes.report import page as report
from deepeyes.scoring import Scored, score
from deepeyes.settings import Coordinates, JudgeKind, Rules, Scoring, Settings
from deepeyes.traces import Tracer
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(autouse=True)
def plugin_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line puts in the place of the plugin's settings goes with the test."""
    judge = replace(plugin.SETTINGS.judge, kind=JudgeKind.RULE)
    monkeypatch.setattr(plugin, "SETTINGS", replace(Settings(), judge=judge))
    for name in ("MAX_PIXELS", "MAX_TURNS", "DEEPEYES_JUDGE_PATIENCE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def vstar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_vstar(tmp_path_factory.mktemp("bench") / "vstar")


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
        assert (report["all"]["accuracy"], report["all"]["no_answer"], report["all"]["zooms"]) == (0, 6, 6)

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


class TestFidelity:
    """The endpoint sees what the policy saw in training."""

    @pytest.mark.parametrize("size", [(640, 480), (3001, 1999), (30, 500), (57, 57), (9, 9)])
    @pytest.mark.parametrize("max_pixels", [602112, 602111, 100000])
    def test_view_is_that_of_swift_under_max_pixels(
        self, size: tuple[int, int], max_pixels: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = Image.effect_noise(size, 90).convert("RGB")
        monkeypatch.setattr(
            vision_process, "IMAGE_MAX_TOKEN_NUM", max_pixels // 28**2
        )  # what swift does with MAX_PIXELS
        template = eval_endpoint.EndpointTemplate(eval_endpoint.FAMILIES["qwen2.5-vl"], max_pixels)
        ours, theirs = template.scale(image), fetch_image({"image": image})
        assert ours.size == theirs.size
        assert ours.tobytes() == theirs.tobytes()
        assert template.scale(ours).tobytes() == ours.tobytes()

    @pytest.mark.parametrize("source", ["view", "original"])
    def test_crop_is_that_part_of_the_view_or_original(self, tmp_path: Path, source: str) -> None:
        image = Image.effect_noise((1200, 900), 90).convert("RGB")
        (tmp_path / "direct_attributes").mkdir()
        image.save(tmp_path / "direct_attributes" / "one.png")
        note = {"question": "Which?", "options": ["this", "that"]}
        (tmp_path / "direct_attributes" / "one.json").write_text(json.dumps(note))
        with serving(Script(lambda seen: call([28, 56, 140, 112]) if seen.turn == 1 else answer("A"))) as script:
            arguments = ("--bench", tmp_path, "--max-pixels", 448 * 336, "--crop-source", source)
            evaluate(tmp_path / "run", script, *arguments)
        view = fetch_image({"image": image, "max_pixels": 448 * 336})
        crop = view.crop((28, 56, 140, 112))
        if source == "original":
            x, y = 1200 / view.width, 900 / view.height
            crop = image.crop((int(28 * x), int(56 * y), -int(-140 * x // 1), -int(-112 * y // 1)))
            crop = fetch_image({"image": crop, "max_pixels": 448 * 336})
        assert [seen.tobytes() for seen in script.seen[-1].images] == [view.tobytes(), crop.tobytes()]

    def test_box_of_qwen3_is_in_thousandths_of_the_view(self, vstar: Path, tmp_path: Path) -> None:
        def thousandths(seen: Seen) -> str:
            x1, y1, x2, y2 = seen.square(seen.images[0])
            width, height = seen.images[0].size
            box = [1000 * x1 // width, 1000 * y1 // height, 1000 * x2 // width, 1000 * y2 // height]
            return call(box) if seen.turn == 1 else answer(seen.right())

        with serving(Script(thousandths, patch=16)) as script:
            arguments = ("--bench", "vstar", "--data", vstar, "--family", "qwen3-vl")
            status, report = evaluate(tmp_path / "run", script, *arguments)
        assert (status, report["all"]["accuracy"], report["coordinates"]) == (0, 1, "norm1000")
        assert script.seen[0].images[0].size == (320, 256)
        assert max(seen.images[-1].width for seen in script.seen if seen.turn == 2) < 100

    def test_observation_repeats_the_instruction_around_the_crop(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 1)
        system, question, _, observation = script.seen[-1].texts
        instruction = eval_run.own_prompt(Coordinates.PIXEL, tool=True).instruction
        assert question.startswith("[image 1]\n")
        assert question.endswith("Answer with the letter of the right option." + instruction)
        assert observation == f"<tool_response>[image 2]{instruction}</tool_response>"
        schema = json.loads(re.search(r"<tools>\n(.*)\n</tools>", system)[1])  # type: ignore[index]
        assert schema["function"]["parameters"]["required"] == ["bbox_2d"]
        example = re.search(r"<tool_call>\n(.*)\n</tool_call>", system)[1]  # type: ignore[index]
        assert parse_call(example, Rules.OFFICIAL).label is not None

    def test_prompt_can_be_that_of_the_training_rows(self, vstar: Path, tmp_path: Path) -> None:
        rows = write_own(tmp_path / "own.parquet")
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 1, "--prompt-from", rows)
        assert script.seen[0].texts[0] == "own system turn"
        assert (
            script.seen[-1].texts[-1]
            == "<tool_response>[image 2]\nAnswer in <answer></answer>, my way.</tool_response>"
        )

    @pytest.mark.parametrize(
        ("arguments", "notes"),
        [
            ((), ["the prompt is the evaluation's own, not what training showed; --prompt-from PARQUET takes that of"]),
            (("--prompt-from", "own"), []),
            (("--no-tool",), ["without the tool the prompt is the evaluation's own"]),
            (("--no-tool", "--prompt-from", "own"), ["without the tool the prompt is the evaluation's own; --prompt-"]),
            (("--bench", "own"), []),
            (("--bench", "own", "--no-tool"), ["without the tool the prompt is the evaluation's own"]),
            (
                ("--bench", "own", "--prompt-from", "own"),
                ["the rows bring their own prompt; --prompt-from is not used"],
            ),
        ],
    )
    def test_prompt_that_is_not_of_the_training_rows_is_noted(
        self, vstar: Path, tmp_path: Path, arguments: tuple[str, ...], notes: list[str]
    ) -> None:
        rows = write_own(tmp_path / "own.parquet")
        words = [rows if word == "own" else word for word in ("--bench", "vstar", "--data", vstar, *arguments)]
        with serving(Script(perfect if "own" not in arguments[:2] else always_a)) as script:
            _, report = evaluate(tmp_path / "run", script, *words, "--limit", 1)
        told = [note for note in report["notes"] if "prompt" in note]
        assert [text.startswith(note) for text, note in zip(told, notes, strict=True)] == [True] * len(notes)

    def test_server_that_scales_views_again_is_refused(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ("--bench", "vstar", "--data", vstar)
        with serving(Script(perfect, patch=16)) as script:
            status, report = evaluate(tmp_path / "run", script, *arguments)
            assert (status, report, script.seen) == (1, {}, [])
            assert "makes 82 tokens of a view of 308 x 252 pixels, where 99 to 107" in capsys.readouterr().err
            script.check = lambda _: pytest.fail("it was asked")
            assert evaluate(tmp_path / "run", script, *arguments, "--skip-view-check")[0] == 0

    def test_server_that_scales_small_crops_up_is_noted(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect, least=64)) as script:
            _, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar, "--limit", 1)
        assert "makes 66 tokens of a crop of 4" in report["notes"][1]


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
            assert (status, total["answers"], total["no_answer"], total["accuracy"]) == (0, 6, 2, 4 / 6)
            assert (total["refused_later"], total["zooms"], report["refused"]) == (2, 4 + 2 * 2, [])
            assert "refused after the first turn: 2 answers" in capsys.readouterr().out
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
            script.check = lambda seen: "x" if not seen.images or min(seen.images[0].size) > 56 else too_long
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
        journal = eval_run.Journal(tmp_path / "run")
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
        assert "http://127.0.0.1:9/v1/models failed after 1 retries" in capsys.readouterr().err


@dataclass
class JudgeScript:
    """A judge: what it says to its how-manyth prompt, and its prompts."""

    policy: Callable[[int, str], Any]
    prompts: list[str] = field(default_factory=list)
    url: str = ""

    def reply(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.prompts.append(body["messages"][0]["content"])
        said = self.policy(len(self.prompts), self.prompts[-1])
        return (200, {"choices": [{"message": {"content": said}}]}) if isinstance(said, str) else said


class TestJudge:
    """What the rule can't read goes to the judge, and each is counted apart."""

    @staticmethod
    def vague(seen: Seen) -> str:
        return answer("The one on the left, maybe") if "side" in seen.question else perfect(seen)

    def test_unsure_answers_go_to_the_judge(
        self, vstar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        def left(_: int, prompt: str) -> str:
            return f"Judgement: {int('on the left side' in re.findall(r'.Reference answer. (.*)', prompt)[-1])}"

        arguments = ("--bench", "vstar", "--data", vstar)
        down = replace(plugin.SETTINGS.judge, kind=JudgeKind.SERVER, urls=("http://127.0.0.1:9/v1",), timeout=1)
        monkeypatch.setattr(plugin, "SETTINGS", replace(plugin.SETTINGS, judge=replace(down, patience=0.2)))
        monkeypatch.setenv("DEEPEYES_JUDGE_PATIENCE", "0.2")
        with serving(Script(self.vague)) as script, serving(JudgeScript(left)) as judge:
            status, report = evaluate(tmp_path / "run", script, *arguments)
            assert (status, report["all"]["unread"], report["all"]["by_rule"]["right"]) == (1, 2, 4)
            assert "http://127.0.0.1:9/v1" in capsys.readouterr().err
            up = replace(plugin.SETTINGS.judge, urls=(judge.url,))
            monkeypatch.setattr(plugin, "SETTINGS", replace(plugin.SETTINGS, judge=up))
            asked = len(script.seen)
            status, report = evaluate(tmp_path / "run", script, *arguments)
            assert (status, report["all"]["unread"], len(script.seen)) == (0, 0, asked)
            assert report["all"]["by_rule"] == {"answers": 4, "right": 4}
            assert report["all"]["by_judge"] == {"answers": 2, "right": 1}
            assert report["all"]["accuracy"] == 5 / 6
            calls = len(judge.prompts)
            evaluate(tmp_path / "run", script, *arguments)
        assert len(judge.prompts) == calls

    @staticmethod
    def ask(path: Path, url: str, count: int = 150) -> eval_report.Verdicts:
        """Asks the judge at a URL about so many answers, and returns its verdicts as a folder keeps them."""
        settings = replace(plugin.SETTINGS.judge, kind=JudgeKind.SERVER, urls=(url,), patience=0.3, concurrency=4)
        judge = Judge(replace(plugin.SETTINGS, judge=settings))
        try:
            verdicts = eval_report.Verdicts(path, judge, "label")
            questions = [Question(Scoring.VISUAL, "?", f"no. {at}", "an answer") for at in range(count)]
            verdicts.found = verdicts.of(questions)  # type: ignore[attr-defined]
        finally:
            judge.close()
        return verdicts

    def test_judge_that_dies_keeps_what_it_said(self, tmp_path: Path) -> None:
        path = tmp_path / "verdicts.jsonl"
        with serving(JudgeScript(lambda at, _: "Judgement: 1" if at <= 100 else (500, {}))) as script:
            verdicts = self.ask(path, script.url)
            kept = len(path.read_text().splitlines())
            assert "no judge answered" in str(verdicts.error)
            assert verdicts.found == [(True, "judge")] * kept + [(False, "unread")] * (150 - kept)
            assert kept == 64
            with path.open("ab") as file:
                file.write('{"key": "hälf'.encode()[:-3])  # what a killed process leaves
            script.policy, script.prompts = lambda *_: "Judgement: 0", []
            assert self.ask(path, script.url).found.count((False, "judge")) == len(script.prompts) == 150 - kept
            assert self.ask(path, script.url).error is None
        assert len(script.prompts) == 150 - kept
        assert len([json.loads(line) for line in path.read_text().splitlines()]) == 150

    def test_answer_that_the_judge_refuses_or_mumbles_about_costs_no_other_verdict(self, tmp_path: Path) -> None:
        def strict(_: int, prompt: str) -> Any:
            if "no. 70\n" in prompt:
                return 400, {"message": "too long"}
            return "Judgement: 1" if "no. 7\n" not in prompt else "hm"

        path = tmp_path / "verdicts.jsonl"
        with serving(JudgeScript(strict)) as script:
            verdicts = self.ask(path, script.url)
            assert "refused the request with status 400" in str(verdicts.error)
            assert [(at, *found) for at, found in enumerate(verdicts.found) if found != (True, "judge")] == [
                (7, False, "unparseable"),
                (70, False, "unread"),
            ]
            script.policy, script.prompts = lambda *_: "Judgement: 1", []
            assert self.ask(path, script.url).found == [(True, "judge")] * 150
            assert len(script.prompts) == 2
            script.policy, script.prompts = lambda *_: (403, {"message": "no"}), []
            assert self.ask(tmp_path / "none.jsonl", script.url).found == [(False, "unread")] * 150
        assert len(script.prompts) < 100

    @pytest.mark.parametrize(
        ("text", "place"),
        [
            ("B", 1),
            ("(b)", 1),
            ("B.", 1),
            ("**B**", 1),
            ("B. green", 1),
            ("(B) It looks green to me", 1),
            ("The correct answer is B.", 1),
            ("Answer: (C) blue", 2),
            ("\\boxed{D}", 3),
            ("Green.", 1),
            ("the answer is green", 1),
            ("B) blue", None),
            ("B. or C.", None),
            ("E", None),
            ("It is green", None),
            ("A or B", None),
            ("A man", None),
            ("", None),
            ("Be careful: red", None),
            ("(B", 1),
            ("“B”", 1),
            ("B. It is green, not a mixture", 1),
            ("A. It covers hundreds of pixels", 0),
            ("A. No, wait, B is right", None),
            ("B. It is red", None),
            ("B: 是red的", None),
            ("≠A", None),
            ("!A", None),
            ("-A", None),
            ("A?", None),
            ("≠A. red", None),
        ],
    )
    def test_rule_reads_an_option_or_says_it_is_unsure(self, text: str, place: int | None) -> None:
        assert eval_report.read_choice(text, ["red", "green", "blue", "white"]) == place

    @pytest.mark.parametrize(("text", "place"), [("B. It is dark red", 1), ("A. It is dark red", None), ("A: red", 0)])
    def test_option_within_another_is_told_from_it(self, text: str, place: int | None) -> None:
        assert eval_report.read_choice(text, ["red", "dark red"]) == place

    @given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=5, unique=True))
    def test_rule_reads_any_text(self, text: str, options: list[str]) -> None:
        assert eval_report.read_choice(text, options) in (None, *range(len(options)))


class TestReaders:
    """Formats as published."""

    def test_vstar_lines_hold_the_same_questions_as_the_folders(self, vstar: Path) -> None:
        lines, folders = [], eval_bench.read_bench("vstar", vstar)
        for number, item in enumerate(folders.items):
            places = eval_bench.orders(item, "shuffle", 0, 0)[0]
            shown = [f"({letter}) {item.options[place]}" for letter, place in zip("ABCD", places, strict=False)]
            text = "\n".join([item.question, *shown, "Answer with the letter of the option."])
            label = "ABCD"[places.index(0)]
            line = {"image": f"{item.id}.png", "text": text, "category": item.category, "label": label}
            lines.append(json.dumps({**line, "question_id": number}))
        path = vstar / "test_questions.jsonl"
        path.write_text("\n".join([*lines, '{"image": "nowhere.png", "text": "?"}', "[]"]))
        bench = eval_bench.read_bench(str(path), None)
        path.unlink()

        def key(item: eval_bench.Item) -> tuple[object, ...]:
            return item.id, item.category, item.question, item.reference, sorted(item.options), item.load()

        assert [key(item) for item in bench.items] == [key(item) for item in folders.items]
        assert [item.options[item.right] for item in bench.items] == [item.reference for item in bench.items]
        assert [row.where for row in bench.bad] == ["test_questions.jsonl line 7", "test_questions.jsonl line 8"]

    @pytest.mark.parametrize("suffix", ["tsv", "parquet"])
    def test_hrbench_images_are_read_when_asked_for_in_any_order(self, tmp_path: Path, suffix: str) -> None:
        rows = hrbench_rows()
        rows[7]["image"] = rows[2]["index"]  # as VLMEvalKit shares an image
        rows[8]["image"] = "no base64!"
        path = tmp_path / f"hr_bench_8k.{suffix}"
        if suffix == "tsv":
            write_tsv(path, rows)
        else:
            pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=6)
        bench = eval_bench.read_bench("hrbench8k", tmp_path)
        assert bench.cycled
        assert len(bench.items) == 20
        for place in (0, 1, 5, 6, 19, 3, 4, 12, 7):
            item = bench.items[place]
            assert item.load() == base64.b64decode(rows[2 if place == 7 else place]["image"])
            assert item.options == tuple(rows[place][letter] for letter in "ABCD")
            assert item.question == rows[place]["question"]
            assert item.reference == rows[place][rows[place]["answer"]]
        with pytest.raises(ValueError, match="no base64"):
            bench.items[8].load()
        groups = [item.group for item in bench.items]
        assert groups[:5] == groups[5:10] == groups[10:15]
        assert len(set(groups)) == 5

    def test_same_question_about_two_images_is_two_questions(self, tmp_path: Path) -> None:
        rows = [{**row, "index": str(at)} for at, row in enumerate(row for row in hrbench_rows() for _ in range(2))]
        bench = eval_bench.read_bench(str(write_tsv(tmp_path / "twins.tsv", rows)), None)
        assert len({item.group for item in bench.items}) == 10

    def test_bad_hrbench_rows_are_named(self, tmp_path: Path) -> None:
        rows = hrbench_rows(3)
        rows[0]["answer"], rows[1]["B"], rows[2]["question"] = "E", rows[1]["A"], " "
        rows[4]["index"] = rows[3]["index"]
        bench = eval_bench.read_bench(str(write_tsv(tmp_path / "some.tsv", rows)), None)
        assert len(bench.items) == 8
        assert [row.why[:24] for row in bench.bad] == [
            "the right option is 'E';",
            "options ('green', 'green",
            "question is ' '; expecte",
            "this id stood before; id",
        ]

    @pytest.mark.parametrize(
        ("cells", "why"),
        [
            ({"C": "", "answer": "D"}, None),
            ({"C": " ", "answer": "C"}, "the right option is 'C'; expected one of A, B, D"),
            ({"C": "nan"}, None),
            ({"question": "where\r?"}, "the line can't be read: new-line character"),
            ({"question": "caf\udce9?"}, "question is 'caf\\udce9?'; expected UTF-8"),
            ({"category": "caf\udce9"}, "category is 'caf\\udce9'; expected UTF-8"),
            ({"index": "\udce9"}, "index is '\\udce9'; expected UTF-8"),
        ],
    )
    def test_odd_hrbench_cell_is_read_or_reported(self, tmp_path: Path, cells: dict[str, str], why: str | None) -> None:
        rows = [{**row, "question": "which?"} for row in hrbench_rows(1)]
        rows[1] |= cells
        lines = ["\t".join(row.values()) for row in (dict(zip(rows[0], rows[0], strict=True)), *rows)]
        path = tmp_path / "some.tsv"
        path.write_bytes("\n".join(lines).encode(errors="surrogateescape"))
        bench = eval_bench.read_bench(str(path), None)
        assert str([row.where for row in bench.bad]).isascii()
        assert [row.why[: len(why or "")] for row in bench.bad] == ([] if why is None else [why])
        assert [item.load()[:4] for item in bench.items] == [b"\x89PNG"] * (4 if why is None else 3)
        if why is None:
            assert bench.items[1].reference == rows[1][rows[1]["answer"]]
            assert len(bench.items[1].options) == (4 if rows[1]["C"] else 3)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"extra_info": '{"question": "?"}'}, 'extra_info is \'{"question": "?"}\'; expected a struct'),
            ({"reward_model": "red"}, "reward_model is 'red'; expected a struct"),
            ({"prompt": ["<image>?"]}, "'str' object has no attribute 'get'"),
        ],
    )
    def test_own_rows_of_another_shape_are_reported(self, tmp_path: Path, change: dict[str, Any], why: str) -> None:
        rows = [{**row, **change} for row in pq.read_table(write_own(tmp_path / "own.parquet")).to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "odd.parquet")
        with pytest.raises(eval_bench.BenchError, match=re.escape(why)):
            eval_bench.read_bench(str(tmp_path / "odd.parquet"), None)

    def test_vstar_lines_may_ask_twice_about_an_image(self, vstar: Path, tmp_path: Path) -> None:
        line = {"image": "direct_attributes/sa_0.png", "category": "all", "label": "A"}
        lines = [
            json.dumps({**line, "text": f"{text}?\n(A) one\n(B) two", "question_id": number}).encode()
            for text, number in (("first", 5), ("second", 6), ("second", 6), ("third", "\ud800"), ("fourth", None))
        ]
        path = tmp_path / "some.jsonl"
        path.write_bytes(b"\n".join([*lines, b'{"text": "caf\xe9"}']))
        bench = eval_bench.read_bench(str(path), vstar)
        image = "direct_attributes/sa_0"
        assert [(item.id, item.question) for item in bench.items] == [(image, "first?"), (f"{image} #6", "second?")]
        assert [row.where for row in bench.bad] == [
            "some.jsonl line 4",
            "some.jsonl line 6",
            f"{image} #6",
            image,
        ]

    def test_damaged_parquet_costs_the_rows_of_its_group(self, tmp_path: Path) -> None:
        path = tmp_path / "hr_bench_4k.parquet"
        pq.write_table(pa.Table.from_pylist(hrbench_rows()), path, row_group_size=6, use_dictionary=False)
        group = pq.ParquetFile(path).metadata.row_group(1)
        column = next(at for at in range(group.num_columns) if group.column(at).path_in_schema == "image")
        content = bytearray(path.read_bytes())
        start = group.column(column).data_page_offset
        content[start : start + 200] = b"\xff" * 200
        path.write_bytes(content)
        with serving(Script(perfect)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "hrbench4k", "--data", tmp_path)
        assert (status, report["all"]["answers"], report["all"]["accuracy"]) == (1, 14, 1)
        assert sorted(int(row["where"]) for row in report["bad_rows"]) == list(range(6, 12))
        group = pq.ParquetFile(path).metadata.row_group(1).column(0)
        content[group.data_page_offset : group.data_page_offset + 20] = b"\xff" * 20
        path.write_bytes(content)
        with pytest.raises(eval_bench.BenchError, match="is damaged; expected a whole parquet file"):
            eval_bench.read_bench(str(path), None)

    @pytest.mark.parametrize(
        ("bench", "content", "message"),
        [
            ("vstar", None, "--data was not given: expected the folder of V*Bench"),
            ("nothing.parquet", None, "no such file"),
            ("some.txt", b"x", "expected a .parquet, .tsv or .jsonl file"),
            ("some.tsv", b"a\tb\n1\t2\n", "no column answer, image, index, question"),
            ("some.tsv", b"a\tb\r1\t2\r", "the head can't be read: new-line character"),
            ("some.parquet", b"PAR0", "no readable parquet file"),
            ("some.jsonl", b"{}\n", "no field 'image'"),
        ],
    )
    def test_what_is_no_benchmark_is_refused(
        self, tmp_path: Path, bench: str, content: bytes | None, message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        if content is not None:
            (tmp_path / bench).write_bytes(content)
        name = bench if bench == "vstar" else str(tmp_path / bench)
        assert cli.main(["--bench", name, "--url", "http://127.0.0.1:9/v1"]) == 2
        assert message in capsys.readouterr().err

    def test_shuffle_follows_from_seed_and_id_alone(self) -> None:
        items = [eval_bench.Item(str(at), "", "", "", "", bytes, tuple("abcd")) for at in range(400)]
        first, again, other = (
            [eval_bench.orders(item, "shuffle", seed, 0)[0] for item in order]
            for seed, order in ((1, items), (1, items[::-1]), (2, items))
        )
        assert first == again[::-1] != other
        places = [order.index(0) for order in first]
        assert all(70 < places.count(place) < 130 for place in range(4))


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
        assert sum(figures[name]["questions"] for name in eval_bench.VSTAR_FOLDERS) == 5
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


class TestTraces:
    """What `report` reads."""

    def test_trace_has_every_field_of_the_plugins_own(self, vstar: Path, tmp_path: Path) -> None:
        with serving(Script(perfect)) as script:
            evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)
        lines = [json.loads(line) for line in (tmp_path / "run" / "trajectories-0.jsonl").read_text().splitlines()]
        assert len(lines) == 6 == len({record["group"] for record in report.read_traces(tmp_path / "run")})
        trajectory = Trajectory(Scoring.VISUAL, "q", "r", ("<answer>r</answer>",))
        reading = read_answer(trajectory, Rules.CORRECTED)
        verdict = Verdict(correct=True, source="equal")
        scored = Scored(trajectory, reading, verdict, score(trajectory, reading, verdict))
        tracer = Tracer(tmp_path / "trace", "0")
        tracer.record([scored], {"data_source": ["vstar"]})
        tracer._thread.shutdown()  # noqa: SLF001 - waits until it is written
        own = json.loads((tmp_path / "trace" / "trajectories-0.jsonl").read_text())
        for line in lines:
            assert own.keys() <= line.keys()
            assert line["num_zooms"] == 1 == line["score"]["tool"]
            view, crop = (Image.open(tmp_path / "run" / "images" / name) for name in line["images"])
            assert list(view.size) == line["view_size"]
            x1, y1, x2, y2 = line["zooms"][0]["box"]
            exact = fetch_image({"image": view.convert("RGB").crop((x1, y1, x2, y2))})
            assert exact.tobytes() == crop.convert("RGB").tobytes()

    def test_page_misses_no_generation_and_the_hint_shows_all(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(report, "MAX_TRAJECTORIES", 30)
        write_tsv(tmp_path / "hr_bench_4k.tsv", hrbench_rows())
        with serving(Script(always_a)) as script:
            for samples, limit in ((1, ""), (2, " --limit 40")):
                out = tmp_path / f"run{samples}"
                arguments = ("--bench", "hrbench4k", "--data", tmp_path, "--samples", samples)
                evaluate(out, script, *arguments)
                records = report.read_traces(out)
                sizes = Counter(record["group"] for record in records)
                assert [record["group_size"] for record in records] == [sizes[record["group"]] for record in records]
                assert set(sizes.values()) == {samples}
                assert capsys.readouterr().err.endswith(f"bash deepeyes.sh report {out}{limit}\n")
