"""`bash deepeyes.sh serve` as a user starts it: what it says, what it refuses, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from serve_world import Asked, Script, Turn, ask, plain_picture, playing

ROOT = Path(__file__).resolve().parents[2]
ENV = {**os.environ, "SWIFT": str(Path(sys.executable).with_name("swift")), "DEEPEYES_SERVE_API_KEY": ""}


def command(*words: object) -> list[str]:
    return ["bash", str(ROOT / "deepeyes.sh"), "serve", *map(str, words)]


class TestStart:
    def test_server_says_where_it_is_answers_and_ends_with_ctrl_c(self) -> None:
        with playing(Script(lambda _: "<answer>red</answer>")) as script:
            words = command("--url", script.url, "--port", 0)
            with subprocess.Popen(words, env=ENV, stderr=subprocess.PIPE, text=True, cwd="/") as process:
                assert process.stderr
                line = next(line for line in process.stderr if "endpoint " in line)
                url = line.rpartition("endpoint ")[2].strip()
                assert line.startswith("serve: org/scripted-7b with its zoom")
                reply = httpx.post(
                    f"{url}/chat/completions", json={"messages": ask(plain_picture())}, timeout=60
                ).json()
                assert reply["choices"][0]["message"]["content"] == "red"
                process.send_signal(signal.SIGINT)
                assert process.wait(30) == 0

    @pytest.mark.parametrize(("side", "said"), [(28, ""), (14, "it scales the view again")])
    def test_endpoint_that_scales_the_view_again_is_told_of(self, side: int, said: str) -> None:
        def policy(asked: Asked) -> Turn:
            tokens = sum(image.width * image.height // side**2 + 2 for image in asked.images)
            return Turn("red", usage=(50 + tokens, 1))

        with playing(Script(policy)) as script:
            words = command("--url", script.url, "--port", 0)
            with subprocess.Popen(words, env=ENV, stderr=subprocess.PIPE, text=True) as process:
                assert process.stderr
                lines = []
                while process.poll() is None and "endpoint http" not in "".join(lines[-1:]):
                    lines.append(process.stderr.readline())
                process.send_signal(signal.SIGINT)
                process.wait(30)
        assert ("the view:" in "".join(lines)) == bool(said)
        assert said in "".join(lines)

    @pytest.mark.parametrize(
        ("words", "status", "said"),
        [
            (["--host", "0.0.0.0"], 2, "set DEEPEYES_SERVE_API_KEY"),  # noqa: S104 - refused
            (["--max-pixels", "100"], 2, "takes no fewer than"),
            (["--prompt-from", "/nowhere.parquet"], 2, "--prompt-from /nowhere.parquet"),
            (["--port", "{taken}"], 1, "another --port"),
        ],
    )
    def test_what_can_not_be_is_refused_with_what_mends_it(self, words: list[str], status: int, said: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            asked = [word.format(taken=port) for word in words]
            module = [sys.executable, "-m", "deepeyes.serving", "--url", "http://127.0.0.1:9/v1", *asked]
            done = subprocess.run(module, env=ENV, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
        assert done.returncode == status
        assert said in done.stderr
        assert "Traceback" not in done.stderr
