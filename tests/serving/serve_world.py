"""A scripted model behind a real HTTP server, the server under test in front of it, and pictures to ask about."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import uvicorn
from aiohttp import web
from PIL import Image

from deepeyes.serving import cli, options
from deepeyes.serving.routes import make_app

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

NAME = "org/scripted-7b"
CARD = (1200, 900, 1360, 1060)  # in a picture of stripes


def call(*box: float, **more: Any) -> str:
    arguments = json.dumps({"bbox_2d": list(box), **more})
    return f'<tool_call>{{"name": "image_zoom_in_tool", "arguments": {arguments}}}</tool_call>'


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def plain_picture(colour: str = "grey", size: tuple[int, int] = (560, 420)) -> str:
    return png(Image.new("RGB", size, colour))


def stripes(*, upright: bool, size: tuple[int, int] = (4000, 3000)) -> Image.Image:
    """A card with stripes of two pixels on grey: in a view they are as grey as what is around them."""
    image = np.full((size[1], size[0]), 128, np.uint8)
    x1, y1, x2, y2 = CARD
    ys, xs = np.mgrid[y1:y2, x1:x2]
    image[y1:y2, x1:x2] = np.where((xs if upright else ys) // 2 % 2, 255, 0)
    return Image.fromarray(image).convert("RGB")


def read_stripes(image: Image.Image) -> str:
    """What a perfect reader of pixels says of a picture."""
    pixels = np.asarray(image.convert("L"), float)
    across, down = np.abs(np.diff(pixels, axis=1)).mean(), np.abs(np.diff(pixels, axis=0)).mean()
    if max(across, down) < 20:
        return "unknown"
    return "upright" if across > down else "level"


@dataclass(frozen=True)
class Asked:
    """One request to the scripted model."""

    body: dict[str, Any]

    @property
    def turn(self) -> int:
        """Number of the turn, from 1."""
        messages = self.body["messages"]
        last = max((at for at, message in enumerate(messages) if self._is_question(message)), default=0)
        return 1 + sum(message["role"] == "assistant" for message in messages[last:])

    @staticmethod
    def _is_question(message: dict[str, Any]) -> bool:
        content = json.dumps(message["content"])
        return message["role"] == "user" and "<tool_response>" not in content and not content.startswith('"Error: ')

    @property
    def texts(self) -> list[str]:
        """Text of every message, `<image>` for images."""
        return [
            message["content"]
            if isinstance(message["content"], str)
            else "".join(part["text"] if part["type"] == "text" else "<image>" for part in message["content"])
            for message in self.body["messages"]
        ]

    @property
    def images(self) -> list[Image.Image]:
        uris = [
            part["image_url"]["url"]
            for message in self.body["messages"]
            if isinstance(message["content"], list)
            for part in message["content"]
            if part["type"] == "image_url"
        ]
        return [Image.open(io.BytesIO(base64.b64decode(uri.partition("base64,")[2]))) for uri in uris]


@dataclass(frozen=True)
class Turn:
    """What the scripted model writes, and how it fails."""

    text: str = ""
    finish_reason: str = "stop"
    reasoning: str | None = None
    tool_calls: tuple[tuple[str, str], ...] = ()
    usage: tuple[int, int] | None = (100, 10)
    status: int = 200
    cut: bool = False
    """The connection ends in the middle."""
    hang: bool = False
    pace: float = 0.0
    """Seconds between pieces of a stream, or before a whole reply."""
    size: int = 8
    """Characters of a piece."""


@dataclass
class Script:
    """A scripted model: what it says to what it is asked."""

    policy: Callable[[Asked], Turn | str]
    keep: bool = True
    asked: list[Asked] = field(default_factory=list)
    left: int = 0
    """Clients that went away before their turn was written."""
    under_way: int = 0
    url: str = ""
    headers: list[dict[str, str]] = field(default_factory=list)

    async def models(self, _request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": NAME, "object": "model"}]})

    async def complete(self, request: web.Request) -> web.StreamResponse:
        asked = Asked(await request.json())
        if self.keep:
            self.asked.append(asked)
            self.headers.append(dict(request.headers))
        said = self.policy(asked)
        turn = Turn(said) if isinstance(said, str) else said
        self.under_way += 1
        try:
            if turn.hang:
                await asyncio.sleep(60)
            if turn.status != 200:
                body = {"error": {"message": turn.text, "type": "x", "code": turn.status}}
                return web.json_response(body, status=turn.status)
            return await (self._stream(request, turn) if asked.body.get("stream") else self._whole(request, turn))
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.under_way -= 1

    async def _whole(self, request: web.Request, turn: Turn) -> web.StreamResponse:
        await asyncio.sleep(turn.pace)
        if turn.cut:
            request.transport.abort()
            return web.Response()
        message: dict[str, Any] = {"role": "assistant", "content": turn.text}
        if turn.reasoning is not None:
            message["reasoning_content"] = turn.reasoning
        if turn.tool_calls:
            message["tool_calls"] = self._calls(turn)
        choice = {"index": 0, "message": message, "finish_reason": turn.finish_reason}
        return web.json_response({**self._head("chat.completion"), "choices": [choice], "usage": self._usage(turn)})

    async def _stream(self, request: web.Request, turn: Turn) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)

        async def send(delta: dict[str, Any], reason: str | None = None) -> None:
            choice = {"index": 0, "delta": delta, "finish_reason": reason}
            body = {**self._head("chat.completion.chunk"), "choices": [choice]}
            await response.write(f"data: {json.dumps(body)}\n\n".encode())
            await asyncio.sleep(turn.pace)

        for name, text in (("reasoning_content", turn.reasoning or ""), ("content", turn.text)):
            for start in range(0, len(text), turn.size):
                await send({name: text[start : start + turn.size]})
                if turn.cut:
                    request.transport.abort()
                    return response
        if turn.tool_calls:
            await send({"tool_calls": self._calls(turn)})
        await send({}, turn.finish_reason)
        usage = {**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage(turn)}
        await response.write(f"data: {json.dumps(usage)}\n\ndata: [DONE]\n\n".encode())
        return response

    @staticmethod
    def _head(kind: str) -> dict[str, Any]:
        return {"id": "1", "object": kind, "created": 1, "model": NAME}

    @staticmethod
    def _usage(turn: Turn) -> dict[str, int] | None:
        if turn.usage is None:
            return None
        return {"prompt_tokens": turn.usage[0], "completion_tokens": turn.usage[1], "total_tokens": sum(turn.usage)}

    @staticmethod
    def _calls(turn: Turn) -> list[dict[str, Any]]:
        return [
            {"index": at, "id": f"c{at}", "type": "function", "function": {"name": name, "arguments": arguments}}
            for at, (name, arguments) in enumerate(turn.tool_calls)
        ]


@contextlib.contextmanager
def in_thread(
    work: Callable[[], Coroutine[Any, Any, tuple[str, Callable[[], Coroutine[Any, Any, None]]]]],
) -> Iterator[str]:
    """Runs something with an event loop of its own: `work` starts it and returns a URL and what ends it."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    url, end = asyncio.run_coroutine_threadsafe(work(), loop).result(30)
    try:
        yield url
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


@contextlib.contextmanager
def playing(script: Script) -> Iterator[Script]:
    """Runs a scripted model."""

    async def start() -> tuple[str, Callable[[], Coroutine[Any, Any, None]]]:
        app = web.Application(client_max_size=1 << 30)
        app.router.add_get("/v1/models", script.models)
        app.router.add_post("/v1/chat/completions", script.complete)
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=1024)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/v1", runner.cleanup

    with in_thread(start) as url:
        script.url = url
        yield script


@contextlib.contextmanager
def serving(url: str, *words: str, api_key: str | None = None) -> Iterator[str]:
    """Runs the server under test in front of a URL, and yields its own."""
    parsed = cli.parse(["--url", url, *words])
    open_chat = options.chat_opener(parsed, parsed.url, parsed.model)

    async def opened() -> Any:
        return open_chat()

    async def start() -> tuple[str, Callable[[], Coroutine[Any, Any, None]]]:
        app = make_app(opened, api_key=api_key, local=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
        sock = socket.create_server(("127.0.0.1", 0), backlog=1024)
        task = asyncio.create_task(server._serve([sock]))  # noqa: SLF001 - signal handlers need the main thread
        port = sock.getsockname()[1]

        async def end() -> None:
            server.should_exit = True
            await task

        return f"http://127.0.0.1:{port}/v1", end

    with in_thread(start) as own:
        yield own


def until(condition: Callable[[], bool], patience: float = 10.0) -> bool:
    """Waits for something to become true."""
    deadline = time.monotonic() + patience
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def ask(picture: str | None, question: str = "Which way?") -> list[dict[str, Any]]:
    """The messages of a question about a picture."""
    parts: list[dict[str, Any]] = [{"type": "text", "text": question}]
    if picture is not None:
        parts.insert(0, {"type": "image_url", "image_url": {"url": picture}})
    return [{"role": "user", "content": parts}]
