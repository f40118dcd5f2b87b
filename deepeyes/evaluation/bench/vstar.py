"""V*Bench in its own layouts: folders of images and JSON, lines, and the parquet of lmms-lab.

Sources:
    huggingface.co/datasets/craigwu/vstar_bench, 191 questions: folders `direct_attributes` and `relative_position`, in
    each an image and a JSON with `target_object`, `bbox` (x, y, width, height; `iou` of `visual_search.py`), `question`
    and `options`, the first of which is right (`vstar_bench_eval.py` of github.com/penghao-wu/vstar). Beside them
    `test_questions.jsonl` with `image`, `text` (question and lettered options), `category`, `label`, `question_id`.
    huggingface.co/datasets/lmms-lab/vstar-bench: these lines as parquet, with the image inside
    (`vstar_bench` of github.com/modelscope/evalscope).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.bench.items import LETTERS, BadRow, Bench, Box, Item, options_of, place_of, text_of
from deepeyes.evaluation.bench.tables import open_table
from deepeyes.evaluation.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

FOLDERS = ("direct_attributes", "relative_position")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
ROWS = 191
HIDDEN = "._"  # begins the files that macOS puts beside others

_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[).]\s*(.+?)\s*$", re.MULTILINE)


def read_vstar(path: Path) -> Bench:
    """Reads the folders of V*Bench, or its `test_questions.jsonl` where there are none or that file is named.

    Raises:
        BenchError: It is neither.
    """
    if path.is_file():
        return _named(read_lines(path, path.parent))
    if not any((path / folder).glob("[!.]*.json") for folder in FOLDERS if (path / folder).is_dir()):
        lines = path / "test_questions.jsonl"
        if not lines.is_file():
            raise BenchError(f"{path} holds no JSON in {' or '.join(FOLDERS)}, nor {lines.name}; is this V*Bench?")
        return _named(read_lines(lines, path))
    bench = Bench("vstar", published=ROWS)
    for folder in FOLDERS:
        inside = (path / folder).iterdir() if (path / folder).is_dir() else ()
        files = sorted(file for file in inside if file.is_file() and not file.name.startswith(HIDDEN))
        images = {file.stem: file for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
        notes = {file.stem: file for file in files if file.suffix == ".json"}
        if not notes:
            bench.bad.append(BadRow(folder, "the folder is missing or holds no JSON"))
        for stem in sorted(images.keys() | notes.keys()):
            bench.add(f"{folder}/{stem}", _folder_item, folder, stem, images.get(stem), notes.get(stem))
    return bench.finish()


def _named(bench: Bench) -> Bench:
    return replace(bench, name="vstar", published=ROWS)


def _folder_item(folder: str, stem: str, image: Path | None, note: Path | None) -> Item:
    if image is None or note is None:
        raise ValueError("a JSON without its image" if image is None else "an image without its JSON")
    row = json.loads(note.read_text(encoding="utf-8"))
    options = options_of(row["options"])
    name = text_of(f"{folder}/{stem}", "the name of the file")
    question = text_of(row["question"], "question")
    return Item(name, name, folder, question, options[0], lambda: str(image), options, targets=_boxes(row))


def _boxes(row: Mapping[str, Any]) -> tuple[Box, ...]:
    """Returns target boxes; one that is none is no reason not to ask."""
    try:
        found = [tuple(float(number) for number in box) for box in row.get("bbox") or ()]
        return tuple((x, y, x + width, y + height) for x, y, width, height in found)
    except (TypeError, ValueError):
        return ()


def read_lines(path: Path, folder: Path) -> Bench:
    """Reads a file of lines like V*Bench's `test_questions.jsonl`.

    Args:
        path: The file.
        folder: Where its images are.
    """
    bench = Bench(path.stem)
    images: set[str] = set()
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                bench.add(f"{path.name} line {number}", _line_item, line, folder, images)
    return bench.finish()


def _line_item(line: bytes, folder: Path, images: set[str]) -> Item:
    """Makes an item. It is named by its image; a further question about the same one by its number, too."""
    row = json.loads(line.decode("utf-8-sig"))
    if not isinstance(row, dict):
        raise ValueError(f"the line is {row!r:.80}; expected a JSON object")  # noqa: TRY004 - the row is bad, not the code
    image, text = folder / text_of(row["image"], "image"), text_of(row["text"], "text")
    if not image.is_file():
        raise ValueError(f"no image {image}")
    name = str(Path(row["image"]).with_suffix(""))
    if name in images and row.get("question_id") is not None:
        name = text_of(f"{name} #{row['question_id']}", "question_id")
    images.add(name)
    return _lettered(name, text, row, lambda: str(image))


def _lettered(name: str, text: str, row: Mapping[str, Any], load: Callable[[], Any]) -> Item:
    """Makes an item of a text that holds the question and its lettered options."""
    question, options = split_options(text)
    right = place_of(row["label"], len(options))
    category = text_of(row.get("category") or "all", "category")
    return Item(name, name, category, question, options[right], load, options, right)


def split_options(text: str) -> tuple[str, tuple[str, ...]]:
    """Splits a text into the question and the options that follow it, a lettered line each.

    Raises:
        ValueError: There are no such lines, or they are not lettered from A on.
    """
    found = _OPTION_LINE.findall(text)
    letters = [letter for letter, _ in found]
    if letters != list(LETTERS[: len(letters)]):
        raise ValueError(f"options are lettered {letters}; expected A, B, ...")
    options = options_of([option for _, option in found])
    return text_of(_OPTION_LINE.split(text, maxsplit=1)[0], "question"), options


def read_vstar_parquet(path: Path) -> Bench:
    """Reads the parquet of lmms-lab/vstar-bench.

    Raises:
        BenchError: It is no parquet file, or damaged.
    """
    table = open_table(path)
    bench = Bench("vstar", published=ROWS)
    for place, row in enumerate(table.rows()):
        bench.add(f"{path.name} row {place}", _parquet_item, row, place, table)
    return bench.finish()


def _parquet_item(row: Mapping[str, Any], place: int, table: Any) -> Item:
    name = text_of(row.get("question_id") if row.get("question_id") is not None else place, "question_id")
    return _lettered(name, text_of(row["text"], "text"), row, lambda: table.image(place))
