"""What the tests of the judge share: questions with a known truth, scripts of a server, impatient settings."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from judge_server import JudgeServer, honest

from deepeyes.settings import JudgeSettings, Scoring
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from judge_server import Action, Script

KEY = "s3cret-key"
UNPARSEABLE = Verdict(correct=False, source="unparseable")


def questions(count: int, start: int = 0) -> list[Question]:
    """Distinct questions; a third of the answers is wrong."""
    return [
        Question(Scoring.VISUAL, f"What is thing {i}?", "as is right", f"{'right' if i % 3 else 'wrong'} {i}")
        for i in range(start, start + count)
    ]


def truth(asked: Sequence[Question]) -> list[Verdict]:
    """The verdicts of a judge that never fails."""
    return [Verdict(question.answer.startswith("right"), "judge") for question in asked]


def first(fault: Action) -> Script:
    """Does something else at the first call for every question."""
    return lambda call: honest(call) if call.asked else fault


def always(action: Action) -> Script:
    """Does the same with every call."""
    return lambda _call: action


def settings(*servers: JudgeServer, **changes: Any) -> JudgeSettings:
    """Quick to lose patience."""
    values = {"timeout": 5.0, "patience": 20.0, "concurrency": 64, "api_key": KEY, **changes}
    return JudgeSettings(urls=tuple(server.url for server in servers), **values)


def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Waits for what other threads do."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()
