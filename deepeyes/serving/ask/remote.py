"""An answer of a running `serve`, told as the events that it was sent as."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai

from deepeyes.serving.errors import ApiError
from deepeyes.serving.events import Ended, Event, Kind, Text, Usage, Viewed, Zoomed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterator

OWNER = "deepeyes"  # what `serve` says of its model in /models


async def is_serve(url: str, api_key: str) -> bool:
    """Tells whether a URL is that of a `serve`, which plays the turns itself; not where nobody answers."""
    async with openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=0, timeout=10.0) as client:
        try:
            listed = (await client.models.list()).data
        except openai.OpenAIError:
            return False
        return any(model.owned_by == OWNER for model in listed)


async def listen(url: str, api_key: str, body: dict[str, Any], timeout: float) -> AsyncGenerator[Event, None]:
    """Asks a `serve` and yields what happens there.

    Args:
        url: Its base URL.
        api_key: Its key.
        body: The request, in the OpenAI protocol.
        timeout: Seconds for the answer.

    Raises:
        ApiError: It gives no answer.
    """
    body = {**body, "stream": True, "deepeyes": {"trace": True}, "stream_options": {"include_usage": True}}
    async with openai.AsyncOpenAI(base_url=url, api_key=api_key, max_retries=2, timeout=timeout) as client:
        try:
            stream = await client.chat.completions.create(model="", messages=[], stream=True, extra_body=body)
            async for chunk in stream:
                for event in _events(chunk.model_dump()):
                    yield event
        except openai.APIStatusError as error:
            raise ApiError(error.status_code, error.message) from error
        except openai.OpenAIError as error:
            raise ApiError(502, f"{url}: {error}") from error


def _events(chunk: dict[str, Any]) -> Iterator[Event]:
    choice = next(iter(chunk["choices"]), None)
    if choice is None:
        return
    told, index = chunk.get("deepeyes") or {}, choice["index"]
    if "views" in told:
        sizes = [(tuple(view["size"]), tuple(view["original"])) for view in told["views"]]
        yield Viewed(tuple(size for size, _ in sizes), tuple(original for _, original in sizes))
    if "text" in told:
        yield Text(index, Kind.RAW, told["text"], told["turn"])
    if "zoom" in told:
        zoom = dict(told["zoom"])
        yield Zoomed(index, zoom, zoom.pop("crop"), zoom.pop("told"))
    for kind in (Kind.REASONING, Kind.CONTENT):
        if text := choice["delta"].get(kind.value):
            yield Text(index, kind, text, 0)
    if choice["finish_reason"]:
        yield Ended(index, choice["finish_reason"], told.get("stopped", "answer"), told.get("turns", 0), Usage(0, 0))
