"""Verdicts for a process: what is known, what mathematics settles, and what is asked."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from asking import KEY, UNPARSEABLE, always, first, questions, settings, truth
from cachetools import LRUCache
from judge_server import JudgeServer, honest, respond, say
from swift_env import ROOT

from deepeyes.errors import JudgeError
from deepeyes.judging.judge import Judge
from deepeyes.settings import JudgeKind, Scoring, Settings
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestJudge:
    """What a process knows: the cache, the counters and the log line of a step."""

    @pytest.fixture
    def judge(self, server: JudgeServer) -> Iterator[Judge]:
        with contextlib.closing(Judge(Settings(judge=settings(server)))) as one:
            yield one

    def test_verdicts_are_kept_from_step_to_step(self, server: JudgeServer, judge: Judge) -> None:
        asked = questions(20)
        for _ in range(3):
            assert judge.verdicts(asked + asked[:5]) == truth(asked + asked[:5])
        assert len(server.calls) == 20
        assert (judge.stats.questions, judge.stats.calls, judge.stats.cache_hits) == (20, 20, 55)

    def test_two_threads_with_the_same_batch_ask_it_once(self, server: JudgeServer, judge: Judge) -> None:
        server.latency = 0.05
        asked = questions(100)
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(judge.verdicts, [asked, asked[::-1], asked * 2, asked[50:]])) == [
                truth(asked),
                truth(asked[::-1]),
                truth(asked * 2),
                truth(asked[50:]),
            ]
        assert len(server.calls) == 100

    def test_cache_forgets_the_oldest(self, server: JudgeServer, judge: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(judge, "_known", LRUCache(10))
        judge.verdicts(questions(10))
        judge.verdicts(questions(1))  # now the youngest
        asked = questions(15, start=10)  # more than the cache holds
        assert judge.verdicts([*questions(1), *asked]) == truth([*questions(1), *asked])
        assert len(server.calls) == 25
        judge.verdicts(questions(10, start=15))
        assert len(server.calls) == 25
        judge.verdicts(questions(5, start=1))
        assert len(server.calls) == 30

    def test_what_had_no_verdict_is_asked_again_in_the_next_step_only(self, server: JudgeServer, judge: Judge) -> None:
        server.script = always(say("Well, it depends."))
        asked = questions(2)
        for _ in range(4):  # the reward functions of one step
            assert judge.verdicts(asked) == [UNPARSEABLE] * 2
        assert (len(server.calls), judge.stats.unparseable) == (6, 2)
        server.script = honest
        asked = questions(4)
        assert judge.verdicts(asked) == truth(asked)
        assert len(server.calls) == 10

    def test_error_leaves_nothing_behind(self, server: JudgeServer, judge: Judge) -> None:
        server.script = always(respond(400, b"no"))
        asked = questions(5)
        with pytest.raises(JudgeError):
            judge.verdicts(asked)
        server.script = honest
        assert judge.verdicts(asked) == truth(asked)

    @pytest.mark.parametrize("rank", [None, "0", "-1", "1"])
    def test_a_step_is_one_line_on_the_main_process(
        self, server: JudgeServer, judge: Judge, log: list[str], monkeypatch: pytest.MonkeyPatch, rank: str | None
    ) -> None:
        if rank is None:
            monkeypatch.delenv("RANK", raising=False)
        else:
            monkeypatch.setenv("RANK", rank)
        server.script, server.latency = first(respond(500, b"")), 0.05
        for _ in range(4):
            judge.verdicts(questions(3) * 2)
        told = [line for line in log if "asked in" in line]
        assert len(told) == (rank != "1")
        assert all(line.startswith("judge: 3 asked in 6 calls, 3 known, 3 retries, 0 unparseable, 0.") for line in told)
        assert judge.stats.seconds > 0.1

    def test_mathematics_comes_before_the_judge(self, server: JudgeServer, judge: Judge) -> None:
        asked = [Question(Scoring.MATH, "?", r"\frac{1}{2}", "0.5"), Question(Scoring.MATH, "?", "2", "right")]
        assert judge.verdicts(asked) == [Verdict(correct=True, source="math"), Verdict(correct=True, source="judge")]
        assert len(server.calls) == 1

    def test_rule_judge_asks_no_server(self, server: JudgeServer) -> None:
        rule = Settings(judge=settings(server, kind=JudgeKind.RULE))
        asked = [Question(Scoring.VISUAL, "Colour?", "It is red.", "red"), *questions(1)]
        with contextlib.closing(Judge(rule)) as judge:
            assert judge.verdicts(asked) == [
                Verdict(correct=True, source="rule"),
                Verdict(correct=False, source="rule"),
            ]
        assert server.connections == 0


PROCESS = """
import json, os, sys
import deepeyes_plugin as deepeyes
from swift.rewards.orm import orms

answers = ["right 1", "wrong 2", "depends", "right 1"]
columns = {
    "data_source": ["vstar"] * 4,
    "reward_model": [{"ground_truth": "it is right"}] * 4,
    "extra_info": [{"question": "Which?"}] * 4,
    "messages": [[{"role": "user", "content": "?"}, {"role": "assistant", "content": "?"}]] * 4,
}
def rewards():
    names = ["deepeyes_reward", "deepeyes_accuracy", "deepeyes_judge_failure"]
    return [orms[name]()([f"<answer>{answer}</answer>" for answer in answers], **columns) for name in names]
parent = rewards()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert rewards() == parent
else:
    assert rewards() == parent
print(json.dumps(parent), flush=True)
if not child:
    os._exit(0)  # as multiprocessing ends its children
"""


class TestProcess:
    """A trainer's process, from import to exit."""

    def test_rewards_ask_once_a_process_and_exit_without_a_trace(self, server: JudgeServer) -> None:
        server.script = lambda call: say("Well, it depends.") if call.answer == "depends" else honest(call)
        root = ROOT
        environ = {**os.environ, "DEEPEYES_JUDGE_URLS": server.url, "DEEPEYES_JUDGE_API_KEY": KEY}
        result = subprocess.run(
            [sys.executable, "-W", "default::ResourceWarning", "-c", PROCESS],
            cwd=root,
            env=environ,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        expected = [[0.8, 0, 0, 0.8], [1, 0, 0, 1], [0, 0, 1, 0]]
        assert [json.loads(line) for line in result.stdout.splitlines() if line.startswith("[[")] == [expected] * 2
        asked = [call.answer for call in server.calls]
        assert sorted(asked) == sorted(["right 1", "wrong 2", *["depends"] * 3] * 2)
        for word in ("Unclosed", "never awaited", "was destroyed", "never retrieved", KEY):
            assert word not in result.stdout + result.stderr
        assert "Exception ignored" not in result.stderr
