"""Traces: bounded, whole groups, images once, crash-safe, and never in the way of training."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections import Counter
from dataclasses import replace
from itertools import count
from threading import Event
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from trace_maker import Generation, Prompt, columns_of, flush, record

import deepeyes_plugin as deepeyes
from deepeyes import traces
from deepeyes.environment import read_settings
from deepeyes.judging import judge as judging
from deepeyes.report.traces import read_jsonl, read_traces
from deepeyes.scoring import Scored, score_batch
from deepeyes.settings import Settings
from deepeyes.traces import TRACE_BACKLOG, TRACES_PER_STEP, Tracer, spread, tracer_of_process
from deepeyes.verdicts import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

RED = Image.new("RGB", (120, 80), "red")
BOX = (10, 20, 60, 70)


def prompt(name: str = "Which colour?", size: int = 2, image: Image.Image = RED) -> Prompt:
    return Prompt(name, "red", image, [Generation("red", [BOX])] * (size - 1) + [Generation("blue")])


def lines_of(directory: Path, rank: int = 0) -> list[dict[str, Any]]:
    text = (directory / f"trajectories-{rank}.jsonl").read_text(encoding="ascii")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def tracer(tmp_path: Path) -> Iterator[Tracer]:
    made = Tracer(tmp_path, "0")
    yield made
    flush(made)


class TestRecord:
    def test_trajectory_is_recorded_whole(self, tmp_path: Path, tracer: Tracer) -> None:
        record(tracer, [prompt()], step=3)
        flush(tracer)
        first, second = lines_of(tmp_path)
        assert (first["step"], first["prompt_id"], first["source"], first["row"]) == (3, "prompt_0", "vstar", "0")
        assert (first["question"], first["reference"], first["answer"]) == ("Which colour?", "red", "red")
        assert first["verdict"] == {"correct": True, "source": "equal"}
        assert first["score"] == {"accuracy": 1, "format": 0, "tool": 1, "total": 2}
        assert first["weights"] == {"accuracy": 0.8, "format": 0.2, "tool": 1.2}
        assert [message["role"] for message in first["prompt"]] == ["system", "user"]
        assert (len(first["turns"]), len(first["observations"])) == (2, 1)
        assert first["view_size"] == [120, 80]
        assert (first["zooms"][0]["turn"], first["zooms"][0]["box"]) == (1, list(BOX))
        view, crop = (Image.open(tmp_path / "images" / name) for name in first["images"])
        assert (view.size, view.getpixel((0, 0))) == ((120, 80), (255, 0, 0))
        assert crop.size == (50, 50)
        assert (second["images"], second["score"]["total"]) == (first["images"][:1], 0)

    def test_images_are_kept_once_by_content(self, tmp_path: Path, tracer: Tracer) -> None:
        for step in range(3):
            record(
                tracer, [prompt(f"question {step}", size=4), prompt("other", image=RED.rotate(90, expand=True))], step
            )
        flush(tracer)
        names = sorted(str(path.relative_to(tmp_path / "images")) for path in (tmp_path / "images").glob("*/*"))
        assert len(names) == 3  # both views and one crop, the two crops being equal
        for name in names:
            content = (tmp_path / "images" / name).read_bytes()
            digest = hashlib.sha1(content, usedforsecurity=False).hexdigest()[:20]
            assert name == f"{digest[:2]}/{digest}.webp"

    def test_all_reward_functions_of_a_run_give_one_record(self, tmp_path: Path, tracer: Tracer) -> None:
        for _ in range(4):
            record(tracer, [prompt()], step=0)
        record(tracer, [prompt()], step=1)
        flush(tracer)
        assert Counter(line["step"] for line in lines_of(tmp_path)) == {0: 2, 1: 2}

    def test_step_is_bounded_and_groups_stay_whole(self, tmp_path: Path, tracer: Tracer) -> None:
        record(tracer, [prompt(f"question {number}", size=12) for number in range(20)], step=0)
        flush(tracer)
        groups = Counter(line["question"] for line in lines_of(tmp_path))
        assert set(groups.values()) == {12}
        assert len(groups) == TRACES_PER_STEP // 12

    def test_unreadable_image_leaves_the_text(self, tmp_path: Path, tracer: Tracer) -> None:
        completions, columns = columns_of([prompt()], step=0)
        columns["images"][0][0] = str(tmp_path / "missing.png")
        tracer.record(_scored(completions, columns), columns)
        flush(tracer)
        first, second = lines_of(tmp_path)
        assert first["images"][0] is None
        assert first["answer"] == "red"
        assert second["images"][0] is not None

    def test_ranks_write_files_of_their_own_and_share_images(self, tmp_path: Path) -> None:
        for rank in ("0", "1", "2"):
            one = Tracer(tmp_path, rank)
            record(one, [prompt()], step=0)
            flush(one)
        assert [len(lines_of(tmp_path, rank)) for rank in range(3)] == [2, 2, 2]
        assert len(list((tmp_path / "images").glob("*/*"))) == 2
        traces = read_traces(tmp_path)
        assert len(traces) == 6
        assert len({trace["group"] for trace in traces}) == 1  # generations of one prompt lie in several ranks


class TestUntrained:
    def test_evaluation_passes_and_dropped_groups_are_marked(self, tmp_path: Path, tracer: Tracer) -> None:
        model = torch.nn.Linear(1, 1)
        trainer = SimpleNamespace(
            model=model,
            reward_func_names=["DeepEyesReward"],
            reward_weights=[1.0],
            dynamic_sample=True,
            num_generations=2,
        )

        def score(self: SimpleNamespace, step: int) -> None:
            """Stands for the trainer's own method, whose `self` is on the stack."""
            assert self is trainer
            equal = Prompt("Both?", "red", RED, [Generation("red"), Generation("red")])
            record(tracer, [prompt(), equal], step)

        score(trainer, 0)
        model.eval()
        score(trainer, 1)
        flush(tracer)
        marks = {(line["step"], line["question"]): line["untrained"] for line in lines_of(tmp_path)}
        assert marks == {
            (0, "Which colour?"): None,
            (0, "Both?"): "dynamic_sample",
            (1, "Which colour?"): "evaluation",
            (1, "Both?"): "evaluation",
        }


class TestBounds:
    def test_one_run_stays_within_its_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(traces, "YOUNG", 0.0)
        monkeypatch.setattr(traces, "TRACE_BACKLOG", 1000)
        one = Tracer(tmp_path, "0", 400_000)
        for step in range(40):
            noise = Image.effect_noise((100, 80), 60 + step).convert("RGB")
            record(one, [prompt(f"question {step}", image=noise)], step)
        flush(one)
        steps = [line["step"] for line in lines_of(tmp_path)]
        assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 400_000
        assert len(steps) < 80
        assert steps[-1] == 39
        assert {steps.count(step) for step in steps} == {2}  # whole steps

    def test_image_that_cannot_be_written_leaves_the_text(self, tmp_path: Path, tracer: Tracer) -> None:
        (tmp_path / "images").mkdir()
        for number in range(256):
            (tmp_path / "images" / f"{number:02x}").write_text("in the way")
        record(tracer, [prompt()], step=0)
        flush(tracer)
        assert [(line["answer"], set(line["images"])) for line in lines_of(tmp_path)] == [
            ("red", {None}),
            ("blue", {None}),
        ]

    def test_origin_of_a_verdict_is_kept(self, tmp_path: Path, tracer: Tracer) -> None:
        completions, columns = columns_of([prompt()], step=0)
        scored = _scored(completions, columns)
        asked = [replace(one, verdict=Verdict(correct=True, source="judge", ahead=True)) for one in scored]
        tracer.record(asked, columns)
        flush(tracer)
        assert lines_of(tmp_path)[0]["verdict"] == {"correct": True, "source": "judge", "ahead": True}


class TestNeverInTheWay:
    def test_nothing_is_written_unless_asked(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(deepeyes, "SETTINGS", read_settings({"DEEPEYES_JUDGE": "rule"}))
        monkeypatch.setattr(judging, "_judges", {})
        completions, columns = columns_of([prompt()], step=0)
        assert deepeyes.DeepEyesReward()(completions, **columns) == [2, 0]
        assert list(tmp_path.iterdir()) == []

    def test_reward_records_when_the_setting_is_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        env = {"DEEPEYES_JUDGE": "rule", "DEEPEYES_TRACE_DIR": str(tmp_path / "new" / "traces")}
        monkeypatch.setattr(deepeyes, "SETTINGS", read_settings(env))
        monkeypatch.setattr(traces, "_tracers", {})
        monkeypatch.setattr(judging, "_judges", {})
        completions, columns = columns_of([prompt()], step=0)
        assert deepeyes.DeepEyesReward()(completions, **columns) == [2, 0]
        assert deepeyes.DeepEyesAccuracy()(completions, **columns) == [1, 0]
        flush(tracer_of_process(tmp_path / "new" / "traces"))
        assert len(lines_of(tmp_path / "new" / "traces")) == 2

    def test_directory_that_cannot_be_made_raises_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        one = Tracer(tmp_path / "file" / "traces", "0")
        record(one, [prompt()], step=0)
        flush(one)
        assert (tmp_path / "file").read_text() == "in the way"

    def test_columns_of_another_shape_raise_nothing(self, tmp_path: Path, tracer: Tracer) -> None:
        completions, columns = columns_of([prompt()], step=0)
        scored = _scored(completions, columns)
        for name, value in {"images": 7, "messages": [[{}], [{}]], "prompt_id": ["one"]}.items():
            columns["trainer_state"].global_step += 1
            tracer.record(scored, {**columns, name: value})
        columns["trainer_state"].global_step += 1
        tracer.record(scored, columns)
        flush(tracer)
        assert [(line["step"], line["answer"]) for line in lines_of(tmp_path)] == [(4, "red"), (4, "blue")]

    def test_slow_disk_costs_traces_not_memory(self, tmp_path: Path, tracer: Tracer) -> None:
        disk = Event()
        tracer._thread.submit(disk.wait)  # noqa: SLF001 - stands for a write that hangs
        for step in range(20):
            record(tracer, [prompt()], step)  # would hang here if the caller waited for the disk
        disk.set()
        flush(tracer)
        assert sorted({line["step"] for line in lines_of(tmp_path)}) == list(range(TRACE_BACKLOG))

    def test_batch_may_be_changed_right_after(self, tmp_path: Path, tracer: Tracer) -> None:
        disk = Event()
        tracer._thread.submit(disk.wait)  # noqa: SLF001
        completions, columns = columns_of([prompt()], step=0)
        tracer.record(_scored(completions, columns), columns)
        for messages, images in zip(columns["messages"], columns["images"], strict=True):
            messages.clear()
            images.clear()
        disk.set()
        flush(tracer)
        assert [len(line["prompt"]) for line in lines_of(tmp_path)] == [2, 2]
        assert [len(line["images"]) for line in lines_of(tmp_path)] == [2, 1]


class TestCrash:
    def test_torn_last_line_is_passed_over_and_ended(self, tmp_path: Path, tracer: Tracer) -> None:
        record(tracer, [prompt()], step=0)
        flush(tracer)
        path = tmp_path / "trajectories-0.jsonl"
        path.write_bytes(path.read_bytes()[:-100])
        assert [line["answer"] for line in read_jsonl(path)] == ["red"]
        again = Tracer(tmp_path, "0")
        record(again, [prompt()], step=1)
        flush(again)
        assert [(line["step"], line["answer"]) for line in read_jsonl(path)] == [(0, "red"), (1, "red"), (1, "blue")]

    def test_resumed_run_replaces_the_steps_that_it_repeats(self, tmp_path: Path) -> None:
        for number, steps in enumerate(((0, 1, 2, 3), (2, 3, 4))):
            one = Tracer(tmp_path, "0")
            for step in steps:
                record(one, [prompt(f"attempt {number}")], step)
            flush(one)
            time.sleep(0.01)  # the start of a run names it
        found = sorted({(trace["step"], trace["question"]) for trace in read_traces(tmp_path)})
        first, second = "attempt 0", "attempt 1"
        assert found == [(1, first), (2, first), (3, second), (4, second), (5, second)]

    @pytest.mark.parametrize(
        ("later", "start", "steps"),
        [
            ((0, 1), 1000, (0, 1, 2)),  # anew on fewer ranks
            ((0, 1), 1000, (2, 3)),  # resumed on fewer
            ((0, 1), 50, (0, 1, 2)),  # soon
            ((5, 4, 0, 1, 2, 3), 1000, (0, 1)),  # on more, of which a new one is first
        ],
    )
    def test_later_run_on_other_ranks_replaces_every_rank(
        self, tmp_path: Path, later: tuple[int, ...], start: float, steps: tuple[int, ...]
    ) -> None:
        first = (0, 1, 2, 3)
        write_attempt(tmp_path, first, 0, range(4))
        write_attempt(tmp_path, later, start, steps)
        found = {(trace["step"], trace["rank"], trace["question"]) for trace in read_traces(tmp_path)}
        kept = [(step, rank, "0") for step in range(steps[0]) for rank in first]
        new = [(step, rank, str(start)) for step in steps for rank in later]
        assert found == {(step + 1, f"trajectories-{rank}", name) for step, rank, name in [*kept, *new]}

    def test_ranks_that_start_minutes_apart_are_of_one_run(self, tmp_path: Path) -> None:
        write_attempt(tmp_path, (2, 0, 1), 0, range(2), apart=120)
        assert [trace["rank"][-1] for trace in read_traces(tmp_path)] == ["0", "1", "2"] * 2

    @pytest.mark.parametrize("delay", [0.0, 0.01, 0.03, 0.1])
    def test_kill_in_the_middle_leaves_all_but_the_last_line(self, tmp_path: Path, delay: float) -> None:
        path = tmp_path / "trajectories-0.jsonl"
        child = os.fork()  # quicker than a new process, which would first import swift
        if child == 0:
            record_forever(tmp_path)
        try:
            deadline = time.monotonic() + 120
            while not (path.exists() and path.stat().st_size > 20_000_000):
                assert os.waitpid(child, os.WNOHANG) == (0, 0)
                assert time.monotonic() < deadline
                time.sleep(0.001)
            time.sleep(delay)
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        whole = path.read_bytes().count(b"\n")
        lines = list(read_jsonl(path))
        assert len(lines) == whole  # only what follows the last line end is lost
        for name in {name for line in lines for name in line["images"]}:
            content = (tmp_path / "images" / name).read_bytes()
            assert name[3:].startswith(hashlib.sha1(content, usedforsecurity=False).hexdigest()[:20])
        again = Tracer(tmp_path, "0")
        record(again, [prompt()], step=10_000)
        flush(again)
        assert len(list(read_jsonl(path))) == whole + 2


def write_attempt(directory: Path, ranks: Iterable[int], start: float, steps: Iterable[int], apart: float = 1) -> None:
    """Writes what a run leaves whose ranks start `apart` seconds from each other, named by its start."""
    same = {"prompt_id": "prompt_0", "row": "0", "reference": "red", "question": str(start), "images": []}
    for place, rank in enumerate(ranks):
        with (directory / f"trajectories-{rank}.jsonl").open("a", encoding="ascii") as file:
            for batch, step in enumerate(steps):
                file.write(json.dumps({**same, "run": start + place * apart, "batch": batch, "step": step}) + "\n")


def record_forever(directory: Path) -> NoReturn:
    """Records large batches, as a training process does that will be killed."""
    try:
        tracer = Tracer(directory, "0")
        for step in count():
            noise = Image.effect_noise((300, 200), 50 + step % 50).convert("RGB")
            record(tracer, [Prompt("?", "a", noise, [Generation("a", [(9, 9, 99, 99)], "x" * 500_000)] * 8)], step)
    finally:
        os._exit(1)


class TestSpread:
    @given(st.lists(st.integers(0, 6)), st.integers(1, 20))
    def test_groups_are_whole_or_one_is_cut(self, groups: list[int], limit: int) -> None:
        places = spread(groups, limit)
        assert places == sorted(set(places))
        assert len(places) <= limit
        assert bool(places) == bool(groups)
        sizes, kept = Counter(groups), Counter(groups[place] for place in places)
        cut = [group for group in kept if kept[group] != sizes[group]]
        assert not cut or (len(kept) == 1 and len(places) == limit and min(sizes.values()) > limit)

    @given(st.integers(1, 12), st.integers(2, 30), st.integers(2, 6), st.integers(23, 40))
    def test_group_that_lies_in_two_processes_is_whole_or_left_out(
        self, size: int, prompts: int, processes: int, limit: int
    ) -> None:
        groups = [number // size for number in range(size * prompts * processes)]  # a process has `prompts` x `size`,
        shift = size // 2  # and begins in the middle of a group
        batch = size * prompts
        parts = [(groups[shift:] + groups[:shift])[start : start + batch] for start in range(0, len(groups), batch)]
        kept = Counter(part[place] for part in parts for place in spread(part, limit))
        assert kept
        assert set(kept.values()) == {size}

    def test_choice_is_the_same_in_every_process(self) -> None:
        left = [f"prompt_{number}" for number in range(40)]
        right = left[::-1]
        assert {left[place] for place in spread(left, 10)} == {right[place] for place in spread(right, 10)}


def _scored(completions: list[str], columns: dict[str, Any]) -> list[Scored]:
    from trace_maker import JUDGE  # noqa: PLC0415

    return score_batch(completions, columns, Settings(), JUDGE)


def test_rewards_without_a_step_are_recorded(tmp_path: Path, tracer: Tracer) -> None:
    completions, columns = columns_of([prompt()], step=None)
    columns["trainer_state"] = SimpleNamespace()
    tracer.record(_scored(completions, columns), columns)
    flush(tracer)
    assert [line["step"] for line in lines_of(tmp_path)] == [None, None]
