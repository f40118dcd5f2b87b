"""Verdicts for a process: what is known, then mathematics, then the rule judge or the server."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cachetools import LRUCache

from deepeyes.judging.background import BackgroundLoop
from deepeyes.judging.client import JudgeClient
from deepeyes.judging.mathematics import MathVerifier
from deepeyes.judging.rule import rule_verdict
from deepeyes.judging.stats import JudgeStats
from deepeyes.log import logger
from deepeyes.settings import JudgeKind, Rules, Scoring, Settings
from deepeyes.verdicts import UNPARSEABLE, Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence
    from concurrent.futures import Future


VERDICT_CACHE_SIZE = (
    50_000  # verdicts kept from step to step; about 200 steps of 256 prompts with 16 answers of 3 kinds
)
LOOKED_AT_ONCE = 8  # formulas, of some 0.3 ms each, between two looks at the network: so that calls leave meanwhile
_judges: dict[int, Judge] = {}


def judge_of_process(settings: Settings) -> Judge:
    """Returns the judge of this process; one that forks gets a new one, with threads of its own."""
    return _judges.setdefault(os.getpid(), _judges.get(os.getpid()) or Judge(settings))


class Judge:
    """Verdicts for a process: what is known, then mathematics, then the rule judge or the server.

    All that waits runs in one event loop on a thread of its own, and so needs no locks: equal questions find the same
    task, whoever asks and when.
    """

    def __init__(self, settings: Settings) -> None:
        """Makes a judge; nothing is started or sent yet."""
        self.stats = JudgeStats()
        self._settings = settings
        self._known: LRUCache[Question, Verdict] = LRUCache(VERDICT_CACHE_SIZE)
        self._unread: set[Question] = set()  # in this step; the next one asks again
        self._step: object = None
        self._told = False
        self._waited_before = 0.0
        self._tasks: dict[Question, _Task] = {}
        self._math = MathVerifier()
        self._looking = asyncio.Semaphore(LOOKED_AT_ONCE)
        self._start = threading.Lock()
        self._background: BackgroundLoop | None = None
        self._client: JudgeClient | None = None
        if settings.judge.kind is JudgeKind.RULE:
            logger.info("judge: the rule judge of the plugin (DEEPEYES_JUDGE=rule); no LLM is asked")

    def begin(self, step: object) -> None:
        """Says which step the next batches are of; what could not be read in another step is asked again."""
        if step != self._step:
            self._step = step
            self._unread = set()
            self._told = False
            self._waited_before = self.stats.seconds

    def end(self, verdicts: Sequence[Verdict]) -> None:
        """Logs, once a step and on its main process, how long it waited and for how much it need not have asked."""
        asked = [verdict for verdict in verdicts if verdict.source in ("judge", "rule", "math", "unparseable")]
        if asked and not self._told and os.environ.get("RANK", "0") in ("0", "-1"):
            ahead = sum(verdict.ahead for verdict in asked)
            logger.info("judge: waited %.2f s, %d of %d verdicts came ahead", self.waited, ahead, len(asked))
        self._told = True

    @property
    def waited(self) -> float:
        """Seconds that this step waited for verdicts until now."""
        return self.stats.seconds - self._waited_before

    def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        """Judges questions; equal ones cost one call, now and later, in whatever thread they come.

        Raises:
            JudgeError: See `JudgeClient.verdicts`.
        """
        if not questions:
            return []
        return self._loop().run(self._answer_all(questions))

    def ask_ahead(self, question: Question) -> Future[Verdict | None]:
        """Asks one question before its batch comes, in one call; None where that gives no verdict.

        A batch that comes meanwhile finds the question under way, and asks again only where it got no verdict.
        """
        return self._loop().start(self._answer_ahead(question))

    @property
    def latency(self) -> float:
        """Seconds that the server takes for a call; nan before its first reply, 0 where there is no server."""
        if self._settings.judge.kind is JudgeKind.RULE:
            return 0.0
        return self._client.latency if self._client else float("nan")

    def close(self) -> None:
        """Ends what the judge started: the processes that verify mathematics, the client and the thread."""
        self._math.close()
        if self._client is not None:
            self._client.close()
        if self._background is not None:
            self._background.close()

    def _loop(self) -> BackgroundLoop:
        with self._start:
            if self._background is None:
                self._background = BackgroundLoop()
                if self._settings.judge.kind is JudgeKind.SERVER:
                    self._client = JudgeClient(self._settings.judge, self.stats, self._background)
            return self._background

    async def _answer_all(self, questions: Sequence[Question]) -> list[Verdict]:
        start, before = time.monotonic(), replace(self.stats)
        distinct = dict.fromkeys(questions)
        known: dict[Question, Verdict] = {one: self._known[one] for one in distinct if one in self._known}
        if len(known) + sum(one in self._unread for one in distinct) < len(distinct):  # another batch of this step
            self._unread = set()
        known |= dict.fromkeys((one for one in distinct if one in self._unread and one not in known), UNPARSEABLE)
        asked = [question for question in distinct if question not in known]
        found = await self._take(asked)
        if self._client is not None and found:
            self._client.check(found)
        self._unread |= {question for question, verdict in found.items() if verdict == UNPARSEABLE}
        known |= found
        self.stats.cache_hits += len(questions) - len(asked)
        self.stats.seconds += time.monotonic() - start
        step = self.stats.since(before)
        if asked and step.questions and os.environ.get("RANK", "0") in ("0", "-1"):
            logger.info("judge: %s", step)
        return [known[question] for question in questions]

    async def _take(self, asked: Sequence[Question]) -> dict[Question, Verdict]:
        """Waits for the verdict of each question; one error, or a cancellation, ends what nobody else waits for."""
        tasks = {question: self._task(question) for question in asked}
        for task in tasks.values():
            task.waiting += 1
        try:
            verdicts = await asyncio.gather(*[asyncio.shield(task.work) for task in tasks.values()])
        finally:
            for task in tasks.values():
                task.waiting -= 1
                if not task.waiting:
                    task.work.cancel()
        found = dict(zip(asked, verdicts, strict=True))
        rest = [question for question, verdict in found.items() if verdict is None]  # asked ahead, in vain
        return {**found, **(await self._take(rest) if rest else {})}  # type: ignore[dict-item]  # `rest` holds every None

    async def _answer_ahead(self, question: Question) -> Verdict | None:
        if question in self._known:
            return self._known[question]
        task = self._task(question, once=True)
        task.waiting += 1
        try:
            return await asyncio.shield(task.work)
        finally:
            task.waiting -= 1
            if not task.waiting:
                task.work.cancel()

    def _task(self, question: Question, *, once: bool = False) -> _Task:
        """Returns the task that judges a question, started where there is none."""
        task = self._tasks.get(question)
        if task is None:
            work = asyncio.ensure_future(self._judge(question, once=once))
            task = self._tasks[question] = _Task(work)
            work.add_done_callback(lambda done: self._finish(question, done))
        return task

    def _finish(self, question: Question, done: asyncio.Task[Verdict | None]) -> None:
        self._tasks.pop(question)
        if not done.cancelled() and done.exception() is None:
            verdict = done.result()
            if verdict not in (None, UNPARSEABLE):
                self._known[question] = verdict

    async def _judge(self, question: Question, *, once: bool) -> Verdict | None:
        if question.scoring is Scoring.MATH and await self._is_equal(question, self._settings.rules):
            return Verdict(correct=True, source="math", ahead=once)
        if self._client is None:
            return Verdict(await self._agrees(question), "rule", ahead=once)
        if once:
            verdict = await self._client.judge_once(question)
            return verdict._replace(ahead=True) if verdict else None
        return await self._client.judge(question)

    async def _agrees(self, question: Question) -> bool:
        """Asks the rule judge, and mathematics where the reference is a formula."""
        if rule_verdict(*question[1:], exact_case=question.scoring is Scoring.MATH):
            return True
        return "\\" in question.reference and await self._is_equal(question, Rules.CORRECTED)

    async def _is_equal(self, question: Question, rules: Rules) -> bool:
        async with self._looking:
            known = self._math.at_once(question.reference, question.answer, rules)
            await asyncio.sleep(0)
        return known if isinstance(known, bool) else await asyncio.wrap_future(self._math.confirm(known))


class _Task:
    """A question under way, and how many wait for its verdict."""

    def __init__(self, work: asyncio.Task[Verdict | None]) -> None:
        self.work = work
        self.waiting = 0
