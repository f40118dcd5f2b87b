"""Questions with lettered options in TSV or parquet: HR-Bench, and what VLMEvalKit publishes.

Sources:
    HR-Bench (huggingface.co/datasets/DreamMr/HR-Bench, 800 rows each in 4K and 8K): `index`, `question`, `answer` (a
    letter), `A` to `D`, `category`, `cycle_category` and `image` in base64; every question comes four times, its
    options in another order (`hrbench/vlmeval/dataset` of github.com/DreamMr/HR-Bench).
    V*Bench and TreeBench as VLMEvalKit publishes them: the same columns; TreeBench has `target_instances`, boxes as
    x1, y1, x2, y2 (`vlmeval/dataset/image_mcq.py` of github.com/open-compass/VLMEvalKit).
    MME-RealWorld and -Lite: options in a list, `multi-choice options`, each after "(A) " (there, class `MMERealWorld`).
"""

from __future__ import annotations

import ast
import binascii
import json
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from deepeyes.evaluation.bench.items import LETTERS, Bench, Box, Item, is_given, options_of, text_of
from deepeyes.evaluation.bench.tables import FAULT, Cell, cells_of, open_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

MOST_OPTIONS = 8  # columns A to H
LISTS = ("multi-choice options", "options", "choices")  # columns that hold all options of a row
_LETTERED = re.compile(r"^\s*\(?([A-Z])[).:]\s*")


def read_choices(name: str, path: Path, published: int | None = None) -> Bench:
    """Reads a table of questions with lettered options.

    Args:
        name: Of the benchmark.
        path: A TSV or parquet file.
        published: Rows that the benchmark has.

    Raises:
        BenchError: The file can't be read at all.
    """
    table = open_table(path)
    bench = Bench(name, published=published)
    rows = list(table.rows())
    occurrences: Counter[tuple[Any, ...]] = Counter()
    for place, (row, cell) in enumerate(zip(rows, cells_of(table, rows), strict=True)):
        where = f"{path.name} row {place} (index {row.get('index')!s:.20})"
        bench.add(where, _choice_item, row, cell, occurrences)
    bench.cycled = len({item.group for item in bench.items}) < len(bench.items)
    return bench.finish()


def _choice_item(row: Mapping[str, Any], cell: Cell, occurrences: Counter[tuple[Any, ...]]) -> Item:
    """Makes an item. Rows with the same question and options are one group, one of each cycle at a time."""
    if fault := row.get(FAULT):
        raise ValueError(fault)
    if row.get("index") in (None, ""):
        raise ValueError("no index")
    index, question = text_of(row["index"], "index"), text_of(row["question"], "question")
    options, right = find_options(row)
    alike = (question, frozenset(options), str(row.get("category")), options[right])
    twin = (*alike, str(row.get("cycle_category")))
    group = f"{question[:60]} #{_digest(alike)}.{occurrences[twin]}"
    occurrences[twin] += 1
    category = text_of(row.get("category") or "all", "category")
    targets = _targets(row.get("target_instances"))
    return Item(index, group, category, question, options[right], cell, options, right, targets=targets)


def find_options(row: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """Returns the options of a row, from the columns A to H or from a list, and the place of the right one.

    Raises:
        ValueError: There are none, or the answer names none of them.
    """
    given = {letter: row[letter] for letter in LETTERS[:MOST_OPTIONS] if is_given(row.get(letter))}
    if not given:
        column = next((name for name in LISTS if is_given(row.get(name))), None)
        if column is None:
            raise ValueError(f"no options; expected columns A, B, ... or one of {', '.join(LISTS)}")
        listed = [text_of(option, "an option") for option in _list_of(row[column])]
        given = dict(zip(LETTERS, (_LETTERED.sub("", option, count=1) for option in listed), strict=False))
    options = options_of(list(given.values()))
    letter = str(row["answer"]).strip().strip("().").upper()
    if letter not in given:
        raise ValueError(f"the right option is {row['answer']!r:.40}; expected one of {', '.join(given)}")
    return options, list(given).index(letter)


def _list_of(value: object) -> list[Any]:
    """Reads a list, or a text that writes one."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError) as error:
            raise ValueError(f"the options are {value!r:.80}; expected a list") from error
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"the options are {value!r:.80}; expected a list")  # noqa: TRY004 - the row is bad, not the code
    return list(value)


def _targets(value: object) -> tuple[Box, ...]:
    """Returns target boxes; what is none is no reason not to ask."""
    try:
        found = _list_of(value) if is_given(value) else []
        boxes = [tuple(float(number) for number in box) for box in found]
        return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes)
    except (TypeError, ValueError):
        return ()


def _digest(value: tuple[Any, ...]) -> str:
    """Returns eight hex digits that are the same in every process."""
    text = json.dumps([sorted(part) if isinstance(part, frozenset) else part for part in value])
    return f"{binascii.crc32(text.encode()):08x}"
