"""Rows as they were appended -> the record batch of a message, or the refusal that names the value that does not fit.

Owns the bounds of a message that carries several writes. Must never send.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from ..errors import SchemaMismatch
from .whole_numbers import check_fractions, has_integers

__all__ = ["BYTES_PER_MESSAGE_MAX", "MISFITS", "ROWS_PER_MESSAGE_MAX", "counted", "formed", "misfit"]

ROWS_PER_MESSAGE_MAX = 4_096
BYTES_PER_MESSAGE_MAX = 2 * 1024 * 1024
"""Of a message that carries several writes. A larger write travels alone."""
MISFITS = (pa.ArrowException, TypeError, ValueError, OverflowError)
"""What Arrow raises for a value that does not fit."""


def counted(schema: pa.Schema) -> list[pa.Field]:
    """Return the fields that hold integers, which no fraction fits into."""
    return [field for field in schema if has_integers(field.type)]


def formed(data: Any, schema: pa.Schema, integers: list[pa.Field]) -> pa.RecordBatch:
    """Return rows, a list of dicts or a batch already, as a batch. `integers` are `counted`. Raises one of MISFITS."""
    if isinstance(data, pa.RecordBatch):
        return data
    check_fractions(data, integers)
    return pa.RecordBatch.from_pylist(data, schema=schema)


def misfit(schema: pa.Schema, rows: list[Any], error: Exception) -> SchemaMismatch:
    """Name the column and the value that a write was refused for."""
    for field in schema:
        for row in rows:
            try:
                if has_integers(field.type):
                    check_fractions([row], [field])
                pa.array([row.get(field.name)], type=field.type)
            except MISFITS:
                value = row.get(field.name)
                shown = repr(value) if len(repr(value)) < 100 else repr(value)[:100] + "..."
                return SchemaMismatch(
                    f'column "{field.name}": found {type(value).__name__} {shown}, wanted {field.type}'
                )
    return SchemaMismatch(f"the rows do not fit the table's columns: {error}")
