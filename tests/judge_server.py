"""A judge that follows a script: an OpenAI-compatible server on the loopback interface, with every fault on demand.

It stands at the only boundary that the tests fake, HTTP. As a program it is the judge of benchmarks/judge.py:

    python tests/judge_server.py SECONDS    # prints its URL; answers each question after so many seconds
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from types import TracebackType

    from typing_extensions import Self

    Action = Callable[[asyncio.StreamWriter], Awaitable[None]]
    Script = Callable[["Call"], Action]

MODEL = "judge-72b"


class Call(NamedTuple):
    """A request for a verdict.

    Attributes:
        number: From 0, over all calls of this server.
        asked: How often this very prompt was asked before.
        prompt: What the judge reads.
        body: The whole request.
        headers: With names in lower case.
        time: Seconds of the monotonic clock.
    """

    number: int
    asked: int
    prompt: str
    body: dict[str, Any]
    headers: dict[str, str]
    time: float

    @property
    def answer(self) -> str:
        """The answer to be judged, in either of the plugin's own prompts."""
        return self.prompt.rpartition("[Model answer] ")[2].strip()


# What the server can do with a call.


def respond(status: int, body: bytes, headers: str = "", *, pieces: int = 1) -> Action:
    """Answers with a status and a body, which may come in several pieces."""

    async def act(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} Scripted\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        writer.write(head.encode())
        size = -(-len(body) // pieces) or 1
        for start in range(0, len(body), size):
            writer.write(body[start : start + size])
            await writer.drain()
            if pieces > 1:
                await asyncio.sleep(0.02)

    return act


def completion(content: Any, finish_reason: str | None = None, **fields: Any) -> bytes:
    """The body of a chat completion; `fields` are more of the message, such as `reasoning`."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content, **fields}}
    choice |= {"finish_reason": finish_reason} if finish_reason else {}
    return json.dumps({"object": "chat.completion", "choices": [choice]}).encode()


def say(content: Any, *, pieces: int = 1, **fields: Any) -> Action:
    """Answers with a chat completion."""
    return respond(200, completion(content, **fields), "Content-Type: application/json\r\n", pieces=pieces)


async def reset(writer: asyncio.StreamWriter) -> None:
    """Breaks the connection off."""
    writer.transport.abort()


async def hang(_writer: asyncio.StreamWriter) -> None:
    """Never answers."""
    await asyncio.sleep(3600)


async def stop_halfway(writer: asyncio.StreamWriter) -> None:
    """Announces more than it sends, and closes."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + completion("Judgement: 1")[:40])
    await writer.drain()
    writer.close()


def verdict_of(answer: str) -> str:
    """What an honest judge writes: right is what says so."""
    return f"Judgement: {int(answer.startswith('right'))}"


def honest(call: Call) -> Action:
    """Judges every answer as it is."""
    return say(verdict_of(call.answer))


@dataclass
class JudgeServer:
    """Serves on a thread of its own; a context manager.

    Attributes:
        script: What to do with each call for a verdict.
        latency: Seconds before each of them.
        models: What `/models` lists; a call for another model is refused with status 404.
        routes: Bodies of other replies with their status, by method and path; these come first.
        port: Chosen by the system where it is 0.
        calls: What was asked for, in order.
        searches: How often `/models` was asked.
        connections: How many were opened.
        most: The most calls that were in flight at once.
    """

    script: Script = honest
    latency: float = 0.0
    models: tuple[str, ...] = (MODEL,)
    routes: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    port: int = 0
    calls: list[Call] = field(default_factory=list)
    searches: int = 0
    connections: int = 0
    most: int = 0

    def __post_init__(self) -> None:
        """Starts the thread; the server starts with the context, or by `start`."""
        self._in_flight = 0
        self._asked: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Listens, on the same port as before."""
        self._wait(self._start())

    def stop(self) -> None:
        """Dies: nothing listens, and every open connection breaks."""
        self._wait(self._stop())

    def __enter__(self) -> Self:
        """Listens."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the server and its thread."""
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _wait(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while not writer.is_closing():
                    await self._answer(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        method, path, _ = first.split()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if (method, path) in self.routes:
            await respond(*self.routes[method, path])(writer)
        elif (method, path) == ("GET", "/v1/models"):
            self.searches += 1
            await respond(200, json.dumps({"data": [{"id": model} for model in self.models]}).encode())(writer)
        elif (method, path) == ("POST", "/v1/chat/completions"):
            await self._judge(json.loads(content), headers, writer)
        else:
            await respond(404, b'{"detail":"Not Found"}')(writer)

    async def _judge(self, body: dict[str, Any], headers: dict[str, str], writer: asyncio.StreamWriter) -> None:
        prompt = body["messages"][0]["content"]
        asked = self._asked.get(prompt, 0)
        self._asked[prompt] = asked + 1
        call = Call(len(self.calls), asked, prompt, body, headers, time.monotonic())
        self.calls.append(call)
        self._in_flight += 1
        self.most = max(self.most, self._in_flight)
        try:
            await asyncio.sleep(self.latency)
            if body["model"] in self.models:
                await self.script(call)(writer)
            else:
                await respond(404, f"The model `{body['model']}` does not exist.".encode())(writer)
        finally:
            self._in_flight -= 1


def main() -> None:
    """Serves until standard input closes, with bounded memory."""
    with JudgeServer(latency=float(sys.argv[1])) as server:
        server.script = lambda call: (server.calls.clear(), honest(call))[1]
        print(server.url, flush=True)  # noqa: T201
        sys.stdin.read()


if __name__ == "__main__":
    main()
