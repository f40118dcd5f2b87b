"""Asks a trained model one question about pictures, and shows what it does until it answers.

    bash deepeyes.sh ask photo.jpg "What does the sign say?" --url http://127.0.0.1:8000/v1
    bash deepeyes.sh ask photo.jpg "What does the sign say?" --model output/checkpoint-40

--url is the endpoint of the model (`swift deploy`, `vllm serve`, a hosted API with its key in OPENAI_API_KEY), or that
of a running `serve` (its key in DEEPEYES_SERVE_API_KEY). With --model, `swift deploy` is started for the question and
stopped after it; what follows `--` goes to it. Thoughts and crops go to stderr, the answer to stdout.

Exit status: 0 an answer, 1 none, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from deepeyes.arguments import Parser
from deepeyes.playing.pictures import read_image as read_bytes
from deepeyes.serving.ask.deploy import DeployError, deployed, model_type
from deepeyes.serving.ask.graphics import Protocol, find_protocol
from deepeyes.serving.ask.record import make_page, talk_of
from deepeyes.serving.ask.remote import is_serve, listen
from deepeyes.serving.ask.terminal import Show, plain
from deepeyes.serving.errors import ApiError
from deepeyes.serving.events import Ended, Event, Kind, Text
from deepeyes.serving.limits import MEGA
from deepeyes.serving.options import UsageError, add_model_options, chat_opener
from deepeyes.serving.pictures import allow_pixels
from deepeyes.serving.protocol import ChatRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence

OWN_IMAGE_BYTES = 500 * MEGA  # of one's own files
OWN_IMAGE_PIXELS = 500 * MEGA
INTERRUPTED = 130
SERVE_KEY = "DEEPEYES_SERVE_API_KEY"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line of `ask`; what follows `--` is in `swift`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    swift: list[str] = []
    if "--" in words:
        at = words.index("--")
        words, swift = words[:at], words[at + 1 :]
    parser = Parser(prog="deepeyes.sh ask", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("words", nargs="+", metavar="IMAGE... QUESTION", help="files or URLs of pictures, then the question")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--url", help="base URL of the model's endpoint or of a running serve")
    where.add_argument("--model", type=Path, metavar="DIR", help="a checkpoint, served for this question")
    add("--name", help="served name behind --url (default: the first of /models)")
    add("--page", type=Path, metavar="FILE", help="write the page of the trajectory, one file")
    add(
        "--pictures",
        choices=["auto", *(protocol.value for protocol in Protocol)],
        default="auto",
        help="how crops are shown (default: auto)",
    )
    add("--temperature", type=float, help="default: that of the endpoint")
    add("--seed", type=int, help="of sampling")
    add_model_options(parser)
    parser.set_defaults(max_image_bytes=OWN_IMAGE_BYTES, max_image_pixels=OWN_IMAGE_PIXELS)
    parser.set_defaults(raw=False, blank_crops=False, allow_private_urls=True)
    options = parser.parse_args(words)
    options.swift = swift
    return options


def read_image(source: str) -> str:
    """Returns a picture, a file or a URL, as a data URI.

    Raises:
        UsageError: There is none, or it is no picture.
    """
    try:
        content = read_bytes(source)
        kind = Image.open(io.BytesIO(content)).get_format_mimetype()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UsageError(f"{source:.200}: {error}; expected IMAGE... and then the question") from error
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def read_words(words: Sequence[str]) -> tuple[list[str], str]:
    """Returns the pictures of a command line as data URIs, and the question.

    Raises:
        UsageError: A picture can't be read, or there is no question.
    """
    *sources, question = words
    if not question.strip() or Path(question).is_file():
        raise UsageError(f'the last word is {question!r}; expected the question, as "What does the sign say?"')
    return [read_image(source) for source in sources], question


def body_of(options: argparse.Namespace, images: Sequence[str], question: str) -> dict[str, Any]:
    """Returns the request, in the OpenAI protocol."""
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": image}} for image in images]
    body: dict[str, Any] = {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": question}]}]}
    return body | {name: value for name in ("temperature", "seed") if (value := getattr(options, name)) is not None}


async def play(options: argparse.Namespace, url: str, body: dict[str, Any]) -> AsyncGenerator[Event, None]:
    """Yields what happens until there is an answer, played here or by a running `serve`.

    Raises:
        ApiError: There is none.
        UsageError: An option is wrong.
    """
    key = os.environ.get(SERVE_KEY) or os.environ.get("OPENAI_API_KEY") or "EMPTY"
    if not options.model and await is_serve(url, key):
        async with contextlib.aclosing(listen(url, key, body, options.timeout)) as events:
            async for event in events:
                yield event
        return
    chat = chat_opener(options, url, options.name)()
    request = ChatRequest.model_validate({**body, "stream": True, "deepeyes": {"trace": True}})
    try:
        async with contextlib.aclosing(chat.answer(request)) as events:
            async for event in events:
                yield event
    finally:
        await chat.close()


async def ask(options: argparse.Namespace, url: str, images: Sequence[str], question: str) -> int:
    """Asks, shows and writes the page; returns the exit status."""
    protocol = Protocol(options.pictures) if options.pictures != "auto" else None
    if protocol is None:
        protocol = find_protocol(os.environ, is_terminal=sys.stderr.isatty())
    show = Show(sys.stdout, sys.stderr, protocol)
    happened: list[Event] = []
    async with contextlib.aclosing(play(options, url, body_of(options, images, question))) as events:
        async for event in events:
            happened.append(event)
            show.add(event)
    if options.page:
        name = options.name or (options.model.name if options.model else url)
        options.page.write_text(make_page(talk_of(question, images, happened), name), encoding="utf-8")
        say(f"the page is {options.page}")
    said = any(isinstance(event, Text) and event.kind is Kind.CONTENT for event in happened)
    if not any(isinstance(event, Ended) for event in happened):
        say(f"{url} ended before it answered")
    return 0 if show.complete and said else 1


def say(text: str) -> None:
    """Tells the user what is going on, beside the answer."""
    print(f"ask: {plain(text)}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Asks one question; returns the exit status."""
    options = parse(arguments)
    allow_pixels(OWN_IMAGE_PIXELS)
    try:
        images, question = read_words(options.words)
        with contextlib.ExitStack() as stack:
            url = options.url
            if options.model:
                if options.family is None:
                    options.family = "qwen3-vl" if model_type(options.model).startswith("qwen3") else "qwen2.5-vl"
                say(f"swift deploy loads {options.model}")
                url = stack.enter_context(deployed(options.model, options.max_pixels, options.swift))
            return asyncio.run(ask(options, url, images, question))
    except UsageError as error:
        say(str(error))
        return 2
    except (ApiError, DeployError, OSError) as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
