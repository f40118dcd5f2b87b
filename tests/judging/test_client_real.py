"""The judge client against a real one: `swift deploy` with vLLM on the CPU serves a tiny model that talks nonsense."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from deepeyes.errors import JudgeError
from deepeyes.judging.client import JudgeClient
from deepeyes.settings import JudgeSettings, Scoring
from deepeyes.verdicts import Question, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

START_SECONDS = 600  # vLLM takes two minutes on a machine that has nothing else to do


class Deployment:
    """A judge behind `swift deploy`, in a session of its own."""

    def __init__(self, model: Path, log: Path) -> None:
        """Starts it, and waits until it serves."""
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"
        options = {
            "model": model,
            "model_type": "qwen2_5_vl",
            "template": "qwen2_5_vl",
            "infer_backend": "vllm",
            "torch_dtype": "float32",
            "vllm_enforce_eager": "true",
            "vllm_max_model_len": 2048,
            # vLLM 0.23 on the CPU dies when it splits the prompt of a request with a seed: the plugin retries with one
            "vllm_engine_kwargs": '{"enable_chunked_prefill": false}',
            "served_model_name": "tiny-judge",
            "host": "127.0.0.1",
            "port": port,
        }
        command = [str(Path(sys.executable).with_name("swift")), "deploy"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        self.log = log
        with log.open("w") as output:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        end = time.monotonic() + START_SECONDS
        while not self._serves():
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                pytest.fail(f"swift deploy did not start; it said:\n{self.said()}")
            time.sleep(1)

    def _serves(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/models", timeout=5):  # noqa: S310 - our own
            return True
        return False

    def said(self) -> str:
        """Returns the end of its log, without the requests that it prints."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if "infer_request" not in line]
        return "\n".join(lines[-150:])

    def kill(self) -> None:
        """Ends it with all its processes, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def deployment(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    one = Deployment(tiny_model, tmp_path_factory.mktemp("deploy") / "log.txt")
    yield one
    one.kill()


def questions(count: int) -> list[Question]:
    return [Question(Scoring.VISUAL, f"What is thing {i}?", "a lamp", f"thing {i} is a lamp") for i in range(count)]


class TestRealJudge:
    """In this order: the second test kills the server."""

    def test_many_questions_at_once_are_answered_and_nonsense_is_no_verdict(self, deployment: Deployment) -> None:
        settings = JudgeSettings(urls=(deployment.url,), concurrency=32, timeout=240, patience=240, max_tokens=16)
        with contextlib.closing(JudgeClient(settings)) as client:
            with pytest.raises(JudgeError, match="none of 32 questions got a reply with a verdict"):
                client.verdicts(questions(32))
            assert client.verdicts(questions(4)) == [Verdict(correct=False, source="unparseable")] * 4
            assert (client.stats.calls, client.stats.retries, client.stats.unparseable) == (108, 0, 36)

    def test_kill_in_the_middle_is_an_outage(self, deployment: Deployment) -> None:
        settings = JudgeSettings(urls=(deployment.url,), concurrency=4, timeout=300, patience=5)
        with contextlib.closing(JudgeClient(settings)) as client, ThreadPoolExecutor(1) as pool:
            batch = pool.submit(client.verdicts, questions(500))
            while client.stats.calls < 6 and not batch.done():
                time.sleep(0.1)
            deployment.kill()
            with pytest.raises(JudgeError, match=r"no judge answered for 5\.\d s .*bash deploy_judge\.sh") as caught:
                batch.result(300)
            assert deployment.url in str(caught.value)
            assert client.stats.retries > 0
