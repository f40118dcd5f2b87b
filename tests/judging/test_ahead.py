"""Verdicts ahead of the step: asked when a trajectory ends, handed on, and never waited for where the judge is away."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from asking import UNPARSEABLE, always, eventually, settings
from judge_server import JudgeServer, hang, honest, respond, say

from deepeyes.judging.ahead import LONGEST_WAIT, Ahead, digest, verdict_from
from deepeyes.judging.judge import Judge
from deepeyes.scoring import score_batch
from deepeyes.settings import JudgeKind, Rules, Scoring, Settings
from deepeyes.turns import Progress
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

    from judge_server import Action


def row(number: int = 0, source: str = "vstar") -> dict[str, Any]:
    return {
        "data_source": source,
        "reward_model": {"ground_truth": "as is right"},
        "extra_info": {"question": f"What is thing {number}?"},
    }


def trajectory(answer: str) -> tuple[Progress, list[dict[str, Any]]]:
    """What the scheduler knows of a trajectory of two turns."""
    turns = ["<tool_call>{}</tool_call>", f"<answer>{answer}</answer>"]
    messages = [{"role": "user", "content": "What?"}, {"role": "assistant", "content": turns[0]}]
    messages += [{"role": "user", "content": "<tool_response>"}, {"role": "assistant", "content": turns[1]}]
    return Progress(turns=turns, zooms=[{"error": None}]), messages


def columns(numbers: list[int], answers: list[str], verdicts: list[Any]) -> tuple[list[str], dict[str, Any]]:
    """What a reward gets."""
    rows = [row(number) for number in numbers]
    messages = [trajectory(answer)[1] for answer in answers]
    infos = [{"num_turns": 2, "num_zooms": 1, **({"verdict": one} if one is not None else {})} for one in verdicts]
    return [one[-1]["content"] for one in messages], {
        **{name: [one[name] for one in rows] for name in rows[0]},
        "messages": messages,
        "rollout_infos": infos,
    }


@pytest.fixture
def judge(server: JudgeServer) -> Iterator[Judge]:
    with contextlib.closing(Judge(Settings(judge=settings(server)))) as one:
        yield one


@pytest.fixture
def ahead(server: JudgeServer, judge: Judge) -> Ahead:
    return Ahead(Settings(judge=settings(server)), lambda: judge)


def ask(ahead: Ahead, number: int, answer: str, source: str = "vstar") -> dict[str, Any] | None:
    return asyncio.run(ahead.verdict(row(number, source), *trajectory(answer)))


class TestHandedOn:
    """From the scheduler to the reward."""

    @pytest.fixture(autouse=True)
    def warm(self, judge: Judge) -> None:
        """The first call of a process loads the HTTP library, for which no trajectory waits."""
        judge.verdicts([Question(Scoring.VISUAL, "Warm?", "It is.", "right")])

    def test_reward_takes_the_verdict_and_asks_nobody(self, server: JudgeServer, ahead: Ahead) -> None:
        answers = ["right 1", "wrong 2"]
        verdicts = [ask(ahead, number, answer) for number, answer in enumerate(answers)]
        assert [set(one or {}) for one in verdicts] == [{"of", "correct", "source"}] * 2
        calls = len(server.calls)
        asked = Settings(judge=settings(server))
        with contextlib.closing(Judge(asked)) as trainer:
            completions, batch = columns([0, 1], answers, verdicts)
            scored = score_batch(completions, batch, asked, trainer)
        assert [one.verdict for one in scored] == [
            Verdict(correct=True, source="judge", ahead=True),
            Verdict(correct=False, source="judge", ahead=True),
        ]
        assert [one.score.total for one in scored] == [2.0, 0.0]
        assert len(server.calls) == calls

    @pytest.mark.parametrize("change", ["question", "answer", "rules", "kind", "form"])
    def test_verdict_of_something_else_is_not_taken(self, server: JudgeServer, ahead: Ahead, change: str) -> None:
        handed: Any = ask(ahead, 0, "right 1")
        asked = Settings(judge=settings(server))
        question = Question(Scoring.VISUAL, "What is thing 0?", "as is right", "right 1")
        assert verdict_from({"verdict": handed}, question, asked) is not None
        if change == "question":
            question = question._replace(question="What is thing 1?")
        elif change == "answer":
            question = question._replace(answer="right 2")
        elif change == "rules":
            asked = replace(asked, rules=Rules.OFFICIAL)
        elif change == "kind":
            asked = replace(asked, judge=replace(asked.judge, kind=JudgeKind.RULE))
        else:
            handed = {**handed, "correct": 1}
        assert verdict_from({"verdict": handed}, question, asked) is None

    @pytest.mark.parametrize("infos", [{}, {"verdict": None}, {"verdict": {}}, {"verdict": "1"}])
    def test_no_verdict_is_none(self, infos: dict[str, Any]) -> None:
        assert verdict_from(infos, Question(Scoring.VISUAL, "q", "r", "a"), Settings()) is None

    def test_parts_of_a_digest_do_not_run_together(self) -> None:
        first, second = Question(Scoring.VISUAL, "ab", "c", "d"), Question(Scoring.VISUAL, "a", "bc", "d")
        assert digest(first, Rules.CORRECTED) != digest(second, Rules.CORRECTED)


class TestAsked:
    """What is asked, and what is not."""

    @pytest.mark.parametrize("answer", ["", "as is right", "x" * 1000, "red <|im_end|>"])
    def test_what_the_text_decides_is_not_asked(self, server: JudgeServer, ahead: Ahead, answer: str) -> None:
        assert ask(ahead, 0, answer) is None
        assert server.connections == 0

    def test_rows_without_columns_are_not_asked_and_told_once(
        self, server: JudgeServer, ahead: Ahead, log: list[str]
    ) -> None:
        for _ in range(3):
            assert asyncio.run(ahead.verdict({}, *trajectory("right"))) is None
        assert server.connections == 0
        assert sum("--vllm_server_pass_dataset true" in line for line in log) == 1

    def test_setting_turns_it_off(self, server: JudgeServer, judge: Judge) -> None:
        off = Ahead(Settings(judge=settings(server, ahead=False)), lambda: judge)
        assert ask(off, 0, "right") is None
        assert off.start(row(), *trajectory("right")) is None
        assert server.connections == 0

    def test_equal_trajectories_are_asked_once_those_in_flight_included(
        self, server: JudgeServer, ahead: Ahead, judge: Judge
    ) -> None:
        server.latency = 0.2

        async def play() -> list[Any]:
            return await asyncio.gather(*[ahead.verdict(row(), *trajectory("right 1")) for _ in range(16)])

        verdicts = asyncio.run(play())
        assert verdicts == [verdicts[0]] * 16
        assert verdicts[0]["correct"] is True
        assert len(server.calls) == 1
        assert judge.verdicts([Question(Scoring.VISUAL, "What is thing 0?", "as is right", "right 1")])[0].correct
        assert len(server.calls) == 1

    def test_inside_the_trainer_the_reward_finds_what_is_in_flight(
        self, server: JudgeServer, ahead: Ahead, judge: Judge
    ) -> None:
        server.latency = 0.3
        found = ahead.start(row(), *trajectory("right 1"))
        assert found == {}
        completions, batch = columns([0], ["right 1"], [found])
        (scored,) = score_batch(completions, batch, Settings(judge=settings(server)), judge)
        assert scored.verdict == Verdict(correct=True, source="judge", ahead=True)
        assert len(server.calls) == 1
        assert eventually(lambda: found.get("correct") is True)

    def test_reply_without_a_verdict_is_asked_again_by_the_reward(
        self, server: JudgeServer, ahead: Ahead, judge: Judge
    ) -> None:
        server.script = lambda call: honest(call) if call.asked else say("Well.")
        assert ask(ahead, 0, "right 1") is None
        question = Question(Scoring.VISUAL, "What is thing 0?", "as is right", "right 1")
        assert judge.verdicts([question]) == [Verdict(correct=True, source="judge")]

    def test_mathematics_needs_no_server(self, server: JudgeServer, ahead: Ahead) -> None:
        data = {**row(0, "thinklite_eureka"), "reward_model": {"ground_truth": "0.5"}}
        progress = Progress(turns=[r"So \boxed{1/2}"])
        verdict = asyncio.run(ahead.verdict(data, progress, [{"role": "user", "content": "?"}]))
        assert (verdict or {}).get("source") == "math"
        assert server.connections == 0


class TestAway:
    """A judge that is slow or away holds no trajectory up."""

    @pytest.mark.parametrize("fault", [None, respond(503, b""), respond(400, b"no"), say("")])
    def test_fault_costs_no_wait(self, server: JudgeServer, ahead: Ahead, fault: Action | None) -> None:
        if fault is None:
            server.stop()
        else:
            server.script = always(fault)
        start = time.monotonic()
        assert [ask(ahead, number, "right") for number in range(20)] == [None] * 20
        assert time.monotonic() - start < 5  # twenty waits of half a second would be ten

    def test_hanging_judge_costs_one_wait_for_all_and_few_asks(self, server: JudgeServer, ahead: Ahead) -> None:
        server.script = always(hang)

        async def play() -> None:
            await asyncio.gather(*[ahead.verdict(row(number), *trajectory("right")) for number in range(32)])
            for number in range(32, 200):
                assert await ahead.verdict(row(number), *trajectory("right")) is None

        start = time.monotonic()
        asyncio.run(play())
        assert time.monotonic() - start < LONGEST_WAIT + 3
        assert len(server.calls) <= 33

    def test_judge_that_comes_back_is_asked_again(self, server: JudgeServer, ahead: Ahead) -> None:
        server.script = always(hang)

        async def play() -> Any:
            await asyncio.gather(*[ahead.verdict(row(number), *trajectory("right")) for number in range(5)])
            server.script = honest
            end = time.monotonic() + 10
            while time.monotonic() < end:
                if verdict := await ahead.verdict(row(6), *trajectory("right")):
                    return verdict
                await asyncio.sleep(0.05)
            return None

        assert asyncio.run(play())["correct"] is True

    def test_unread_verdicts_are_asked_again_in_the_next_step(self, server: JudgeServer, judge: Judge) -> None:
        server.script = always(say(""))
        question = [Question(Scoring.VISUAL, "q", "r", "right")]
        judge.begin(1)
        assert judge.verdicts(question) == judge.verdicts(question) == [UNPARSEABLE]
        assert len(server.calls) == 3
        judge.begin(2)
        server.script = honest
        assert judge.verdicts(question) == [Verdict(correct=True, source="judge")]

    def test_step_tells_what_it_waited_and_what_came_ahead(
        self, judge: Judge, monkeypatch: pytest.MonkeyPatch, log: list[str]
    ) -> None:
        monkeypatch.delenv("RANK", raising=False)
        judge.begin(1)
        verdict = Verdict(correct=True, source="judge")
        for _ in range(4):
            judge.end([verdict._replace(ahead=True), verdict, verdict._replace(source="equal")])
        assert [line for line in log if "came ahead" in line] == ["judge: waited 0.00 s, 1 of 2 verdicts came ahead"]
