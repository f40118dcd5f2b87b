"""Lets people use a trained model: an OpenAI-compatible endpoint that plays the turns with the zoom, and a page.

    bash deepeyes.sh serve --url http://127.0.0.1:8000/v1

The model is behind --url: `swift deploy`, `vllm serve`, a hosted API (its key in OPENAI_API_KEY). Clients of this
server send an ordinary request and get an ordinary completion: the answer in `content`, thoughts and calls in
`reasoning_content`. It listens on 127.0.0.1; for any other --host, set DEEPEYES_SERVE_API_KEY, which clients then send.

Exit status: 0 stopped by Ctrl-C, 1 it could not listen, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING

import uvicorn

from deepeyes.arguments import Parser
from deepeyes.playing.endpoint import EndpointError
from deepeyes.serving.options import LIMITS, UsageError, add_model_options, chat_opener, whole
from deepeyes.serving.routes import make_app

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from deepeyes.serving.chat import Chat

KEY = "DEEPEYES_SERVE_API_KEY"
SHUTDOWN_SECONDS = 5  # for answers under way, once Ctrl-C was pressed
IDLE = 75  # seconds that an idle connection is kept for a client's next request
BACKLOG = 2048  # connections that wait to be taken


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line of `serve`."""
    parser = Parser(prog="deepeyes.sh serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--url", required=True, help="base URL of the model's endpoint, as http://127.0.0.1:8000/v1")
    add("--model", help="its served name (default: the first of /models)")
    add("--host", default="127.0.0.1", help=f"address to listen on; another one needs {KEY} (%(default)s)")
    add("--port", type=int, default=8100, help="0 takes any that is free (%(default)s)")
    add("--raw", action="store_true", help="content is the text as the model wrote it, tags and all turns")
    add("--blank-crops", action="store_true", help="a control: zooms work, but every crop is grey")
    add("--skip-view-check", action="store_true", help="do not ask whether the endpoint scales our views again")
    add("--allow-private-urls", action="store_true", help="fetch images from private addresses too")
    add_model_options(parser)
    limit = parser.add_argument_group("limits").add_argument
    limit("--max-image-bytes", type=whole, default=LIMITS.image_bytes, help="of an encoded image (%(default)s)")
    limit("--max-image-pixels", type=whole, default=LIMITS.image_pixels, help="of an image (%(default)s)")
    limit("--max-request-bytes", type=whole, default=LIMITS.request_bytes, help="of a request (%(default)s)")
    limit("--max-images", type=whole, default=LIMITS.images, help="in a request (%(default)s)")
    limit("--max-choices", type=whole, default=LIMITS.choices, help="the largest n (%(default)s)")
    limit("--max-requests", type=whole, default=LIMITS.requests, help="under way at once (%(default)s)")
    return parser.parse_args(arguments)


def is_local(host: str) -> bool:
    """Tells whether an address to listen on is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def say(text: str) -> None:
    """Tells who started the server what is going on."""
    print(f"serve: {text}", file=sys.stderr, flush=True)


async def greet(open_chat: Callable[[], Chat], host: str, port: int, *, check: bool) -> Chat:
    """Makes what answers, looks the model up, says where it is, and what is wrong with the model's view."""
    chat = open_chat()
    try:
        await chat.backend.find_model()
        if check and (note := await chat.check_view()):
            say(f"the view: {note}")
    except EndpointError as error:
        say(f"{error} Until then every question is answered with status 502.")
    name = f"[{host}]" if ":" in host else host
    model = chat.backend.model or "the model"
    say(f"{model} with its zoom, from {chat.backend.url}: page http://{name}:{port}/ endpoint http://{name}:{port}/v1")
    return chat


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the server until Ctrl-C; returns the exit status."""
    options = parse(arguments)
    key = os.environ.get(KEY, "").strip() or None
    local = is_local(options.host)
    if not local and key is None:
        say(f"--host {options.host} is reached from other machines: set {KEY}, which their clients must send")
        return 2
    try:
        open_chat = chat_opener(options, options.url, options.model)
    except UsageError as error:
        say(str(error))
        return 2
    try:
        family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
        sock = socket.create_server((options.host, options.port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        say(f"can't listen on {options.host} port {options.port}: {error}; another --port may be free, or --port 0")
        return 1
    app = make_app(
        lambda: greet(open_chat, options.host, sock.getsockname()[1], check=not options.skip_view_check),
        api_key=key,
        local=local,
    )
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS, timeout_keep_alive=IDLE
    )
    server = uvicorn.Server(config)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(server.serve([sock]))
    return 0 if server.started else 1
