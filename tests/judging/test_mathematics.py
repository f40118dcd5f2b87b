"""Mathematics: what is settled without a judge, in bounded time and from any thread."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import psutil
import pytest

from deepeyes.judging.mathematics import MathVerifier
from deepeyes.settings import Rules

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
EQUAL = [
    (r"\frac{1}{2}", "0.5"),
    (r"\frac{1}{2}", "1/2"),
    ("$\\frac{1}{2}$", r"\frac12"),
    (r"x^2+2x+1", "(x+1)^2"),
    ("1,000", "1000"),
    ("30^\\circ", "30"),
    ("12 cm", "12"),
    ("x=3", "3"),
    ("{1,2}", "{2,1}"),
]
UNEQUAL = [
    ("1", "2"),
    ("8", r"8\pi"),
    (r"8\pi", "8"),
    ("2", "2^{10}"),
    ("3", r"3\sqrt{2}"),
    ("6", "6x"),
    ("4", "not 4"),
    ("3", "1 or 2 or 3"),
    ("5", "-5"),
    ("(1,2)", "(2,1)"),
    ("red", "blue"),
    ("", "1"),
    ("1", ""),
    ("1", "\ud800\x00"),
    ("1", r"\frac{" * 100),
]
ENDLESS = r"2^{2^{36}}"


@pytest.fixture(scope="module")
def math() -> Iterator[MathVerifier]:
    with contextlib.closing(MathVerifier(timeout=20)) as verifier:
        yield verifier


def child_of(verifier: MathVerifier) -> psutil.Process:
    """The process in which a verifier computes, started for the purpose."""
    before = set(psutil.Process().children())
    assert verifier.equal("1", "1", Rules.CORRECTED)
    (child,) = set(psutil.Process().children()) - before
    return child


class TestMathVerifier:
    """Equality of mathematics, in bounded time and from any thread."""

    @pytest.mark.parametrize(("gold", "answer"), EQUAL)
    def test_equal(self, math: MathVerifier, gold: str, answer: str) -> None:
        assert math.equal(gold, answer, Rules.CORRECTED)

    @pytest.mark.parametrize(("gold", "answer"), UNEQUAL)
    def test_unequal(self, math: MathVerifier, gold: str, answer: str) -> None:
        assert not math.equal(gold, answer, Rules.CORRECTED)

    @pytest.mark.parametrize("answer", [r"8\pi", "8x", "not 8"])
    def test_official_takes_the_last_number(self, math: MathVerifier, answer: str) -> None:
        assert math.equal("8", answer, Rules.OFFICIAL)

    def test_threads_get_each_their_own_result(self, math: MathVerifier) -> None:
        pairs = [(str(i), str(i + i % 2)) for i in range(200)]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda pair: math.equal(*pair, Rules.CORRECTED), pairs))
        assert results == [i % 2 == 0 for i in range(200)]

    def test_endless_computation_is_killed_and_the_next_one_right(self) -> None:
        with contextlib.closing(MathVerifier(timeout=2)) as verifier:
            child = child_of(verifier)
            assert not verifier.equal("1", ENDLESS, Rules.CORRECTED)
            assert not child.is_running()
            assert child_of(verifier) != child

    def test_child_that_died_is_started_again(self) -> None:
        with contextlib.closing(MathVerifier()) as verifier:
            child = child_of(verifier)
            child.kill()
            child.wait(5)
            assert not verifier.equal("1", "1", Rules.CORRECTED)  # the judge is asked
            assert verifier.equal("1", "1", Rules.CORRECTED)

    def test_interrupted_comparison_answers_no_later_one(self) -> None:
        with contextlib.closing(MathVerifier(timeout=60)) as verifier:
            child_of(verifier)
            timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                verifier.equal("1", ENDLESS, Rules.CORRECTED)
            timer.join()
            assert verifier.equal("2", "2", Rules.CORRECTED)
            assert not verifier.equal("2", "3", Rules.CORRECTED)

    def test_close_ends_the_child(self) -> None:
        verifier = MathVerifier()
        child = child_of(verifier)
        verifier.close()
        assert not child.is_running()
        verifier.close()

    def test_child_ends_with_its_parent(self) -> None:
        reader, writer = os.pipe()
        parent = os.fork()
        if not parent:
            with contextlib.suppress(BaseException):
                os.write(writer, str(child_of(MathVerifier()).pid).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(parent, 0)
        child = int(os.read(reader, 20))
        os.close(reader)
        end = time.monotonic() + 10
        while _is_running(child) and time.monotonic() < end:
            time.sleep(0.05)
        assert not _is_running(child)

    def test_file_numbers_above_1023_work(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
        files: list[int] = []
        try:
            while not files or files[-1] < 1030:
                files.append(os.open(os.devnull, os.O_RDONLY))
            with contextlib.closing(MathVerifier()) as verifier:
                assert verifier.equal("1", "1.0", Rules.CORRECTED)
        finally:
            for file in files:
                os.close(file)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_what_libraries_print_is_no_reply(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "math_verify.py").write_text(
            "def parse(text): print('true'); return text\ndef verify(a, b): print('true'); return a == b\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with contextlib.closing(MathVerifier()) as verifier:
            results = [verifier.equal("1", answer, Rules.CORRECTED) for answer in ("2", "1", "2", "1")]
        assert results == [False, True, False, True]

    def test_missing_library_says_how_to_install_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "math_verify.py").write_text("import no_such_module\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(RuntimeError, match="pip install math-verify"):
            MathVerifier().equal("1", "1", Rules.CORRECTED)


def _is_running(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
