"""Pass rates, a row a row, in a file that a choice can be made from again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from deepeyes.errors import DataFileError
from deepeyes.selection.ledger import Counts

if TYPE_CHECKING:
    from pathlib import Path

RATES_NAME = "rates.parquet"
SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "row": pa.int64(),
        "data_source": pa.string(),
        "index": pa.string(),
        "asked": pa.string(),
        "tool": pa.bool_(),
        "held_out": pa.bool_(),
        **{name: pa.uint8() for name in Counts._fields},
    }
)
"""`asked` is a hash of the prompt, and `held_out` tells whether a held-out row has the row's picture; see `Counts`."""


def write_rates(path: Path, columns: dict[str, list[Any]], counts: Counts) -> pa.Table:
    """Writes pass rates and returns them.

    Args:
        path: The file.
        columns: Those of `SCHEMA` that are not counts.
        counts: How often each row was played.
    """
    table = pa.table({**columns, **counts._asdict()}, SCHEMA)
    part = path.with_name(f"{path.name}.part")
    pq.write_table(table, part)
    part.rename(path)
    return table


def read_rates(path: Path) -> pa.Table:
    """Reads pass rates.

    Raises:
        DataFileError: It is no such file.
    """
    try:
        return pq.read_table(path).select(SCHEMA.names).cast(SCHEMA)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise DataFileError(f"{path} holds no pass rates: {error}. Expected the {RATES_NAME} of a run") from error


def counts_of(table: pa.Table) -> Counts:
    """Returns the counts of a table of pass rates."""
    return Counts(*(np.asarray(table.column(name)) for name in Counts._fields))
