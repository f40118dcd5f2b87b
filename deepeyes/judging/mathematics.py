"""Mathematical equality, in bounded time and from any thread."""

from __future__ import annotations

import contextlib
import json
import select
import subprocess
import sys
import threading

from deepeyes.log import logger
from deepeyes.settings import Rules

MATH_TIMEOUT = 5.0  # seconds for one comparison, which takes some milliseconds where it ends at all
# math_verify stops itself with signal.alarm, which works in a main thread only, and which big-number
# arithmetic does not hear: so it runs in a child that can be killed, and that ends itself where nobody is
# left to kill it. What the libraries print is no reply.
_MATH_WORKER = r"""
import sys
sys.path[:1] = []
import json
import signal
from math_verify import parse, verify
replies, sys.stdout = sys.stdout, sys.stderr
verify(parse(r"$\frac{1}{2}$"), parse("$0.5$"))  # loads what is loaded at first use
print("ready", file=replies, flush=True)
for line in sys.stdin:
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    gold, answer = json.loads(line)
    try:
        equal = bool(verify(parse(gold), parse(answer)))
    except Exception:
        equal = False
    print(json.dumps(equal), file=replies, flush=True)
"""


class MathVerifier:
    """math_verify in a child process that is started at first use and again after it had to be killed."""

    def __init__(self, timeout: float = MATH_TIMEOUT, start_timeout: float = 180.0) -> None:
        """Makes a verifier; nothing starts yet.

        Args:
            timeout: Seconds for one comparison.
            start_timeout: Seconds for the import of math_verify, which is slow on a network disk.
        """
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def equal(self, gold: str, answer: str, rules: Rules) -> bool:
        r"""Tells whether math_verify holds two answers for equal; one that it can't decide in time is not.

        With `official` both are parsed as they stand, which is what the authors' `rule_math_verify` does. It finds
        the last plain number, so that "8" equals "8\pi" and "2^{10}" equals "2": with `corrected` both are LaTeX.

        Raises:
            RuntimeError: math_verify can't be imported.
        """
        pair = (gold, answer)
        if rules is Rules.CORRECTED:
            pair = (f"${gold.strip('$ ')}$", f"${answer.strip('$ ')}$")
        with self._lock:
            reply = b""
            try:
                reply = self._ask(self._child or self._start(), json.dumps(pair).encode() + b"\n")
            finally:
                if not reply:  # dead, hanging, or interrupted: what it may still say is no answer to the next question
                    self._kill()
            if not reply:
                logger.warning("math_verify gave no result in %g s for %.80r", self._timeout, answer)
            return reply == b"true\n"

    def close(self) -> None:
        """Ends the child."""
        with self._lock:
            self._kill()

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(  # noqa: S603 - our own script, this Python
            [sys.executable, "-c", _MATH_WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if self._read(self._child, self._start_timeout) != b"ready\n":
            raise RuntimeError(
                f"math_verify can't be imported by {sys.executable}; install it with: pip install math-verify"
            )
        return self._child

    def _ask(self, child: subprocess.Popen[bytes], line: bytes) -> bytes:
        assert child.stdin  # noqa: S101 - for mypy: Popen was called with a pipe
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(line)
            return self._read(child, self._timeout)
        return b""

    def _kill(self) -> None:
        child, self._child = self._child, None
        if child:
            child.kill()
            child.communicate()

    @staticmethod
    def _read(child: subprocess.Popen[bytes], timeout: float) -> bytes:
        """Returns a line of the child; nothing where it is dead or says none in time."""
        assert child.stdout  # noqa: S101 - for mypy: Popen was called with a pipe
        poll = select.poll()  # not select.select, which knows no file number above 1023
        poll.register(child.stdout, select.POLLIN)
        return child.stdout.readline() if poll.poll(timeout * 1000) else b""
