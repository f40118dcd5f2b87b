"""From what happens to what is sent: a chat completion, or the chunks of a stream (pure).

A trace, where one is asked for, is the field `deepeyes`: of a chunk, or of a choice of a completion.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import TYPE_CHECKING, Any

from deepeyes.serving.events import Ended, Kind, Text, ToolCalls, Usage, Viewed, Zoomed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from deepeyes.serving.errors import ApiError
    from deepeyes.serving.events import Event

DONE = b"data: [DONE]\n\n"


def new_head(kind: str, model: str) -> dict[str, Any]:
    """Returns the fields that a reply and all its chunks begin with."""
    return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()), "model": model}


def usage_body(usage: Usage | None) -> dict[str, int] | None:
    """Returns the tokens in OpenAI's form."""
    if usage is None:
        return None
    return {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }


def sum_usage(ends: Iterable[Ended]) -> Usage | None:
    """Returns the tokens of all answers; None where some are not known, for half a sum would be a wrong one."""
    total = Usage(0, 0)
    for end in ends:
        if end.usage is None:
            return None
        total += end.usage
    return total


def zoom_body(zoomed: Zoomed) -> dict[str, Any]:
    """Returns a tool call as a trace tells it."""
    return {**zoomed.zoom, "crop": zoomed.crop, "told": zoomed.told}


def views_body(viewed: Viewed) -> list[dict[str, Any]]:
    """Returns the pictures of a request as a trace tells them."""
    pairs = zip(viewed.views, viewed.originals, strict=True)
    return [{"size": list(view), "original": list(original)} for view, original in pairs]


class Stream:
    """Makes the chunks of a stream, one for each thing that happens."""

    def __init__(self, model: str, *, trace: bool, include_usage: bool) -> None:
        """Makes an empty stream.

        Args:
            model: Name of the model.
            trace: Whether boxes, crops and raw text are told.
            include_usage: Whether the last chunk tells the tokens.
        """
        self._head = new_head("chat.completion.chunk", model)
        self._trace, self._include_usage = trace, include_usage
        self._begun: set[int] = set()
        self._ends: list[Ended] = []

    def chunks(self, event: Event) -> Iterator[dict[str, Any]]:
        """Yields the chunks of one event: none, one or two."""
        choice = getattr(event, "choice", None)
        if choice is not None and choice not in self._begun:
            self._begun.add(choice)
            yield self._chunk(choice, {"role": "assistant", "content": ""})
        if isinstance(event, Text) and event.kind is not Kind.RAW:
            yield self._chunk(event.choice, {event.kind.value: event.text})
        elif isinstance(event, ToolCalls):
            calls = [{"index": at, **call} for at, call in enumerate(event.calls)]
            yield self._chunk(event.choice, {"tool_calls": calls})
        elif isinstance(event, Ended):
            self._ends.append(event)
            yield self._chunk(event.choice, {}, event.finish_reason, self._told(event))
        elif (told := self._told(event)) is not None:
            yield self._chunk(choice or 0, {}, None, told)

    def last(self) -> Iterator[dict[str, Any]]:
        """Yields the chunk with the tokens, where it was asked for."""
        if self._include_usage:
            yield {**self._head, "choices": [], "usage": usage_body(sum_usage(self._ends))}

    def _told(self, event: Event) -> dict[str, Any] | None:
        if not self._trace:
            return None
        if isinstance(event, Viewed):
            return {"views": views_body(event)}
        if isinstance(event, Text):
            return {"turn": event.turn, "text": event.text}
        if isinstance(event, Zoomed):
            return {"zoom": zoom_body(event)}
        if isinstance(event, Ended):
            return {"stopped": event.stopped, "turns": event.turns}
        return None

    def _chunk(
        self, choice: int, delta: dict[str, Any], finish_reason: str | None = None, told: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        body: dict[str, Any] = {
            **self._head,
            "choices": [{"index": choice, "delta": delta, "logprobs": None, "finish_reason": finish_reason}],
        }
        if self._include_usage:
            body["usage"] = None
        if told is not None:
            body["deepeyes"] = told
        return body


def sse(body: dict[str, Any]) -> bytes:
    """Returns a chunk as a server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode("utf-8", "replace")


def sse_error(error: ApiError) -> bytes:
    """Returns an error that ends a stream which has begun, as OpenAI and vLLM send it."""
    return sse(error.body())


def completion(model: str, events: Iterable[Event], *, trace: bool) -> dict[str, Any]:
    """Returns a whole chat completion.

    Args:
        model: Name of the model.
        events: All that happened.
        trace: Whether boxes, crops and raw text are told.
    """
    choices: dict[int, dict[str, Any]] = {}
    ends: list[Ended] = []
    views: list[dict[str, Any]] = []
    for event in events:
        if isinstance(event, Viewed):
            views = views_body(event)
            continue
        if event.choice not in choices:
            choices[event.choice] = _new_choice(event.choice)
        _add(choices[event.choice], event)
        if isinstance(event, Ended):
            ends.append(event)
    made = [choices[index] for index in sorted(choices)]
    for choice in made:
        told = choice.pop("deepeyes")
        if trace:
            choice["deepeyes"] = {"views": views, **told}
    return {**new_head("chat.completion", model), "choices": made, "usage": usage_body(sum_usage(ends))}


def _new_choice(index: int) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": "", "refusal": None},
        "logprobs": None,
        "finish_reason": None,
        "deepeyes": {"turns": [], "zooms": [], "stopped": None},
    }


def _add(choice: dict[str, Any], event: Event) -> None:
    message, told = choice["message"], choice["deepeyes"]
    if isinstance(event, Text) and event.kind is Kind.RAW:
        turns = told["turns"]
        turns.extend([""] * (event.turn - len(turns)))
        turns[event.turn - 1] += event.text
    elif isinstance(event, Text):
        message[event.kind.value] = message.get(event.kind.value, "") + event.text
    elif isinstance(event, Zoomed):
        told["zooms"].append(zoom_body(event))
    elif isinstance(event, ToolCalls):
        message["tool_calls"] = list(event.calls)
        message["content"] = message["content"] or None
    elif isinstance(event, Ended):
        choice["finish_reason"], told["stopped"] = event.finish_reason, event.stopped
