"""A row as swift reads it, and what `--out` mends in it (pure)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeGuard

from deepeyes.dataset.quoting import quote
from deepeyes.dataset.remarks import Remark

if TYPE_CHECKING:
    from collections.abc import Mapping

# The tool schema of the official system prompt requires `bbox`, a property that it does not have.
WRONG_REQUIRED = re.compile(r'("required"\s*:\s*\[\s*)"bbox"(\s*\])')
ANSWER = re.compile(r"\s*<answer>(.*)</answer>\s*", re.DOTALL | re.IGNORECASE)
CONVERSATIONS = ("prompt", "messages")


@dataclass
class Loaded:
    """A row in the official columns.

    Attributes:
        row: The row as swift would read it, with what `--out` mends mended.
        told: What swift reads as it stands, and `--out` writes in the usual form.
        mended: What training would stop at or score wrongly, and `--out` writes as it should be.
    """

    row: dict[str, Any]
    told: list[Remark] = field(default_factory=list)
    mended: list[Remark] = field(default_factory=list)


def load(row: Mapping[str, Any]) -> Loaded:
    """Reads a row as `swift rlhf --columns '{"prompt": "messages"}'` does.

    Source: `RowPreprocessor._cast_mm_data` and `safe_rename_columns` (`swift/dataset/preprocessor/core.py`), and
    `Template._add_default_tags` (`swift/template/base.py`) of ms-swift 4.6.0.
    """
    loaded = Loaded(dict(row))
    _take_images(loaded)
    _take_conversation(loaded)
    _add_tag(loaded)
    for column, key in (("reward_model", "ground_truth"), ("extra_info", "question")):
        _write_as_text(loaded, column, key)
    return loaded


def mend(text: str) -> str:
    """Returns a system prompt whose tool schema requires the property that it has; any other text as it is."""
    return WRONG_REQUIRED.sub(r'\1"bbox_2d"\2', text) if '"bbox_2d"' in text else text


def _take_images(loaded: Loaded) -> None:
    row = loaded.row
    if row.get("image") is not None and row.get("images") is None:
        row["images"] = row.pop("image")
        loaded.told.append(Remark("the column `image` is read as `images`"))
    if isinstance(row.get("images"), (str, bytes, dict)):
        kind = "an object" if isinstance(row["images"], dict) else "a text"
        row["images"] = [row["images"]]
        loaded.told.append(Remark(f"images holds {kind}, which is read as a list of one"))


def _take_conversation(loaded: Loaded) -> None:
    """Keeps one of `prompt` and `messages` under the name `prompt`."""
    row = loaded.row
    there = [name for name in CONVERSATIONS if name in row]
    if len(there) > 1:
        used = next((name for name in there if row[name] is not None), "prompt")
        text = f"there are the columns prompt and messages, with which swift stops; --out keeps {used}"
        loaded.mended.append(Remark(text))
        row["prompt"] = row[used]
        del row["messages"]
    elif there == ["messages"]:
        row["prompt"] = row.pop("messages")


def _add_tag(loaded: Loaded) -> None:
    """Puts `<image>` tags that are missing where swift puts them: in front of the first turn after the system turn."""
    turns, images = loaded.row.get("prompt"), loaded.row.get("images")
    if not is_conversation(turns) or not isinstance(images, list):
        return
    missing = len(images) - sum(turn["content"].count("<image>") for turn in turns)
    if missing <= 0:
        return
    place = next((place for place, turn in enumerate(turns) if turn["role"] != "system"), None)
    if place is None or turns[place]["role"] != "user":
        return
    tagged = {**turns[place], "content": "<image>" * missing + turns[place]["content"]}
    loaded.row["prompt"] = [*turns[:place], tagged, *turns[place + 1 :]]
    loaded.told.append(Remark("fewer `<image>` than pictures; swift puts the missing in front of the first user turn"))


def is_conversation(turns: Any) -> TypeGuard[list[dict[str, str]]]:
    """Tells whether a value is a list of messages with the texts `role` and `content`."""
    return isinstance(turns, list) and all(
        isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)
        for turn in turns
    )


def _write_as_text(loaded: Loaded, column: str, key: str) -> None:
    fields = loaded.row.get(column)
    if not isinstance(fields, dict):
        return
    value = fields.get(key)
    text = as_text(value)
    if text is not None and not isinstance(value, str):
        kind = "a list" if isinstance(value, list) else "a number"
        loaded.mended.append(Remark(f"{column}.{key} is {kind}; --out writes it as text", quote(value)))
    if text is not None and key == "ground_truth" and (inside := ANSWER.fullmatch(text)):
        text = inside[1].strip()
        told = f"{column}.{key} stands within <answer>; --out writes what is inside"
        loaded.mended.append(Remark(told, quote(value)))
    if text is not None and text != value:
        loaded.row[column] = {**fields, key: text}


def as_text(value: Any) -> str | None:
    """Returns a text, a number or a list of them as text; None for what is none of these."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and value:
        parts = [as_text(part) for part in value]
        return ", ".join(part for part in parts if part is not None) if None not in parts else None
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return None
