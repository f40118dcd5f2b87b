"""What happens while a request is answered, in the order in which it happens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Kind(str, Enum):
    """Where a piece of text goes."""

    REASONING = "reasoning_content"
    CONTENT = "content"
    RAW = "raw"
    """As the model wrote it, tags included; only for a trace."""


@dataclass(frozen=True)
class Usage:
    """Tokens that the model's endpoint counted, of all turns; None where it counted none."""

    prompt: int
    completion: int

    def __add__(self, other: Usage) -> Usage:
        """Adds the tokens of another turn."""
        return Usage(self.prompt + other.prompt, self.completion + other.completion)


@dataclass(frozen=True)
class Viewed:
    """The pictures of a request: size of each view, in which boxes are told, and of the image itself, in pixels."""

    views: tuple[tuple[int, int], ...]
    originals: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Text:
    """A piece of text of one answer."""

    choice: int
    kind: Kind
    text: str
    turn: int


@dataclass(frozen=True)
class Zoomed:
    """A tool call of the model that was played.

    Attributes:
        choice: Number of the answer, from 0.
        zoom: As in `rollout_infos["zooms"]`: `turn`, `bbox_2d`, `box` in pixels of the view or null, `label`,
            `image`, `error` or null.
        crop: The new image as a data URI, or None for a call that was refused.
        told: What the model was told, where there is no crop.
    """

    choice: int
    zoom: dict[str, Any]
    crop: str | None
    told: str | None


@dataclass(frozen=True)
class ToolCalls:
    """Calls of the client's own tools, for the client to run."""

    choice: int
    calls: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Ended:
    """The end of one answer.

    Attributes:
        choice: Number of the answer, from 0.
        finish_reason: `stop`, `length`, `tool_calls` or `content_filter`, as OpenAI names them.
        stopped: Why, more exactly: `answer`, `max_turns`, `max_tokens`, `stop_text`, `tool_calls` or `content_filter`.
        turns: Turns that the model wrote.
        usage: Tokens of all turns, or None where the endpoint counts none.
    """

    choice: int
    finish_reason: str
    stopped: str
    turns: int
    usage: Usage | None


Event = Viewed | Text | Zoomed | ToolCalls | Ended
