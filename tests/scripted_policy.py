"""A policy of known pass rates behind an endpoint, and the rows that it plays."""

from __future__ import annotations

import json
import re
import threading
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from row_maker import make_row, picture, save

from deepeyes.selection.cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TOOL_CALL = (
    '<think>see</think><tool_call>{"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 56, 56]}}</tool_call>'
)


@dataclass
class Policy:
    """Answers rows of `write_rows`; the first trajectories of a row are right, as many as are to be.

    Attributes:
        rates: Row -> right trajectories as trained, and without the tool.
        zooms: Rows that are zoomed into.
        refused: Rows whose requests the endpoint refuses.
        fails_after: Requests after which the endpoint refuses the key, which no retry mends.
        asked: Trajectories that began, by row and by whether there was a tool.
    """

    rates: dict[int, tuple[int, int]]
    zooms: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()
    fails_after: int | None = None
    requests: int = 0
    asked: Counter[tuple[int, bool]] = field(default_factory=Counter)
    answered: Counter[tuple[int, bool]] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)
    url: str = ""

    def reply(self, body: dict[str, Any]) -> tuple[int, str]:
        text = json.dumps(body["messages"])
        (row,) = {int(number) for number in re.findall(r"What is shown in (\d+)\?", text)}
        tool = "image_zoom_in_tool" in text
        with self.lock:
            self.requests += 1
            if self.fails_after is not None and self.requests > self.fails_after:
                return 401, "the key is not known"
            if row in self.refused:
                return 400, "the prompt is too long"
            if not any(turn["role"] == "assistant" for turn in body["messages"]):
                self.asked[row, tool] += 1
                if tool and row in self.zooms:
                    return 200, TOOL_CALL
            number = self.answered[row, tool]
            self.answered[row, tool] += 1
        right = number < self.rates[row][0 if tool else 1]
        return 200, f"<think>I see</think><answer>{f'a line, {row}' if right else 'a circle'}</answer>"


class Server(ThreadingHTTPServer):
    request_queue_size = 128  # connections that wait; all trajectories begin at once


@contextmanager
def serving(policy: Policy) -> Iterator[Policy]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send(200, {"object": "list", "data": [{"id": "m", "object": "model"}]})

        def do_POST(self) -> None:
            status, said = policy.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if status != 200:
                self.send(status, {"error": {"message": said}})
                return
            message = {"role": "assistant", "content": said}
            choice = {"index": 0, "finish_reason": "stop", "message": message}
            usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
            base = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
            self.send(200, {**base, "choices": [choice], "usage": usage})

        def send(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    policy.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield policy
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_rows(path: Path, count: int, start: int = 0, **changes: Any) -> Path:
    """Writes rows of which each has a picture of its own that can be zoomed into."""
    images = [[{"bytes": picture(start + n, (112, 112)), "path": None}] for n in range(count)]
    rows = [make_row(start + n, images=image, **changes) for n, image in enumerate(images)]
    return save(path, rows)


def select(policy: Policy, out: Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    """Runs the program and returns its status and the choice."""
    words = ["--url", policy.url, "--skip-view-check", "--retries", "0", "--out", out, "--samples", 4, *arguments]
    status = main([str(word) for word in words])
    path = out / "choice.json"
    return status, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
