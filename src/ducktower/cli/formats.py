"""File formats by name and by suffix, and values as text where a format has no type for them.

Owns what the formats are called and how a value is spelled. Must never open a file.
"""

from __future__ import annotations

import datetime
import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

from ..errors import InvalidArgument

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Format", "columns_of", "flattened", "format_of", "is_compressed", "json_text", "plain_json"]

_COMPRESSION_SUFFIXES = frozenset({".gz", ".bz2", ".zst", ".lz4"})


class Format(StrEnum):
    """The formats that are both written and read."""

    csv = "csv"
    json = "json"
    jsonl = "jsonl"
    parquet = "parquet"
    arrow = "arrow"


_SUFFIXES = {
    ".csv": Format.csv,
    ".json": Format.json,
    ".jsonl": Format.jsonl,
    ".ndjson": Format.jsonl,
    ".parquet": Format.parquet,
    ".pq": Format.parquet,
    ".arrow": Format.arrow,
    ".arrows": Format.arrow,
    ".feather": Format.arrow,
    ".ipc": Format.arrow,
}


def format_of(path: str) -> Format | None:
    """Return the format that a file's name tells, beside a compression's suffix; None when it tells none."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    while suffixes and suffixes[-1] in _COMPRESSION_SUFFIXES:
        suffixes.pop()
    return _SUFFIXES.get(suffixes[-1]) if suffixes else None


def is_compressed(path: str) -> bool:
    """Return whether a file's name says that it is compressed."""
    return PurePath(path).suffix.lower() in _COMPRESSION_SUFFIXES


def flattened(batch: pa.RecordBatch, *, keep_numbers: bool) -> pa.RecordBatch:
    """Return the batch with each column that text cannot hold as a column of strings, in DuckDB's spelling.

    Arguments:
        keep_numbers: leave numbers and booleans as they are, so that JSON shows them without quotes.

    Raises:
        InvalidArgument: a column holds a value that Python has not, such as a date after the year 9999 in a list.
    """
    import pyarrow as pa

    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        with _of(field):
            columns.append(_textual(column, keep_numbers=keep_numbers))
    fields = [pa.field(field.name, column.type) for field, column in zip(batch.schema, columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def columns_of(batch: pa.RecordBatch) -> list[list[Any]]:
    """Return the batch's columns as Python's values, maps as dicts.

    Raises:
        InvalidArgument: as `flattened` does.
    """
    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        with _of(field):
            columns.append(column.to_pylist(maps_as_pydicts="lossy"))
    return columns


@contextmanager
def _of(field: pa.Field) -> Iterator[None]:
    """Name the column whose values Python cannot hold."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise InvalidArgument(
            f'column "{field.name}" of type {field.type} holds a value that has no text here ({error}); '
            "CAST it to VARCHAR"
        ) from error


def _textual(column: pa.Array, *, keep_numbers: bool) -> pa.Array:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_null(kind) or pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return column
    if pa.types.is_dictionary(kind):
        return _textual(column.dictionary_decode(), keep_numbers=keep_numbers)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return column
    if pa.types.is_decimal(kind) or pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_time(kind):
        return column.cast(pa.string())
    if pa.types.is_nested(kind) and keep_numbers:
        return column  # JSON has lists and objects of its own
    spelled = _spelled_map if pa.types.is_map(kind) else _spelled
    return pa.array([None if value is None else spelled(value) for value in column.to_pylist()], pa.string())


def _spelled_map(pairs: list[tuple[Any, Any]]) -> str:
    return "{" + ", ".join(f"{json_text(key)}={json_text(value)}" for key, value in pairs) + "}"


def _spelled(value: Any) -> str:
    plain = plain_json(value)
    return plain if isinstance(plain, str) else json_text(plain)


def json_text(value: Any) -> str:
    """Return a value as JSON text; what JSON has no number for (NaN, infinity) becomes a string."""
    try:
        return _encode(value)
    except (ValueError, TypeError):
        return _encode(plain_json(value))


def plain_json(value: Any) -> Any:
    """Return what JSON can hold of a Python value: itself, or text in DuckDB's spelling."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if value - value == 0 else str(value)
        case dict():
            return {str(key): plain_json(item) for key, item in value.items()}
        case bytes():
            return "".join(f"\\x{byte:02X}" for byte in value)
        case _ if hasattr(value, "nanoseconds"):  # pyarrow's month-day-nanosecond interval
            return f"{value.months} months {value.days} days {value.nanoseconds // 1000} microseconds"
        case list() | tuple():
            return [plain_json(item) for item in value]
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case datetime.timedelta():
            return f"{value // datetime.timedelta(microseconds=1)} microseconds"
        case uuid.UUID():
            return str(value)
        case _:
            return str(value)


# Made once: `json.dumps` with options makes an encoder for each call.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, default=plain_json).encode
