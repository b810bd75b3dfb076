"""Arrow types without dictionaries: what rows are sent and stored as.

DuckDB reads dictionaries as text, but refuses some batches of nested ones; and batches with different
dictionaries cannot be joined. Owns that mapping for both sides. Must never touch data.
"""

from __future__ import annotations

import pyarrow as pa

__all__ = ["plain_schema", "plain_type"]


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Return `kind` with the value type in place of each dictionary, at any depth."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(plain_type(field.type)) for field in kind])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(plain_type(kind.value_type)))
    if pa.types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(plain_type(kind.value_type)))
    return kind


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Return `schema` with plain types and without metadata of its own; fields keep theirs."""
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema])
