"""The HTTP side: OpenAI's routes, the page, and what is asked of a client before it is heard."""

from __future__ import annotations

import asyncio
import hmac
import json
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from deepeyes.log import logger
from deepeyes.playing.endpoint import EndpointError
from deepeyes.serving import replies
from deepeyes.serving.errors import ApiError
from deepeyes.serving.events import Viewed
from deepeyes.serving.protocol import read_request

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine

    from starlette.types import ASGIApp, Receive, Scope, Send

    from deepeyes.serving.chat import Chat
    from deepeyes.serving.events import Event
    from deepeyes.serving.protocol import ChatRequest

STATIC = Path(__file__).with_name("static")
PAGE_FILES = {"": "page.html", "page.css": "page.css", "page.js": "page.js", "examples.js": "examples.js"}
PAGE_HEADERS = {
    # Text of a model can't run as a script, and nothing comes from or goes to another host.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
SERVED = "POST /v1/chat/completions, GET /v1/models and GET /health"
LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
BODY_SECONDS = 60.0  # for the upload of a request; a client that sends nothing holds no place
STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}  # nginx would hold a stream back

router = APIRouter()


def make_app(open_chat: Callable[[], Coroutine[Any, Any, Chat]], *, api_key: str | None, local: bool) -> FastAPI:
    """Makes the application.

    Args:
        open_chat: Makes what answers, in the running event loop.
        api_key: What clients must send as bearer token; None asks for none.
        local: Whether the server listens on this machine alone. Then a name that a stranger's page has made to lead
            here is refused.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.chat = await open_chat()
        yield
        await app.state.chat.close()

    app = FastAPI(title="DeepEyes", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.api_key = api_key
    app.include_router(router)
    app.add_exception_handler(ApiError, lambda _, error: _error_reply(error))
    app.add_exception_handler(HTTPException, _http_error)  # type: ignore[arg-type]  # for its own class
    app.add_exception_handler(Exception, _unexpected)
    if local and not api_key:
        app.add_middleware(_HostCheck)
    return app


class _HostCheck:
    """Refuses requests to a name that is not this machine's, as a stranger's page makes them by DNS rebinding."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
            name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
            if name not in LOCAL_NAMES:
                error = ApiError(403, f"this server listens on 127.0.0.1 and is not {name!r}", code="wrong_host")
                await _error_reply(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _check_key(request: Request) -> None:
    key = request.app.state.api_key
    if key is None:
        return
    given = request.headers.get("authorization", "")
    scheme, _, token = given.partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), key.encode()):
        return
    found = "an Authorization header with another key" if given else "no Authorization header"
    raise ApiError(401, f"found {found}; expected: Authorization: Bearer KEY", code="invalid_api_key")


@router.get("/health")
async def health(request: Request) -> Response:
    """Tells whether the model's endpoint answers: 200 or 503."""
    chat: Chat = request.app.state.chat
    try:
        await chat.backend.find_model(needed=True)
    except EndpointError as error:
        return _error_reply(ApiError(503, str(error), kind="server_error", code="backend_error"))
    return JSONResponse({"status": "ok", "model": chat.backend.model, "under_way": chat.under_way})


@router.get("/v1/models")
async def models(request: Request) -> Response:
    """Lists the one model."""
    _check_key(request)
    return JSONResponse({"object": "list", "data": [await _model(request)]})


@router.get("/v1/models/{name:path}")
async def model(request: Request, name: str) -> Response:
    """Describes the one model."""
    _check_key(request)
    body = await _model(request)
    if name != body["id"]:
        raise ApiError(
            404, f"the model {name!r} does not exist; this server has {body['id']!r}", code="model_not_found"
        )
    return JSONResponse(body)


async def _model(request: Request) -> dict[str, Any]:
    chat: Chat = request.app.state.chat
    await chat.know_model()
    return {"id": chat.backend.model, "object": "model", "created": 0, "owned_by": "deepeyes"}


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """Answers a request, whole or as a stream."""
    _check_key(request)
    chat: Chat = request.app.state.chat
    asked = read_request(
        await _read_body(request, chat.limits.request_bytes), choices=chat.limits.choices, images=chat.limits.images
    )
    events = chat.answer(asked)
    if asked.stream:
        begun = await _while_connected(request, _begin(events))
        return StreamingResponse(
            _stream(chat, asked, begun, events), media_type="text/event-stream", headers=STREAM_HEADERS
        )
    done = await _while_connected(request, _collect(events))
    return _json(replies.completion(chat.backend.model, done, trace=asked.deepeyes.trace))


async def _read_body(request: Request, most: int) -> bytes:
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":  # a foreign page can't send this one unasked
        raise ApiError(415, f"expected Content-Type: application/json, found {kind!r}", code="unsupported_media_type")
    try:
        return await asyncio.wait_for(_read(request, most), BODY_SECONDS)
    except asyncio.TimeoutError:
        raise ApiError(408, f"the request was not sent in {BODY_SECONDS:g} s", code="timeout") from None


async def _read(request: Request, most: int) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            message = f"the request is larger than {most} bytes (--max-request-bytes)"
            raise ApiError(413, message, code="request_too_large")
    return bytes(body)


async def _begin(events: AsyncIterator[Event]) -> list[Event]:
    """Waits until a stream has something to say: what fails before that has a status of its own."""
    begun = []
    async for event in events:
        begun.append(event)
        if not isinstance(event, Viewed):
            break
    return begun


async def _collect(events: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in events]


async def _while_connected(request: Request, work: Coroutine[Any, Any, list[Event]]) -> list[Event]:
    """Does a piece of work, and stops it where the client goes away."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ApiError(499, "the client went away", code="client_gone")
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _stream(
    chat: Chat, asked: ChatRequest, begun: list[Event], events: AsyncGenerator[Event, None]
) -> AsyncIterator[bytes]:
    include_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    stream = replies.Stream(chat.backend.model, trace=asked.deepeyes.trace, include_usage=include_usage)
    try:
        for event in begun:
            for chunk in stream.chunks(event):
                yield replies.sse(chunk)
        async for event in events:
            for chunk in stream.chunks(event):
                yield replies.sse(chunk)
    except ApiError as error:
        yield replies.sse_error(error)
    else:
        for chunk in stream.last():
            yield replies.sse(chunk)
    finally:
        await events.aclose()  # its turns must stop now
    yield replies.DONE


async def page(request: Request) -> Response:
    """Serves the page, or one of its files."""
    return FileResponse(STATIC / PAGE_FILES[request.scope["path"][1:]], headers=PAGE_HEADERS)


for _name in PAGE_FILES:
    router.add_api_route(f"/{_name}", page)


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
    return Response(content, status, headers, "application/json")


def _error_reply(error: ApiError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if error.status == 401:  # noqa: PLR2004 - HTTP
        headers["WWW-Authenticate"] = "Bearer"
    return _json(error.body(), error.status, headers)


def _http_error(request: Request, error: HTTPException) -> Response:
    """Answers a wrong path or method in OpenAI's form."""
    asked = f"({request.method} {request.url.path})"
    if error.status_code == 404:  # noqa: PLR2004 - HTTP
        fault = ApiError(404, f"Invalid URL {asked}: this server has {SERVED}", code="unknown_url")
    else:
        allowed = (error.headers or {}).get("Allow", "another method")
        fault = ApiError(error.status_code, f"{error.detail} {asked}: expected {allowed}", code="method_not_allowed")
    reply = _error_reply(fault)
    reply.headers.update(error.headers or {})
    return reply


def _unexpected(_request: Request, error: Exception) -> Response:
    """Answers a fault of this program."""
    logger.error("serve: %s: %s", type(error).__name__, error, exc_info=error)
    return _error_reply(ApiError(500, f"a fault of this server: {type(error).__name__}", kind="server_error"))
