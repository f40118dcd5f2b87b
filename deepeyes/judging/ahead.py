"""The verdict ahead of its step: asked for when a trajectory ends, while others still play.

The reward takes such a verdict if it belongs to the same question, reference and answer, and asks itself where there is
none. So the rollout need not wait: an ask is one call, and only as long as the judge usually takes is waited for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import time
from typing import TYPE_CHECKING, Any

from deepeyes.answers import Trajectory, read_answer
from deepeyes.errors import DataError
from deepeyes.log import logger
from deepeyes.settings import JudgeKind, Rules, Settings
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deepeyes.judging.judge import Judge
    from deepeyes.turns import Progress

FIRST_WAIT = 1.0  # seconds for the first reply, when nobody knows yet how long one takes
SHORTEST_WAIT = 0.5  # seconds for any other: a quick judge may be slow for once
LONGEST_WAIT = 2.0  # seconds; a judge that takes longer is left to the trainer
SLACK = 1.5  # how much longer than the last replies one may take
GIVE_UPS = 3  # replies in a row that did not come in time, after which only one ask at a time goes out


def digest(question: Question, rules: Rules) -> str:
    """Returns what a verdict ahead belongs to: the same question, reference and answer, under the same rules."""
    parts = (question.scoring.value, *question[1:], rules.value)
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def verdict_from(infos: Mapping[str, Any], question: Question, settings: Settings) -> Verdict | None:
    """Returns the verdict that the scheduler handed on, if it belongs to a question and comes from the same judge."""
    found = infos.get("verdict")
    if not isinstance(found, dict) or found.get("of") != digest(question, settings.rules):
        return None
    allowed = ("math", "rule" if settings.judge.kind is JudgeKind.RULE else "judge")
    if found.get("source") not in allowed or not isinstance(found.get("correct"), bool):
        return None
    return Verdict(found["correct"], found["source"], ahead=True)


def question_of(
    row: Mapping[str, Any], progress: Progress, messages: Sequence[Mapping[str, Any]], settings: Settings
) -> Question | None:
    """Returns what has to be asked about a trajectory that ended; None where its text or its row decides otherwise.

    Args:
        row: Columns of the dataset row, as far as they came along.
        progress: What is remembered of the trajectory.
        messages: Of the request, with all its turns.
        settings: Of the plugin.
    """
    extra, reward_model = row.get("extra_info"), row.get("reward_model")
    question = extra.get("question") if isinstance(extra, dict) else None
    reference = reward_model.get("ground_truth") if isinstance(reward_model, dict) else None
    if not isinstance(question, str) or not isinstance(reference, str):
        return None
    try:
        scoring = settings.scoring_of(row.get("data_source"))
    except DataError:  # the reward will say so
        return None
    users = [str(message["content"]) for message in messages if message["role"] == "user"]
    observations = users[len(users) - len(progress.zooms) :]
    trajectory = Trajectory(scoring, question, reference, tuple(progress.turns), tuple(observations))
    reading = read_answer(trajectory, settings.rules)
    return None if reading.settled else Question(scoring, question, reference, reading.answer or "")


class Ahead:
    """Asks for verdicts when trajectories end."""

    def __init__(self, settings: Settings, judge: Callable[[], Judge]) -> None:
        """Makes it; nothing is asked yet.

        Args:
            settings: Of the plugin.
            judge: Gives the judge of the process, when it is first needed.
        """
        self._settings = settings
        self._judge = judge
        self._late = 0
        self._probing = False
        self._told = False

    def start(
        self, row: Mapping[str, Any], progress: Progress, messages: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        """Asks about a trajectory that ended, without waiting: inside the trainer, where the judge itself remembers.

        Returns:
            What goes into `rollout_infos["verdict"]`: a dict that stays empty until the verdict is there; None where
            nothing is asked.
        """
        question = self._question(row, progress, messages)
        if question is None:
            return None
        found: dict[str, Any] = {}

        def take(done: Any) -> None:
            if not done.cancelled() and done.exception() is None and done.result() is not None:
                found.update(self._handed_on(question, done.result()))

        self._judge().ask_ahead(question).add_done_callback(take)
        return found

    async def verdict(
        self, row: Mapping[str, Any], progress: Progress, messages: Sequence[Mapping[str, Any]]
    ) -> dict[str, Any] | None:
        """Asks about a trajectory that ended, and waits about as long as the judge usually takes.

        Returns:
            What goes into `rollout_infos["verdict"]`; None where nothing is asked, or nothing came in time.
        """
        question = self._question(row, progress, messages)
        if question is None or (self._late >= GIVE_UPS and self._probing):
            return None
        if self._late >= GIVE_UPS:
            self._probing = True
            self._probe(question)
            return None
        judge = self._judge()
        usual = judge.latency
        wait = FIRST_WAIT if math.isnan(usual) else min(LONGEST_WAIT, max(SHORTEST_WAIT, SLACK * usual))
        asked = asyncio.wrap_future(judge.ask_ahead(question))
        try:
            verdict = await asyncio.wait_for(asked, wait)
        except asyncio.TimeoutError:
            self._late += 1
            return None
        except Exception as error:  # noqa: BLE001 - a rollout does not end for want of a verdict
            logger.warning("judge: no verdict ahead: %r", error)
            return None
        self._late = 0
        return self._handed_on(question, verdict) if verdict else None

    def _probe(self, question: Question) -> None:
        """Asks in the background, and lets others ask again where a reply comes in time."""
        start = time.monotonic()

        def look(done: Any) -> None:
            self._probing = False
            if not done.cancelled() and done.exception() is None and time.monotonic() - start <= LONGEST_WAIT:
                self._late = 0

        self._judge().ask_ahead(question).add_done_callback(look)

    def _question(
        self, row: Mapping[str, Any], progress: Progress, messages: Sequence[Mapping[str, Any]]
    ) -> Question | None:
        if not self._settings.judge.ahead:
            return None
        if not row and not self._told:
            self._told = True
            logger.info(
                "judge: no verdicts ahead of the step, for requests came without the dataset's columns; pass "
                "--vllm_server_pass_dataset true to swift rlhf"
            )
        with contextlib.suppress(Exception):  # of what a row may hold; the reward says what is wrong
            return question_of(row, progress, messages, self._settings)
        return None

    def _handed_on(self, question: Question, verdict: Verdict) -> dict[str, Any]:
        return {
            "of": digest(question, self._settings.rules),
            "correct": verdict.correct,
            "source": verdict.source,
        }
