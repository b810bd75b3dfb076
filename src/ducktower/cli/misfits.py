"""What Arrow says of a value that does not fit a text file's column -> one error that names the column.

Arrow's readers tell a column by its number, or not at all, and only in words: these are read here. Owns that
reading. Must never open a file, nor turn a file that is malformed into a value that does not fit.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ..errors import SchemaMismatch
from .terminal import one_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["header_of", "misfit_in_csv", "misfit_in_json", "sql_type"]

_CSV = re.compile(r"In CSV column #(\d+): CSV conversion error to (.+?): (?:invalid value '(.*)'|(.*))\Z", re.DOTALL)
_JSON_KIND = re.compile(r"JSON parse error: Column\(/(.*)\) changed from (\w+) to (\w+) in row \d+", re.DOTALL)
_JSON_VALUE = re.compile(
    r"Failed to convert JSON to (.+?), couldn't parse:(.*)\Z|The string '(.*)' is not a valid (\w+) number", re.DOTALL
)
_SQL_TYPES = {
    "bool": "BOOLEAN",
    "int8": "TINYINT",
    "int16": "SMALLINT",
    "int32": "INTEGER",
    "int64": "BIGINT",
    "uint8": "UTINYINT",
    "uint16": "USMALLINT",
    "uint32": "UINTEGER",
    "uint64": "UBIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "string": "VARCHAR",
    "date32[day]": "DATE",
    "time64[us]": "TIME",
    "timestamp[us]": "TIMESTAMP",
}
_FOUND_CHARACTERS_MAX = 100


def sql_type(kind: pa.DataType | str) -> str:
    """Return a type as SQL calls it, where that is one word."""
    return _SQL_TYPES.get(str(kind), str(kind))


def header_of(head: bytes) -> list[str]:
    """Return the names in the first line of a CSV file that is not empty, of which `head` is the beginning."""
    return next(filter(None, csv.reader(io.StringIO(head.decode("utf-8-sig", errors="replace")))), [])


def misfit_in_csv(path: str, text: str, names: Sequence[str]) -> SchemaMismatch | None:
    """Return the error for what Arrow said of a CSV file, or None when it is of something else.

    Arguments:
        names: the file's columns.
    """
    match = _CSV.match(text)
    if match is None:
        return None
    number = int(match[1])
    name = names[number] if number < len(names) else f"#{number}"
    found = match[4] if match[3] is None else f"found {_shown(match[3])}"
    return SchemaMismatch(f'{path}: column "{name}": {found}, wanted {sql_type(match[2])}')


def misfit_in_json(
    path: str, text: str, schema: pa.Schema | None, table: pa.Schema | None, fails: Callable[[pa.Field], bool]
) -> SchemaMismatch | None:
    """Return the error for what Arrow said of a JSON file, or None when it is of something else.

    Arguments:
        schema: the types that the file is read as, where they are known.
        table: those of the table, where there is one.
        fails: whether the file cannot be read when it has this one column alone.
    """
    if match := _JSON_KIND.match(text):
        name = match[1]
        wanted = f"a {match[2]}, as in the rows before"
        if table is not None and name in table.names:
            wanted = sql_type(table.field(name).type)
        return SchemaMismatch(f'{path}: column "{name}": found a {match[3]}, wanted {wanted}')
    match = _JSON_VALUE.match(text)
    if match is None or schema is None:
        return None
    kind, found = (match[1], match[2]) if match[1] is not None else (match[4], match[3])
    fields = [field for field in schema if kind in str(field.type)]
    if len(fields) > 1:
        # Arrow does not say which: each of them is tried alone. Of what cannot be read twice all are named.
        fields = [field for field in fields if fails(field)] or fields
    names = " or ".join(f'"{field.name}"' for field in fields)
    wanted = sql_type(fields[0].type if fields else kind)
    return SchemaMismatch(f"{path}: column {names}: found {_shown(found)}, wanted {wanted}")


def _shown(value: str) -> str:
    shown = one_line(value)
    return f"'{shown}'" if len(shown) <= _FOUND_CHARACTERS_MAX else f"'{shown[:_FOUND_CHARACTERS_MAX]}...'"
