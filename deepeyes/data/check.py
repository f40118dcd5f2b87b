"""`bash deepeyes.sh data`: fetch the three official files, check every row, and write them mended where asked.

    bash deepeyes.sh data DIR                       # the official files: in DIR, or downloaded into it
    bash deepeyes.sh data FILE.parquet FILE.jsonl   # own data, see docs/own_data.md
    bash deepeyes.sh data DIR --out NEW_DIR --holdout 500

A check reads all rows in bounded memory and decodes every image, in one process a core. It ends with a table and the
rows that it would drop. Nothing but missing official files is written, unless `--out` names a folder; what is written
there loads in one go with swift, holds every image byte for byte, and lacks the bad rows.

Exit status: 0 all well; 1 rows to drop, no row at all, a file that is not the published one, or files that swift can't
join as they are; 2 the check could not be made, or `--out` has nothing to write.
"""

from __future__ import annotations

import argparse
import base64
import concurrent.futures.process
import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter, defaultdict, deque
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from deepeyes.environment import read_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

HUBS = {"modelscope": "Lixiang/ChenShawn-DeepEyes-Datasets-47k", "huggingface": "ChenShawn/DeepEyes-Datasets-47k"}
DATA_SUFFIXES = (".parquet", ".jsonl")
HOLDOUT_NAME = "holdout.parquet"
BATCH_ROWS = 16  # rows read at a time: with images of 10 MB, 160 MB
BATCHES_AHEAD = 4  # batches a worker has waiting, so that it never idles
GROUP_ROWS, GROUP_BYTES = 500, 32 << 20  # a row group is written when it has that many rows or image bytes
MIN_SIDE = 28  # pixels: one image token of Qwen2.5-VL; smaller images are scaled up
MAX_QUOTE = 80  # characters of a value that a message shows
LONGEST_PATH = 2000  # characters; what is longer, swift takes for base64
MAX_DEPTH = 32  # levels of lists and objects in a line of JSON
MAX_RATIO = 200  # longer side / shorter side; qwen-vl-utils refuses more
PREPARED = b"deepeyes.prepared"  # key in the schema metadata of the files that `--out` writes
TOOL = "image_zoom_in_tool"
# Columns that swift brings to types of its own, whatever those of the file.
RETYPED = ("prompt", "messages", "images", "tools", "objects", "chat_template_kwargs", "dataset")

# The tool schema of the official system prompt requires `bbox`, a property that it does not have.
WRONG_REQUIRED = re.compile(r'("required"\s*:\s*\[\s*)"bbox"(\s*\])')


class Official(NamedTuple):
    """One file of the published snapshot."""

    name: str
    rows: int
    size: int
    sha256: str


OFFICIAL = {
    file.name: file
    for file in (
        Official(
            "data_0.1.2_visual_toolbox_v2.parquet",
            22_362,
            990_263_397,
            "42992bf5de25e8d766f820fb9730ece275563ba80dd41e3377bf678c9ba2c2c1",
        ),
        Official(
            "data_v0.8_visual_toolbox_v2.parquet",
            13_659,
            2_198_504_506,
            "96fc256e6f73e098c1b586f1c37baad616ecbddf1105bfca71aa07a5dda7da5a",
        ),
        Official(
            "data_thinklite_reasoning_acc.parquet",
            11_031,
            1_656_152_904,
            "660cea5ff8f74d19f993b575f30b6f5406b6c330dd8f9aacc6be59e299238967",
        ),
    )
}

TEXT = pa.string()
SCHEMA = pa.schema(
    {
        "data_source": TEXT,
        "prompt": pa.list_(pa.struct({"content": TEXT, "role": TEXT})),
        "images": pa.list_(pa.struct({"bytes": pa.binary(), "path": TEXT})),
        "ability": TEXT,
        "env_name": TEXT,
        "reward_model": pa.struct({"ground_truth": TEXT, "style": TEXT}),
        "extra_info": pa.struct({"answer": TEXT, "index": TEXT, "question": TEXT, "split": TEXT}),
    }
)
REQUIRED_COLUMNS = ("data_source", "images", "reward_model", "extra_info")


class DataFileError(Exception):
    """A file or folder that can't be checked or written; the message says why and how to mend it."""


class ImageFacts(NamedTuple):
    """What decoding an image told.

    Attributes:
        problem: Why it can't be used, or an empty text.
        width: Pixels.
        height: Pixels.
        digest: The same for images that are the same pixels in RGB, whatever their encoding.
    """

    problem: str
    width: int = 0
    height: int = 0
    digest: bytes = b""


@dataclass
class FileReport:
    """All that the check found out about a file. Row numbers start at 0.

    Attributes:
        path: The file.
        snapshot: How it relates to the published files.
        differs: It bears an official name, but is not the published file.
        rows: Rows in it.
        sources: Rows a data source.
        problems: Reason to drop a row -> the rows.
        notes: Remark on rows that are kept -> the rows.
        digests: Digest of the image of each row, empty where there is none.
    """

    path: Path
    snapshot: str = "own data"
    differs: bool = False
    rows: int = 0
    sources: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    notes: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    digests: list[bytes] = field(default_factory=list)

    @property
    def dropped(self) -> set[int]:
        """Rows with at least one problem."""
        return {row for rows in self.problems.values() for row in rows}

    @property
    def sound(self) -> bool:
        """Whether there is nothing to mend: some rows, all good, and the published ones under a published name."""
        return bool(self.rows) and not self.differs and not self.problems

    @property
    def images(self) -> int:
        """Different images."""
        return len(set(self.digests) - {b""})


# ---------------------------------------------------------------------------------------------------------------------
# One row (pure)


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


def shorten(value: Any) -> Any:
    """Returns the start of what is too long to be quoted; a name as it is."""
    text = value if isinstance(value, str) else repr(value)
    return value if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}..."


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
    if row.get("env_name") and not any(TOOL in text for text in texts):
        notes.append(f"env_name is set, but the prompt does not speak of {TOOL}: the model can't know the tool")
    return notes


def mend(text: str) -> str:
    """Returns a system prompt whose tool schema requires the property that it has; any other text as it is."""
    return WRONG_REQUIRED.sub(r'\1"bbox_2d"\2', text) if '"bbox_2d"' in text else text


def image_of(image: Any) -> bytes | str | None:
    """Returns the bytes of an image column's entry, else its path or base64 text, else None."""
    if isinstance(image, dict):
        content = image.get("bytes") or image.get("path")
        image = None if content is image.get("bytes") and isinstance(content, str) else content
    return image if isinstance(image, (bytes, str)) and image else None


def find_image(path: str) -> Path:
    """Returns the file that swift would open for a path in a dataset.

    Raises:
        DataFileError: There is none, or it is an address.
    """
    if re.match(r"(https?|data):", path):
        raise DataFileError(f"the image is {path[:40]!r}; expected bytes, base64 or a file on this machine")
    if place := _file_at(path):
        return place
    root = os.environ.get("ROOT_IMAGE_DIR")
    where = f"ROOT_IMAGE_DIR={root}" if root else f"ROOT_IMAGE_DIR (not set) or {Path.cwd()}"
    raise DataFileError(f"the image file is not in {where}: {path!r:.{MAX_QUOTE}}")


def _file_at(path: str) -> Path | None:
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # no name that a file can have
        for place in (Path(path), Path(os.environ.get("ROOT_IMAGE_DIR") or "", path).expanduser()):
            if place.is_file():
                return place
    return None


def inline_image(text: str) -> bytes | None:
    """Returns what a text holds in base64, bare or as a `data:` address, or None for a path. As swift tells them."""
    if not (address := re.match(r"data:[^,]+;base64,", text)) and len(text) <= LONGEST_PATH and _file_at(text):
        return None
    try:
        return base64.b64decode("".join(text[address.end() if address else 0 :].split()), validate=True)
    except ValueError:
        return None


def read_image(image: bytes | str) -> bytes:
    """Returns the bytes of an image that is there as such, in base64 or as a path."""
    if isinstance(image, bytes):
        return image
    content = inline_image(image.strip())
    return find_image(image.strip()).read_bytes() if content is None else content


def look(images: Sequence[bytes | str | None]) -> list[ImageFacts]:
    """Decodes images whole. Runs in a worker process."""
    return [_look(image) for image in images]


def _look(image: bytes | str | None) -> ImageFacts:
    if image is None:
        return ImageFacts("")  # `row_problems` has said it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(read_image(image))) as opened:
                opened.load()
                width, height = opened.size
                # Swift's load_image drops transparency in the same way: this is what the model sees.
                pixels = (opened if opened.mode == "RGB" else opened.convert("RGB")).tobytes()
    except DataFileError as error:
        return ImageFacts(str(error))
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise anything on damaged bytes
        reason = re.sub(r"<_io.BytesIO object at \w+>", "its bytes", str(error))
        kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
        return ImageFacts(f"the image does not decode: {kind}{reason:.{MAX_QUOTE}}")
    if max(width, height) > MAX_RATIO * min(width, height):
        return ImageFacts(f"a side of the image is more than {MAX_RATIO} times the other; the template refuses it")
    digest = hashlib.sha1(pixels, usedforsecurity=False)  # the fastest that processors bring instructions for
    digest.update(b"%d" % width)
    return ImageFacts("", width, height, digest.digest())


# ---------------------------------------------------------------------------------------------------------------------
# Files


def find_files(paths: Sequence[Path], hub: str) -> list[Path]:
    """Returns the files to check: those named, and those in a folder.

    Missing official files are downloaded into a folder that is empty or holds one of them, unless `--out` wrote it.

    Raises:
        DataFileError: A path is no data file, or a download failed.
    """
    files: list[Path] = []
    for path in paths:
        if path.suffix in DATA_SUFFIXES and path.is_file():
            files.append(path)
            continue
        if path.suffix in DATA_SUFFIXES or path.is_file():
            raise DataFileError(f"{path} is no file that ends in .parquet or .jsonl; expected one, or a folder")
        there = data_files(path)
        missing = [name for name in OFFICIAL if not (path / name).is_file()]
        if not there or (missing and not any(map(is_prepared, there))):
            if there and len(missing) == len(OFFICIAL):
                print(
                    f"{path} holds own data, which is checked alone; name another folder for the official files",
                    file=sys.stderr,
                )
            else:
                download(path, missing, hub)
        files += data_files(path)
    return list(dict.fromkeys(files))


def data_files(directory: Path) -> list[Path]:
    """Returns the data files of a folder, by name."""
    return sorted(file for suffix in DATA_SUFFIXES for file in directory.glob(f"*{suffix}"))


def download(directory: Path, names: Sequence[str], hub: str) -> None:
    """Downloads official files with the hub's own client, which resumes what was interrupted.

    Raises:
        DataFileError: The disk has no room, or the client failed; whole files stay for the next attempt, and parts if
            the client goes on from them.
    """
    by_hand = f"Or put {', '.join(names)} into {directory} yourself."
    if hub == "none":
        raise DataFileError(f"{directory} lacks {', '.join(names)}; download them with --hub {' or '.join(HUBS)}")
    directory.mkdir(parents=True, exist_ok=True)
    needed = sum(max(0, OFFICIAL[name].size - arrived(directory, name, hub)) for name in names)
    require_room(directory, needed)
    print(f"downloading {len(names)} files, {needed / 1e9:.1f} GB, from {hub} into {directory}", file=sys.stderr)
    patterns = [f"*{name}" for name in names]
    try:
        if hub == "huggingface":
            from huggingface_hub import snapshot_download  # noqa: PLC0415 - only where it is used

            snapshot_download(HUBS[hub], repo_type="dataset", local_dir=directory, allow_patterns=patterns)
        else:
            from modelscope.hub.snapshot_download import dataset_snapshot_download  # noqa: PLC0415 - takes seconds

            dataset_snapshot_download(HUBS[hub], local_dir=str(directory), allow_patterns=patterns)
    except Exception as error:
        other = next(name for name in HUBS if name != hub)
        raise DataFileError(
            f"the download from {hub} failed: {type(error).__name__}: {error}. Run the same command to resume, or try "
            f"--hub {other}. {by_hand}"
        ) from error
    for name in names:  # some repositories keep their files in a folder of their own
        place = next(directory.rglob(name), None)
        if place is None:
            offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") and hub == "huggingface" else ""
            raise DataFileError(f"{HUBS[hub]} on {hub} gave no {name}; is the hub in reach{offline}? {by_hand}")
        if place.parent != directory:
            place.rename(directory / name)


def arrived(directory: Path, name: str, hub: str) -> int:
    """Returns the bytes of an official file that an earlier download left and the hub's client goes on from.

    ModelScope's keeps a single stream in NAME.incomplete and parallel ones in NAME_START_END. Hugging Face's keeps
    HASH.SHA256.incomplete in its older versions; newer ones start a file anew.
    """
    patterns = {
        "modelscope": (f"{name}.incomplete", f"{name}_*"),
        "huggingface": (f"*.{OFFICIAL[name].sha256}.incomplete",),
    }
    return sum(part.stat().st_size for pattern in patterns[hub] for part in directory.rglob(pattern))


def require_room(directory: Path, needed: int) -> None:
    """Raises `DataFileError` where a disk has less than `needed` bytes, and some to spare, left."""
    free = shutil.disk_usage(directory).free
    if free < needed * 1.02:
        raise DataFileError(f"{directory} has {free / 1e9:.1f} GB left; expected {needed * 1.02 / 1e9:.1f} GB or more")


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file. Runs in a worker process."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def read_rows(path: Path) -> Iterator[list[Any]]:
    """Yields the rows of a file, a few at a time; of a JSON line that can't be read or is nested too deep, None.

    Raises:
        DataFileError: The file is damaged.
    """
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS):
                    yield batch.to_pylist()
            return
        with path.open("rb") as lines:
            rows = []
            for line in lines:
                if line.strip():
                    rows.append(_parse_line(line))
                if len(rows) == BATCH_ROWS:
                    yield rows
                    rows = []
            if rows:
                yield rows
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{path} can't be read: {error}. Delete it and get it again") from error


def _parse_line(line: bytes) -> Any:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return None if _is_deeper(value, MAX_DEPTH) else value


def _is_deeper(value: Any, levels: int) -> bool:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return items is not None and (levels == 0 or any(_is_deeper(item, levels - 1) for item in items))


def open_parquet(path: Path) -> tuple[pa.Schema, int]:
    """Returns the schema and the number of rows of a parquet file that has the columns that training needs.

    Raises:
        DataFileError: It is no parquet file, or a column is missing.
    """
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise DataFileError(f"{path} is no whole parquet file: {error}. Delete it and get it again") from error
    missing = [name for name in REQUIRED_COLUMNS if name not in schema.names]
    if not {"prompt", "messages"} & set(schema.names):
        missing.append("prompt (or messages)")
    if missing:
        raise DataFileError(
            f"{path} lacks the columns {', '.join(missing)}; it has {', '.join(schema.names):.{MAX_QUOTE}}. "
            "docs/own_data.md describes each"
        )
    return schema, rows


def is_prepared(path: Path) -> bool:
    """Tells whether `--out` wrote a file."""
    return path.suffix == ".parquet" and PREPARED in (open_parquet(path)[0].metadata or {})


def check_file(
    path: Path, pool: concurrent.futures.Executor, workers: int, scoring_of: Callable[[object], object]
) -> FileReport:
    """Checks every row of a file, with a progress bar on a terminal.

    Args:
        path: A parquet or JSON-lines file.
        pool: Where images are decoded.
        workers: Processes in the pool.
        scoring_of: See `row_problems`.

    Raises:
        DataFileError: The file can't be read, or lacks a column.
    """
    report = FileReport(path)
    total = open_parquet(path)[1] if path.suffix == ".parquet" else None
    prepared = is_prepared(path)
    official = None if prepared else OFFICIAL.get(path.name)
    size = path.stat().st_size
    sha256 = pool.submit(sha256_of, path) if official and size == official.size else None
    waiting: deque[concurrent.futures.Future[list[ImageFacts]]] = deque()
    with tqdm(total=total, desc=path.name[:24], unit=" rows", disable=None, leave=False) as bar:
        for rows in read_rows(path):
            for row in rows:
                _note_row(report, row, scoring_of)
            waiting.append(pool.submit(look, [_image(row) for row in rows]))
            if len(waiting) > BATCHES_AHEAD * workers:
                _note_images(report, waiting.popleft().result())
            bar.update(len(rows))
        for future in waiting:
            _note_images(report, future.result())
    if prepared:
        report.snapshot = "written by --out"
    elif official:
        found = f"{report.rows:,} rows, {size:,} bytes, SHA-256 {sha256.result()[:8] if sha256 else 'not computed'}"
        report.differs = not (sha256 and sha256.result() == official.sha256 and report.rows == official.rows)
        expected = f"{official.rows:,} rows, {official.size:,} bytes, {official.sha256[:8]}"
        report.snapshot = f"differs: {found}; published: {expected}" if report.differs else "as published"
    if not report.rows:
        report.snapshot += "; it holds no row"
    return report


def _note_row(report: FileReport, row: Any, scoring_of: Callable[[object], object]) -> None:
    problems = row_problems(row, scoring_of)
    if not problems and report.path.suffix == ".jsonl" and (problem := arrow_problem(row)):
        problems = [problem]
    for problem in problems:
        report.problems[problem].append(report.rows)
    for note in row_notes(row):
        report.notes[note].append(report.rows)
    report.sources[str(shorten(row.get("data_source"))) if isinstance(row, dict) else "none"] += 1
    report.rows += 1


def _note_images(report: FileReport, facts: Iterable[ImageFacts]) -> None:
    for row, fact in enumerate(facts, len(report.digests)):
        if fact.problem:
            report.problems[fact.problem].append(row)
        elif fact.digest and min(fact.width, fact.height) < MIN_SIDE:
            report.notes[f"a side of the image is under {MIN_SIDE} pixels; it is scaled up"].append(row)
        report.digests.append(fact.digest)


def schema_conflict(paths: Sequence[Path]) -> str | None:
    """Tells why swift can't join files, or returns None. It reads no more than schemas and the start of JSON lines.

    `datasets` joins columns of equal types, and structs of which the fields that both have are of equal types. A column
    without a value goes with all but a struct that comes later. What can't be read is passed over: reading it says why.
    """
    found: dict[str, tuple[str, Path]] = {}
    for path in paths if len(paths) > 1 else ():
        for column in _loaded_schema(path):
            for name, kind in _fields(column.name, column.type) if column.name not in RETYPED else ():
                earlier, place = found.setdefault(name, (kind, path))
                if earlier == "null" and kind != "struct":
                    found[name] = (kind, path)
                elif kind not in ("null", earlier):
                    return (
                        f"swift can't join the files: {name} is {earlier:.{MAX_QUOTE}} in {place} and "
                        f"{kind:.{MAX_QUOTE}} in {path}"
                    )
    return None


def _loaded_schema(path: Path) -> Iterable[pa.Field]:
    """Returns the columns as `datasets` reads them."""
    if path.suffix == ".parquet":
        with contextlib.suppress(pa.ArrowException, OSError):
            return list(pq.read_schema(path))
        return ()
    import datasets  # noqa: PLC0415 - takes seconds

    with contextlib.suppress(Exception), tempfile.TemporaryDirectory() as cache:  # its reader raises whatever comes
        rows = datasets.load_dataset("json", data_files=str(path), split="train", streaming=True, cache_dir=cache)
        return list(rows.features.arrow_schema)
    return ()


def _fields(name: str, kind: pa.DataType) -> Iterator[tuple[str, str]]:
    """Yields a column and all fields inside its structs, each with its type in words."""
    spelled = _spell(kind)
    is_struct = spelled.startswith("struct")
    yield name, "struct" if is_struct else spelled
    for i in range(kind.num_fields if is_struct else 0):
        yield from _fields(f"{name}.{kind[i].name}", kind[i].type)


def _spell(kind: pa.DataType) -> str:
    """Returns a type in words, equal for types that `datasets` takes for one."""
    if pa.types.is_dictionary(kind):
        return _spell(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        return "JSON of several types"
    if pa.types.is_struct(kind):
        return f"struct<{', '.join(sorted(f'{kind[i].name}: {_spell(kind[i].type)}' for i in range(kind.num_fields)))}>"
    if _is_list(kind):
        item = _spell(kind.value_type)
        return item if item == "null" else f"{str(kind).split('<')[0]}<{item}>"
    return str(kind)


def _image(row: Any) -> bytes | str | None:
    """Returns the one image of a row, if it has just one."""
    images = row.get("images") if isinstance(row, dict) else None
    return image_of(images[0]) if isinstance(images, list) and len(images) == 1 else None


# ---------------------------------------------------------------------------------------------------------------------
# Writing


def unify(one: pa.DataType, other: pa.DataType, name: str) -> pa.DataType:
    """Returns the type that holds what two columns hold.

    Numbers next to text become text, structs get the fields of both, in the order of the first.

    Raises:
        DataFileError: There is none, as for a list and a text.
    """
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return _plain(other)
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {one[i].name: one[i].type for i in range(one.num_fields)}
        for i in range(other.num_fields):
            key = other[i].name
            fields[key] = unify(fields.get(key, pa.null()), other[i].type, f"{name}.{key}")
        return pa.struct(fields)
    if _is_list(one) and _is_list(other):
        return pa.list_(unify(one.value_type, other.value_type, f"{name}[]"))
    if pa.types.is_nested(one) or pa.types.is_nested(other):
        raise DataFileError(
            f"column {name} is {other!s:.{MAX_QUOTE}} here and {one!s:.{MAX_QUOTE}} before; make them one type"
        )
    return _unify_plain(_plain(one), _plain(other))


def _unify_plain(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other:
        return one
    if all(pa.types.is_integer(kind) for kind in (one, other)):
        return pa.int64()
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)):
        return pa.float64()
    return TEXT


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Returns the usual variant of a type: no large, dictionary or fixed-size ones."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct({kind[i].name: _plain(kind[i].type) for i in range(kind.num_fields)})
    if _is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return TEXT
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    return kind


def common_schema(reports: Iterable[FileReport]) -> pa.Schema:
    """Returns the one schema that all files are written in: the official columns, then what own data adds.

    Raises:
        DataFileError: A column has types that do not go together.
    """
    types = {column.name: column.type for column in SCHEMA}
    for report in reports:
        for where, schema in _schemas(report):
            for column in schema:
                name = column.name
                if name not in ("prompt", "messages", "images") and not name.startswith("__index_level_"):
                    try:
                        types[name] = unify(types.get(name, pa.null()), column.type, name)
                    except DataFileError as error:
                        raise DataFileError(f"{where}: {error}") from None
    # A column without a single value has no type of its own.
    return pa.schema({name: TEXT if pa.types.is_null(kind) else kind for name, kind in types.items()})


def _schemas(report: FileReport) -> Iterator[tuple[str, pa.Schema]]:
    """Yields the schema of a parquet file, or of each good row of JSON lines, and where it is found."""
    path, dropped, number = report.path, report.dropped, 0
    if path.suffix == ".parquet":
        yield str(path), open_parquet(path)[0]
        return
    for rows in read_rows(path):
        for row in rows:  # one by one: equal columns of two rows may differ in type
            if number not in dropped:
                columns = {key: row[key] for key in row if key not in ("prompt", "messages", "images")}
                yield f"{path}, row {number}", pa.Table.from_pylist([columns]).schema
            number += 1


def fit(value: Any, kind: pa.DataType) -> Any:
    """Returns a value as `kind` holds it: numbers as text where `kind` is text, all else as it is."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {kind[i].name: fit(value.get(kind[i].name), kind[i].type) for i in range(kind.num_fields)}
    if _is_list(kind):
        return [fit(item, kind.value_type) for item in value]
    if kind == TEXT and not isinstance(value, str):
        return json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)
    return value


def prepare(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Returns a row that passed the check as `--out` writes it: the image as bytes, the tool schema mended."""
    entry = row["images"][0]
    image, path = image_of(entry) or b"", entry.get("path") if isinstance(entry, dict) else entry
    if isinstance(image, str) and inline_image(image.strip()) is not None:
        path = None  # it is the image itself
    messages = [{**message, "content": mend(message["content"])} for message in messages_of(row)]
    row = {**row, "prompt": messages, "images": [{"bytes": read_image(image), "path": path}]}
    return {column.name: fit(row.get(column.name), column.type) for column in schema}


def split(reports: Sequence[FileReport], count: int, seed: int) -> set[tuple[int, int]]:
    """Chooses the rows to hold out: no image of theirs, by its pixels, is in a row that stays.

    Args:
        reports: The checked files; each gives its share, by its good rows.
        count: Rows wanted. Fewer are chosen where images with several rows leave a gap.
        seed: Another seed, another choice.

    Returns:
        Pairs (number of the file, number of the row).
    """
    groups: dict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for file, report in enumerate(reports):
        dropped = report.dropped
        for row, digest in enumerate(report.digests):
            if row not in dropped:
                groups[digest].append((file, row))
    good = [report.rows - len(report.dropped) for report in reports]
    shares = [count * rows / max(1, sum(good)) for rows in good]
    room = [int(share) for share in shares]
    for file in sorted(range(len(good)), key=lambda file: room[file] - shares[file])[: count - sum(room)]:
        room[file] += 1
    chosen: set[tuple[int, int]] = set()
    for digest in sorted(groups, key=lambda digest: hashlib.blake2b(b"%d %s" % (seed, digest)).digest()):
        needed = Counter(file for file, _ in groups[digest])
        if all(room[file] >= rows for file, rows in needed.items()):
            chosen.update(groups[digest])
            for file, rows in needed.items():
                room[file] -= rows
    return chosen


def choose(reports: Sequence[FileReport], holdout: int, seed: int) -> set[tuple[int, int]]:
    """Returns what `split` does.

    Raises:
        DataFileError: A file would be left without a row, which swift can't load; that goes for the held-out one too.
    """
    good = [report.rows - len(report.dropped) for report in reports]
    if bare := [str(report.path) for report, rows in zip(reports, good, strict=True) if not rows]:
        raise DataFileError(f"there is no good row to write in {', '.join(bare)}; mend the rows or leave the file out")
    chosen = split(reports, holdout, seed) if holdout else set()
    held = Counter(file for file, _ in chosen)
    if bare := [str(report.path) for file, report in enumerate(reports) if held[file] == good[file]]:
        raise DataFileError(
            f"--holdout {holdout} leaves no row to train on of {', '.join(bare)}; "
            f"hold out fewer than the {sum(good):,} good rows in all"
        )
    if holdout and not chosen:
        raise DataFileError(f"--holdout {holdout} finds no row: those that share an image stay together, and are more")
    return chosen


class Writer:
    """Writes rows to a parquet file in groups of bounded size, at first under another name."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        """Opens `path` with `.part` added to its name.

        Raises:
            DataFileError: Parquet has no such type, as for objects without a key.
        """
        self.rows = 0
        self._path = path
        self._part = path.with_name(f"{path.name}.part")
        self.schema = schema.with_metadata({PREPARED: b"1"})
        self._group: list[dict[str, Any]] = []
        self._bytes = 0
        try:
            self._writer = pq.ParquetWriter(
                self._part,
                self.schema,
                compression={"images.list.element.bytes": "NONE"},  # they are compressed already
                use_dictionary=["data_source", "ability", "env_name", "prompt.list.element.content"],
                write_batch_size=BATCH_ROWS,  # small pages: readers hold a page at a time
            )
        except pa.ArrowException as error:
            self._part.unlink(missing_ok=True)
            raise DataFileError(f"a column can't be written as parquet: {error}") from error

    def add(self, row: dict[str, Any]) -> None:
        """Appends a row."""
        self._group.append(row)
        self._bytes += len(row["images"][0]["bytes"])
        self.rows += 1
        if len(self._group) == GROUP_ROWS or self._bytes > GROUP_BYTES:
            self._flush()

    def finish(self) -> None:
        """Writes what is left."""
        self._flush()
        self._writer.close()

    def publish(self) -> None:
        """Gives the finished file its name."""
        self._part.rename(self._path)

    def discard(self) -> None:
        """Deletes what was written."""
        self._writer.close()
        self._part.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._group:
            self._writer.write_table(pa.Table.from_pylist(self._group, self.schema))
        self._group, self._bytes = [], 0


def write(reports: Sequence[FileReport], out: Path, holdout: int, seed: int) -> dict[str, int]:
    """Writes the good rows, a file each, and those held out into one file of their own.

    Returns:
        Rows written, by file name.

    Raises:
        DataFileError: `out` already holds such a file or has no room, a file would be without a row, or column types do
            not go together.
    """
    names = [f"{report.path.stem}.parquet" for report in reports]
    names += [HOLDOUT_NAME] if holdout else []
    if len(set(names)) < len(names):
        raise DataFileError(f"two files would be written as one: {', '.join(sorted(names))}; rename one of them")
    if there := [name for name in names if (out / name).exists()]:
        raise DataFileError(f"{out} already has {', '.join(there)}; name a new folder")
    chosen = choose(reports, holdout, seed)
    schema = common_schema(reports)
    out.mkdir(parents=True, exist_ok=True)
    require_room(out, sum(report.path.stat().st_size for report in reports))
    writers = [Writer(out / name, schema) for name in names]
    try:
        for file, (report, writer) in enumerate(zip(reports, writers, strict=False)):
            held = {row for place, row in chosen if place == file}
            _copy_rows(report, held, writer, writers[-1])
        for writer in writers:
            writer.finish()
    except BaseException:
        for writer in writers:
            writer.discard()
        raise
    for writer in writers:
        writer.publish()
    return {name: writer.rows for name, writer in zip(names, writers, strict=True)}


def _copy_rows(report: FileReport, held: set[int], writer: Writer, aside: Writer) -> None:
    """Writes the good rows of a file: those of `held` to `aside`, the others to `writer`."""
    dropped, number = report.dropped, 0
    with tqdm(
        total=report.rows, desc=f"writing {report.path.name[:16]}", unit=" rows", disable=None, leave=False
    ) as bar:
        for rows in read_rows(report.path):
            for row in rows:
                if number not in dropped:
                    (aside if number in held else writer).add(prepare(row, writer.schema))
                number += 1
            bar.update(len(rows))


# ---------------------------------------------------------------------------------------------------------------------
# Telling


def ranges(rows: Iterable[int]) -> str:
    """Returns row numbers, which come in order, in short: `0-2, 7`."""
    runs = [[row for _, row in run] for _, run in groupby(enumerate(rows), lambda numbered: numbered[1] - numbered[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def as_table(rows: Sequence[Sequence[str]]) -> str:
    """Lays rows out in columns, the first two to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < 2 else cell.rjust(width)  # noqa: PLR2004 - names, then numbers
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def describe(reports: Sequence[FileReport]) -> str:
    """Returns the table of files, the remarks, and the rows to drop."""
    rows = [("file", "source", "rows", "images", "to drop", "megabytes")]
    rows += [
        (
            report.path.name,
            ", ".join(sorted(report.sources)[:3]) + (", ..." if len(report.sources) > 3 else ""),  # noqa: PLR2004
            f"{report.rows:,}",
            f"{report.images:,}",
            f"{len(report.dropped):,}",
            f"{report.path.stat().st_size / 1e6:,.1f}",
        )
        for report in reports
    ]
    lines = [as_table(rows), ""]
    lines += [f"{report.path.name}: {report.snapshot}" for report in reports]
    for title, findings in (
        ("Remarks on rows that are kept:", [report.notes for report in reports]),
        ("Rows to drop:", [report.problems for report in reports]),
    ):
        if any(findings):
            lines += ["", title]
        for report, found in zip(reports, findings, strict=True):
            for reason, numbers in found.items():
                word = "row" if len(numbers) == 1 else "rows"
                lines.append(f"  {report.path.name}, {len(numbers):,} {word} ({ranges(numbers)}): {reason}")
    return "\n".join(lines)


def as_json(reports: Sequence[FileReport], conflict: str | None, written: Mapping[str, int]) -> str:
    """Returns the same for machines."""
    files = [
        {
            "path": str(report.path),
            "snapshot": report.snapshot,
            "differs": report.differs,
            "rows": report.rows,
            "images": report.images,
            "sources": dict(report.sources),
            "problems": dict(report.problems),
            "notes": dict(report.notes),
        }
        for report in reports
    ]
    return json.dumps({"files": files, "conflict": conflict, "written": dict(written)}, indent=2, ensure_ascii=False)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(
        prog="bash deepeyes.sh data",
        description="Fetch the official data, check every row of it or of own data, and write it mended.",
        epilog="Exit status: 0 all well; 1 rows to drop, no row, a file that is not the published one, or files that "
        "swift can't join; 2 no check was made, or nothing is left to write.",
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a folder, or .parquet and .jsonl files")
    parser.add_argument(
        "--hub",
        choices=[*HUBS, "none"],
        default="modelscope",
        help="where missing official files come from (%(default)s)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write the good rows there, mended, as parquet")
    parser.add_argument("--holdout", type=int, default=0, metavar="N", help="N of them go to DIR/holdout.parquet")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out choice (%(default)s)")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    options = parser.parse_args(arguments)
    if options.holdout and not options.out:
        parser.error("--holdout needs --out")
    if options.holdout < 0 or options.workers < 1:
        parser.error("--holdout and --workers can't be below 0 and 1")
    return options


def make_pool(workers: int) -> concurrent.futures.Executor:
    """Returns what decodes images: one process a core, or a thread where there is only one to have."""
    if workers == 1:
        return concurrent.futures.ThreadPoolExecutor(1)
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of Arrow's threads
    ignore = (signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is this process's to hear
    return concurrent.futures.ProcessPoolExecutor(workers, context, initializer=signal.signal, initargs=ignore)


def run(options: argparse.Namespace) -> int:
    """Does what the command line says and returns the exit status.

    Raises:
        DataFileError: It can't be done.
    """
    settings = read_settings(os.environ)
    files = find_files(options.paths, options.hub)
    if not files:
        raise DataFileError(f"no .parquet or .jsonl files in {', '.join(map(str, options.paths))}")
    with make_pool(options.workers) as pool:
        reports = [check_file(path, pool, options.workers, settings.scoring_of) for path in files]
    conflict = None if options.out else schema_conflict(files)
    if not options.json:
        print(describe(reports))
    if conflict and not options.json:
        mend_it = shlex.join(["bash", "deepeyes.sh", "data", *map(str, options.paths), "--out", "prepared"])
        print(f"\n{conflict}. Write them alike: {mend_it}")
    written = write(reports, options.out, options.holdout, options.seed) if options.out else {}
    if options.json:
        print(as_json(reports, conflict, written))
    elif written:
        print(f"\nWritten to {options.out}:")
        print("\n".join(f"  {name}: {rows:,} rows" for name, rows in written.items()))
        if written.get(HOLDOUT_NAME, 0) < options.holdout:
            print(f"  (not {options.holdout:,}: rows that share an image stay together)")
    return int(conflict is not None or not all(report.sound for report in reports))


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; whatever can't be done ends with one line."""
    options = parse(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            return run(options)
    except concurrent.futures.process.BrokenProcessPool:
        print("data: a worker died, out of memory perhaps; go on with --workers 1", file=sys.stderr)
        return 2
    except (DataFileError, ValueError, OSError) as error:
        print(f"data: {error}", file=sys.stderr)
        return 2
    return 130
