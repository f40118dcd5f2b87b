"""Thoughts are handed on as they come; the answer is what training would score."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepeyes.answers import blocks, outside_think
from deepeyes.serving.splitting import Splitter

CALL = '<tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [1, 2, 3, 4]}}</tool_call>'
PIECES = st.sampled_from(
    ["<think>", "</think>", "<answer>", "</answer>", "<tool_call>", "</tool_call>", "red", "\n", "<", "a"]
)
TAG = re.compile(r"</?(?:think|answer|tool_call)>")
TEXTS = st.lists(PIECES, max_size=12).map("".join)


def split(text: str, cuts: tuple[int, ...] = ()) -> tuple[str, str]:
    splitter, start = Splitter(), 0
    reasoning = ""
    for end in (*sorted(cuts), len(text)):
        reasoning += splitter.feed(text[start:end])
        start = end
    ending = splitter.finish()
    return reasoning + ending.reasoning, ending.content


class TestFinish:
    @pytest.mark.parametrize(
        ("text", "reasoning", "content"),
        [
            ("<think>a look</think><answer>red</answer>", "a look\n", "red"),
            ("<think>a</think>\nIt is red.\n<answer> red </answer> done", "a\n\nIt is red.\n done", "red"),
            ("red", "", "red"),
            ("<think>a</think> It is red.", "a\n", "It is red."),
            ("a thought</think>It is red.", "a thought", "It is red."),
            ("<answer>blue</answer><answer>red</answer>", "<answer>blue</answer>", "red"),
            ("<think>maybe <answer>blue</answer></think><answer>red</answer>", "maybe <answer>blue</answer>\n", "red"),
            ("<think>a</think><answer>re", "a\n", "re"),
            ("<think>a</think><answer>red</ans", "a\n", "red"),
            ("<think>a", "a", ""),
            ("<think>a</thi", "a</thi", ""),
            (f"<think>a</think>{CALL}", f"a\n{CALL}\n", ""),
            (f"I look closer. {CALL}", CALL, "I look closer."),
            ("a < b and <b>bold</b>", "", "a < b and <b>bold</b>"),
            ("", "", ""),
        ],
    )
    def test_last_turn_gives_thoughts_and_answer(self, text: str, reasoning: str, content: str) -> None:
        assert split(text) == (reasoning, content)

    @given(TEXTS, st.lists(st.integers(0, 60), max_size=6))
    def test_pieces_of_any_size_say_the_same(self, text: str, cuts: list[int]) -> None:
        assert split(text, tuple(min(cut, len(text)) for cut in cuts)) == split(text)

    @given(TEXTS)
    def test_answer_is_the_one_that_training_scores(self, text: str) -> None:
        answers = blocks(outside_think(text), "answer", innermost=True)
        if answers:
            assert split(text)[1] == answers[-1].strip()

    @given(TEXTS)
    def test_no_text_is_lost(self, text: str) -> None:
        reasoning, content = split(text)
        told = TAG.sub("", reasoning + content)
        for word in ("red", "a"):
            assert told.count(word) >= TAG.sub("", text).count(word)


class TestFeed:
    def test_thoughts_and_calls_are_handed_on_before_their_end(self) -> None:
        splitter = Splitter()
        assert splitter.feed("<thi") == ""
        assert splitter.feed("nk>a loo") == "a loo"
        assert splitter.feed("k</think>\n<tool") == "k\n"
        assert splitter.feed('_call>{"name"') == '<tool_call>{"name"'
        assert splitter.feed(": 1}</tool_call>") == ": 1}</tool_call>\n"
        assert splitter.go_on() == ""

    def test_text_that_may_be_the_answer_is_held_until_the_turn_ends(self) -> None:
        splitter = Splitter()
        assert splitter.feed("I look closer. <tool_call>{}</tool_call>") == ""
        assert splitter.go_on() == "I look closer. <tool_call>{}</tool_call>"
