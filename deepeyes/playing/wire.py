"""The OpenAI protocol: turns with images on the way out, and what came back on the way in (pure)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


CALL_TAG = "<tool_call"


@dataclass(frozen=True)
class Reply:
    """One turn of the model.

    Attributes:
        text: What it wrote, its thoughts and tool calls included, however the server hands them over.
        finish_reason: `stop`, `length` or what else the server says; `refused` where it took the request no longer.
        prompt_tokens: As the server counts them; 0 where it does not.
        completion_tokens: Likewise.
        native: Whether a tool call came in the protocol's own field.
        refusal: What the server said where it refused.
    """

    text: str
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    native: bool = False
    refusal: str | None = None


def to_openai(messages: Sequence[Mapping[str, Any]], images: Sequence[str]) -> list[dict[str, Any]]:
    """Puts images in the place of their `<image>` tags, turn by turn; those that are not there leave no trace."""
    rest = iter(images)
    turns = []
    for message in messages:
        first, *after = str(message["content"]).split("<image>") if message["role"] == "user" else [message["content"]]
        parts: list[dict[str, Any]] = [{"type": "text", "text": first}]
        for text in after:
            if (uri := next(rest, None)) is not None:
                parts.append({"type": "image_url", "image_url": {"url": uri}})
            parts.append({"type": "text", "text": text})
        parts = [part for part in parts if part["type"] != "text" or part["text"]]
        plain = all(part["type"] == "text" for part in parts)
        content = "".join(part["text"] for part in parts) if plain else parts
        turns.append({"role": message["role"], "content": content})
    return turns


def read_reply(completion: Any) -> Reply:
    """Reads a `chat.completion` of the openai SDK.

    A server with a reasoning parser hands the thoughts over in a field of their own, one with a tool parser the calls;
    both are put back where the model wrote them.
    """
    choice, usage = completion.choices[0], completion.usage
    message = choice.message
    text = message.content or ""
    calls = call_text(
        text,
        ((call.function.name, call.function.arguments) for call in message.tool_calls or () if call.type == "function"),
    )
    thoughts = next(
        (found for name in ("reasoning_content", "reasoning") if (found := getattr(message, name, None))), ""
    )
    if thoughts and "</think>" not in text:
        text = f"<think>{thoughts}</think>{text}"
    return Reply(
        text + calls,
        choice.finish_reason,
        (usage.prompt_tokens or 0) if usage else 0,
        (usage.completion_tokens or 0) if usage else 0,
        native=bool(calls),
    )


def call_text(content: str, calls: Iterable[tuple[str, str]]) -> str:
    """Writes native tool calls, name and arguments as JSON, as DeepEyes' own prompt has the model write them.

    Args:
        content: What came as text. `swift deploy` hands calls over and leaves them there as well: none is written then.
        calls: Name and arguments of each.
    """
    if CALL_TAG in content:
        return ""
    texts = []
    for name, arguments in calls:
        try:
            call = json.dumps({"name": name, "arguments": json.loads(arguments or "{}")}, ensure_ascii=False)
        except ValueError:  # what the model wrote is no JSON: `deepeyes.calls` says so to it
            call = arguments
        texts.append(f"<tool_call>\n{call}\n</tool_call>")
    return "\n".join(texts)
