"""One row: what is wrong with it, and what is worth knowing (pure). Its picture is `deepeyes.dataset.pictures`."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from deepeyes.dataset.loading import is_conversation, mend
from deepeyes.dataset.pictures import image_of
from deepeyes.dataset.quoting import MAX_QUOTE, quote, shorten
from deepeyes.dataset.reading import MAX_DEPTH
from deepeyes.dataset.remarks import Remark
from deepeyes.settings import TOOL_NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TOOL_ENVIRONMENTS = ("visual_toolbox_v2", "visual_toolbox")
"""Values of `env_name` that the authors' data use for the zoom tool."""


def row_problems(row: Any, scoring_of: Callable[[object], object]) -> list[Remark]:
    """Tells why a row can't be trained on, its picture set aside.

    Args:
        row: A row as `deepeyes.dataset.loading.load` returns it, or what stood where a row was expected.
        scoring_of: Raises an error that explains itself for an unknown data source.
    """
    if not isinstance(row, dict):
        return [Remark(f"the line is no JSON object of {MAX_DEPTH} levels or fewer")]
    images = row.get("images")
    problems = conversation_problems(row.get("prompt"), len(images) if isinstance(images, list) and images else 1)
    if not isinstance(images, list):
        problems.append(Remark("images is no list of pictures", quote(images)))
    elif not images:
        problems.append(Remark("images holds 0 images; expected a list of one or more"))
    else:
        bad = [(place, image) for place, image in enumerate(images) if image_of(image) is None]
        problems += [_no_picture(image, place) for place, image in bad[:1]]
    try:
        scoring_of(shorten(row.get("data_source")))
    except ValueError as error:
        problems.append(Remark(str(error)))
    for column, key in (("reward_model", "ground_truth"), ("extra_info", "question")):
        value = row[column].get(key) if isinstance(row.get(column), dict) else None
        if not isinstance(value, str) or not value.strip():
            problems.append(Remark(f"{column}.{key} is empty or no text; expected a text", quote(value)))
    return problems


def _no_picture(entry: Any, place: int) -> Remark:
    if isinstance(entry, dict) and isinstance(entry.get("bytes"), str):
        return Remark(f"images[{place}].bytes is a text; a text in base64 stands where a path would")
    if isinstance(entry, dict) and entry.get("bytes") == b"":
        return Remark("the picture is empty: 0 bytes, and no path")
    return Remark(f"images[{place}] has neither bytes nor a path", quote(entry))


def conversation_problems(turns: Any, images: int = 1) -> list[Remark]:
    """Tells what is wrong with the conversation of a row that has so many pictures."""
    if not is_conversation(turns):
        return [Remark("prompt (or messages) is no list of messages with the texts role and content")]
    roles = " ".join(turn["role"] for turn in turns)
    if not re.fullmatch(r"(system )?(user assistant )*user", roles):
        return [Remark("the roles are not 'system user' (more turns may stand between)", quote(roles))]
    tags = Counter({turn["role"]: 0 for turn in turns})
    for turn in turns:
        tags[turn["role"]] += turn["content"].count("<image>")
    if +tags != Counter(user=images):
        found = ", ".join(f"{count} in {role} turns" for role, count in tags.items() if count) or "nowhere"
        if images > 1:
            return [Remark(f"images holds {images} images, and `<image>` stands {found}; expected one for each")]
        return [Remark(f"`<image>` stands {found}; expected once, in a user turn")]
    return []


def arrow_problem(row: Mapping[str, Any]) -> Remark | None:
    """Tells why a row from JSON can't be written as parquet, where that is so."""
    try:
        pa.Table.from_pylist([{key: value for key, value in row.items() if key != "images"}])
    except (pa.ArrowException, OverflowError, ValueError) as error:
        return Remark("parquet can't hold a value of the row", f"{error!s:.{MAX_QUOTE}}")
    return None


def row_notes(row: Any) -> list[Remark]:
    """Tells what is worth knowing about a row that is fine otherwise."""
    turns = row.get("prompt") if isinstance(row, dict) else None
    images = row.get("images") if isinstance(row, dict) else None
    if conversation_problems(turns, len(images) if isinstance(images, list) and images else 1):
        return []
    notes = []
    texts = [turn["content"] for turn in turns or ()]
    if texts != [mend(text) for text in texts]:
        notes.append(Remark("the tool schema requires `bbox`, which is no property of it; --out writes `bbox_2d`"))
    environment = row.get("env_name")
    if environment and not any(TOOL_NAME in text for text in texts):
        notes.append(Remark(f"env_name is set, but the prompt does not speak of {TOOL_NAME}: the model can't know it"))
    if environment and environment not in TOOL_ENVIRONMENTS:
        told = f"env_name is not {TOOL_ENVIRONMENTS[0]!r}; any text that is not empty offers the zoom tool"
        notes.append(Remark(told, quote(environment)))
    return notes
