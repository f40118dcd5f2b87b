"""Which reader a benchmark needs: by its name, or by what its file holds."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from deepeyes.evaluation.bench.choices import read_choices
from deepeyes.evaluation.bench.free import read_free, read_visualprobe
from deepeyes.evaluation.bench.own import read_own, read_own_lines
from deepeyes.evaluation.bench.tables import parquet_columns
from deepeyes.evaluation.bench.vstar import FOLDERS, HIDDEN, ROWS, read_lines, read_vstar, read_vstar_parquet
from deepeyes.evaluation.errors import BenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from deepeyes.evaluation.bench.items import Bench

HRBENCH_ROWS = 800


@dataclass(frozen=True)
class Known:
    """A benchmark that is read by its name.

    Attributes:
        what: What `--data` should be, for help and errors.
        patterns: File names that are looked for in a folder, the first that is there is read.
        read: Reads the file.
    """

    what: str
    patterns: tuple[str, ...]
    read: Callable[[str, Path], Bench]


def _hrbench(size: str) -> Known:
    patterns = (f"*hr*bench*{size}*.tsv", f"*hr*bench*{size}*.parquet")
    return Known(
        f"the folder of HR-Bench, with hr_bench_{size}.tsv or .parquet",
        patterns,
        lambda name, path: read_choices(name, path, HRBENCH_ROWS),
    )


def _vstar_file(name: str, path: Path) -> Bench:
    if path.suffix == ".tsv":
        return read_choices(name, path, ROWS)
    if path.suffix == ".parquet":
        return read_vstar_parquet(path) if "label" in parquet_columns(path) else read_choices(name, path, ROWS)
    return read_vstar(path)


def _free(name: str, what: str, *patterns: str) -> Known:
    return Known(what, patterns or (f"*{name}*.tsv", f"*{name}*.parquet", "test-*.parquet", "test*.parquet"), read_free)


KNOWN: dict[str, Known] = {
    "vstar": Known(
        "the folder of V*Bench, with direct_attributes/ and relative_position/, or test_questions.jsonl, the parquet "
        "of lmms-lab/vstar-bench, or VLMEvalKit's VStarBench.tsv",
        ("*star*.tsv", "*star*.parquet", "test-*.parquet"),
        _vstar_file,
    ),
    "hrbench4k": _hrbench("4k"),
    "hrbench8k": _hrbench("8k"),
    "treebench": Known("TreeBench.tsv", ("*tree*bench*.tsv", "*tree*.parquet", "train*.parquet"), read_choices),
    "mme-realworld-lite": Known(
        "mme_realworld_lite.tsv, or its parquet",
        ("*mme*real*.tsv", "*mme*real*.parquet", "*.parquet"),
        read_choices,
    ),
    "visualprobe": Known(
        "a folder of VisualProbe with val.json and its images", ("val.json",), lambda _, path: read_visualprobe(path)
    ),
    "zoombench": _free("zoombench", "the parquet of inclusionAI/ZoomBench"),
    "pope": _free("pope", "POPE.tsv, or the parquet of lmms-lab/POPE"),
    "refcoco": _free("refcoco", "RefCOCO.tsv of VLMEvalKit"),
    "mathvista": _free("mathvista", "MathVista_MINI.tsv of VLMEvalKit"),
}

LAYOUTS = "Benchmarks by name, each with --data FOLDER or FILE:\n" + "\n".join(
    f"  {name:<19} {known.what}" for name, known in KNOWN.items()
)
LAYOUTS += """
Files, as --bench PATH:
  .parquet .jsonl     own rows: prompt or messages, images, data_source, reward_model, extra_info (docs/data)
  .tsv .parquet       index, question, image, answer (a letter) and A, B, ..., or the options in a list
  .jsonl              lines like V*Bench's test_questions.jsonl; --data is the folder of the images"""


def read_bench(name: str, data: Path | None) -> Bench:
    """Reads a benchmark.

    Args:
        name: A key of `KNOWN`, or the path of a file.
        data: Folder or file of a benchmark that was given by name; for a file, the folder of its images.

    Raises:
        BenchError: There is no such benchmark, or nothing in it can be asked.
    """
    if (known := KNOWN.get(name.lower())) is not None:
        return _read_known(name.lower(), known, data)
    path = Path(name)
    if not path.exists():
        raise BenchError(f"--bench {name}: no such file, and no benchmark of that name.\n{LAYOUTS}")
    if path.is_dir():
        return replace(read_vstar(path), layout="folders")
    return replace(_read_file(path, data or path.parent), layout=path.suffix)


def _read_known(name: str, known: Known, data: Path | None) -> Bench:
    if data is None or not data.exists():
        raise BenchError(f"--data {data or 'was not given'}: expected {known.what}")
    if data.is_file():
        return replace(known.read(name, data), name=name, layout=data.suffix)
    if name == "vstar" and any((data / folder).is_dir() for folder in FOLDERS):
        return replace(read_vstar(data), layout="folders")
    found = (
        sorted(path for path in data.rglob("*") if path.name.lower() in _matching(path, pattern))
        for pattern in known.patterns
    )
    file = next((paths[0] for paths in found if paths), None)
    if name == "vstar" and file is None:
        return replace(read_vstar(data), layout=".jsonl")
    if file is None:
        raise BenchError(f"--data {data}: found none of {', '.join(known.patterns)}; expected {known.what}")
    return replace(known.read(name, file), name=name, layout=file.suffix)


def _matching(path: Path, pattern: str) -> tuple[str, ...]:
    """Returns the name of a file, in small letters, if it matches; files of macOS don't."""
    name = path.name.lower()
    matches = not name.startswith(HIDDEN) and path.is_file() and Path(name).match(pattern)
    return (name,) if matches else ()


def _read_file(path: Path, folder: Path) -> Bench:
    if path.suffix == ".jsonl":
        return read_own_lines(path, folder) if _has_prompts(path) else read_lines(path, folder)
    if path.suffix == ".parquet":
        columns = set(parquet_columns(path))
        if "images" in columns and columns & {"prompt", "messages"}:
            return read_own(path)
        if {"text", "label"} <= columns:
            return replace(read_vstar_parquet(path), name=path.stem)
        return read_choices(path.stem, path)
    if path.suffix == ".tsv":
        return read_choices(path.stem, path)
    raise BenchError(f"--bench {path}: expected a .parquet, .tsv or .jsonl file, or a folder.\n{LAYOUTS}")


def _has_prompts(path: Path) -> bool:
    """Tells whether the first line of a file that can be read is a row with a prompt."""
    with path.open("rb") as lines:
        for line in lines:
            try:
                row = json.loads(line.decode("utf-8-sig"))
            except ValueError:
                continue
            return isinstance(row, dict) and bool({"prompt", "messages"} & row.keys())
    return False
