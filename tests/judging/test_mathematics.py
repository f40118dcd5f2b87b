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
    ("$\\frac{1}{2}$", r"\frac12"),
    (r"x^2+2x+1", "(x+1)^2"),
    (r"2\sqrt{3}", r"\sqrt{12}"),
    (r"\frac{\sqrt{3}}{3}", r"\frac{1}{\sqrt{3}}"),
    (r"\frac{\pi}{4}", r"\pi/4"),
    ("2^{10}", "1024"),
    (r"\pm\sqrt{2}", r"-\sqrt{2}, \sqrt{2}"),
    ("1,000", "1000"),
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
    ("12 cm", "12"),
    ("x=3", "3"),
    ("5", "-5"),
    ("(1,2)", "(2,1)"),
    ("red", "blue"),
    ("", "1"),
    ("1", ""),
    ("1", "\ud800\x00"),
    ("1", r"\frac{" * 100),
]
ENDLESS = r"$2^{2^{36}}$"


@pytest.fixture(scope="module")
def math() -> Iterator[MathVerifier]:
    with contextlib.closing(MathVerifier()) as verifier:
        yield verifier


def server_of(verifier: MathVerifier) -> psutil.Process:
    """The process that a verifier started, with one worker below it."""
    before = set(psutil.Process().children())
    assert verifier.equal("1", "1", Rules.OFFICIAL)
    (server,) = set(psutil.Process().children()) - before
    assert len(server.children()) == 1
    return server


def family_of(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def gone(processes: list[psutil.Process], seconds: float = 10.0) -> bool:
    """Waits for processes to end."""
    end = time.monotonic() + seconds
    while any(_is_running(one.pid) for one in processes) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(_is_running(one.pid) for one in processes)


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
        pairs = [(rf"{i}\sqrt{{2}}", rf"\sqrt{{2}} \cdot {i + i % 2}") for i in range(1, 101)]
        with ThreadPoolExecutor(8) as pool:
            results = list(pool.map(lambda pair: math.equal(*pair, Rules.CORRECTED), pairs))
        assert results == [i % 2 == 0 for i in range(1, 101)]

    def test_plain_numbers_and_what_plainly_differs_start_no_process(self) -> None:
        with contextlib.closing(MathVerifier()) as verifier:
            before = psutil.Process().children()
            for gold, answer in [("0.5", "1/2"), (r"2\sqrt{3}", r"\sqrt{3}"), ("1", ENDLESS), ("5 cm", "5")]:
                verifier.equal(gold, answer, Rules.CORRECTED)
            assert psutil.Process().children() == before

    def test_endless_computation_is_ended_and_the_next_one_right(self) -> None:
        with contextlib.closing(MathVerifier(1)) as verifier:
            server = server_of(verifier)
            (worker,) = server.children()
            assert not verifier.equal("1", ENDLESS, Rules.OFFICIAL)
            assert gone([worker])
            assert verifier.equal("2", "2", Rules.OFFICIAL)
            assert server.is_running()

    def test_64_towers_take_no_longer_than_few(self) -> None:
        with contextlib.closing(MathVerifier()) as verifier:
            verifier.equal("1", "1", Rules.OFFICIAL)
            found = [verifier.confirm([("1", ENDLESS)]) for _ in range(64)]
            assert [one.result(120) for one in found] == [False] * 64
            servers = psutil.Process().children()  # their times hold those of the workers that were ended
            spent = sum(sum(server.cpu_times()[:4]) for server in servers)
            assert 4 < spent < 60  # seconds of CPU; a plain time-out of 2 s each would make 128
            assert verifier.equal("3", "3", Rules.OFFICIAL)

    def test_process_that_died_is_started_again(self) -> None:
        with contextlib.closing(MathVerifier(1)) as verifier:
            server = server_of(verifier)
            server.kill()
            server.wait(5)
            assert not verifier.equal("1", "1", Rules.OFFICIAL)  # the judge is asked
            assert verifier.equal("1", "1", Rules.OFFICIAL)

    def test_interrupted_comparison_answers_no_later_one(self) -> None:
        with contextlib.closing(MathVerifier(1)) as verifier:
            server_of(verifier)
            timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
            timer.start()
            with pytest.raises(KeyboardInterrupt):
                verifier.equal("1", ENDLESS, Rules.OFFICIAL)
            timer.join()
            assert verifier.equal("2", "2", Rules.OFFICIAL)
            assert not verifier.equal("2", "3", Rules.OFFICIAL)

    def test_close_ends_the_processes(self) -> None:
        verifier = MathVerifier(1)
        family = family_of(server_of(verifier))
        verifier.close()
        assert gone(family)
        verifier.close()

    @pytest.mark.parametrize("heir", [False, True], ids=["alone", "while a fork of the parent lives on"])
    def test_processes_end_with_their_parent(self, heir: bool) -> None:  # noqa: FBT001
        reader, writer = os.pipe()
        parent = os.fork()
        if not parent:
            with contextlib.suppress(BaseException):
                family = family_of(server_of(MathVerifier(1)))
                if heir and not os.fork():
                    time.sleep(8)
                    os._exit(0)
                os.write(writer, " ".join(str(one.pid) for one in family).encode())
            os._exit(0)
        os.close(writer)
        os.waitpid(parent, 0)
        pids = [int(pid) for pid in os.read(reader, 100).split()]
        os.close(reader)
        assert len(pids) == 2
        end = time.monotonic() + 6
        while any(map(_is_running, pids)) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(map(_is_running, pids))

    def test_file_numbers_above_1023_work(self) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(2048, hard), hard))
        files: list[int] = []
        try:
            while not files or files[-1] < 1030:
                files.append(os.open(os.devnull, os.O_RDONLY))
            with contextlib.closing(MathVerifier()) as verifier:
                assert verifier.equal("1", "1.0", Rules.OFFICIAL)
        finally:
            for file in files:
                os.close(file)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def test_what_libraries_print_is_no_reply(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "math_verify.py").write_text(
            "def parse(text): print('true'); return text\ndef verify(a, b): print('true'); return a == b\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with contextlib.closing(MathVerifier(1)) as verifier:
            results = [verifier.equal("1", answer, Rules.OFFICIAL) for answer in ("2", "1", "2", "1")]
        assert results == [False, True, False, True]

    def test_missing_library_says_how_to_install_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "math_verify.py").write_text("import no_such_module\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(RuntimeError, match="pip install math-verify"):
            MathVerifier().equal("1", "1", Rules.OFFICIAL)


def _is_running(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
