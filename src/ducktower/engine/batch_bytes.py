"""How many bytes a record batch of a result has: known before it exists, or read off its C struct.

Some clients refuse messages over 4 MiB. Rows of fixed width get a number of rows that is sure to fit. How wide
other rows are is known only once DuckDB made them; then the ends of their offset buffers tell, which takes a few
microseconds a batch whatever it holds and imports nothing.

The layouts are those of the Arrow C data interface, https://arrow.apache.org/docs/format/CDataInterface.html, and of
the columnar format. Owns what a type's values take. Must never touch values, nor keep an address.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import pyarrow as pa

__all__ = ["BatchBytes", "batch_rows"]

_ROWS_MAX = 65_536
_ROWS_MAX_UNKNOWN_WIDTH = 4_096
"""Rows that are asked for at once when values have no fixed width. More save looks, fewer save memory."""

_VALUE_BYTES = {
    # DuckDB's type -> bytes of one value in Arrow; a type that is not here differs from value to value.
    "boolean": 1,
    "tinyint": 1,
    "utinyint": 1,
    "smallint": 2,
    "usmallint": 2,
    "integer": 4,
    "uinteger": 4,
    "float": 4,
    "date": 4,
    "bigint": 8,
    "ubigint": 8,
    "double": 8,
    "time": 8,
    "timestamp": 8,
    "timestamp_s": 8,
    "timestamp_ms": 8,
    "timestamp_ns": 8,
    "timestamp with time zone": 8,
    "decimal": 16,
    "hugeint": 16,
    "uhugeint": 16,
    "interval": 16,
    "enum": 4,
}


def batch_rows(types: Sequence[Any], batch_bytes_max: int) -> tuple[int, bool]:
    """Return how many rows a batch of these DuckDB types may have, and whether that is sure to fit."""
    widths = [_VALUE_BYTES.get(kind.id) for kind in types]
    if None in widths:
        return _ROWS_MAX_UNKNOWN_WIDTH, False
    width = sum(bytes_ or 0 for bytes_ in widths) + len(widths) / 8  # and a bit of validity each
    return max(1, min(_ROWS_MAX, int(batch_bytes_max / max(width, 1)))), True


# Where the members of an ArrowArray are, in bytes from its address; all are 64 bits wide.
_LENGTH, _OFFSET, _BUFFERS, _CHILDREN = 0, 16, 40, 48

_Measure: TypeAlias = Callable[[int, int, int], float]
"""(address of an ArrowArray, first value, values) -> bytes. The array's own offset is in the first value already."""


class BatchBytes:
    """Measures batches of one schema. `measurable` is False when it has a type whose layout is not known here."""

    def __init__(self, schema: pa.Schema) -> None:
        measures = [_measure(field.type) for field in schema]
        self.measurable = None not in measures
        self._row_bytes = sum(measure for measure in measures if isinstance(measure, float))
        self._columns = [(index * 8, measure) for index, measure in enumerate(measures) if callable(measure)]

    def of(self, address: int) -> int:
        """Return the bytes of the record batch whose ArrowArray is at `address`."""
        rows, first = _int64(address + _LENGTH), _int64(address + _OFFSET)
        children = _int64(address + _CHILDREN)
        total = rows * self._row_bytes
        for position, measure in self._columns:
            child = _int64(children + position)
            total += measure(child, first + _int64(child + _OFFSET), rows)
        return int(total)


def _int64(address: int) -> int:
    return ctypes.c_int64.from_address(address).value


def _int32(address: int) -> int:
    return ctypes.c_int32.from_address(address).value


def _measure(kind: pa.DataType) -> float | _Measure | None:
    """Return the bytes of one value when all have the same, else what measures them; None for unknown layouts."""
    types = pa.types
    if types.is_null(kind):
        return 0.0
    if types.is_dictionary(kind):
        return _measure(kind.index_type)
    if isinstance(kind, pa.BaseExtensionType):
        return _measure(kind.storage_type)
    if types.is_string(kind) or types.is_binary(kind):
        return _by_offsets(4, _int32, 1.0)
    if types.is_large_string(kind) or types.is_large_binary(kind):
        return _by_offsets(8, _int64, 1.0)
    if types.is_struct(kind):
        return _struct([_measure(field.type) for field in kind])
    if types.is_map(kind):
        return _list(4, _int32, _struct([_measure(kind.key_type), _measure(kind.item_type)]))
    if types.is_list(kind):
        return _list(4, _int32, _measure(kind.value_type))
    if types.is_large_list(kind):
        return _list(8, _int64, _measure(kind.value_type))
    if types.is_fixed_size_list(kind):
        return _fixed_size_list(kind.list_size, _measure(kind.value_type))
    try:
        return float(kind.bit_width + 1) / 8  # and a bit of validity
    except ValueError:  # unions, views, run-end encoding
        return None


def _by_offsets(width: int, read: Callable[[int], int], value_bytes: float) -> _Measure:
    """Measure values that lie between two offsets of the second buffer, each of `value_bytes`."""

    def measure(address: int, first: int, count: int) -> float:
        offsets = _int64(_int64(address + _BUFFERS) + 8)
        inside = read(offsets + width * (first + count)) - read(offsets + width * first) if count else 0
        return inside * value_bytes + count * (width + 0.125)

    return measure


def _list(width: int, read: Callable[[int], int], inner: float | _Measure | None) -> _Measure | None:
    if inner is None:
        return None
    if isinstance(inner, float):
        return _by_offsets(width, read, inner)

    def measure(address: int, first: int, count: int) -> float:
        if not count:
            return 0.0
        offsets = _int64(_int64(address + _BUFFERS) + 8)
        begin, end = read(offsets + width * first), read(offsets + width * (first + count))
        child = _int64(_int64(address + _CHILDREN))
        return inner(child, begin + _int64(child + _OFFSET), end - begin) + count * (width + 0.125)

    return measure


def _fixed_size_list(size: int, inner: float | _Measure | None) -> float | _Measure | None:
    if inner is None:
        return None
    if isinstance(inner, float):
        return inner * size + 0.125

    def measure(address: int, first: int, count: int) -> float:
        child = _int64(_int64(address + _CHILDREN))
        return inner(child, first * size + _int64(child + _OFFSET), count * size) + count * 0.125

    return measure


def _struct(fields: Sequence[float | _Measure | None]) -> float | _Measure | None:
    if None in fields:
        return None
    fixed = sum(field for field in fields if isinstance(field, float)) + 0.125
    varying = [(index * 8, field) for index, field in enumerate(fields) if callable(field)]
    if not varying:
        return fixed

    def measure(address: int, first: int, count: int) -> float:
        children = _int64(address + _CHILDREN)
        total = count * fixed
        for position, field in varying:
            child = _int64(children + position)
            total += field(child, first + _int64(child + _OFFSET), count)
        return total

    return measure
