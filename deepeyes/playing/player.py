"""The loop over turns: the model is asked, its tool call runs, and what that gives back is the next user turn."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from deepeyes.markers import MEDIA_TAG
from deepeyes.playing.endpoint import RefusedError
from deepeyes.playing.wire import Reply, to_openai
from deepeyes.turns import Observation, Progress, ZoomTool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from deepeyes.playing.pictures import Picture, Viewer
    from deepeyes.settings import Settings

GREY = (128, 128, 128)


class Model(Protocol):
    """Who is asked: `deepeyes.playing.endpoint.Endpoint`, or what wraps it."""

    async def reply(self, messages: list[dict[str, Any]], options: Mapping[str, Any]) -> Reply:
        """Returns the next turn.

        Args:
            messages: In the OpenAI protocol.
            options: Further fields of the request: `max_tokens`, `temperature`, `top_p`, `seed` and the like.

        Raises:
            RefusedError: The request is refused for what is in it.
        """


@dataclass(frozen=True)
class Start:
    """A trajectory before its first turn.

    Attributes:
        messages: Turns with text content; the last is the user turn that asks the question. An `<image>` in a user
            turn stands for the next picture.
        row: Columns that say whether there is a tool and which instruction follows a crop; see `deepeyes.rows`. Where
            it is empty, there is a tool if a message names it.
        pictures: One for each `<image>`.
        options: See `Model.reply`.
    """

    messages: Sequence[Mapping[str, Any]]
    row: Mapping[str, Any]
    pictures: Sequence[Picture]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """A turn of the model, and what its tool call gave back.

    Attributes:
        reply: The turn.
        observation: None where the trajectory ended with this turn.
        image: The crop as it is sent, a data URI, where there is one.
    """

    reply: Reply
    observation: Observation | None = None
    image: str | None = None


@dataclass
class Played:
    """A trajectory that is over.

    Attributes:
        turns: Text of every turn of the model.
        observations: Text of the user turn after each but the last.
        images: All images that were sent, data URIs: those of the prompt, then the crops.
        infos: As the plugin's `rollout_infos`, without images: `num_zooms`, `num_zoom_errors`, `zooms`, `turns`,
            `view_size`.
        prompt_tokens: Of all requests together.
        completion_tokens: Likewise.
        finish_reason: Of the last turn; `refused` where the endpoint took the trajectory no longer.
        refusal: What it said then.
        native: Whether a tool call came in the protocol's own field.
    """

    turns: list[str]
    observations: list[str]
    images: list[str]
    infos: dict[str, Any] = field(default_factory=dict)
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str | None = None
    refusal: str | None = None
    native: bool = False


class Player:
    """Plays trajectories; one can play any number at a time."""

    def __init__(
        self, model: Model, viewer: Viewer, settings: Settings, max_turns: int, *, blank_crops: bool = False
    ) -> None:
        """Makes a player.

        Args:
            model: Who is asked.
            viewer: Who made the pictures, and cuts the crops.
            settings: Rules, and sources of rows that have no tool.
            max_turns: Turns of the model in a trajectory.
            blank_crops: Whether crops are painted grey, as a control.
        """
        self._model, self._viewer = model, viewer
        self._tool = ZoomTool(viewer, settings)
        self._max_turns = max_turns
        self._blank_crops = blank_crops

    async def steps(self, start: Start, progress: Progress | None = None) -> AsyncIterator[Step]:
        """Plays a trajectory turn by turn.

        Args:
            start: The trajectory.
            progress: What is remembered of it; given by those who want to read it.

        Raises:
            RefusedError: The endpoint refuses the first turn. Later on that ends the trajectory: its last turn is
                empty, with the finish reason `refused`.
            EndpointError: The endpoint failed for good.
        """
        progress = progress or Progress()
        progress.views = list(start.pictures)
        messages = [dict(message) for message in start.messages]
        prompt = next((turn["content"] for turn in reversed(messages) if turn["role"] == "user"), None)
        told = "\n".join(str(turn["content"]) for turn in messages)
        images = [picture.uri for picture in start.pictures]
        for turn in range(1, self._max_turns + 1):
            try:
                reply = await self._model.reply(to_openai(messages, images), start.options)
            except RefusedError as error:
                if turn == 1:
                    raise
                yield Step(Reply("", "refused", refusal=str(error)))
                return
            reply = replace(reply, text=reply.text.encode("utf-8", "replace").decode("utf-8"))
            progress.turns.append(reply.text)
            over = reply.finish_reason == "length" or turn == self._max_turns
            if over or self._tool.is_over(reply.text, start.row, told):
                yield Step(reply)
                return
            observation = await asyncio.to_thread(self._tool.observe, progress, start.row, prompt)
            progress.zooms.append(observation.zoom)
            messages.append({"role": "assistant", "content": MEDIA_TAG.sub("< ", reply.text)})
            messages.append({"role": "user", "content": observation.text})
            uri = None
            if (crop := observation.image) is not None:
                if self._blank_crops:
                    crop = Image.new("RGB", crop.size, GREY)
                    observation = replace(observation, image=crop)
                uri = await self._viewer.uri_of(crop)
                images.append(uri)
            yield Step(reply, observation, uri)

    async def play(self, start: Start) -> Played:
        """Plays a trajectory to its end; for what it raises see `steps`."""
        progress = Progress()
        played = Played([], [], [picture.uri for picture in start.pictures])
        async for step in self.steps(start, progress):
            played.turns.append(step.reply.text)
            played.prompt_tokens += step.reply.prompt_tokens
            played.completion_tokens += step.reply.completion_tokens
            played.finish_reason, played.refusal = step.reply.finish_reason, step.reply.refusal
            played.native |= step.reply.native
            if step.observation is not None:
                played.observations.append(step.observation.text)
            if step.image is not None:
                played.images.append(step.image)
        played.infos = progress.infos()
        return played
