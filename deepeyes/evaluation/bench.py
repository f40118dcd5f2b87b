"""What is asked: readers of V*Bench, HR-Bench and this project's own rows, and the order of the options.

A reader lists the questions first and leaves the images where they are: `Item.load` fetches one when its turn comes, so
that HR-Bench 8K, several gigabytes of base64, takes no more memory than the questions that are under way.

Formats, as published:
    V*Bench (huggingface.co/datasets/craigwu/vstar_bench, 191 questions): folders `direct_attributes` and
        `relative_position`, in each an image and a JSON with `target_object`, `bbox`, `question` and `options`, *the
        first of which is right* (`vstar_bench_eval.py` of github.com/penghao-wu/vstar); beside them
        `test_questions.jsonl` with `image`, `text` (question and lettered options), `category`, `label`, `question_id`.
    HR-Bench (huggingface.co/datasets/DreamMr/HR-Bench, 800 rows each in 4K and 8K): TSV or parquet with `index`,
        `question`, `answer` (a letter), `A` to `D`, `category`, `cycle_category` and `image` in base64; every question
        comes four times, its options in another order (`hrbench/vlmeval/dataset` of github.com/DreamMr/HR-Bench).
    Own rows: parquet in the schema of the training files (README, "Data").
"""

from __future__ import annotations

import base64
import binascii
import csv
import itertools
import json
import random
import re
import string
import sys
import threading
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

LETTERS = string.ascii_uppercase
VSTAR_FOLDERS = ("direct_attributes", "relative_position")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PUBLISHED_ROWS = {"vstar": 191, "hrbench4k": 800, "hrbench8k": 800}
REFERENCE_CHARS = 64
"""An image cell of no more than this many characters names the row that holds the image, as VLMEvalKit's files do."""


class EvalError(Exception):
    """Ends an evaluation with a message for the user and the exit status `status`."""

    status = 2


class BenchError(EvalError):
    """The benchmark can't be read at all; the message says what was found and what was expected."""


@dataclass(frozen=True)
class Item:
    """A question with its right answer.

    Attributes:
        id: Unique within the benchmark, and the same in every format of it.
        group: Shared by rows that ask the same question with its options in another order.
        category: What accuracy is reported by.
        question: Without options and format instructions.
        reference: The right option, or the reference answer.
        load: Returns the image in a form that swift takes; raises where there is none.
        options: The options, none for a free answer.
        right: Place of the right option.
        row: The dataset row, its images left out, where the benchmark is in this project's schema.
    """

    id: str
    group: str
    category: str
    question: str
    reference: str
    load: Callable[[], Any]
    options: tuple[str, ...] = ()
    right: int = 0
    row: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class BadRow:
    """A row that can't be asked: where it is, and what is wrong with it."""

    where: str
    why: str


@dataclass
class Bench:
    """A benchmark: its questions, the rows that are none, and whether its file already cycles the options."""

    name: str
    items: list[Item] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    cycled: bool = False

    def add(self, where: str, make: Callable[..., Item], *arguments: Any) -> None:
        """Adds the item that `make` returns for `arguments`, or notes why it can't."""
        try:
            item = make(*arguments)
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            reason = f"no field {error}" if isinstance(error, KeyError) else str(error)
            self.bad.append(BadRow(*(text[:300].encode(errors="replace").decode() for text in (where, reason))))
        else:
            self.items.append(item)

    def finish(self) -> Bench:
        """Moves repeated ids to the bad rows.

        Raises:
            BenchError: No question is left.
        """
        seen: Counter[str] = Counter()
        kept = []
        for item in self.items:
            seen[item.id] += 1
            if seen[item.id] > 1:
                self.bad.append(BadRow(item.id, "this id stood before; ids must be unique"))
            else:
                kept.append(item)
        self.items = kept
        if not kept:
            first = "".join(f"; the first: {row.where}: {row.why}" for row in self.bad[:1])
            raise BenchError(f"{self.name}: found no question that can be asked ({len(self.bad)} bad rows{first})")
        return self

    def note(self) -> str | None:
        """Says so where the number of questions is not the published one."""
        published = PUBLISHED_ROWS.get(self.name)
        if published in (None, len(self.items)):
            return None
        return f"{self.name} was published with {published} rows; {len(self.items)} of them can be asked here"


def read_bench(name: str, data: Path | None) -> Bench:
    """Reads a benchmark.

    Args:
        name: `vstar`, `hrbench4k`, `hrbench8k`, or the path of a file in any of the formats above.
        data: Folder (or file) of a benchmark that was given by name; for a file, the folder of its images.

    Raises:
        BenchError: There is no such benchmark, or nothing in it can be asked.
    """
    if name == "vstar":
        return _read_vstar(_existing(data, "the folder of V*Bench, with direct_attributes/ and relative_position/"))
    if name in ("hrbench4k", "hrbench8k"):
        folder = _existing(data, f"the folder of HR-Bench, with hr_bench_{name[-2:]}.tsv or .parquet")
        return _read_hrbench(name, _hrbench_file(folder, name[-2:]))
    path = Path(name)
    if not path.exists():
        raise BenchError(f"--bench {name}: no such file; expected vstar, hrbench4k, hrbench8k or a path")
    if path.is_dir():
        return _read_vstar(path)
    if path.suffix == ".jsonl":
        return _read_vstar_lines(path, data or path.parent)
    if path.suffix == ".parquet" and {"prompt", "images"} <= set(_parquet_columns(path)):
        return _read_own(path)
    if path.suffix in (".parquet", ".tsv"):
        return _read_hrbench(path.stem, path)
    raise BenchError(f"--bench {name}: expected a .parquet, .tsv or .jsonl file, or a folder in the layout of V*Bench")


def _existing(data: Path | None, what: str) -> Path:
    if data is None or not data.exists():
        raise BenchError(f"--data {data or 'was not given'}: expected {what}")
    return data


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {value!r:.80}; expected a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{name} is {value!r:.80}; expected UTF-8")
    return value.strip()


def _options(values: Sequence[object]) -> tuple[str, ...]:
    options = tuple(_text(value, "an option") for value in values)
    if not 1 < len(options) <= len(LETTERS):
        raise ValueError(f"{len(options)} options; expected 2 to {len(LETTERS)}")
    if len({option.casefold() for option in options}) < len(options):
        raise ValueError(f"options {options!r:.200} repeat; expected different ones")
    return options


# V*Bench


def _read_vstar(path: Path) -> Bench:
    """Reads the folders of V*Bench, or its `test_questions.jsonl` where there are none or that file is named."""
    if path.is_file():
        return replace(_read_vstar_lines(path, path.parent), name="vstar")
    if not any((path / folder).glob("*.json") for folder in VSTAR_FOLDERS if (path / folder).is_dir()):
        lines = path / "test_questions.jsonl"
        if not lines.is_file():
            raise BenchError(
                f"{path} holds no JSON in {' or '.join(VSTAR_FOLDERS)}, nor {lines.name}; is this V*Bench?"
            )
        return replace(_read_vstar_lines(lines, path), name="vstar")
    bench = Bench("vstar")
    for folder in VSTAR_FOLDERS:
        files = sorted(file for file in (path / folder).iterdir() if file.is_file()) if (path / folder).is_dir() else []
        images = {file.stem: file for file in files if file.suffix.lower() in IMAGE_SUFFIXES}
        notes = {file.stem: file for file in files if file.suffix == ".json"}
        if not notes:
            bench.bad.append(BadRow(folder, "the folder is missing or holds no JSON"))
        for stem in sorted(images.keys() | notes.keys()):
            bench.add(f"{folder}/{stem}", _vstar_item, folder, stem, images.get(stem), notes.get(stem))
    return bench.finish()


def _vstar_item(folder: str, stem: str, image: Path | None, note: Path | None) -> Item:
    if image is None or note is None:
        raise ValueError("a JSON without its image" if image is None else "an image without its JSON")
    row = json.loads(note.read_text(encoding="utf-8"))
    options = _options(row["options"])
    name = _text(f"{folder}/{stem}", "the name of the file")
    return Item(name, name, folder, _text(row["question"], "question"), options[0], lambda: str(image), options)


_OPTION_LINE = re.compile(r"^\s*\(?([A-Z])[).]\s*(.+?)\s*$", re.MULTILINE)


def _read_vstar_lines(path: Path, folder: Path) -> Bench:
    """Reads a file of lines like V*Bench's `test_questions.jsonl`."""
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
    image, text = folder / _text(row["image"], "image"), _text(row["text"], "text")
    if not image.is_file():
        raise ValueError(f"no image {image}")
    found = _OPTION_LINE.findall(text)
    letters = [letter for letter, _ in found]
    if letters != list(LETTERS[: len(letters)]):
        raise ValueError(f"options are lettered {letters}; expected A, B, ...")
    options = _options([option for _, option in found])
    question = _text(text[: _OPTION_LINE.search(text).start()], "question")  # type: ignore[union-attr] # _options found two
    right = _place(row["label"], len(options))
    name = str(Path(row["image"]).with_suffix(""))
    category = _text(str(row.get("category") or "all"), "category")
    if name in images and row.get("question_id") is not None:
        name = _text(f"{name} #{row['question_id']}", "question_id")
    images.add(name)
    return Item(name, name, category, question, options[right], lambda: str(image), options, right)


def _place(letter: object, count: int) -> int:
    """Turns the letter of an option into its place."""
    place = LETTERS.find(str(letter).strip().upper()) if len(str(letter).strip()) == 1 else -1
    if not 0 <= place < count:
        raise ValueError(f"the right option is {letter!r:.40}; expected a letter from A to {LETTERS[count - 1]}")
    return place


# HR-Bench


FAULT = "\0fault"
"""In the place of the columns of a row that can't be read, with the reason; no column has this name."""


class _Table(Protocol):
    """A table whose image column is read cell by cell."""

    def rows(self) -> Iterator[dict[str, Any]]:
        """Gives every row, its image left out; one that can't be read holds only a `FAULT`."""

    def image(self, place: int) -> Any:
        """Returns one cell of the image column."""


def _hrbench_file(path: Path, size: str) -> Path:
    if path.is_file():
        return path
    found = [file for suffix in ("tsv", "parquet") for file in sorted(path.rglob(f"*hr*bench*{size}*.{suffix}"))]
    if not found:
        raise BenchError(f"--data {path}: found no hr_bench_{size}.tsv or hr_bench_{size}.parquet")
    return found[0]


def _read_hrbench(name: str, path: Path) -> Bench:
    table: _Table = _Tsv(path) if path.suffix == ".tsv" else _Parquet(path, "image")
    bench = Bench(name)
    rows = list(table.rows())
    places = {str(row.get("index")): place for place, row in enumerate(rows)}
    occurrences: Counter[tuple[Any, ...]] = Counter()
    for place, row in enumerate(rows):
        where = f"{path.name} row {place} (index {row.get('index')!s:.20})"
        bench.add(where, _hrbench_item, row, _Cell(table, place, places), occurrences)
    bench.cycled = len({item.group for item in bench.items}) < len(bench.items)
    return bench.finish()


def _hrbench_item(row: Mapping[str, Any], cell: _Cell, occurrences: Counter[tuple[Any, ...]]) -> Item:
    """Makes an item. Rows with the same question and options are one group, one of each cycle at a time."""
    if fault := row.get(FAULT):
        raise ValueError(fault)
    if row.get("index") in (None, ""):
        raise ValueError("no index")
    index, question = _text(str(row["index"]), "index"), _text(row["question"], "question")
    given = [letter for letter in LETTERS[:8] if _is_given(row.get(letter))]
    options = _options([row[letter] for letter in given])
    if (letter := str(row["answer"]).strip().upper()) not in given:
        raise ValueError(f"the right option is {row['answer']!r:.40}; expected one of {', '.join(given)}")
    right = given.index(letter)
    alike = (question, frozenset(options), str(row.get("category")), options[right])
    twin = (*alike, str(row.get("cycle_category")))
    group = f"{question[:60]} #{_digest(alike)}.{occurrences[twin]}"
    occurrences[twin] += 1
    category = _text(str(row.get("category") or "all"), "category")
    return Item(index, group, category, question, options[right], cell, options, right)


def _digest(value: tuple[Any, ...]) -> str:
    """Returns eight hex digits that are the same in every process."""
    text = json.dumps([sorted(part) if isinstance(part, frozenset) else part for part in value])
    return f"{binascii.crc32(text.encode()):08x}"


def _is_given(value: object) -> bool:
    """Tells whether a cell holds something; a missing one is None, NaN (which does not equal itself) or blank."""
    return value is not None and value == value and bool(str(value).strip())  # noqa: PLR0124


@dataclass(frozen=True)
class _Cell:
    """An image cell; called, it returns the image's bytes, following a reference to another row."""

    table: _Table
    place: int
    places: Mapping[str, int]

    def __call__(self) -> bytes:
        value = self.table.image(self.place)
        if isinstance(value, dict):
            value = value.get("bytes")
        if isinstance(value, str) and len(value) <= REFERENCE_CHARS and value.strip() in self.places:
            value = self.table.image(self.places[value.strip()])
        if isinstance(value, str):
            try:
                value = base64.b64decode(value.partition("base64,")[2] or value, validate=True)
            except binascii.Error as error:
                raise ValueError(f"the image is no base64: {error}") from error
        if not isinstance(value, bytes) or not value:
            raise ValueError(f"the image cell holds {value!r:.60}; expected base64 or bytes")
        return value


_LONG = re.compile(rb"[A-Za-z0-9+/]{10000,}={0,2}")


class _Lines:
    """The lines of a binary file as text, and how far into the file they reach."""

    def __init__(self, file: IO[bytes], offset: int = 0, *, images: bool) -> None:
        file.seek(offset)
        self._file = file
        self._images = images
        self.offset = offset

    def __iter__(self) -> Iterator[str]:
        for line in self._file:
            start, self.offset = self.offset, self.offset + len(line)
            text = line if self._images else _LONG.sub(b"", line)  # the csv module would go through it bit by bit
            yield text.decode("utf-8" if start else "utf-8-sig", "surrogateescape")  # `_text` tells


class _Tsv:
    """A TSV with an `image` column. Where each row begins is noted once; an image is read again from there."""

    def __init__(self, path: Path) -> None:
        csv.field_size_limit(sys.maxsize)
        self._path = path
        self._offsets: list[int] = []
        self._names: list[str] = []

    def rows(self) -> Iterator[dict[str, Any]]:
        with self._path.open("rb") as file:
            lines = _Lines(file, images=False)
            reader = csv.reader(lines, delimiter="\t")
            try:
                self._names = next(reader, [])
            except csv.Error as error:
                raise BenchError(f"{self._path}: the head can't be read: {error}") from error
            if missing := {"index", "question", "answer", "image"} - set(self._names):
                raise BenchError(f"{self._path}: no column {', '.join(sorted(missing))}; found {self._names!r:.300}")
            while True:
                start = lines.offset
                try:
                    row = dict(zip(self._names, next(reader), strict=False))
                except StopIteration:
                    return
                except csv.Error as error:
                    row = {FAULT: f"the line can't be read: {error}"}
                self._offsets.append(start)
                row.pop("image", None)
                yield row

    def image(self, place: int) -> Any:
        with self._path.open("rb") as file:
            cells = next(csv.reader(_Lines(file, self._offsets[place], images=True), delimiter="\t"), [])
        return dict(zip(self._names, cells, strict=False)).get("image")


def _parquet_columns(path: Path) -> list[str]:
    import pyarrow as pa  # noqa: PLC0415 - only where a parquet is read
    import pyarrow.parquet as pq  # noqa: PLC0415

    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowInvalid, OSError) as error:
        raise BenchError(f"{path} is no readable parquet file: {error}") from error


class _Parquet:
    """A parquet file with one heavy column, whose cells are read in order or from the start of a row group."""

    def __init__(self, path: Path, heavy: str) -> None:
        import pyarrow.parquet as pq  # noqa: PLC0415 - only where a parquet is read

        self._path = path
        self._columns = _parquet_columns(path)
        if heavy not in self._columns:
            raise BenchError(f"{path}: no column {heavy}; found {self._columns!r:.300}")
        self._heavy = heavy
        self._file = pq.ParquetFile(path, memory_map=True)
        self._lock = threading.Lock()
        self._cells: Iterator[Any] = iter(())
        self._next = -1

    def rows(self) -> Iterator[dict[str, Any]]:
        import pyarrow as pa  # noqa: PLC0415

        light = [name for name in self._columns if name != self._heavy]
        try:
            for batch in self._file.iter_batches(batch_size=512, columns=light):
                yield from batch.to_pylist()
        except (pa.ArrowException, ValueError, OSError) as error:
            raise BenchError(f"{self._path} is damaged; expected a whole parquet file: {error}") from error

    def image(self, place: int) -> Any:
        with self._lock:
            first, self._next = self._next, -1  # stays so where a cell can't be read: a generator that raised is over
            if not 0 <= first <= place:
                first = self._rewind(place)
            try:
                cell = next(itertools.islice(self._cells, place - first, None))
            except StopIteration as error:  # asyncio would wait for ever
                raise ValueError(f"{self._path} ends before row {place}") from error
            self._next = place + 1
            return cell

    def _rewind(self, place: int) -> int:
        """Goes back to the start of a row's group, and returns the first row there."""
        start = 0
        for group in range(self._file.num_row_groups):
            rows = self._file.metadata.row_group(group).num_rows
            if place < start + rows:
                break
            start += rows
        groups = list(range(group, self._file.num_row_groups))
        batches = self._file.iter_batches(batch_size=1, row_groups=groups, columns=[self._heavy])
        self._cells = (batch.to_pylist()[0][self._heavy] for batch in batches)
        return start


# This project's own rows


def _read_own(path: Path) -> Bench:
    table = _Parquet(path, "images")
    bench = Bench(path.stem)
    for place, row in enumerate(table.rows()):
        bench.add(f"{path.name} row {place}", _own_item, row, place, table)
    return bench.finish()


def _struct(row: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = row.get(name) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} is {value!r:.80}; expected a struct")  # noqa: TRY004 - the row is bad, not the code
    return value


def _own_item(row: dict[str, Any], place: int, table: _Parquet) -> Item:
    extra_info, reward_model = (_struct(row, name) for name in ("extra_info", "reward_model"))
    question = _text(extra_info.get("question"), "extra_info.question")
    reference = _text(reward_model.get("ground_truth"), "reward_model.ground_truth")
    source = _text(row.get("data_source"), "data_source")
    users = [str(turn.get("content")) for turn in row["prompt"] or [] if turn.get("role") == "user"]
    if len(users) != 1 or users[0].count("<image>") != 1:
        raise ValueError(
            f"{len(users)} user turns with {''.join(users).count('<image>')} <image>; expected one of each"
        )

    def load() -> Any:
        images = table.image(place) or []
        if len(images) != 1:
            raise ValueError(f"{len(images)} images; the zoom tool works on exactly one")
        return images[0]

    name = f"{source}/{place}"
    return Item(name, name, source, question, reference, load, row=row)


# The order of the options


def orders(item: Item, how: str, seed: int, sample: int) -> list[tuple[int, ...]]:
    """Returns the orders in which an item's options are shown, one for each time that it is asked.

    Args:
        item: With or without options.
        how: `shuffle`: one order, drawn from the seed, the item's id and the sample. `cycle`: as many as there are
            options, so that the right one stands once at each letter. `keep`: one, as in the file.
        seed: Of the run.
        sample: Number of the sample.

    Raises:
        ValueError: `how` is none of the three.
    """
    places = list(range(len(item.options)))
    if how == "shuffle":
        random.Random(f"{seed} {item.id} {sample}").shuffle(places)  # noqa: S311 - no secret
        return [tuple(places)]
    if how == "cycle":
        return [tuple(places[shift:] + places[:shift]) for shift in places] or [()]
    if how == "keep":
        return [tuple(places)]
    raise ValueError(f"how is {how!r}; expected shuffle, cycle or keep")
