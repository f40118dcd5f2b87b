"""One type for columns that differ from file to file, and values brought to it."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from deepeyes.dataset.official import TEXT
from deepeyes.dataset.quoting import MAX_QUOTE
from deepeyes.errors import DataFileError


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
    if is_list(one) and is_list(other):
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


def is_list(kind: pa.DataType) -> bool:
    """Tells whether a column holds lists, of any kind."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Returns the usual variant of a type: no large, dictionary or fixed-size ones."""
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct({kind[i].name: _plain(kind[i].type) for i in range(kind.num_fields)})
    if is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return TEXT
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind) or pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    return kind


def fit(value: Any, kind: pa.DataType) -> Any:
    """Returns a value as `kind` holds it: numbers as text where `kind` is text, all else as it is."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {kind[i].name: fit(value.get(kind[i].name), kind[i].type) for i in range(kind.num_fields)}
    if is_list(kind):
        return [fit(item, kind.value_type) for item in value]
    if kind == TEXT and not isinstance(value, str):
        return json.dumps(value) if isinstance(value, (bool, int, float)) else str(value)
    return value
