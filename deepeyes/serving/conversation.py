"""From a request to the first turns of a trajectory: what the model was shown in training, or what the client wrote.

A request without a system turn and without the zoom tool among its own is put as training puts a question: the system
turn that describes the tool, `<image>` and a line break, the question, the instruction. Any other keeps its own words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepeyes.markers import MEDIA_TAG
from deepeyes.playing.wire import call_text
from deepeyes.settings import TOOL_NAME

if TYPE_CHECKING:
    from deepeyes.playing.prompts import Prompt
    from deepeyes.serving.protocol import ChatRequest, Message

TAG = "<image>"


@dataclass(frozen=True)
class Opening:
    """The turns before the first one of the model.

    Attributes:
        messages: With text content; an `<image>` in a user turn stands for the next picture.
        row: Whether there is a tool, and what the question is; see `deepeyes.rows`.
        native: Messages about tool calls, by their place, in the form in which the client sent them.
    """

    messages: list[dict[str, Any]]
    row: dict[str, Any]
    native: dict[int, dict[str, Any]] = field(default_factory=dict)


def open_conversation(request: ChatRequest, prompt: Prompt) -> Opening:
    """Returns the first turns of a trajectory.

    Args:
        request: What the client asks.
        prompt: System turn and instruction of training.
    """
    has_images = bool(request.image_urls)
    own_words = any(message.role in ("system", "developer") for message in request.messages)
    trained = has_images and not own_words and TOOL_NAME not in request.tool_names
    last = max((at for at, message in enumerate(request.messages) if message.role == "user"), default=-1)
    messages = [{"role": "system", "content": prompt.system}] if trained else []
    native, question = {}, ""
    for at, message in enumerate(request.messages):
        content = _content(message, line_breaks=trained)
        if trained and at == last and "<answer>" not in content:
            question = content.removeprefix(TAG).lstrip("\n")
            content += prompt.instruction
        if message.role == "tool" or message.tool_calls:
            native[len(messages)] = _native(message)
        role = {"developer": "system", "tool": "user"}.get(message.role, message.role)
        messages.append({"role": role, "content": content})
    row = {"env_name": "zoom" if has_images else "", "extra_info": {"question": question}}
    return Opening(messages, row, native)


def _content(message: Message, *, line_breaks: bool) -> str:
    """Writes a message as text, with `<image>` for each image and nothing else that could pass for one."""
    pieces: list[str] = []
    parts = message.content or []
    kinds = [part.type for part in parts]
    if line_breaks and kinds == sorted(kinds, reverse=True):  # text, then images: training has the images first
        parts = sorted(parts, key=lambda part: part.type == "text")
    for part in parts:
        if part.type == "image_url":
            pieces.append(TAG)
            continue
        text = MEDIA_TAG.sub("< ", part.text or "")
        after_image = bool(pieces) and pieces[-1] == TAG
        pieces.append(f"\n{text}" if line_breaks and after_image and not text.startswith("\n") else text)
    content = "".join(pieces)
    if message.role == "tool":
        return f"<tool_response>\n{content}\n</tool_response>"
    functions = [call.get("function") or {} for call in message.tool_calls or ()]
    return content + call_text(
        content, ((str(call.get("name")), str(call.get("arguments") or "{}")) for call in functions)
    )


def _native(message: Message) -> dict[str, Any]:
    body: dict[str, Any] = {"role": message.role, "content": MEDIA_TAG.sub("< ", message.text)}
    for name in ("name", "tool_calls", "tool_call_id"):
        if (value := getattr(message, name)) is not None:
            body[name] = value
    return body
