"""One answer being played: what the model writes, told as it comes, within the limits of the request."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from deepeyes.answers import blocks
from deepeyes.calls import next_call
from deepeyes.markers import MEDIA_TAG
from deepeyes.playing.endpoint import RefusedError
from deepeyes.playing.player import Player, Start
from deepeyes.rows import has_tool
from deepeyes.serving.errors import backend_failed, refused
from deepeyes.serving.events import Ended, Kind, Text, ToolCalls, Usage, Zoomed
from deepeyes.serving.splitting import Splitter
from deepeyes.settings import TOOL_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from deepeyes.playing.pictures import Picture, Viewer
    from deepeyes.playing.wire import Reply
    from deepeyes.serving.backend import Backend
    from deepeyes.serving.conversation import Opening
    from deepeyes.serving.events import Event
    from deepeyes.serving.limits import Limits
    from deepeyes.serving.protocol import ChatRequest
    from deepeyes.settings import Settings

CHARS_A_TOKEN = 4  # of English text, for an endpoint that does not count
MAX_SEED = 2**31 - 1  # some servers take no larger one
FORM = "Write the answer that you have just given as one JSON object{schema}, and nothing else."
"""The last turn of a request with a `response_format`: no form could be asked of turns that hold thoughts and calls."""


class _Enough(Exception):  # noqa: N818 - no error
    """The trajectory ends here, for a reason that its text does not tell."""

    def __init__(self, stopped: str) -> None:
        super().__init__(stopped)
        self.stopped = stopped


FINISH = {"max_turns": "length", "max_tokens": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}
"""OpenAI's `finish_reason` for each way to stop that is not `stop`."""


class Trajectory:
    """Plays one answer; to `Player` it is the model."""

    def __init__(  # noqa: PLR0913 - all by name
        self,
        *,
        choice: int,
        request: ChatRequest,
        opening: Opening,
        backend: Backend,
        limits: Limits,
        settings: Settings,
        raw: bool,
        blank_crops: bool,
        emit: Callable[[Event], None],
    ) -> None:
        """Makes an answer that is not played yet.

        Args:
            choice: Its number, from 0.
            request: What is asked.
            opening: The first turns.
            backend: The model.
            limits: Turns, and tokens of one.
            settings: Rules of the turns.
            raw: Whether the content is the text as the model wrote it, all turns of it.
            blank_crops: Whether crops are painted grey, as a control.
            emit: Told of everything that happens.
        """
        self._choice, self._request, self._opening = choice, request, opening
        self._backend, self._limits, self._settings = backend, limits, settings
        self._raw, self._blank_crops, self._emit = raw, blank_crops, emit
        self._left = request.budget
        self._usage: Usage | None = Usage(0, 0)
        self._turn = 0
        self._splitter = Splitter()
        self._sent: list[dict[str, Any]] = []
        self._stops = _Stops(request.stops)

    async def play(self, viewer: Viewer, pictures: Sequence[Picture]) -> None:
        """Plays the trajectory to its end.

        Raises:
            ApiError: The model's endpoint refuses the request for what is in it.
            EndpointError: It failed.
        """
        options = {**self._request.passed_on, "max_tokens": self._limits.tokens}
        if self._request.n > 1 and isinstance(options.get("seed"), int):
            options["seed"] = (options["seed"] + self._choice) % (MAX_SEED + 1)
        player = Player(self, viewer, self._settings, self._limits.turns, blank_crops=self._blank_crops)
        start = Start(self._opening.messages, self._opening.row, pictures, options)
        reply, stopped = None, "answer"
        try:
            async for step in player.steps(start):
                reply = step.reply
                if step.observation is None:
                    break
                self._say(Kind.REASONING, self._splitter.go_on())
                told = None if step.image else step.observation.text
                self._emit(Zoomed(self._choice, step.observation.zoom, step.image, told))
            stopped = self._stopped(reply)
        except _Enough as enough:
            stopped = enough.stopped
        if stopped != "tool_calls":
            stopped = await self._finish(stopped)
        self._emit(Ended(self._choice, FINISH.get(stopped, "stop"), stopped, self._turn, self._usage))

    def _stopped(self, reply: Reply | None) -> str:
        """Tells why a trajectory is over, from its last turn."""
        text, reason = (reply.text, reply.finish_reason) if reply else ("", None)
        if reason == "length":
            return "max_tokens"
        if reason == "content_filter":
            return reason
        waits = has_tool(self._opening.row, self._settings) and next_call(text, self._settings.rules) is not None
        return "max_turns" if waits else "answer"

    async def _finish(self, stopped: str) -> str:
        """Tells the answer, in the form that was asked for; returns why it ended."""
        if self._raw:
            self._say(Kind.CONTENT, self._stops.rest())
            return stopped
        ending = self._splitter.finish()
        self._say(Kind.REASONING, ending.reasoning)
        form = self._request.response_format
        if stopped == "answer" and form is not None and form.type != "text":
            self._say(Kind.REASONING, ending.content)
            return await self._give_form()
        content = self._stops.cut(ending.content)
        self._say(Kind.CONTENT, content)
        return "stop_text" if self._stops.hit else stopped

    async def _give_form(self) -> str:
        """Has the model write its answer as JSON, in a turn of its own that the endpoint holds to the form."""
        form = self._request.response_format
        assert form is not None  # noqa: S101 - for mypy: the caller looked
        schema = (form.json_schema or {}).get("schema")
        words = f" that follows this schema: {json.dumps(schema, ensure_ascii=False)}" if schema else ""
        options = {
            name: value for name, value in self._request.passed_on.items() if not name.startswith(("tool", "par"))
        }
        options["response_format"] = form.model_dump(exclude_none=True)
        messages = [
            *self._sent,
            {"role": "assistant", "content": MEDIA_TAG.sub("< ", self._splitter.text)},
            {"role": "user", "content": FORM.format(schema=words)},
        ]
        try:
            reply = await self._ask(messages, {**options, "max_tokens": self._limits.tokens})
        except _Enough as enough:
            return enough.stopped
        content = reply.text.rpartition("</think>")[2].strip()
        self._say(Kind.CONTENT, content)
        if reply.finish_reason == "length":
            return "max_tokens"
        try:
            json.loads(content)
        except ValueError:
            raise backend_failed(
                f"{self._backend.url} did not hold its model to the response_format: it wrote {content[:200]!r}"
            ) from None
        return "answer"

    # What Player calls.

    async def reply(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> Reply:
        """Gets one turn, and tells its text."""
        messages = [self._opening.native.get(at, message) for at, message in enumerate(messages)]
        self._splitter = Splitter()
        if self._raw and self._turn:
            self._say(Kind.CONTENT, self._stops.feed("\n"))
        reply = await self._ask(messages, options, self._hear)
        self._sent = messages
        calls = self._calls_for_client(reply.text)
        if calls:
            self._say(Kind.REASONING, self._splitter.go_on())
            self._emit(ToolCalls(self._choice, calls))
            raise _Enough("tool_calls")
        return reply

    async def _ask(
        self, messages: list[dict[str, Any]], options: Mapping[str, Any], hear: Callable[[str], None] | None = None
    ) -> Reply:
        """Asks the endpoint within what is left of the request's tokens."""
        if self._left is not None:
            if self._left <= 0:
                raise _Enough("max_tokens")
            options = {**options, "max_tokens": min(options["max_tokens"], self._left)}
        self._turn += 1
        listening = hear is not None and self._request.stream
        before, self._usage = self._usage, None  # not known, should the turn be cut
        try:
            if listening and hear:
                reply = await self._backend.listen(messages, options, hear)
            else:
                reply = await self._backend.reply(messages, options)
        except RefusedError as error:
            raise refused(f"the model's endpoint refused the request: {error}", code="backend_refused") from error
        if before is not None and reply.prompt_tokens:
            self._usage = before + Usage(reply.prompt_tokens, reply.completion_tokens)
        if self._left is not None:
            self._left -= reply.completion_tokens or len(reply.text) // CHARS_A_TOKEN
        if hear is not None and not listening:
            hear(reply.text)
        return reply

    def _hear(self, text: str) -> None:
        text = text.encode("utf-8", "replace").decode("utf-8")
        if self._request.deepeyes.trace and text:
            self._emit(Text(self._choice, Kind.RAW, text, self._turn))
        thought = self._splitter.feed(text)
        if not self._raw:
            self._say(Kind.REASONING, thought)
            return
        self._say(Kind.CONTENT, self._stops.feed(text))
        if self._stops.hit:
            raise _Enough("stop_text")

    def _say(self, kind: Kind, text: str) -> None:
        if text and not (self._raw and kind is Kind.REASONING):
            self._emit(Text(self._choice, kind, text, self._turn))

    def _calls_for_client(self, text: str) -> tuple[dict[str, Any], ...]:
        """Returns the calls of a turn that are not the zoom's, but of tools that the client brought."""
        names = self._request.tool_names - {TOOL_NAME}
        if not names or next_call(text, self._settings.rules) is None:
            return ()
        calls = []
        for block in blocks(text, "tool_call"):
            try:
                call = json.loads(block)
            except ValueError:
                continue
            if isinstance(call, dict) and call.get("name") in names:
                function = {
                    "name": call["name"],
                    "arguments": json.dumps(call.get("arguments") or {}, ensure_ascii=False),
                }
                calls.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": function})
        return tuple(calls)


class _Stops:
    """Cuts text at the first of some texts."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops = stops
        self._kept = ""
        self.hit = False

    def cut(self, text: str) -> str:
        """Returns what stands before the first of them."""
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.hit = True
            return text[: min(found)]
        return text

    def feed(self, text: str) -> str:
        """Takes more text, and returns what of it can't be the beginning of one of them."""
        text = self.cut(self._kept + text)
        self._kept = ""
        if self.hit:
            return text
        sizes = range(max(map(len, self._stops), default=1) - 1, 0, -1)
        kept = next((size for size in sizes if any(stop.startswith(text[-size:]) for stop in self._stops)), 0)
        self._kept = text[len(text) - kept :]
        return text[: len(text) - kept]

    def rest(self) -> str:
        """Returns what was kept back, at the end of the text."""
        kept, self._kept = self._kept, ""
        return kept
