"""Verdicts for a process: what is known, then mathematics, then the rule judge or the server."""

from __future__ import annotations

import os
import re
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from cachetools import LRUCache

from deepeyes.judging.client import JudgeClient
from deepeyes.judging.mathematics import MathVerifier
from deepeyes.judging.rule import rule_verdict
from deepeyes.judging.stats import JudgeStats
from deepeyes.log import logger
from deepeyes.settings import JudgeKind, Rules, Scoring, Settings
from deepeyes.verdicts import UNPARSEABLE, Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence


VERDICT_CACHE_SIZE = (
    50_000  # verdicts kept from step to step; about 200 steps of 256 prompts with 16 answers of 3 kinds
)
_judges: dict[int, Judge] = {}


def judge_of_process(settings: Settings) -> Judge:
    """Returns the judge of this process; one that forks gets a new one, with threads of its own."""
    return _judges.setdefault(os.getpid(), _judges.get(os.getpid()) or Judge(settings))


class Judge:
    """Verdicts for a process: what is known, then mathematics, then the rule judge or the server."""

    def __init__(self, settings: Settings) -> None:
        """Makes a judge; nothing is started or sent yet."""
        self.stats = JudgeStats()
        self._settings = settings
        self._known: LRUCache[Question, Verdict] = LRUCache(VERDICT_CACHE_SIZE)
        self._lock = threading.Lock()
        self._math = MathVerifier()
        self._client: JudgeClient | None = None
        if settings.judge.kind is JudgeKind.RULE:
            logger.info("judge: the rule judge of the plugin (DEEPEYES_JUDGE=rule); no LLM is asked")

    def verdicts(self, questions: Sequence[Question]) -> list[Verdict]:
        """Judges questions; equal ones cost one call, now and later, in whatever thread they come.

        Raises:
            JudgeError: See `JudgeClient.verdicts`.
        """
        with self._lock:  # one batch at a time, so that the second of two equal ones finds its verdicts known
            start, before = time.monotonic(), replace(self.stats)
            distinct = dict.fromkeys(questions)
            asked = [question for question in distinct if question not in self._known]
            if asked:  # a new step: what the judge could not say before it may say now
                asked = [question for question in distinct if self._known.get(question, UNPARSEABLE) == UNPARSEABLE]
            verdicts = self._ask(asked)
            known = {question: verdicts.get(question) or self._known[question] for question in distinct}
            self._known.update(known)
            self.stats.cache_hits += len(questions) - len(asked)
            self.stats.seconds += time.monotonic() - start
            step = self.stats.since(before)
            if step.questions and os.environ.get("RANK", "0") in ("0", "-1"):
                logger.info("judge: %s", step)
            return [known[question] for question in questions]

    def close(self) -> None:
        """Ends what the judge started: the child that verifies mathematics, and the client."""
        self._math.close()
        if self._client is not None:
            self._client.close()

    def _ask(self, questions: list[Question]) -> dict[Question, Verdict]:
        verdicts = {
            question: Verdict(correct=True, source="math")
            for question in questions
            if question.scoring is Scoring.MATH
            and self._math.equal(question.reference, question.answer, self._settings.rules)
        }
        rest = [question for question in questions if question not in verdicts]
        if self._settings.judge.kind is JudgeKind.RULE:
            verdicts.update((question, Verdict(self._agrees(question), "rule")) for question in rest)
        elif rest:
            if self._client is None:
                self._client = JudgeClient(self._settings.judge, self.stats)
            verdicts.update(zip(rest, self._client.verdicts(rest), strict=True))
        return verdicts

    def _agrees(self, question: Question) -> bool:
        """Asks the rule judge; where the reference is a number or a formula, math_verify too."""
        if rule_verdict(*question[1:]):
            return True
        formula = question.scoring is Scoring.VISUAL and re.fullmatch(
            r"[^A-Za-z]*\d[^A-Za-z]*|\S*\\\S*", question.reference
        )
        return bool(formula) and self._math.equal(question.reference, question.answer, Rules.CORRECTED)
