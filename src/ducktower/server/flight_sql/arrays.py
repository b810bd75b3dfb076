"""Arrow arrays of Python values, made by way of JSON.

`pyarrow.array` and `pyarrow.scalar` import pandas where it is installed, which would cost a client that connects
first half a second; the JSON reader is C++ alone. For a few hundred values at most. Must never see a client's data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.json as pa_json

__all__ = ["column", "table"]


def table(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Return rows as a table of exactly this schema."""
    if not rows:
        return schema.empty_table()
    lines = "\n".join(map(json.dumps, rows)).encode()
    options = pa_json.ParseOptions(explicit_schema=schema)
    found = pa_json.read_json(pa.py_buffer(lines), parse_options=options)
    return pa.Table.from_arrays(found.select(schema.names).columns, schema=schema)


def column(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Return values as an array; those of a map are lists of pairs."""
    if not values:
        return pa.nulls(0, kind)
    if pa.types.is_map(kind):
        return _maps(values, kind)
    schema = pa.schema([("value", kind)])
    chunks = table([{"value": value} for value in values], schema)["value"].combine_chunks()
    return chunks.chunk(0) if isinstance(chunks, pa.ChunkedArray) else chunks


def _maps(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    pairs = pa.list_(pa.struct([("key", kind.key_type), ("item", kind.item_type)]))
    lists = column([[{"key": key, "item": item} for key, item in pairs_of] for pairs_of in values], pairs)
    keys, items = lists.values.flatten()
    return pa.MapArray.from_arrays(lists.offsets, keys, items, type=kind)
