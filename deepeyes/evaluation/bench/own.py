"""This project's own rows: parquet or JSON Lines in the schema of the training files (docs/data)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.bench.items import Bench, Item, Kind, text_of
from deepeyes.evaluation.bench.tables import Parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path


def read_own(path: Path) -> Bench:
    """Reads a parquet file of rows.

    Raises:
        BenchError: It is damaged.
    """
    table = Parquet(path, "images")
    bench = Bench(path.stem)
    for place, row in enumerate(table.rows()):
        bench.add(f"{path.name} row {place}", _own_item, row, place, lambda place=place: table.image(place))
    return bench.finish()


def read_own_lines(path: Path, folder: Path) -> Bench:
    """Reads a file of rows, a JSON object a line; paths of images are relative to `folder`.

    Raises:
        BenchError: No row can be asked.
    """
    bench = Bench(path.stem)
    with path.open("rb") as lines:
        for place, line in enumerate(line for line in lines if line.strip()):
            bench.add(f"{path.name} row {place}", _line_item, line, place, folder)
    return bench.finish()


def _line_item(line: bytes, place: int, folder: Path) -> Item:
    row = json.loads(line.decode("utf-8-sig"))
    if not isinstance(row, dict):
        raise ValueError(f"the line is {row!r:.80}; expected a JSON object")  # noqa: TRY004 - the row is bad, not the code
    images = row.pop("images", None)
    images = images if isinstance(images, list) or images is None else [images]
    return _own_item(row, place, lambda: [_placed(image, folder) for image in images or []])


def _placed(image: Any, folder: Path) -> Any:
    """Returns an image; a path is made one from `folder` where there is such a file."""
    path = image.get("path") if isinstance(image, dict) and not image.get("bytes") else image
    if isinstance(path, str) and len(path) < 1 << 10 and (folder / path).is_file():
        return str(folder / path)
    return image


def _struct(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = row.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.80}; expected a struct")  # noqa: TRY004 - the row is bad, not the code
    return value


def _own_item(row: dict[str, Any], place: int, images: Callable[[], Any]) -> Item:
    extra_info, reward_model = (_struct(row, name) for name in ("extra_info", "reward_model"))
    question = text_of(extra_info.get("question"), "extra_info.question")
    reference = text_of(reward_model.get("ground_truth"), "reward_model.ground_truth")
    source = text_of(row.get("data_source"), "data_source")
    prompt = row.get("prompt") or row.get("messages") or []
    users = [str(turn.get("content")) for turn in prompt if turn.get("role") == "user"]
    tags = sum(user.count("<image>") for user in users)
    if not tags:
        raise ValueError(f"{len(users)} user turns without an <image>; expected one for each of the images")

    def load() -> list[Any]:
        found = list(images() or [])
        if len(found) != tags:
            raise ValueError(f"{len(found)} images, and {tags} <image> in the user turns; expected as many")
        return found

    name, own = f"{source}/{place}", {**row, "prompt": prompt}
    return Item(name, name, source, question, reference, load, row=own, kind=Kind.OPEN, pictures=tags)
