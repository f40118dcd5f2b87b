"""What the rule can not read goes to the judge, and each is counted apart."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from eval_world import (
    Script,
    Seen,
    answer,
    evaluate,
    perfect,
    serving,
)
from hypothesis import given
from hypothesis import strategies as st

from deepeyes.evaluation.picking import read_choice
from deepeyes.evaluation.verdicts import Verdicts
from deepeyes.judging.judge import Judge
from deepeyes.settings import JudgeKind, Scoring, Settings
from deepeyes.verdicts import Question

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


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
        monkeypatch.setenv("DEEPEYES_JUDGE", "server")
        monkeypatch.setenv("DEEPEYES_JUDGE_URLS", "http://127.0.0.1:9/v1")
        monkeypatch.setenv("DEEPEYES_JUDGE_PATIENCE", "0.2")
        with serving(Script(self.vague)) as script, serving(JudgeScript(left)) as judge:
            status, report = evaluate(tmp_path / "run", script, *arguments)
            assert (status, report["all"]["unread"], report["all"]["by_rule"]["right"]) == (1, 2, 4)
            assert "http://127.0.0.1:9/v1" in capsys.readouterr().err
            monkeypatch.setenv("DEEPEYES_JUDGE_URLS", judge.url)
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
    def ask(path: Path, url: str, count: int = 150) -> Verdicts:
        """Asks the judge at a URL about so many answers, and returns its verdicts as a folder keeps them."""
        settings = replace(Settings().judge, kind=JudgeKind.SERVER, urls=(url,), patience=0.3, concurrency=4)
        judge = Judge(replace(Settings(), judge=settings))
        try:
            verdicts = Verdicts(path, judge, "label")
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
            assert verdicts.error is None
            assert [(at, *found) for at, found in enumerate(verdicts.found) if found != (True, "judge")] == [
                (7, False, "unparseable"),
                (70, False, "unparseable"),
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
        assert read_choice(text, ["red", "green", "blue", "white"]) == place

    @pytest.mark.parametrize(("text", "place"), [("B. It is dark red", 1), ("A. It is dark red", None), ("A: red", 0)])
    def test_option_within_another_is_told_from_it(self, text: str, place: int | None) -> None:
        assert read_choice(text, ["red", "dark red"]) == place

    @given(st.text(max_size=60), st.lists(st.text(min_size=1, max_size=9), min_size=2, max_size=5, unique=True))
    def test_rule_reads_any_text(self, text: str, options: list[str]) -> None:
        assert read_choice(text, options) in (None, *range(len(options)))
