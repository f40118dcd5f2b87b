"""math_verify in processes of its own: in bounded time, and from any thread."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from deepeyes.judging.expressions import claims
from deepeyes.log import logger
from deepeyes.settings import Rules

if TYPE_CHECKING:
    from concurrent.futures import Future

PROCESSES = min(4, os.cpu_count() or 1)  # that compare at once; each takes about 100 MB
CPU_SECONDS = 2.0  # of one comparison, which takes some milliseconds where it ends at all
ENDLESS_SECONDS = 4.0  # CPU spent on comparisons without an end, after which each gets only:
SHORT_SECONDS = 0.1
FORGET_SECONDS = 60.0  # after so long without one, they get the whole time again
WALL_SECONDS = 30.0  # for a reply on a machine that is busy with other things
START_SECONDS = 180.0  # for the import of math_verify, which is slow on a network disk

# math_verify stops itself with signal.alarm, which works in a main thread only, and which arithmetic of big numbers
# does not hear. So a worker, forked from a process that has the libraries loaded, sets a timer of CPU time whose signal
# ends it, whatever it is doing, and the next worker is there in milliseconds. Both end when their input closes, which
# it does when the trainer is gone. What the libraries print is no reply.
_SERVER = r"""
import sys
sys.path[:1] = []
import json
import os
import resource
import select
import signal
from math_verify import parse, verify
out, sys.stdout = sys.stdout, sys.stderr
signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is the trainer's; it closes the input
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
verify(parse(r"$\frac{1}{2}$"), parse("$0.5$"))  # loads what is loaded at first use

def work(source, target):
    resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
    for line in source:
        gold, answer, seconds = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        try:
            equal = bool(verify(parse(gold), parse(answer)))
        except Exception:
            equal = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        target.write(json.dumps(equal).encode() + b"\n")
        target.flush()
    os._exit(0)

def start():
    question, ask = os.pipe()
    reply, say = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ask)
        os.close(reply)
        os.close(0)
        os.close(1)
        work(open(question, "rb"), open(say, "wb"))
    os.close(question)
    os.close(say)
    return pid, open(ask, "wb", buffering=0), open(reply, "rb")

print("ready", file=out, flush=True)
worker = start()
parent = os.getppid()
source = open(0, "rb", buffering=0)
while True:
    while not select.select([0], [], [], 2)[0]:
        if os.getppid() != parent:  # gone, while a process that it forked keeps our input open
            sys.exit()
    line = source.readline()
    if not line:
        break
    worker[1].write(line)
    reply = worker[2].readline()
    if not reply:
        worker[1].close()
        worker[2].close()
        os.waitpid(worker[0], 0)
        worker = start()
    print(reply.decode().strip() or "null", file=out, flush=True)
"""


class _Process:
    """A process that runs math_verify; it is started at first use, and again where it had to be killed."""

    def __init__(self) -> None:
        """Makes it; nothing starts yet."""
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def verify(self, gold: str, answer: str, seconds: float = CPU_SECONDS) -> bool | None:
        """Tells what math_verify says of two texts as they stand; None where it reached no end.

        Args:
            gold: The reference.
            answer: The answer.
            seconds: Of CPU time.

        Raises:
            RuntimeError: math_verify can't be imported.
        """
        with self._lock:
            reply = b""
            try:
                reply = self._ask(self._child or self._start(), json.dumps((gold, answer, seconds)).encode() + b"\n")
            finally:
                if not reply:  # dead, stuck, or interrupted: what it may still say is no answer to the next question
                    self._kill()
            return {b"true\n": True, b"false\n": False}.get(reply)

    def close(self) -> None:
        """Ends the process."""
        with self._lock:
            self._kill()

    def _start(self) -> subprocess.Popen[bytes]:
        self._child = subprocess.Popen(  # noqa: S603 - our own script, this Python
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
        )
        if self._read(self._child, START_SECONDS) != b"ready\n":
            raise RuntimeError(
                f"math_verify can't be imported by {sys.executable}; install it with: pip install math-verify"
            )
        return self._child

    def _ask(self, child: subprocess.Popen[bytes], line: bytes) -> bytes:
        assert child.stdin  # noqa: S101 - for mypy: Popen was called with a pipe
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(line)
            return self._read(child, WALL_SECONDS)
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


class MathVerifier:
    """Tells which answers are right without a judge, on several processes."""

    def __init__(self, processes: int = PROCESSES) -> None:
        """Makes a verifier that compares on so many processes at once; nothing starts yet."""
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = [_Process() for _ in range(processes)]
        for process in self._all:
            self._free.put(process)
        self._threads: ThreadPoolExecutor | None = None
        self._endless = 0.0
        self._last_endless = 0.0

    def at_once(self, reference: str, answer: str, rules: Rules) -> bool | list[tuple[str, str]]:
        """Tells in microseconds what can be told so: the verdict, or the pairs that `confirm` has to look at.

        With `official`, math_verify decides on both texts as they stand, as the authors' `rule_math_verify` does: it
        finds the last plain number, so that "8" equals "8 pi". With `corrected`, `claims` says what has to be equal,
        and math_verify has to confirm it.
        """
        if rules is Rules.OFFICIAL:
            return [(reference, answer)]
        pairs = claims(reference, answer)
        return pairs is not None if not pairs else [(f"${gold}$", f"${said}$") for gold, said in pairs]

    def confirm(self, pairs: list[tuple[str, str]]) -> Future[bool]:
        """Has math_verify compare pairs, all of which must be equal; the future raises what `equal` raises."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(len(self._all), thread_name_prefix="deepeyes-math")
        return self._threads.submit(lambda: all(self._compare(*pair) for pair in pairs))

    def equal(self, reference: str, answer: str, rules: Rules) -> bool:
        """Tells whether an answer is right without a judge, and waits for it.

        Raises:
            RuntimeError: math_verify can't be imported.
        """
        known = self.at_once(reference, answer, rules)
        return known if isinstance(known, bool) else self.confirm(known).result()

    def close(self) -> None:
        """Ends the processes."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._all:
            process.close()

    def _compare(self, gold: str, answer: str) -> bool:
        if time.monotonic() - self._last_endless > FORGET_SECONDS:
            self._endless = 0.0
        seconds = CPU_SECONDS if self._endless < ENDLESS_SECONDS else SHORT_SECONDS
        process = self._free.get()
        try:
            equal = process.verify(gold, answer, seconds)
        finally:
            self._free.put(process)
        if equal is None:
            self._last_endless = time.monotonic()
            self._endless += seconds
            logger.warning(
                "math_verify reached no end in %g s of CPU time with %.80r; the judge is asked", seconds, answer
            )
        return bool(equal)
