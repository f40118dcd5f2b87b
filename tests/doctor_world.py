"""What the preflight looks at: servers, GPUs and findings."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from judge_server import say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pytest

    from deepeyes.doctor.findings import Finding, Level


ENGINE = {"engine_type": "AsyncLLMEngine", "enable_multi_turn": True, "use_gym_env": False, "enable_lora": False}
SETTINGS = ("--model", "m/Qwen2.5-VL-7B", "--multi_turn_scheduler", "deepeyes_scheduler", "--max_turns", "5")


def levels(findings: list[Finding]) -> dict[str, Level]:
    return {finding.check: finding.level for finding in findings}


def only(findings: list[Finding]) -> Finding:
    (finding,) = findings
    return finding


@contextmanager
def http_server(replies: dict[str, tuple[int, Any]]) -> Iterator[int]:
    """Serves JSON by path; anything else is status 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, value = replies.get(self.path, (404, {"detail": "Not Found"}))
            body = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the name that http.server calls

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


ROLLOUT_PROGRAM = f"""
import http.server, json
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.dumps({ENGINE!r}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""


@contextmanager
def rollout_process(*arguments: str, **environment: str) -> Iterator[int]:
    """Runs what answers as a rollout server does, in a process with that command line and environment."""
    process = subprocess.Popen(  # the listener itself is what the preflight looks at
        [sys.executable, "-c", ROLLOUT_PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def use_gpus(monkeypatch: pytest.MonkeyPatch, directory: Path, *rows: str) -> None:
    """Puts an nvidia-smi on PATH that lists these rows."""
    program = directory / "nvidia-smi"
    program.write_text("#!/bin/sh\n" + "".join(f"echo '{row}'\n" for row in rows), encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")


def judge_rightly(call: Any) -> Any:
    """Answers as a judge that knows the two sample questions."""
    return say(f"Judgement: {int('red' in call.answer)}")
