"""The client of an LLM judge behind one or more OpenAI-compatible servers: questions in, verdicts out."""

from __future__ import annotations

import asyncio
import atexit
import math
import random
import time
from typing import TYPE_CHECKING

from deepeyes.errors import JudgeError
from deepeyes.judging.background import BackgroundLoop, gather_or_cancel
from deepeyes.judging.replicas import Patience, Replica, TransientError
from deepeyes.judging.stats import JudgeStats
from deepeyes.judging.transport import JUDGE_START_COMMAND, Reply, Transport
from deepeyes.log import logger
from deepeyes.settings import JudgeSettings, Scoring
from deepeyes.verdicts import UNPARSEABLE, Question, Verdict, fill_prompt, parse_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

UNPARSEABLE_ASKS = 3  # times one question is asked when no verdict can be read from the reply
STUCK_TRIES = 3  # tries of a prompt that a server which answers others does not answer
BUSY_TRIES = 8  # likewise, where the fault is one of load; they also take at least as long as one call may take
SMALL_BATCH = 16  # questions; where so many replies hold no verdict at all, it is not the questions
REFUSED_POLL = 0.01  # seconds between looks at whether others are answered

THOUGHTS_MEND = (
    "It spends its tokens on thoughts: turn them off with "
    'DEEPEYES_JUDGE_EXTRA=\'{"chat_template_kwargs": {"enable_thinking": false}}\', '
    "or make room for them with a larger DEEPEYES_JUDGE_MAX_TOKENS"
)
PROBE = Question(Scoring.VISUAL, "Is the door open or shut?", "The door is open.", "open")


class StuckPromptError(Exception):
    """A prompt that a judge can't answer, while it answers others."""


class JudgeClient:
    """Asks an LLM behind one or more OpenAI-compatible servers.

    All calls run in one event loop on a thread of its own, so that connections stay open from step to step
    whatever loop the caller has. aiohttp rather than the openai SDK, which spends several times the CPU on
    each of hundreds of calls in flight (benchmarks/judge.py).
    """

    def __init__(
        self, settings: JudgeSettings, stats: JudgeStats | None = None, background: BackgroundLoop | None = None
    ) -> None:
        """Makes a client; nothing is sent yet.

        Args:
            settings: Where the judge is and how hard to try.
            stats: Counters to add to.
            background: The loop to run in; the client makes one, and closes it, where there is none.
        """
        self.settings = settings
        self.stats = stats or JudgeStats()
        self.unread = ""  # what the last batch got in place of a verdict, and what mends it
        self.latency = math.nan  # seconds of the last calls, the later the more weight; nan before the first reply
        self._owns_loop = background is None
        self._background = background or BackgroundLoop()
        self._transport = Transport(settings)
        self._replicas = [Replica(url) for url in settings.urls]
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._active = 0
        self._refused = 0
        self._probe: asyncio.Task[bool] | None = None
        self._last_reply = -math.inf
        self._last_cause = "none"
        self._unread: Reply | None = None
        self._stuck = ""
        atexit.register(self.close)

    def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        """Judges questions from synchronous code, in any thread.

        Args:
            questions: In any number; equal ones are asked once.

        Returns:
            A verdict a question, in order.

        Raises:
            JudgeError: The server refuses every request, the judge could not be reached for `patience` seconds, or
                nothing that it replies can be read.
        """
        return self._background.run(self._judge_all(questions))

    def close(self) -> None:
        """Ends what is under way and closes the connections; the client can't be used again."""
        atexit.unregister(self.close)
        if not self._background.is_alive:
            return
        self._background.run(self._transport.close())
        if self._owns_loop:
            self._background.close()

    async def _judge_all(self, questions: Sequence[Question]) -> list[Verdict]:
        distinct = list(dict.fromkeys(questions))
        verdicts = dict(zip(distinct, await gather_or_cancel([self.judge(one) for one in distinct]), strict=True))
        self.check(verdicts)
        return [verdicts[question] for question in questions]

    def check(self, verdicts: dict[Question, Verdict]) -> None:
        """Says what a batch could not be told.

        Raises:
            JudgeError: There are enough questions, and no reply to any of them holds a verdict.
        """
        unread = sum(verdict == UNPARSEABLE for verdict in verdicts.values())
        if not unread:
            return
        stuck, self._stuck = self._stuck, ""
        reply, self._unread = self._unread, None
        said = reply.describe().replace(self.settings.api_key, "***") if reply else f"an error: {stuck}"
        thinks = f". {THOUGHTS_MEND}" if reply and reply.only_thought else ""
        self.unread = f"{said}{thinks}"
        if reply and unread == len(verdicts) >= SMALL_BATCH:
            raise JudgeError(
                f"none of {unread} questions got a reply with a verdict; the last was {said}{thinks}. Expected "
                '"Judgement: 1" or "Judgement: 0". URLs: '
                f"{', '.join(self.settings.urls)}. Look at it with: bash deepeyes.sh doctor --for judge"
            )
        logger.warning(
            "judge: no verdict in %d replies to each of %d of %d questions, which count as wrong; the last was %s%s",
            UNPARSEABLE_ASKS,
            unread,
            len(verdicts),
            said,
            thinks,
        )

    async def judge(self, question: Question) -> Verdict:
        """Judges one question, however many calls that takes.

        Raises:
            JudgeError: See `verdicts`.
        """
        self.stats.questions += 1
        prompt = self._prompt(question)
        try:
            for seed in range(UNPARSEABLE_ASKS):
                reply = await self._ask(prompt, seed)
                correct = parse_verdict(reply.text)
                if correct is not None:
                    return Verdict(correct, "judge")
                self._unread = reply
        except StuckPromptError as error:
            self._stuck = str(error)
        self.stats.unparseable += 1
        return UNPARSEABLE

    async def judge_once(self, question: Question) -> Verdict | None:
        """Judges one question in one call; None where that gives no verdict, or where all replicas rest."""
        async with self._slots:
            now = time.monotonic()
            fit = [replica for replica in self._replicas if replica.free_at <= now and replica.is_fit(now)]
            if not fit:
                return None
            try:
                reply = await self._call(min(fit, key=lambda replica: replica.in_flight), self._prompt(question), 0)
            except (TransientError, JudgeError):
                return None
        correct = parse_verdict(reply.text)
        if correct is None:
            return None
        self.stats.questions += 1
        return Verdict(correct, "judge")

    def _prompt(self, question: Question) -> str:
        template = self.settings.math_prompt if question.scoring is Scoring.MATH else self.settings.visual_prompt
        return fill_prompt(template, question)

    async def _ask(self, prompt: str, seed: int) -> Reply:
        """Returns one reply, however many calls that takes.

        Raises:
            StuckPromptError: The judge answers, but not this prompt.
            JudgeError: See `verdicts`.
        """
        start, failures, tried = time.monotonic(), _Failures(), set[str]()
        async with self._slots:
            # Those who were refused find out first whether anyone is answered.
            while self._refused and self._last_reply == -math.inf:  # noqa: ASYNC110 - rare, and short
                await asyncio.sleep(REFUSED_POLL)
            self._active += 1
            try:
                while True:
                    replica = await self._pick(start, tried)
                    try:
                        return await self._call(replica, prompt, seed)
                    except TransientError as error:
                        tried.add(replica.url)
                        self.stats.retries += 1
                        await self._bear(error, failures)
            finally:
                self._active -= 1

    async def _bear(self, error: TransientError, failures: _Failures) -> None:
        """Returns where another try makes sense."""
        failures.note(error)
        if error.patience is Patience.REFUSED and self._last_reply == -math.inf:
            await self._await_others(error)
        if not failures.are_many(self.settings.timeout):
            return
        if failures.are_of_the_prompt and self._last_reply > failures.since:
            raise StuckPromptError(str(error))
        try:
            answers = await self._answers()
        except TransientError as refusal:
            raise JudgeError(str(refusal)) from error
        if answers:
            raise StuckPromptError(str(error))
        failures.forget()

    async def _await_others(self, error: TransientError) -> None:
        """Waits until a server that refused a prompt answers another one.

        Raises:
            JudgeError: It refuses all that it is asked.
        """
        self._refused += 1
        try:
            while self._last_reply == -math.inf:
                if self._refused == self._active == 1:  # nobody else is there who could tell
                    try:
                        if await self._answers():
                            return
                    except TransientError as refusal:
                        raise JudgeError(str(refusal)) from error
                elif self._refused >= self._active:
                    raise JudgeError(str(error))
                await asyncio.sleep(REFUSED_POLL)
        finally:
            self._refused -= 1

    async def _answers(self) -> bool:
        """Tells whether the judge answers a plain question now; asked once for all who want to know.

        Raises:
            TransientError: It refuses that question, too.
        """
        if self._probe is None:
            self._probe = asyncio.ensure_future(self._try_probe())
            self._probe.add_done_callback(self._forget_probe)
        return await asyncio.shield(self._probe)

    async def _try_probe(self) -> bool:
        waiting = {asyncio.ensure_future(self._call(one, self._prompt(PROBE), 0)) for one in self._replicas}
        refusal: BaseException | None = None
        try:
            while waiting:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                errors = [one.exception() for one in done]
                if None in errors:
                    return True
                for error in errors:
                    if not isinstance(error, TransientError) or error.patience is Patience.REFUSED:
                        refusal = error
        finally:
            for one in waiting:
                one.cancel()
        if refusal:
            raise refusal
        return False

    def _forget_probe(self, probe: asyncio.Task[bool]) -> None:
        self._probe = None
        if not probe.cancelled():
            probe.exception()  # else asyncio complains where all who waited for it were cancelled

    async def _call(self, replica: Replica, prompt: str, seed: int) -> Reply:
        """Sends a prompt to a replica, once, and notes how that went."""
        sent = time.monotonic()
        replica.in_flight += 1
        self.stats.calls += 1
        try:
            reply = await self._transport.ask(replica, prompt, seed)
        except TransientError as error:
            self._last_cause = f"{replica.url}: {error}"
            replica.set_aside(sent, error)
            raise
        finally:
            replica.in_flight -= 1
        self._last_reply = time.monotonic()
        took = self._last_reply - sent
        self.latency = took if math.isnan(self.latency) else 0.8 * self.latency + 0.2 * took
        replica.take_back()
        return reply

    async def _pick(self, start: float, tried: set[str]) -> Replica:
        """Returns the free replica with the least in flight, waiting until one is free.

        Args:
            start: When the question was first put, in seconds of the monotonic clock.
            tried: URLs that failed with this question; others come first.

        Raises:
            JudgeError: No replica has answered anything for as long as the patience lasts.
        """
        while True:
            now = time.monotonic()
            silence = now - max(start, self._last_reply)
            if silence >= self.settings.patience:
                raise JudgeError(
                    f"no judge answered for {silence:.1f} s (DEEPEYES_JUDGE_PATIENCE={self.settings.patience:g}). "
                    f"URLs: {', '.join(self.settings.urls)}. Last cause: {self._last_cause}. Start a judge with: "
                    f"{JUDGE_START_COMMAND}; name it with DEEPEYES_JUDGE_URLS; or do without one: DEEPEYES_JUDGE=rule"
                )
            if free := [replica for replica in self._replicas if replica.free_at <= now]:
                fit = [replica for replica in free if replica.is_fit(now)]
                return min(
                    fit or free,
                    key=lambda replica: (replica.url in tried, replica.in_flight, random.random()),  # noqa: S311 - no secret
                )
            soonest = min(replica.free_at for replica in self._replicas) - now
            await asyncio.sleep(min(soonest, self.settings.patience - silence))


class _Failures:
    """The failures of one prompt that may be the prompt's own fault."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins anew."""
        self._stuck = self._busy = 0
        self.since = math.inf

    def note(self, error: TransientError) -> None:
        """Counts a failure."""
        if error.patience is Patience.GONE:
            return
        self.since = min(self.since, time.monotonic())
        if error.patience is Patience.BUSY:
            self._busy += 1
        else:
            self._stuck += 1

    @property
    def are_of_the_prompt(self) -> bool:
        """Tells whether they are of a kind that comes from the prompt and not from load."""
        return self._stuck >= STUCK_TRIES

    def are_many(self, timeout: float) -> bool:
        """Tells whether it is time to ask whether others are answered; `timeout` is that of one call, in seconds."""
        lasting = self._busy >= BUSY_TRIES and time.monotonic() - self.since >= timeout
        return self.are_of_the_prompt or lasting
