"""Counters of a judge."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class JudgeStats:
    """Counters of a process, since its start.

    Attributes:
        questions: Distinct questions that were put to the judge.
        cache_hits: Questions equal to one that was judged before, in the same batch or an earlier one.
        calls: HTTP requests for a verdict.
        retries: Requests repeated because of an error of the server or the network.
        unparseable: Questions given up because no reply held a verdict.
        seconds: Time that batches waited.
    """

    questions: int = 0
    cache_hits: int = 0
    calls: int = 0
    retries: int = 0
    unparseable: int = 0
    seconds: float = 0.0

    def since(self, earlier: JudgeStats) -> JudgeStats:
        """Returns what was counted after `earlier`."""
        return JudgeStats(**{name: value - getattr(earlier, name) for name, value in vars(self).items()})

    def __str__(self) -> str:
        """One line for the log."""
        return (
            f"{self.questions} asked in {self.calls} calls, {self.cache_hits} known, {self.retries} retries, "
            f"{self.unparseable} unparseable, {self.seconds:.2f} s"
        )
