"""Questions without options: yes or no, a number, a few words, a box.

Sources (all of github.com/open-compass/VLMEvalKit where nothing else is said):
    POPE: `index`, `question`, `answer` (Yes or No), `category`, `image` (`vlmeval/dataset/image_yorn.py`); the parquet
    of lmms-lab/POPE has `question_id` in the place of `index`.
    MathVista: `question` with its hint and choices, `answer`, `question_type`, `answer_option`, `task`
    (`vlmeval/dataset/image_vqa.py`, `utils/mathvista.py`).
    RefCOCO: `question`, `width`, `height`, and the box in `bbox_x1` to `bbox_y2` in pixels or in `answer`, there in
    pixels, or in 0..1 where no number exceeds 1.5 (`vlmeval/dataset/refcoco.py`). A box is right from an intersection
    over union of 0.5.
    ZoomBench (huggingface.co/datasets/inclusionAI/ZoomBench): parquet with `id`, `query`, `response`, `image`,
    `crop_image` (github.com/inclusionAI/Zooming-without-Zooming).
    VisualProbe (huggingface.co/datasets/Mini-o3/VisualProbe_Hard and its like): `val.json`, a list of `images` (paths),
    `problem` after `<image>`, `solution` (github.com/Mini-o3/Mini-o3).
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.bench.items import Bench, Box, Item, Kind, is_given, place_of, text_of
from deepeyes.evaluation.bench.tables import FAULT, Cell, cells_of, open_table
from deepeyes.evaluation.bench.vstar import split_options
from deepeyes.evaluation.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
LEVELS = ("easy", "medium", "hard")  # in the names of VisualProbe's folders
UNIT = 1.5  # no number above: the box is in 0..1


def read_free(name: str, path: Path) -> Bench:
    """Reads a table of questions without options.

    Args:
        name: `pope`, `mathvista`, `refcoco` or `zoombench`.
        path: A TSV or parquet file.

    Raises:
        BenchError: The file can't be read at all.
    """
    table = open_table(path, required={"question", "image"}, unused=("crop_image", "decoded_image"))
    bench = Bench(name)
    rows = list(table.rows())
    make = MAKERS[name]
    for place, (row, cell) in enumerate(zip(rows, cells_of(table, rows), strict=True)):
        bench.add(f"{path.name} row {place}", _free_item, make, row, place, cell)
    return bench.finish()


def _free_item(make: Callable[..., Item], row: Mapping[str, Any], place: int, cell: Cell) -> Item:
    if fault := row.get(FAULT):
        raise ValueError(fault)
    name = next((row[key] for key in ("index", "id") if is_given(row.get(key))), place)
    if is_given(row.get("question_id")) and not is_given(row.get("index")):
        name = f"{row.get('category', '')}/{row['question_id']}"
    split = f"{row['split']}/" if is_given(row.get("split")) else ""
    return make(row, split + text_of(name, "index"), cell)


def _pope(row: Mapping[str, Any], name: str, cell: Cell) -> Item:
    answer = text_of(row["answer"], "answer").casefold()
    if answer not in ("yes", "no"):
        raise ValueError(f"answer is {answer!r:.40}; expected yes or no")
    category = text_of(row.get("category") or "all", "category")
    question = text_of(row["question"], "question")
    return Item(name, name, category, question, answer.capitalize(), cell, kind=Kind.YESNO)


def _mathvista(row: Mapping[str, Any], name: str, cell: Cell) -> Item:
    answer = text_of(row["answer"], "answer")
    if is_given(row.get("answer_option")) and row.get("question_type") == "multi_choice":
        answer = f"{text_of(row['answer_option'], 'answer_option')}. {answer}"
    category = text_of(row.get("task") or row.get("category") or "all", "task")
    return Item(name, name, category, text_of(row["question"], "question"), answer, cell, kind=Kind.OPEN)


def _refcoco(row: Mapping[str, Any], name: str, cell: Cell) -> Item:
    box = _box_of(row)
    question = text_of(row["question"], "question").replace("<image>", "").strip()
    category = text_of(row.get("split") or row.get("category") or "all", "split")
    reference = "[" + ", ".join(f"{number:.0f}" for number in box) + "]"
    return Item(name, name, category, question, reference, cell, kind=Kind.BOX, targets=(box,))


def _box_of(row: Mapping[str, Any]) -> Box:
    columns = [row.get(f"bbox_{side}") for side in ("x1", "y1", "x2", "y2")]
    if all(is_given(value) for value in columns):
        numbers = [float(str(value)) for value in columns]
    else:
        numbers = [float(number) for number in NUMBER.findall(text_of(row["answer"], "answer"))]
        if len(numbers) == 4 and max(map(abs, numbers)) <= UNIT:  # noqa: PLR2004 - x1, y1, x2, y2
            sides = [float(str(row[name])) for name in ("width", "height")] * 2
            numbers = [number * side for number, side in zip(numbers, sides, strict=True)]
    if len(numbers) != 4 or not (numbers[0] < numbers[2] and numbers[1] < numbers[3]):  # noqa: PLR2004 - x1, y1, x2, y2
        raise ValueError(f"the box is {numbers!r:.80}; expected x1 < x2 and y1 < y2")
    return numbers[0], numbers[1], numbers[2], numbers[3]


def _zoombench(row: Mapping[str, Any], name: str, cell: Cell) -> Item:
    question, answer = (text_of(row[key], key) for key in ("query", "response"))
    question = question.replace("<image>", "").strip()
    category = text_of(row.get("category") or row.get("question_type") or "all", "category")
    try:
        bare, options = split_options(question)
        right = place_of(answer[:2] if re.match(r"[A-Z][.)]", answer) else answer, len(options))
    except ValueError:  # an open one
        return Item(name, name, category, question, answer, cell, kind=Kind.OPEN)
    return Item(name, name, category, bare, options[right], cell, options, right)


MAKERS: dict[str, Callable[[Mapping[str, Any], str, Cell], Item]] = {
    "pope": _pope,
    "mathvista": _mathvista,
    "refcoco": _refcoco,
    "zoombench": _zoombench,
}


def read_visualprobe(path: Path) -> Bench:
    """Reads a `val.json` of VisualProbe.

    Raises:
        BenchError: It is none.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise BenchError(f"{path} is no JSON: {error}") from error
    if not isinstance(rows, list):
        raise BenchError(f"{path} holds a {type(rows).__name__}; expected a list of images, problem and solution")
    bench = Bench("visualprobe")
    for place, row in enumerate(rows):
        bench.add(f"{path.name} row {place}", _probe_item, row, place, path.parent)
    return bench.finish()


def _probe_item(row: Mapping[str, Any], place: int, folder: Path) -> Item:
    images = row["images"]
    if len(images) != 1:
        raise ValueError(f"{len(images)} images; expected one")
    given = text_of(images[0], "images")
    found = (folder / given, folder / given.partition("/")[2], folder.parent / given)
    image = next((path for path in found if path.is_file()), None)
    if image is None:
        raise ValueError(f"no image {folder / given}")
    question = text_of(str(row["problem"]).replace("<image>", ""), "problem")
    category = next((level for level in LEVELS if level in folder.name.lower()), "all")
    name, answer = f"{folder.name}/{place}", text_of(row["solution"], "solution")
    return Item(name, name, category, question, answer, lambda: str(image), kind=Kind.OPEN)
