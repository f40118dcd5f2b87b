"""Programs of the project and of swift that serve while a test runs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).resolve().parent.parent
SWIFT = Path(sys.executable).with_name("swift")
KIND = ("--model_type", "qwen2_5_vl", "--template", "qwen2_5_vl")
"""What a hub's name tells and a folder's does not."""
START_SECONDS = 1200
"""For vLLM on a busy CPU; idle, it takes a minute or two."""


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        return int(free.getsockname()[1])


def environment(**settings: object) -> dict[str, str]:
    """This process's, with what vLLM and the scripts need, and settings."""
    needs = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_TARGET_DEVICE": "cpu", "DEEPEYES_JUDGE": "rule", "SWIFT": str(SWIFT)}
    return {**os.environ, **needs, **{name: str(value) for name, value in settings.items()}}


@contextlib.contextmanager
def serving(command: Sequence[object], *, url: str, log: Path, **settings: object) -> Iterator[None]:
    """A program in a session of its own, from the first answer at a URL to Ctrl-C."""
    words, env = [str(word) for word in command], environment(**settings)
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            assert process.poll() is None, f"{words} ended:\n{log.read_text()[-6000:]}"
            assert time.monotonic() < deadline, f"{words} does not answer:\n{log.read_text()[-6000:]}"
            with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own server
                break
            time.sleep(1)
        yield
        assert process.poll() is None, f"{words} ended by itself:\n{log.read_text()[-6000:]}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
