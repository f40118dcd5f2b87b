"""The report: what it reads, what it makes of it, and that nothing a model wrote can leave its place."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from trace_maker import HOSTILE, LOG, Generation, Prompt, flush, log, record

from deepeyes.answers import Trajectory, read_answer
from deepeyes.report.curves import advantages, divided_by_deviation
from deepeyes.report.grouping import Groups
from deepeyes.report.logs import find_run, read_completions, read_log
from deepeyes.report.page import script_json, write_report
from deepeyes.report.traces import ReportError, choose, read_traces
from deepeyes.settings import Rules, Scoring
from deepeyes.traces import Tracer

if TYPE_CHECKING:
    from collections.abc import Callable

    from trace_maker import Box

ROOT = Path(__file__).resolve().parents[2]
VIEW = Image.linear_gradient("L").resize((140, 84)).convert("RGB")
BOX: Box = (14, 21, 70, 63)


def trace(directory: Path, *steps: list[Prompt]) -> Path:
    tracer = Tracer(directory, "0")
    for step, prompts in enumerate(steps):
        record(tracer, prompts, step)
    flush(tracer)
    return directory


def prompt(question: str = "Which colour?", image: Image.Image = VIEW, **changes: Any) -> Prompt:
    generations = changes.pop("generations", [Generation("red", [BOX]), Generation("red"), Generation("blue")])
    return Prompt(question, "red", image, generations, **changes)


def data_of(page: Path) -> dict[str, Any]:
    """Reads a page as a browser would: a script element ends at the first `</script`."""
    text = page.read_text(encoding="utf-8")
    (content,) = re.findall(r'<script type="application/json" id="data">(.*?)</script', text, re.DOTALL)
    found: dict[str, Any] = json.loads(content)
    return found


def images_of(page: Path) -> list[Image.Image]:
    uris = re.findall(r'id="image-\d+">data:image/\w+;base64,(.*?)</script>', page.read_text(encoding="utf-8"))
    return [Image.open(io.BytesIO(base64.b64decode(uri))) for uri in uris]


def mark(directory: Path, **marks: str) -> None:
    """Marks the trajectories of a question as untrained, for a reason."""
    path = directory / "trajectories-0.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**line, "untrained": marks.get(line["question"])}) + "\n" for line in lines))


class TestUntrained:
    """Trajectories that never trained are shown, named, and in no curve."""

    def test_they_are_in_no_curve(self, tmp_path: Path) -> None:
        wrong = [Generation("blue"), Generation("blue")]
        trace(tmp_path, [prompt("a"), prompt("b", generations=wrong)], [prompt("c", generations=wrong)])
        mark(tmp_path, b="dynamic_sample", c="evaluation")
        data = data_of(write_report(tmp_path))
        curves = {curve["name"]: curve["points"] for curve in data["curves"]}
        assert curves["Accuracy"] == [[1, pytest.approx(2 / 3)]]
        assert curves["Tool use"] == [[1, pytest.approx(1 / 3)]]
        others = {curve["name"]: curve.get("others") for curve in data["curves"]}
        assert others["Tool use"] == [{"run": "validation", "points": [[1, 0]]}]  # after the first step
        untrained = {group["question"]: group["untrained"] for group in data["groups"]}
        assert untrained == {"a": None, "b": "dynamic_sample", "c": "evaluation"}

    def test_they_have_no_advantage_and_miss_nobody(self, tmp_path: Path) -> None:
        trace(tmp_path, [prompt("a"), prompt("b")])
        mark(tmp_path, b="evaluation")
        records = read_traces(tmp_path)
        first, second = Groups(records, 8, evaluation=False).groups
        assert (first["missing"], second["missing"]) == (5, 0)
        advantages = [one["advantage"] for one in Groups(records, 8, evaluation=False).trajectories]
        assert [advantage is None for advantage in advantages] == [False] * 3 + [True] * 3

    def test_traces_of_earlier_versions_count_as_trained(self, tmp_path: Path) -> None:
        trace(tmp_path, [prompt("a")])
        path = tmp_path / "trajectories-0.jsonl"
        path.write_text(path.read_text().replace('"untrained": null, ', ""))
        assert "untrained" not in path.read_text()
        data = data_of(write_report(tmp_path))
        assert (data["groups"][0]["untrained"], len(data["curves"][0]["points"])) == (None, 1)


class TestPage:
    def test_group_holds_what_the_reward_came_from(self, tmp_path: Path) -> None:
        data = data_of(write_report(trace(tmp_path, [prompt()])))
        (group,) = data["groups"]
        assert (group["step"], group["question"], group["reference"]) == (1, "Which colour?", "red")
        assert (group["view_size"], group["members"], group["missing"]) == ([140, 84], [0, 1, 2], 0)
        first, second, third = data["trajectories"]
        assert [one["score"]["total"] for one in (first, second, third)] == [2.0, 0.8, 0.0]
        assert first["weights"] == {"accuracy": 0.8, "format": 0.2, "tool": 1.2}
        assert first["verdict"] == {"correct": True, "source": "equal"}
        assert (third["verdict"]["correct"], third["verdict"]["source"]) == (False, "rule")
        assert first["zooms"] == [
            {"turn": 1, "bbox_2d": list(BOX), "box": list(BOX), "label": None, "error": None, "view": 0, "image": 1}
        ]
        assert [one["views"] for one in data["trajectories"]] == [[0], [0], [0]]
        assert data["prompts"][group["prompt"]][1]["content"] == "<image>\nWhich colour?"

    def test_images_are_inside_once_and_unchanged(self, tmp_path: Path) -> None:
        page = write_report(trace(tmp_path, [prompt()], [prompt("another question")]))
        view, crop = images_of(page)
        assert view.convert("RGB").tobytes() == VIEW.tobytes()
        assert crop.convert("RGB").tobytes() == VIEW.crop(BOX).tobytes()
        assert data_of(page)["images"] == [[[140, 84], [140, 84]], [[56, 42], [56, 42]]]

    def test_view_recorded_in_another_size_is_shown_in_its_own(self, tmp_path: Path) -> None:
        original = VIEW.resize((560, 336))
        page = write_report(trace(tmp_path, [prompt(image=original, view_size=(140, 84))]))
        assert images_of(page)[0].size == (140, 84)
        assert data_of(page)["images"][0] == [[560, 336], [140, 84]]
        assert data_of(page)["trajectories"][0]["zooms"][0]["box"] == list(BOX)

    def test_huge_image_is_scaled_down_and_says_so(self, tmp_path: Path) -> None:
        page = write_report(trace(tmp_path, [prompt(image=VIEW.resize((1400, 840)))]))
        assert images_of(page)[0].size == (1024, 614)
        assert data_of(page)["images"][0] == [[1400, 840], [1024, 614]]

    def test_refused_call_takes_no_crop_from_the_next(self, tmp_path: Path) -> None:
        generation = Generation("red", [None, BOX])
        (trajectory,) = data_of(write_report(trace(tmp_path, [prompt(generations=[generation])])))["trajectories"]
        assert [(zoom["error"], zoom["image"]) for zoom in trajectory["zooms"]] == [("empty_box", None), (None, 1)]
        assert (trajectory["num_zooms"], trajectory["num_zoom_errors"]) == (1, 1)

    def test_lost_and_broken_images_leave_the_rest(self, tmp_path: Path) -> None:
        trace(tmp_path, [prompt()])
        first, second = sorted((tmp_path / "images").glob("*/*"))
        first.unlink()
        second.write_bytes(second.read_bytes()[:40])
        data = data_of(write_report(tmp_path))
        assert data["images"] == [None, None]
        assert len(data["trajectories"]) == 3

    def test_same_text_with_another_image_is_another_group(self, tmp_path: Path) -> None:
        prompts = [prompt(), prompt(image=VIEW.rotate(180))]
        trace(tmp_path, prompts)
        path = tmp_path / "trajectories-0.jsonl"
        path.write_text(path.read_text().replace('"prompt_1"', '"prompt_0"').replace('"row": "1"', '"row": "0"'))
        assert [group["members"] for group in data_of(write_report(tmp_path))["groups"]] == [[0, 1, 2], [3, 4, 5]]

    def test_group_with_lost_generations_says_how_many(self, tmp_path: Path) -> None:
        path = trace(tmp_path, [prompt()]) / "trajectories-0.jsonl"
        path.write_bytes(path.read_bytes()[:-20])
        (group,) = data_of(write_report(tmp_path))["groups"]
        assert (group["members"], group["missing"]) == ([0, 1], 1)

    @pytest.mark.parametrize(
        ("ranks", "args", "missing"),
        [
            ((1, 2, 2), '{"num_generations": 8}', 3),
            ((1, 2, 2), "{}", 0),
            ((1, 2, 2), "torn", 0),
            ((5,), '{"num_generations": 8}', 0),  # an evaluation, say: one rank knows the size of its groups
        ],
    )
    def test_group_of_which_a_rank_left_its_part_out_says_how_many(
        self, tmp_path: Path, ranks: tuple[int, ...], args: str, missing: int
    ) -> None:
        for rank, count in enumerate(ranks):
            tracer = Tracer(tmp_path / "v0" / "traces", str(rank))
            record(tracer, [prompt(generations=[Generation(str(number)) for number in range(count)])], 0)
            flush(tracer)
        log(tmp_path / "v0", LOG)
        (tmp_path / "v0" / "args.json").write_text(args)
        (group,) = data_of(write_report(tmp_path))["groups"]
        assert (len(group["members"]), group["missing"]) == (5, missing)

    def test_limit_keeps_whole_groups_over_all_steps_and_says_so(self, tmp_path: Path) -> None:
        trace(tmp_path, *[[prompt(f"{step} {number}") for number in range(4)] for step in range(10)])
        data = data_of(write_report(tmp_path, limit=30))
        assert [len(group["members"]) for group in data["groups"]] == [3] * 10
        assert len({group["step"] for group in data["groups"]}) == 10
        assert "30 of 120" in data["notes"][-1]
        assert [curve["points"][-1][0] for curve in data["curves"] if curve["name"] == "Reward"] == [10]

    def test_page_is_written_where_asked_and_nothing_else_is_left(self, tmp_path: Path) -> None:
        log(tmp_path / "run", LOG)
        page = write_report(tmp_path / "run", tmp_path / "new" / "page.html")
        assert page.read_text(encoding="utf-8").startswith("<!doctype html>")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["page.html"]

    def test_page_names_no_address(self, tmp_path: Path) -> None:
        text = write_report(trace(tmp_path, [prompt()])).read_text(encoding="utf-8")
        assert set(re.findall(r"\w+://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}  # a name, never fetched
        assert "default-src 'none'" in text


class TestHostileText:
    def test_text_stays_data(self, tmp_path: Path) -> None:
        generations = [Generation(HOSTILE, [BOX], HOSTILE)]
        page = write_report(trace(tmp_path / HOSTILE.replace("/", "")[:80], [prompt(HOSTILE, generations=generations)]))
        text = page.read_text(encoding="utf-8")
        assert HOSTILE in data_of(page)["trajectories"][0]["turns"][0]
        assert data_of(page)["groups"][0]["question"] == HOSTILE
        assert text.count("<script") == text.count("</script>") == 2 + len(images_of(page))  # data, code, images
        assert "<img" not in re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)

    @given(st.text())
    def test_any_text_comes_back_as_it_was(self, text: str) -> None:
        encoded = script_json({"text": text})
        assert json.loads(encoded) == {"text": text}
        assert not set("<>&\u2028\u2029") & set(encoded)

    def test_numbers_that_json_lacks_become_null(self) -> None:
        assert json.loads(script_json([float("nan"), float("-inf"), {"a": (1.5,)}])) == [
            None,
            None,
            {"a": [1.5]},
        ]


class TestAdvantages:
    @pytest.mark.parametrize("rewards", [[2.0, 0.8, 0.0, 2.0], [1.2] * 4, [-0.2, 0.0, -0.2, 2.0]])
    @pytest.mark.parametrize("scale", ["group", "none"])
    def test_equal_those_of_swift(self, rewards: list[float], scale: str) -> None:
        import torch  # noqa: PLC0415 - no other test of this file needs it
        from swift.rl_core.advantage import compute_advantages  # noqa: PLC0415

        column = torch.tensor(rewards)[:, None]
        theirs, _ = compute_advantages(column, torch.ones(1), len(rewards), scale_rewards=scale)
        divided = divided_by_deviation({"scale_rewards": scale})
        assert divided is not None
        assert advantages(rewards, divided=divided) == pytest.approx(theirs.tolist(), abs=2e-3)

    def test_page_has_them(self, tmp_path: Path) -> None:
        data = data_of(write_report(trace(tmp_path, [prompt(), prompt("another")])))
        found = [one["advantage"] for one in data["trajectories"]]
        assert found == pytest.approx(advantages([2.0, 0.8, 0.0]) * 2)

    @pytest.mark.parametrize(
        ("arguments", "divided"),
        [
            ({}, True),
            ({"scale_rewards": None, "advantage_estimator": "grpo"}, True),
            ({"scale_rewards": True}, True),
            ({"scale_rewards": False}, False),
            ({"scale_rewards": "none"}, False),
            ({"scale_rewards": "batch"}, None),
            ({"scale_rewards": "gdpo"}, None),
            ({"scale_rewards": None, "advantage_estimator": "rloo"}, None),
        ],
    )
    def test_arguments_say_how_they_are_scaled(self, arguments: dict[str, Any], *, divided: bool | None) -> None:
        assert divided_by_deviation(arguments) is divided

    @pytest.mark.parametrize(("scale", "expected"), [("none", [2.0, 0.8, 0.0]), ("batch", None)])
    def test_page_follows_the_arguments_of_its_run(
        self, tmp_path: Path, scale: str, expected: list[float] | None
    ) -> None:
        (tmp_path / "args.json").write_text(json.dumps({"scale_rewards": scale}), encoding="utf-8")
        log(trace(tmp_path, [prompt()]), LOG)
        found = [one["advantage"] for one in data_of(write_report(tmp_path))["trajectories"]]
        mean = 2.8 / 3
        assert found == ([None] * 3 if expected is None else pytest.approx([one - mean for one in expected]))

    def test_lone_generation_has_none(self) -> None:
        assert advantages([2.0]) == [0.0]


@given(st.lists(st.integers(1, 9), max_size=40), st.integers(1, 100))
def test_choice_is_whole_groups_near_the_limit(sizes: list[int], limit: int) -> None:
    records = [{"group": group} for group, size in enumerate(sizes) for _ in range(size)]
    chosen = [record["group"] for record in choose(records, limit)]
    assert all(chosen.count(group) == sizes[group] for group in set(chosen))
    assert chosen == sorted(chosen)
    assert bool(chosen) == bool(records)
    if sizes and len(set(sizes)) == 1:
        assert len(chosen) <= max(limit, sizes[0])


class TestCurves:
    def test_log_gives_the_curves_of_all_trajectories(self, tmp_path: Path) -> None:
        second = {**LOG, "reward": 1.5, "global_step/max_steps": "2/2"}
        summary = {"train_runtime": 9.0, "train_loss": 5.0, "global_step/max_steps": "2/2"}
        log(tmp_path, LOG, second, summary, {"last_model_checkpoint": "x", "global_step": 2, "log_history": [LOG]})
        curves = {curve["name"]: curve for curve in data_of(write_report(tmp_path))["curves"]}
        assert curves["Reward"]["points"] == [[1, 0.5], [2, 1.5]]
        assert curves["Accuracy"]["points"][0] == [1, 0.25]
        assert curves["Format errors"]["points"][0] == [1, 0.125]
        assert curves["Turns"]["points"][0] == [1, 1.5]
        assert {name for name, curve in curves.items() if not curve["main"]} == {"loss", "rewards/DeepEyesReward/mean"}
        assert "Tool use" not in curves  # only a trace knows it

    def test_looks_at_validation_questions_lie_over_the_curves_of_the_steps(self, tmp_path: Path) -> None:
        look = {f"eval_{name}": value for name, value in LOG.items() if name != "global_step/max_steps"}
        look |= {"eval_reward": 1.25, "global_step/max_steps": "2/2"}
        log(tmp_path, LOG, look)
        curves = {curve["name"]: curve for curve in data_of(write_report(tmp_path))["curves"]}
        assert curves["Reward"]["points"] == [[1, 0.5]]
        assert curves["Reward"]["others"] == [{"run": "validation", "points": [[2, 1.25]]}]
        assert curves["Format errors"]["others"] == [{"run": "validation", "points": [[2, 0.125]]}]
        assert not any(name.startswith("eval_") for name, curve in curves.items() if curve["main"])
        assert not {"eval_reward", "eval_num_turns"} & set(curves)

    def test_look_before_the_first_step_is_not_lost(self, tmp_path: Path) -> None:
        log(tmp_path, {"eval_reward": 1.25, "global_step/max_steps": "0/2"})
        (curve,) = data_of(write_report(tmp_path))["curves"]
        assert (curve["name"], curve["points"]) == ("eval_reward", [[0, 1.25]])

    def test_trace_gives_what_no_log_gives(self, tmp_path: Path) -> None:
        wrong = prompt(generations=[Generation("blue")] * 3)
        trace(tmp_path / "traces", [prompt()], [wrong])
        curves = {curve["name"]: curve["points"] for curve in data_of(write_report(tmp_path))["curves"]}
        assert curves["Reward"] == [[1, pytest.approx(2.8 / 3)], [2, 0]]
        assert curves["Accuracy"] == [[1, pytest.approx(2 / 3)], [2, 0]]
        assert curves["Tool use"] == [[1, pytest.approx(1 / 3)], [2, 0]]
        assert curves["Turns"] == [[1, pytest.approx(4 / 3)], [2, 1]]

    def test_resumed_run_logs_a_step_once(self, tmp_path: Path) -> None:
        path = log(tmp_path, LOG, {**LOG, "reward": 0.75})
        assert read_log(path)["reward"] == [(1, 0.75)]

    def test_torn_line_is_passed_over(self, tmp_path: Path) -> None:
        path = log(tmp_path, LOG)
        path.write_text(path.read_text() + '{"reward": 3, "global_st', encoding="utf-8")
        assert read_log(path)["reward"] == [(1, 0.5)]


class TestFindRun:
    @staticmethod
    def age(path: Path, seconds: int) -> None:
        for file in path.rglob("*") if path.is_dir() else [path]:
            os.utime(file, (1_700_000_000 - seconds, 1_700_000_000 - seconds))

    def test_newest_of_several_runs_is_taken(self, tmp_path: Path) -> None:
        for number, name in enumerate(("v0", "v1", "v2")):
            log(tmp_path / name, LOG)
            (tmp_path / name / "traces").mkdir()
            (tmp_path / name / "traces" / "trajectories-0.jsonl").write_text("{}\n")
            self.age(tmp_path / name, [30, 10, 20][number])
        newest = tmp_path / "v1"
        assert find_run(tmp_path) == {"trace": newest / "traces", "log": newest / "logging.jsonl"}

    def test_newer_run_without_a_trace_gets_no_other_run_s(self, tmp_path: Path) -> None:
        log(tmp_path / "v0", LOG)
        (tmp_path / "v0" / "trajectories-0.jsonl").write_text("{}\n")
        self.age(tmp_path / "v0", 60)
        log(tmp_path / "v1", LOG)
        assert find_run(tmp_path) == {"log": tmp_path / "v1" / "logging.jsonl"}

    @pytest.mark.parametrize(
        ("traced", "expected"),
        [(60, {"log"}), (40, {"log", "trace"}), (20, {"log", "trace"})],  # seconds ago; the later run began 50 ago
    )
    def test_trace_beside_the_runs_goes_with_the_last_if_that_wrote_to_it(
        self, tmp_path: Path, traced: int, expected: set[str]
    ) -> None:
        for name, began, ended in (("v0", 99, 60), ("v1", 50, 10)):
            self.age(log(tmp_path / name, LOG), ended)
            (tmp_path / name / "args.json").write_text("{}")
            self.age(tmp_path / name / "args.json", began)
        (tmp_path / "traces").mkdir()
        (tmp_path / "traces" / "trajectories-0.jsonl").write_text("{}\n")
        self.age(tmp_path / "traces", traced)
        found = find_run(tmp_path)
        assert set(found) == expected
        assert found["log"] == tmp_path / "v1" / "logging.jsonl"

    def test_trace_inside_its_run_is_taken_whatever_a_copy_made_of_the_times(self, tmp_path: Path) -> None:
        (tmp_path / "args.json").write_text("{}")
        log(tmp_path, LOG)
        (tmp_path / "traces").mkdir()
        (tmp_path / "traces" / "trajectories-0.jsonl").write_text("{}\n")
        self.age(tmp_path / "traces", 0)
        assert set(find_run(tmp_path)) == {"log", "trace"}

    def test_trace_beside_the_stages_of_a_demo_goes_with_the_last(self, tmp_path: Path) -> None:
        (tmp_path / "traces").mkdir()
        (tmp_path / "traces" / "trajectories-0.jsonl").write_text("{}\n")
        for stage, seconds in (("sft", 60), ("grpo", 10)):
            self.age(log(tmp_path / stage / "v0", LOG), seconds)
        self.age(tmp_path / "traces", 20)
        assert find_run(tmp_path)["log"] == tmp_path / "grpo" / "v0" / "logging.jsonl"
        assert find_run(tmp_path)["trace"] == tmp_path / "traces"


def test_completions_are_read_where_there_is_no_trace(tmp_path: Path) -> None:
    system = "<|im_start|>system\nYou zoom.<|im_end|>\n"
    ask = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>\nWhich colour?\nThink first.<|im_end|>\n"
    zoomed = (
        f'{system}{ask}<|im_start|>assistant\n<tool_call>{{"bbox_2d": [1, 2, 3, 4]}}</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response><image>\nGo on.</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    table = {
        "step": ["1", "1"],
        "prompt": [zoomed, f"{system}{ask}<|im_start|>assistant\n"],
        "completion": ["<answer> red </answer>", "no tags"],
        "DeepEyesReward": [2.0, -0.2],
        "DeepEyesAccuracy": [1.0, 0.0],
        "DeepEyesFormat": [0.0, -1.0],
        "DeepEyesTool": [1.0, 0.0],
        "advantages": [0.707, -0.707],
        "num_turns": [2, 1],
    }
    (tmp_path / "completions.jsonl").write_text(json.dumps(table) + "\n", encoding="utf-8")
    first, second = read_completions(tmp_path / "completions.jsonl")
    assert first["group"] == second["group"]
    assert (first["question"], first["num_zooms"], len(first["turns"])) == ("Which colour?", 1, 2)
    assert first["turns"] == ['<tool_call>{"bbox_2d": [1, 2, 3, 4]}</tool_call>', "<answer> red </answer>"]
    assert first["observations"] == ["<tool_response><image>\nGo on.</tool_response>"]
    assert (first["answer"], second["answer"]) == ("red", None)
    data = data_of(write_report(tmp_path))
    assert [one["advantage"] for one in data["trajectories"]] == [0.707, -0.707]
    assert [one["score"]["total"] for one in data["trajectories"]] == [2.0, -0.2]
    assert "DEEPEYES_TRACE_DIR" in data["notes"][-1]


class TestCompletions:
    """Lines as swift 4.6 writes them: one a step, and the last once more at the end."""

    @staticmethod
    def write(folder: Path, *completions: str, steps: int = 1, **rewards: list[float]) -> Path:
        ask = "<|im_start|>user\n<image>\nWhich pattern is on the card?<|im_end|>\n<|im_start|>assistant\n"
        lines = [
            {
                "step": [str(step)] * len(completions),
                "prompt": [ask] * len(completions),
                "completion": list(completions),
                **(rewards or {"DeepEyesReward": [2.0] * len(completions)}),
                "advantages": [0.5] * len(completions),
                "num_turns": [1] * len(completions),
            }
            for step in [*range(1, steps + 1), steps]
        ]
        path = folder / "completions.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        return path

    def test_last_step_is_read_once(self, tmp_path: Path) -> None:
        records = read_completions(self.write(tmp_path, "a", "b", steps=3))
        assert [record["step"] for record in records] == [1, 1, 2, 2, 3, 3]

    def test_steps_of_megatron_are_counted_from_one_too(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "a", "b")
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines = [{"gen_step": [0, 0], **{name: line[name] for name in line if name != "step"}} for line in lines]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        assert [record["step"] for record in read_completions(path)] == [1, 1]

    @pytest.mark.parametrize(
        ("args", "expected"),
        [('{"num_generations": 2}', [0, 0, 1, 1, 2, 2]), ('{"num_generations": 3}', [0, 0, 0, 1, 1, 1])]
        + [(unknown, [0] * 6) for unknown in ("{}", '{"num_gen', None)],
    )
    def test_prompts_of_the_same_text_are_told_apart_by_the_generations_of_a_prompt(
        self, tmp_path: Path, args: str | None, expected: list[int]
    ) -> None:
        path = self.write(tmp_path, *"abcdef")
        if args:
            (tmp_path / "args.json").write_text(args, encoding="utf-8")
        records = read_completions(path)
        assert [record["turns"] for record in records] == [[one] for one in "abcdef"]
        groups = list(dict.fromkeys(record["group"] for record in records))
        assert [groups.index(record["group"]) for record in records] == expected

    @pytest.mark.parametrize(
        ("completion", "expected"),
        [
            ("<think>Not <answer>blue</answer>.</think><answer>red</answer>", "red"),
            ("<answer>blue</answer> No: <answer> red </answer>", "red"),
            ("<answer>red</answer><think>Or <answer>blue</answer>?</think>", "red"),
            ("<think>Never closed. <answer>red</answer>", "red"),
            ("<answer>red</answer> <answer>blue", "red"),
            ("<think><answer>blue</answer></think>", None),
            ("red", None),
        ],
    )
    def test_answer_is_the_last_outside_of_thought_as_the_reward_reads_it(
        self, tmp_path: Path, completion: str, expected: str | None
    ) -> None:
        (found,) = read_completions(self.write(tmp_path, completion))
        trajectory = Trajectory(Scoring.VISUAL, "?", "?", (completion,))
        assert found["answer"] == read_answer(trajectory, Rules.CORRECTED).answer == expected

    def test_verdict_is_there_only_with_the_accuracy_reward(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, "a", "b", DeepEyesReward=[2.0, 0.0])
        assert [record["verdict"]["correct"] for record in read_completions(path)] == [None, None]
        path = self.write(tmp_path, "a", "b", DeepEyesReward=[2.0, 0.0], DeepEyesAccuracy=[1.0, 0.0])
        assert [record["verdict"]["correct"] for record in read_completions(path)] == [True, False]


def test_trace_counts_before_completions(tmp_path: Path) -> None:
    trace(tmp_path, [prompt()])
    (tmp_path / "completions.jsonl").write_text('{"step": ["1"], "prompt": ["a"], "completion": ["b"]}\n')
    assert data_of(write_report(tmp_path))["groups"][0]["question"] == "Which colour?"


def _missing(path: Path) -> Path:
    return path / "missing"


def _empty(path: Path) -> Path:
    return path


def _empty_log(path: Path) -> Path:
    log(path)
    return path


def run_program(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "deepeyes.report", *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


class TestNothingToReport:
    @pytest.mark.parametrize(
        ("make", "expected"),
        [(_missing, "is not a folder"), (_empty, "DEEPEYES_TRACE_DIR"), (_empty_log, "nothing was logged yet")],
    )
    def test_one_line_and_an_exit_code(self, tmp_path: Path, make: Callable[[Path], Path], expected: str) -> None:
        done = run_program(make(tmp_path))
        assert done.returncode == 1
        assert done.stdout == ""
        assert len(done.stderr.splitlines()) == 1
        assert expected in done.stderr
        assert not list(tmp_path.rglob("*.html"))

    def test_write_report_raises_it(self, tmp_path: Path) -> None:
        with pytest.raises(ReportError, match="trajectories"):
            write_report(tmp_path)


def test_program_prints_the_path_of_the_page(tmp_path: Path) -> None:
    log(tmp_path, LOG)
    done = run_program(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{tmp_path / 'report.html'}\n"


def test_traces_of_no_step_count_batches(tmp_path: Path) -> None:
    tracer = Tracer(tmp_path, "0")
    for _ in range(2):
        record(tracer, [prompt(f"{_}")], None)
    flush(tracer)
    assert sorted({one["step"] for one in read_traces(tmp_path)}) == [1, 2]
