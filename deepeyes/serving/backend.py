"""The model behind this server: any OpenAI-compatible endpoint, asked for turns, whole or while they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx
import openai

from deepeyes.playing.endpoint import Endpoint
from deepeyes.playing.wire import Reply, call_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

STREAM = {"stream": True, "stream_options": {"include_usage": True}}


class Backend(Endpoint):
    """An endpoint that can also be listened to."""

    async def listen(
        self, messages: list[dict[str, Any]], options: Mapping[str, Any], hear: Callable[[str], None]
    ) -> Reply:
        """Gets the next turn of a trajectory, and tells its text while it is written.

        Args:
            messages: In the OpenAI protocol.
            options: Further fields of the request.
            hear: Called with every piece of text. All pieces together are the text of the reply.

        Raises:
            RefusedError: The endpoint refuses this request.
            EndpointError: It failed, perhaps in the middle of the turn.
        """
        turn = _Turn(hear)
        stream = await self._complete(messages, {**options, **STREAM})
        try:
            async with stream:
                async for chunk in stream:
                    turn.add(chunk)
        except (openai.OpenAIError, httpx.HTTPError, ValueError) as error:
            raise self._error(error, "/chat/completions", 0) from error
        if turn.finish_reason is None:
            cut = ConnectionError("the stream ended before the turn did")
            raise self._error(cut, "/chat/completions", 0)
        return turn.reply()


class _Turn:
    """A turn that is being written, put together from the chunks of a stream."""

    def __init__(self, hear: Callable[[str], None]) -> None:
        self._hear = hear
        self._text: list[str] = []
        self._content = ""
        self._thinking = False
        self._calls: dict[int, list[str]] = {}  # name and arguments
        self._usage = (0, 0)
        self.finish_reason: str | None = None

    def add(self, chunk: Any) -> None:
        if getattr(chunk, "usage", None):
            self._usage = chunk.usage.prompt_tokens or 0, chunk.usage.completion_tokens or 0
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        self.finish_reason = choice.finish_reason or self.finish_reason
        delta = choice.delta
        thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
        if thought:
            self._say(thought if self._thinking else f"<think>{thought}")
            self._thinking = True
        if delta.content:
            self._end_thoughts()
            self._content += delta.content
            self._say(delta.content)
        for call in delta.tool_calls or ():
            pieces = self._calls.setdefault(call.index, ["", ""])
            if call.function:
                pieces[0] += call.function.name or ""
                pieces[1] += call.function.arguments or ""

    def reply(self) -> Reply:
        self._end_thoughts()
        if calls := call_text(self._content, ((name, arguments) for name, arguments in self._calls.values())):
            self._say(calls)
        return Reply("".join(self._text), self.finish_reason, *self._usage, native=bool(calls))

    def _end_thoughts(self) -> None:
        if self._thinking:
            self._thinking = False
            self._say("</think>")

    def _say(self, text: str) -> None:
        text = text.encode("utf-8", "replace").decode("utf-8")
        self._text.append(text)
        self._hear(text)
