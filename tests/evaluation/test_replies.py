"""Replies that are not what DeepEyes writes: without tags, cut, refused, native calls; and servers that fail."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest
from eval_world import Script, Seen, call, evaluate, perfect, serving
from hypothesis import given
from hypothesis import strategies as st

from deepeyes.evaluation.reading import iou, read_box, read_yes_no, unclosed, untagged

if TYPE_CHECKING:
    from pathlib import Path


class TestReading:
    @given(st.text(max_size=80))
    def test_any_text_is_read(self, text: str) -> None:
        assert read_yes_no(text) in (None, True, False)
        assert untagged(text) == untagged(text).strip()
        read_box(text)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("Yes", True),
            ("No.", False),
            ("Yes, there is a dog", True),
            ("是的", True),
            ("没有", False),
            ("yes and no", None),
            ("maybe", None),
            ("There is no dog in the picture.", False),
            ("The crop shows it.\n\nYes.", True),
            ("It has a tail. So the answer is yes.", True),
            ("I see no cats. The dog is there.", None),
            ("The answer is No. Yes would be wrong.", None),
        ],
    )
    def test_yes_or_no(self, text: str, said: bool | None) -> None:  # noqa: FBT001
        assert read_yes_no(text) is said

    def test_box_is_the_last_one_that_stands_there(self) -> None:
        assert read_box('first [1, 2, 3, 4], then {"bbox_2d": [10, 20.5, 30, 40]}') == (10, 20.5, 30, 40)
        assert read_box("somewhere on the left, 3 apples") is None

    @given(*[st.tuples(*[st.floats(0, 100)] * 4)] * 2)
    def test_overlap_is_a_share_and_symmetric(self, one: Any, other: Any) -> None:
        assert 0 <= iou(one, other) == iou(other, one) <= 1 + 1e-9
        assert iou((0, 0, 10, 10), (0, 0, 10, 5)) == 0.5

    @pytest.mark.parametrize(
        ("turn", "said", "tag"),
        [
            ("<think>hm</think>B", "B", None),
            ("<think>hm", "", "think"),
            ("<answer>B", "B", "answer"),
            (f"look {call([1, 2, 3, 4])}", "look", None),
            ("look <tool_call>{", "look", "tool_call"),
        ],
    )
    def test_text_outside_thoughts_and_calls_is_what_a_turn_says(self, turn: str, said: str, tag: str | None) -> None:
        assert (untagged(turn), unclosed(turn)) == (said, tag)


class TestUntagged:
    @pytest.mark.parametrize("tool", [True, False])
    def test_plain_sentence_is_read_and_its_share_told(
        self,
        vstar: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        tool: bool,  # noqa: FBT001
    ) -> None:
        arguments = ("--bench", "vstar", "--data", vstar, *(() if tool else ("--no-tool",)))
        with serving(Script(lambda seen: f"I look at it. The answer is {seen.right()}.")) as script:
            status, report = evaluate(tmp_path / "run", script, *arguments)
        total = report["all"]
        assert (status, total["accuracy"], total["no_answer"]) == (0, 1, 0)
        assert total["untagged"] == {"answers": 6, "right": 6}
        assert "without <answer>, and read from the whole last turn: 6 answers" in capsys.readouterr().out

    def test_native_calls_are_played(self, vstar: Path, tmp_path: Path) -> None:
        def native(seen: Seen) -> Any:
            if seen.turn > 1:
                return perfect(seen)
            arguments = json.dumps({"bbox_2d": seen.square(seen.images[0])})
            function = {
                "id": "c",
                "type": "function",
                "function": {"name": "image_zoom_in_tool", "arguments": arguments},
            }
            message = {"role": "assistant", "content": None, "tool_calls": [function]}
            choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
            return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}

        with serving(Script(native)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)
        total = report["all"]
        assert (status, total["accuracy"], total["zooms"], total["native_calls"]) == (0, 1, 6, 6)


def cut(text: str) -> Any:
    choice = {"index": 0, "finish_reason": "length", "message": {"role": "assistant", "content": text}}
    return 200, {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


class TestNoMeasurement:
    """What looks like an accuracy of 0 and is none ends with status 1, and says why."""

    @pytest.mark.parametrize(
        ("policy", "words"),
        [
            (lambda _: cut("<think>and so on"), "every reply was cut at the limit of tokens"),
            (lambda _: "<think>no end in sight", "every last turn leaves <think> or <answer> unclosed"),
            (lambda _: "<answer>A", "every last turn leaves <think> or <answer> unclosed"),
            (lambda _: "", "no reply holds an answer"),
            (lambda _: "<think>hm</think>", "no reply holds an answer"),
        ],
    )
    def test_run_without_answers_is_a_fault(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: Any, words: str
    ) -> None:
        with serving(Script(policy)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)
        assert status == 1
        assert words in report["faults"][0]
        assert f"FAULT: {words}" in capsys.readouterr().err

    def test_one_reply_that_is_cut_is_none(self, vstar: Path, tmp_path: Path) -> None:
        def sometimes(seen: Seen) -> Any:
            return cut("<think>and so on") if "side" in seen.question else perfect(seen)

        with serving(Script(sometimes)) as script:
            status, report = evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar)
        assert (status, report["faults"], report["all"]["cut_off"]) == (0, [], 2)

    def test_server_that_takes_one_image_is_found_before_the_run(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refusal = (400, {"error": {"message": "At most 1 image(s) may be provided in one request."}})

        def one_image(seen: Seen) -> Any:
            return refusal if len(seen.images) > 1 else "x"

        with serving(Script(perfect, check=one_image)) as script:
            assert evaluate(tmp_path / "run", script, "--bench", "vstar", "--data", vstar) == (1, {})
            told = capsys.readouterr().err
            assert "refuses a second image, and every crop is one: status 400" in told
            assert "At most 1 image(s) may be provided" in told
            assert script.seen == []
            script.policy = one_image
            arguments = ("--bench", "vstar", "--data", vstar, "--skip-view-check")
            script.policy = lambda seen: refusal if len(seen.images) > 1 else perfect(seen)
            status, report = evaluate(tmp_path / "late", script, *arguments)
        assert (status, report["all"]["refused_later"]) == (1, 6)
        assert "At most 1 image(s) may be provided" in capsys.readouterr().err

    def test_where_everything_was_refused_the_reason_is_told_and_no_page_is_recommended(
        self, vstar: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        refusal = (400, {"error": {"message": "this model takes no images"}})
        arguments = ("--bench", "vstar", "--data", vstar, "--skip-view-check")
        with serving(Script(lambda _: refusal)) as script:
            status, report = evaluate(tmp_path / "run", script, *arguments)
        told = capsys.readouterr()
        assert (status, report["all"], len(report["refused"])) == (1, None, 6)
        assert "this model takes no images" in told.err
        assert "deepeyes.sh report" not in told.out + told.err

    @pytest.mark.parametrize("hangs", [True, False])
    @pytest.mark.parametrize("model", [(), ("--model", "m")])
    def test_dead_url_or_one_that_hangs_is_named_soon(
        self,
        vstar: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        hangs: bool,  # noqa: FBT001
        model: tuple[str, ...],
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listening:  # it accepts, and never says a word
            port = listening.getsockname()[1] if hangs else 9
            script = Script(perfect, url=f"http://127.0.0.1:{port}/v1")
            begun = time.monotonic()
            arguments = ("--bench", "vstar", "--data", vstar, *model, "--retries", "20")
            assert evaluate(tmp_path / "run", script, *arguments)[0] == 1
        assert time.monotonic() - begun < 20  # twice eight, and what a busy machine adds
        told = capsys.readouterr().err
        assert f"{script.url}/models" in told
        assert "retr" in told
