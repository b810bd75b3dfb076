"""Plain INSERTs: `INSERT INTO t (a, b) VALUES (?, ?)`, or with literals, understood without running them.

Rows of parameters for such a statement are an Arrow table with other names, so they can be stored as one: through
the commit queue, or by one Arrow insert. Owns the small grammar of what is that plain. Must never guess: whatever
it does not know in full is None, and runs as it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from .inserts import quoted
from .packing import packed
from .session_parts import Parts
from .words import Target

__all__ = ["PlainInsert", "keeps_types", "literals", "parametrised"]

_FLAGS = re.IGNORECASE | re.ASCII
r"""ASCII: else [a-z] without regard to case takes letters like the Turkish dotless i, and \d all digits of Unicode."""
_BLANKS = " \t\r\n\f\v"
_NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_]*)'
_INSERT = re.compile(
    rf"\s*INSERT\s+INTO\s+(?P<path>{_NAME}(?:\s*\.\s*{_NAME}){{0,2}})\s*"
    rf"(?:\(\s*(?P<columns>{_NAME}(?:\s*,\s*{_NAME})*)\s*\)\s*)?(?<![A-Za-z0-9_])VALUES\s*(?P<values>\(.*\))",
    _FLAGS | re.DOTALL,
)
_NAMES = re.compile(_NAME, _FLAGS)
_QUESTION_MARKS = re.compile(r"\(\s*\?(?:\s*,\s*\?)*\s*\)", re.ASCII)
_NUMBERED = re.compile(r"\(\s*\$\d+(?:\s*,\s*\$\d+)*\s*\)", re.ASCII)
_LITERAL = re.compile(
    r"\s*(?:(?P<null>NULL\b)|(?P<bool>TRUE\b|FALSE\b)|(?P<text>'(?:[^']|'')*')|(?P<number>-?\d+(?:\.\d+)?)(?![\w.]))\s*",
    _FLAGS,
)
_TELLS_TYPES = re.compile(r"\b(BIT|UNION|VARIANT)\b")
"""Types that keep, in what is stored, of which type a value was: there an Arrow type must not stand for another."""

_TEXT_MAX = 16 * 1024
_INT32, _INT64 = range(-(2**31), 2**31), range(-(2**63), 2**63)
_DECIMAL_DIGITS_MAX = 18


class PlainInsert(NamedTuple):
    """Where the rows go: the table's name in its parts, and its columns in the order of the values, if named.

    `order` says which parameter, counted from 0, is the value of each column.
    """

    path: tuple[str, ...]
    columns: tuple[str, ...] | None
    order: tuple[int, ...]

    @property
    def name_sql(self) -> str:
        """The table's name, as it stands in the statement."""
        return ".".join(map(quoted, self.path))

    @property
    def into_sql(self) -> str:
        """The part of the statement that says where rows go, for DuckDB to resolve as it does in the statement."""
        columns = "" if self.columns is None else f" ({', '.join(map(quoted, self.columns))})"
        return f"INSERT INTO {self.name_sql}{columns}"

    def arranged(self, table: Any) -> Any:
        """Return a table of parameters with one column for each value, in the statement's order."""
        return table.select(list(self.order))

    def target(self, parts: Parts, table: Any) -> tuple[Target, Any] | None:
        """Return the target and a reader of the rows under its columns' names.

        None when the table is not plainly one of the served database, or the values are not one for each column:
        DuckDB has the better words for what is wrong then.
        """
        if len(self.path) == 3 and self.path[0].lower() != parts.catalog.lower():
            return None
        if len(self.path) == 2 and self.path[0].lower() in (parts.catalog.lower(), "temp", "system"):
            return None
        target = Target(self.path[-1], self.path[-2] if len(self.path) > 1 else "main")
        known = parts.known_tables.columns(target)
        if known is None:
            return None
        columns = self.columns if self.columns is not None else tuple(column.name for column in known)
        if len(columns) != len(self.order) or keeps_types([column.type for column in known], table):
            return None
        return target, self.arranged(table).rename_columns(list(columns)).to_reader()


def keeps_types(kinds: list[Any], table: Any) -> bool:
    """Whether one of these DuckDB types keeps of which type a value was: an Arrow type must not stand for another.

    JSON does for decimals: how many places they have is seen in it.
    """
    decimals = any(pa.types.is_decimal(kind) for kind in table.schema.types)
    return any(_TELLS_TYPES.search(str(kind)) or (decimals and "JSON" in str(kind)) for kind in kinds)


def _parsed(sql: str) -> re.Match[str] | None:
    """Match a text of bounded length. What may follow is cut off first: two runs of blanks in a pattern take long."""
    if len(sql) > _TEXT_MAX:
        return None
    return _INSERT.fullmatch(sql.rstrip(_BLANKS).removesuffix(";").rstrip(_BLANKS))


def parametrised(sql: str) -> PlainInsert | None:
    """Return the plain INSERT that `sql` is when its one row of values is nothing but parameters, each used once."""
    found = _parsed(sql)
    if found is None:
        return None
    values = found["values"]
    if _QUESTION_MARKS.fullmatch(values):
        order = tuple(range(values.count("?")))
    elif _NUMBERED.fullmatch(values):
        order = tuple(int(number) - 1 for number in re.findall(r"\d+", values))
        if sorted(order) != list(range(len(order))):
            return None
    else:
        return None
    return _plain(found, order)


def literals(sql: str) -> tuple[PlainInsert, Any] | None:
    """Return the plain INSERT that `sql` is and its rows, when its values are nothing but literals.

    Only those whose Arrow type means to DuckDB what the literal means: whole numbers, short decimals, texts,
    booleans, NULL.
    """
    found = _parsed(sql)
    if found is None:
        return None
    rows = list(_rows(found["values"]))
    width = len(rows[0]) if rows and rows[0] is not None else 0
    if not width or any(row is None or len(row) != width for row in rows):
        return None
    insert = _plain(found, tuple(range(width)))
    columns = [_column([row[i] for row in rows if row is not None]) for i in range(width)]
    if insert is None or any(column is None for column in columns):
        return None
    return insert, pa.table(columns, names=[str(i) for i in range(width)])


def _plain(found: re.Match[str], order: tuple[int, ...]) -> PlainInsert | None:
    path = tuple(_unquoted(name) for name in _NAMES.findall(found["path"]))
    if found["columns"] is None:
        return PlainInsert(path, None, order)
    columns = tuple(_unquoted(name) for name in _NAMES.findall(found["columns"]))
    if len(columns) != len(order) or len({column.lower() for column in columns}) != len(columns):
        return None
    return PlainInsert(path, columns, order)


def _unquoted(name: str) -> str:
    return name[1:-1].replace('""', '"') if name.startswith('"') else name


def _rows(values: str) -> Iterator[list[Any] | None]:
    """Yield the rows of `(1, 'a'), (2, 'b')`; None in place of whatever is not understood ends them."""
    at = 0
    while True:
        if values[at] != "(":
            yield None
            return
        row: list[Any] = []
        while True:
            found = _LITERAL.match(values, at + 1)
            if found is None or found.end() >= len(values) or values[found.end()] not in ",)":
                yield None
                return
            row.append(_value(found))
            at = found.end()
            if values[at] == ")":
                break
        yield row
        rest = values[at + 1 :].lstrip()
        if not rest:
            return
        if rest[0] != ",":
            yield None
            return
        values, at = rest[1:].lstrip() or " ", 0


def _value(found: re.Match[str]) -> Any:
    if found["null"]:
        return None
    if found["bool"]:
        return found["bool"].lower() == "true"
    if found["text"]:
        return found["text"][1:-1].replace("''", "'")
    return Decimal(found["number"]) if "." in found["number"] else int(found["number"])


def _column(values: list[Any]) -> Any:
    """Return a column's values as one Arrow array, or None when they are of several kinds or too large."""
    kinds = {type(value) for value in values if value is not None}
    if not kinds:
        return pa.nulls(len(values))
    if len(kinds) > 1:
        return None
    kind = kinds.pop()
    if kind is int:
        return _integers(values)
    if kind is Decimal:
        return _decimals(values)
    return packed(values, pa.bool_() if kind is bool else pa.string())


def _integers(values: list[int | None]) -> Any:
    for kind, fits in ((pa.int32(), _INT32), (pa.int64(), _INT64)):
        if all(value is None or value in fits for value in values):
            return packed(values, kind)
    return None


def _decimals(values: list[Decimal | None]) -> Any:
    found = [value.as_tuple() for value in values if value is not None]
    scales = {-int(value.exponent) for value in found}
    if len(scales) > 1:
        return None  # one type would give them all the same number of places, which a column of texts shows
    scale = scales.pop()
    digits = max(len(value.digits) + int(value.exponent) for value in found) + scale
    if digits > _DECIMAL_DIGITS_MAX or scale > _DECIMAL_DIGITS_MAX:
        return None
    return packed(values, pa.decimal128(_DECIMAL_DIGITS_MAX, scale))
