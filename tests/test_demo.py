"""The demo: its task hides the answer from the view, its stages are cached, and a short form of it learns."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from qwen_vl_utils import fetch_image

from deepeyes.demo import cli as demo
from deepeyes.demo import plot as demo_plot
from deepeyes.demo import sampling as demo_sampling
from deepeyes.demo import stages as demo_run
from deepeyes.demo import task as demo_task

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
PICTURES = demo_task.sample_pictures(12, seed=0, split="test")


def view(picture: demo_task.Picture) -> bytes:
    return demo_task.draw(picture).resize((demo_task.VIEW_SIDE, demo_task.VIEW_SIDE)).tobytes()


def crop(picture: demo_task.Picture) -> bytes:
    return demo_task.draw(picture).crop(demo_task.on_original(picture.box)).tobytes()


def outcome(**figures: float) -> dict[str, Any]:
    return {"questions": 256, "tool_use": 0.95, "hits": 0.95, "accuracy": 0.9, "reward": 1.8, **figures}


BEFORE = outcome(tool_use=0.4, hits=0.5, accuracy=0.3, reward=0.6)
AFTER = {"TRUE_CROP": outcome(), "BLANK_CROP": outcome(accuracy=0.12), "NO_TOOL": outcome(accuracy=0.12)}


class TestTask:
    """The answer is in the crop and not in the view."""

    @pytest.mark.parametrize("picture", PICTURES)
    def test_view_is_the_same_for_every_pattern(self, picture: demo_task.Picture) -> None:
        assert len({view(dataclasses.replace(picture, pattern=name)) for name in demo_task.PATTERNS}) == 1

    @pytest.mark.parametrize("picture", PICTURES[:3])
    def test_crop_is_another_for_every_pattern(self, picture: demo_task.Picture) -> None:
        crops = {crop(dataclasses.replace(picture, pattern=name)) for name in demo_task.PATTERNS}
        assert len(crops) == len(demo_task.PATTERNS)

    def test_view_tells_where_the_card_lies(self) -> None:
        assert len({view(dataclasses.replace(PICTURES[0], mat=mat)) for mat in range(4)}) == 4

    def test_view_of_the_plugin_is_the_one_that_hides_the_answer(self) -> None:
        image = fetch_image({"image": demo_task.draw(PICTURES[0]), "max_pixels": demo_task.MAX_PIXELS})
        assert image.tobytes() == view(PICTURES[0])

    def test_patterns_are_half_light_and_half_dark(self) -> None:
        assert all("".join(tile).count("1") == 8 for tile in demo_task.PATTERNS.values())

    def test_splits_share_no_picture_and_follow_from_the_seed(self) -> None:
        again = demo_task.sample_pictures(12, seed=0, split="test")
        other = demo_task.sample_pictures(12, seed=0, split="train")
        assert again == PICTURES
        assert not set(other) & set(PICTURES)

    def test_rows_have_the_official_columns_and_a_picture_that_decodes(self) -> None:
        row = demo_task.row(3, PICTURES[0], "test")
        assert set(demo.COLUMNS) <= set(row)
        assert Image.open(io.BytesIO(row["images"][0]["bytes"])).size == (448, 448)
        assert row["extra_info"]["question"] in row["prompt"][-1]["content"]

    def test_mix_has_the_shares_asked_for(self, tmp_path: Path) -> None:
        path = demo_task.write_mix(tmp_path / "mix", 200, seed=0, zooms=0.4, hits=0.5)
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        zooming = [row for row in rows if len(row["images"]) == 2]
        assert len(rows) == 200
        assert 60 <= len(zooming) <= 100
        assert all(len(row["messages"]) == (5 if row in zooming else 3) for row in rows)


class TestTrajectories:
    """What the warm-up teaches is what the scheduler does."""

    def test_scheduler_holds_the_conversation_that_was_taught(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(SCHEDULER_SCRIPT, encoding="utf-8")
        env = demo_run.child_environment(os.environ, **demo.ENVIRONMENT, PYTHONPATH=str(ROOT))
        done = subprocess.run(
            [sys.executable, script, tmp_path / "model"], env=env, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "same conversation, same crop" in done.stdout


SCHEDULER_SCRIPT = """
import asyncio, io, pathlib, sys
import deepeyes_plugin as plugin
from deepeyes import tiny_model
from deepeyes.demo import task
from deepeyes.images.encoding import image_bytes
from PIL import Image
from swift import get_processor, get_template
from swift.infer_engine.protocol import ChatCompletionResponseChoice, ChatMessage, RolloutInferRequest

picture = task.sample_pictures(1, seed=1, split="script")[0]
row = task.row(0, picture, "script")
request = RolloutInferRequest(messages=row["prompt"], images=row["images"], data_dict=row)
checkpoint = tiny_model.build(pathlib.Path(sys.argv[1]))
template = get_template(get_processor(str(checkpoint)), template_type="qwen2_5_vl")
scheduler = plugin.DeepEyesScheduler(max_turns=2, template=template, tokenizer=template.tokenizer)
asyncio.run(scheduler.on_trajectory_start([request]))
turn = task.zoom_turn(picture.box)
request.messages.append({"role": "assistant", "content": turn})
choice = ChatCompletionResponseChoice(0, ChatMessage("assistant", turn), "stop", token_ids=[1])
asyncio.run(scheduler.on_turn_end(request, choice, 1))
scheduler.step(request, choice, 1)
taught = task.trajectory(["a", "b"], zoom_to=picture.mat, answer=picture.pattern)["messages"][:-1]
assert request.messages == taught, (request.messages, taught)
crop = Image.open(io.BytesIO(image_bytes(request.images[1]))).convert("RGB")
assert crop.tobytes() == task.draw(picture).crop(task.on_original(picture.box)).tobytes(), crop.size
print("same conversation, same crop")
"""


class TestSampling:
    """The faster draw has the distribution of torch's, cut by min-p."""

    def test_frequencies_follow_the_weights_and_zeros_are_never_drawn(self) -> None:
        torch.manual_seed(0)
        weights = torch.zeros(20_000, 128)
        weights[:, 7], weights[:, 8], weights[:, 127] = 0.2, 0.5, 0.3
        drawn = collections.Counter(demo_sampling.multinomial(weights, 1).flatten().tolist())
        assert set(drawn) == {7, 8, 127}
        assert np.allclose([drawn[index] / 20_000 for index in (7, 8, 127)], [0.2, 0.5, 0.3], atol=0.02)

    def test_what_is_far_less_likely_than_the_likeliest_is_not_drawn(self) -> None:
        weights = torch.full((20_000, 128), 0.001)
        weights[:, 7], weights[:, 8] = 0.8, 0.08
        drawn = collections.Counter(demo_sampling.multinomial(weights, 1).flatten().tolist())
        assert set(drawn) == {7, 8}
        assert drawn[8] / 20_000 == pytest.approx(0.08 / 0.88, abs=0.01)

    def test_rows_are_drawn_independently_in_torchs_shape(self) -> None:
        weights = torch.eye(192)
        assert demo_sampling.multinomial(weights, 1).tolist() == [[index] for index in range(192)]

    def test_more_than_one_draw_goes_to_torch(self) -> None:
        drawn = demo_sampling.multinomial(torch.ones(2, 5), 5)
        assert sorted(drawn[0].tolist()) == [0, 1, 2, 3, 4]


class TestVerdict:
    """A run counts as learned only where the numbers show it."""

    def test_rise_that_needs_the_crop_is_learned(self) -> None:
        learned, verdict = demo.judge(BEFORE, AFTER, 0.16)
        assert learned
        assert verdict.startswith("LEARNED on 256 held-out pictures: tool use 0.40 [0.34, 0.46] -> 0.95")
        assert "\n" not in verdict

    @pytest.mark.parametrize(
        ("mode", "figures"),
        [
            ("TRUE_CROP", {"tool_use": 0.42}),
            ("TRUE_CROP", {"accuracy": 0.35}),
            ("TRUE_CROP", {"hits": 0.6}),
            ("BLANK_CROP", {"accuracy": 0.88}),
            ("BLANK_CROP", {"accuracy": 0.25}),
            ("NO_TOOL", {"accuracy": 0.88}),
        ],
    )
    def test_anything_less_is_not(self, mode: str, figures: dict[str, float]) -> None:
        after = {**AFTER, mode: outcome(**figures)}
        assert not demo.judge(BEFORE, after, 0.16)[0]

    @pytest.mark.parametrize(("hits", "learned"), [(0.6, True), (0.4, False)])
    def test_a_rise_is_not_enough_while_most_zooms_go_elsewhere(self, hits: float, learned: bool) -> None:  # noqa: FBT001
        before, after = {**BEFORE, "hits": 0.2}, {**AFTER, "TRUE_CROP": outcome(hits=hits)}
        assert demo.judge(before, after, 0.16)[0] is learned

    def test_interval_is_wilsons(self) -> None:
        assert np.allclose(demo_run.interval(0.5, 100), (0.4038, 0.5962), atol=1e-4)
        assert np.allclose(demo_run.interval(0.0, 100), (0.0, 0.0370), atol=1e-4)


class TestConsole:
    """Progress lines."""

    def test_time_left_is_that_of_the_steps_and_starts_anew_with_them(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        clock = iter(range(0, 1000, 20))
        monkeypatch.setattr(demo.time, "monotonic", lambda: next(clock))  # every look at it is 20 seconds later
        console = demo.Console(1)
        console.stage("grpo")
        for step in (1, 2, 4, 1):
            console.step(step, 4, "reward 1")
        ends = [line.partition("reward 1")[2] for line in capsys.readouterr().out.splitlines()[1:]]
        assert ends == ["", "  1:20 left", "  0:00 left", ""]


class TestCache:
    """A stage is made once for what made it."""

    def test_same_inputs_reuse_and_others_do_not(self, tmp_path: Path) -> None:
        made: list[Path] = []
        cache = demo_run.Cache(tmp_path, lambda _: None)
        first, again, other = (cache.stage("stage", made_by, made.append) for made_by in (1, 1, 2))
        assert first == again != other
        assert len(made) == 2

    def test_failed_stage_is_made_again(self, tmp_path: Path) -> None:
        def fail(_: Path) -> None:
            raise demo_run.DemoError("no")

        cache = demo_run.Cache(tmp_path, lambda _: None)
        with pytest.raises(demo_run.DemoError):
            cache.stage("stage", 1, fail)
        assert cache.stage("stage", 1, lambda folder: (folder / "x").touch()).is_dir()

    @pytest.mark.parametrize(
        ("env", "expected"),
        [
            ({"DEEPEYES_CACHE": "/a"}, "/a"),
            ({"XDG_CACHE_HOME": "/b"}, "/b/deepeyes-swift"),
            ({"DEEPEYES_CACHE": "here"}, f"{Path.cwd()}/here"),  # the stages run in another folder
        ],
    )
    def test_cache_is_where_the_user_wants_it(self, env: dict[str, str], expected: str) -> None:
        assert demo_run.cache_directory(env) == Path(expected)

    def test_settings_of_the_users_own_training_do_not_reach_the_demo(self) -> None:
        env = demo_run.child_environment({"DEEPEYES_RULES": "official", "DEEPEYES_JUDGE": "server", "HOME": "/h"})
        assert "DEEPEYES_RULES" not in env
        assert (env["DEEPEYES_JUDGE"], env["HOME"]) == ("rule", "/h")


class TestStop:
    """Whatever ends the demo ends what it started."""

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_signal_ends_the_whole_process_group(self, tmp_path: Path, number: signal.Signals) -> None:
        """The real program, with a model in its cache and a worker that starts a child and never ends."""
        worker, child = tmp_path / "worker", tmp_path / "child"
        worker.write_text(f"#!/bin/sh\nsleep 300 &\necho $! > {child}\nwait\n")
        worker.chmod(0o755)
        script = tmp_path / "stop.py"
        script.write_text(
            f"import sys; sys.path[:0] = [{str(ROOT)!r}]; sys.executable = {str(worker)!r}; "
            "from deepeyes.demo import cli as demo; demo.build_model = lambda cache, seed: cache.directory; "
            f"sys.argv = ['demo.py', '--dataset', {str(tmp_path / 'rows.parquet')!r}]; demo.end_on_signals(); "
            "sys.exit(demo.main(sys.argv[1:]))"
        )
        rows = [demo_task.row(0, PICTURES[0], "test")]
        demo_task.write_parquet(rows, tmp_path / "rows.parquet")
        env = os.environ | {"DEEPEYES_CACHE": str(tmp_path / "cache")}
        process = subprocess.Popen([sys.executable, script], env=env, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while not child.is_file() or not child.read_text().strip():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(number)
        assert "stopped" in process.communicate(timeout=60)[1]
        assert process.returncode == 130
        state = Path(f"/proc/{child.read_text().strip()}/stat")
        assert not state.exists() or state.read_text().split()[2] == "Z"


STAGE = """
import json, os, sys
print("printed")
with open(sys.argv[-1] + "/logging.jsonl", "a") as file:
    file.write(json.dumps({"words": sys.argv[1:], "number": os.environ["NUMBER"]}) + "\\n")
"""


class TestWorker:
    """Stages run as programs, forked from one process."""

    @pytest.fixture
    def worker(self, tmp_path: Path) -> Iterator[demo_run.Worker]:
        """Give a worker that has imported next to nothing and finds the stage below."""
        (tmp_path / "probe_stage.py").write_text(STAGE, encoding="utf-8")
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        with contextlib.closing(demo_run.Worker(env, tmp_path / "worker.log", ["json"])) as worker:
            yield worker

    def test_stages_have_their_words_and_settings_and_their_lines_are_read(
        self, worker: demo_run.Worker, tmp_path: Path
    ) -> None:
        lines: list[dict[str, Any]] = []
        for number in ("1", "2"):
            worker.run("probe_stage", ["--word", number], tmp_path, lines.append, NUMBER=number)
        assert [(line["words"][:2], line["number"]) for line in lines] == [
            (["--word", "1"], "1"),
            (["--word", "1"], "1"),  # the second stage is told from the start of the file
            (["--word", "2"], "2"),
        ]
        assert "printed" in (tmp_path / "stage.log").read_text()

    def test_failing_stage_ends_in_one_error_that_names_the_log(
        self, worker: demo_run.Worker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(demo_run.DemoError, match=r"`no_such_stage` ended with status 1; .*stage\.log"):
            worker.run("no_such_stage", [], tmp_path, print)
        assert "No module named" in capsys.readouterr().err

    def test_worker_that_ended_is_named_with_its_log(self, tmp_path: Path) -> None:
        log = tmp_path / "worker.log"
        with (
            contextlib.closing(demo_run.Worker(dict(os.environ), log, ["no_such_module"])) as worker,
            pytest.raises(demo_run.DemoError, match=r"ended; its output is in .*worker\.log"),
        ):
            worker.run("json", [], tmp_path, print)
        assert "no_such_module" in log.read_text()


class TestDataset:
    """What can't be trained on is refused in one line."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "no file"),
            (b"no parquet", "is no parquet file"),
            (pa.table({"data_source": ["vstar"], "prompt": ["x"]}), "lacks the column images, env_name"),
            (pa.table({name: pa.array([], pa.string()) for name in demo.COLUMNS}), "holds no rows"),
        ],
    )
    def test_bad_file_ends_with_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: Any, message: str
    ) -> None:
        path = tmp_path / "rows.parquet"
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content is not None:
            pq.write_table(content, path)
        assert demo.main(["--dataset", str(path)]) == 1
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1

    def test_unknown_option_is_refused(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as stop:
            demo.main(["--no-such-option"])
        assert stop.value.code == 2
        assert "--no-such-option" in capsys.readouterr().err

    def test_learning_takes_no_dataset(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            demo.main(["--quick", "--dataset", "rows.parquet"])
        assert "makes its own pictures" in capsys.readouterr().err


class TestPlot:
    """The picture of the curves."""

    def test_curves_of_a_run_become_a_png(self, tmp_path: Path) -> None:
        steps = [dict.fromkeys(("reward", "accuracy", "tool_use", "turns"), at / 20) for at in range(20)]
        demo_plot.draw(steps, tmp_path / "demo.png")
        assert Image.open(tmp_path / "demo.png").width > 1000

    def test_tool_use_is_read_from_the_trace(self, tmp_path: Path) -> None:
        lines = [{"step": step, "num_zooms": zooms} for step, zooms in ((1, 0), (1, 2), (2, 1), (2, 1))]
        (tmp_path / "trajectories-0.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        assert demo_run.read_tool_use(tmp_path) == [0.5, 1.0]

    def test_mean_trails(self) -> None:
        assert demo_plot.trailing_mean([1, 2, 3, 4], window=2) == [1, 1.5, 2.5, 3.5]
