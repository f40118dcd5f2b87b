"""One row: what is wrong with it, and what is worth knowing. Its image is `deepeyes.dataset.pictures`."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from deepeyes.dataset.pictures import image_of
from deepeyes.dataset.quoting import MAX_QUOTE, shorten
from deepeyes.dataset.reading import MAX_DEPTH
from deepeyes.settings import TOOL_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# The tool schema of the official system prompt requires `bbox`, a property that it does not have.
WRONG_REQUIRED = re.compile(r'("required"\s*:\s*\[\s*)"bbox"(\s*\])')


def messages_of(row: Mapping[str, Any]) -> Any:
    """Returns the conversation of a row: `prompt` in the official files, `messages` in swift's own format."""
    return row.get("prompt") if row.get("prompt") is not None else row.get("messages")


def row_problems(row: Any, scoring_of: Callable[[object], object]) -> list[str]:
    """Tells why a row can't be trained on, its image set aside.

    Args:
        row: A row as read.
        scoring_of: Raises an error that explains itself for an unknown data source.
    """
    if not isinstance(row, dict):
        return [f"the line is no JSON object of {MAX_DEPTH} levels or fewer"]
    problems = message_problems(messages_of(row))
    images = row.get("images")
    if not isinstance(images, list) or len(images) != 1:
        count = len(images) if isinstance(images, list) else 0
        problems.append(f"images holds {count} images; expected a list of one")
    elif image_of(images[0]) is None:
        problems.append("images[0] has neither bytes nor a path; a text in base64 stands where a path would")
    try:
        scoring_of(shorten(row.get("data_source")))
    except ValueError as error:
        problems.append(str(error))
    for column, key in (("reward_model", "ground_truth"), ("extra_info", "question")):
        value = row[column].get(key) if isinstance(row.get(column), dict) else None
        if not isinstance(value, str) or not value.strip():
            problems.append(f"{column}.{key} is {value!r:.{MAX_QUOTE}}; expected a text that is not empty")
    return problems


def arrow_problem(row: Mapping[str, Any]) -> str:
    """Tells why a row from JSON can't be written as parquet, or returns an empty text."""
    try:
        pa.Table.from_pylist([{key: value for key, value in row.items() if key != "images"}])
    except (pa.ArrowException, OverflowError, ValueError) as error:
        return f"parquet can't hold a value of the row: {error!s:.{MAX_QUOTE}}"
    return ""


def message_problems(messages: Any) -> list[str]:
    """Tells what is wrong with the conversation of a row."""
    if not isinstance(messages, list) or not all(
        isinstance(message, dict) and isinstance(message.get("role"), str) and isinstance(message.get("content"), str)
        for message in messages
    ):
        return ["prompt (or messages) is no list of messages with the texts role and content"]
    roles = " ".join(message["role"] for message in messages)
    if not re.fullmatch(r"(system )?(user assistant )*user", roles):
        return [f"the roles are {roles!r:.{MAX_QUOTE}}; expected 'system user' (more turns may stand between)"]
    tags = Counter({message["role"]: 0 for message in messages})
    for message in messages:
        tags[message["role"]] += message["content"].count("<image>")
    if +tags != Counter(user=1):
        found = ", ".join(f"{count} in {role} turns" for role, count in tags.items() if count) or "nowhere"
        return [f"`<image>` stands {found}; expected once, in a user turn"]
    return []


def row_notes(row: Any) -> list[str]:
    """Tells what is worth knowing about a row that is fine otherwise."""
    messages = messages_of(row) if isinstance(row, dict) else None
    if not isinstance(messages, list) or message_problems(messages):
        return []
    notes = []
    texts = [message["content"] for message in messages]
    if texts != [mend(text) for text in texts]:
        notes.append("the tool schema requires `bbox`, which is no property of it; --out writes `bbox_2d`")
    if row.get("env_name") and not any(TOOL_NAME in text for text in texts):
        notes.append(f"env_name is set, but the prompt does not speak of {TOOL_NAME}: the model can't know the tool")
    return notes


def mend(text: str) -> str:
    """Returns a system prompt whose tool schema requires the property that it has; any other text as it is."""
    return WRONG_REQUIRED.sub(r'\1"bbox_2d"\2', text) if '"bbox_2d"' in text else text
