"""Replicas of a judge: which one to ask, and how long to leave one alone that failed."""

from __future__ import annotations

import contextlib
import math
import random
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum

from deepeyes.log import logger

MIN_BACKOFF, MAX_BACKOFF = 0.05, 5.0  # seconds
TELL_AFTER = 3  # failures in a row; fewer are everyday life, and the counters have them
MAX_RETRY_AFTER = 60.0  # seconds; a server may ask for longer, we look again after this


class Patience(Enum):
    """How long a fault may stay with one prompt while other prompts are answered, until that prompt is given up."""

    REFUSED = "three tries: a status such as 400, which no second try mends unless the first was unlucky"
    STUCK = "three tries: a status 500, or no reply in time"
    BUSY = "as long as one call may take, and several tries: a full queue, a gateway, a garbled reply"
    GONE = "for ever: nobody was there who could have minded the prompt"


class TransientError(Exception):
    """A fault after which the same request may succeed."""

    def __init__(self, cause: str, retry_after: float = 0.0, patience: Patience = Patience.BUSY) -> None:
        """Makes a fault of that cause.

        Args:
            cause: In the server's own words where it has some.
            retry_after: Seconds of rest that the server asks for.
            patience: How long it may stay with one prompt.
        """
        super().__init__(cause)
        self.retry_after = retry_after
        self.patience = patience


def backoff(failures: int, jitter: float) -> float:
    """Returns the seconds to leave a replica alone.

    Args:
        failures: Failures in a row, from 1.
        jitter: From 0 to 1.
    """
    return min(MAX_BACKOFF, MIN_BACKOFF * 2.0 ** min(failures - 1, 30)) * (0.5 + 0.5 * jitter)


def retry_after_seconds(retry_after: str) -> float:
    """Reads a `Retry-After` header, which holds seconds or a date; 0 where it holds neither."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(retry_after))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    return 0.0


@dataclass(eq=False)
class Replica:
    """One URL.

    Attributes:
        url: The base URL.
        model: The name of the model that it serves, once it is known.
        refuses: Optional fields of a request that the server refused by name.
        in_flight: Calls that wait for a reply.
        failures: Failures in a row.
        failed_at: When the last one was noted, in seconds of the monotonic clock, as all times here.
        free_at: Until then it is left alone.
        wasted: Seconds that the last failed call took.
    """

    url: str
    model: str | None = None
    refuses: set[str] = field(default_factory=set)
    in_flight: int = 0
    failures: int = 0
    failed_at: float = -math.inf
    free_at: float = -math.inf
    wasted: float = 0.0

    def set_aside(self, sent: float, error: TransientError) -> None:
        """Notes that a call of the time `sent` failed."""
        now, delay = time.monotonic(), min(error.retry_after, MAX_RETRY_AFTER)
        if sent >= self.failed_at:  # else it is of the same burst as a failure that already counts
            self.failures += 1
            self.failed_at, self.wasted = now, now - sent
            delay = max(delay, backoff(self.failures, random.random()))  # noqa: S311 - no secret
            if self.failures == TELL_AFTER:
                logger.warning("judge: %s fails and is tried again from time to time: %s", self.url, error)
        self.free_at = max(self.free_at, now + delay)

    def take_back(self) -> None:
        """Notes that a call succeeded."""
        if self.failures >= TELL_AFTER:
            logger.info("judge: %s answers again", self.url)
        self.failures = 0

    def is_fit(self, now: float) -> bool:
        """Tells whether to use it while others are healthy: after a failure for one call at a time, and ever later.

        So a replica that hangs holds up one question now and then, and not half of every batch.
        """
        return not self.failures or (not self.in_flight and now >= self.failed_at + self.failures * self.wasted)
