"""Whether swift can join several files, told from their schemas."""

from __future__ import annotations

import contextlib
import tempfile
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from deepeyes.dataset.columns import is_list
from deepeyes.dataset.quoting import MAX_QUOTE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

# Columns that swift brings to types of its own, whatever those of the file.
RETYPED = ("prompt", "messages", "images", "tools", "objects", "chat_template_kwargs", "dataset")


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
    if is_list(kind):
        item = _spell(kind.value_type)
        return item if item == "null" else f"{str(kind).split('<')[0]}<{item}>"
    return str(kind)
