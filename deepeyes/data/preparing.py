"""`--out`: the good rows written, mended, in one schema."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from deepeyes.data.converting import convert_rows
from deepeyes.data.holdout import choose
from deepeyes.dataset.columns import fit, unify
from deepeyes.dataset.loading import load, mend
from deepeyes.dataset.official import HOLDOUT_NAME, SCHEMA, TEXT
from deepeyes.dataset.pictures import image_of, inline_image, read_image
from deepeyes.dataset.progress import row_bar
from deepeyes.dataset.reading import open_parquet, read_rows
from deepeyes.dataset.writing import Writer, full_disk, require_room
from deepeyes.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from deepeyes.data.findings import FileReport


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
    """Yields the schema of a parquet file, or of each good row of JSON, and where it is found."""
    path, dropped, number = report.path, report.dropped, 0
    if report.convert:
        return  # converted rows have the official columns
    if path.suffix == ".parquet":
        yield str(path), mended_schema(open_parquet(path)[0])
        return
    for rows in read_rows(path):
        for row in rows:  # one by one: equal columns of two rows may differ in type
            if number not in dropped:
                loaded = load(row).row
                columns = {key: loaded[key] for key in loaded if key not in ("prompt", "images")}
                yield f"{path}, row {number}", pa.Table.from_pylist([columns]).schema
            number += 1


def mended_schema(schema: pa.Schema) -> pa.Schema:
    """Returns a schema after what `load` does: no column `image`, and texts where a reference or question stands."""
    columns = []
    for column in schema:
        if column.name == "image" and "images" not in schema.names:
            continue
        kind = column.type
        for name, key in (("reward_model", "ground_truth"), ("extra_info", "question")):
            if column.name == name and pa.types.is_struct(kind):
                fields = {kind[i].name: kind[i].type for i in range(kind.num_fields)}
                kind = pa.struct({**fields, **({key: TEXT} if key in fields else {})})
        columns.append(pa.field(column.name, kind))
    return pa.schema(columns)


def prepare(row: Mapping[str, Any], schema: pa.Schema) -> dict[str, Any]:
    """Returns a row that passed the check as `--out` writes it: the image as bytes, and all that can be mended."""
    row = load(row).row
    turns = [{**turn, "content": mend(turn["content"])} for turn in row["prompt"]]
    row = {**row, "prompt": turns, "images": [_with_bytes(entry) for entry in row["images"]]}
    return {column.name: fit(row.get(column.name), column.type) for column in schema}


def _with_bytes(entry: Any) -> dict[str, Any]:
    image, path = image_of(entry) or b"", entry.get("path") if isinstance(entry, dict) else entry
    if isinstance(image, str) and inline_image(image.strip()) is not None:
        path = None  # it is the image itself
    return {"bytes": read_image(image), "path": path}


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
    needed = sum(report.path.stat().st_size for report in reports)
    require_room(out, needed)
    writers: list[Writer] = []
    try:
        writers.extend(Writer(out / name, schema) for name in names)
        for file, (report, writer) in enumerate(zip(reports, writers, strict=False)):
            held = {row for place, row in chosen if place == file}
            _copy_rows(report, held, writer, writers[-1])
        for writer in writers:
            writer.finish()
    except BaseException as error:
        for writer in writers:
            writer.discard()
        if isinstance(error, OSError) and (full := full_disk(error, out, needed)):
            raise full from error
        raise
    for writer in writers:
        writer.publish()
    return {name: writer.rows for name, writer in zip(names, writers, strict=True)}


def _copy_rows(report: FileReport, held: set[int], writer: Writer, aside: Writer) -> None:
    """Writes the good rows of a file: those of `held` to `aside`, the others to `writer`."""
    dropped, number = report.dropped, 0
    with row_bar(f"writing {report.path.name[:16]}", report.rows) as advance:
        for rows in convert_rows(read_rows(report.path), report.convert):
            for row in rows:
                if number not in dropped:
                    (aside if number in held else writer).add(prepare(row, writer.schema))
                number += 1
            advance(len(rows))
