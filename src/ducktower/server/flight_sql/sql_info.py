"""What the server says of itself: SqlInfo, number by number.

Owns the facts and the column of the union that each belongs into: the specification and the JDBC driver agree on
the types used here, and a wrong one makes drivers fail. A bitmask has the bit of each enum value that holds. Must
never claim what a test does not show.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import metadata
from typing import Any, NamedTuple

import pyarrow as pa

from ...engine import Engine
from ...protocol.flight_sql import schemas
from . import arrays

__all__ = ["sql_info"]

# Positions of the union's columns.
_TEXT, _BOOL, _BIGINT, _INT, _LIST, _MAP = range(6)


class _Fact(NamedTuple):
    column: int
    value: Any


_SYNTAX = range(500, 541)

_YES, _NO = _Fact(_BOOL, value=True), _Fact(_BOOL, value=False)


def _text(value: str) -> _Fact:
    return _Fact(_TEXT, value)


def _bigint(value: int) -> _Fact:
    return _Fact(_BIGINT, value)


def _int(value: int) -> _Fact:
    return _Fact(_INT, value)


def _bits(*positions: int) -> _Fact:
    return _Fact(_INT, sum(1 << position for position in positions))


def _texts(values: Iterable[str]) -> _Fact:
    return _Fact(_LIST, list(values))


_BIGINT_CASTS, _BINARY_CASTS = 0, 1
_BIT, _CHAR, _DATE, _DECIMAL, _FLOAT, _INTEGER = 2, 3, 4, 5, 6, 7
_NUMERIC, _REAL, _SMALLINT, _TIME, _TIMESTAMP, _TINYINT, _VARBINARY, _VARCHAR = 12, 13, 14, 15, 16, 17, 18, 19

_NUMBERS = [_BIGINT_CASTS, _DECIMAL, _FLOAT, _INTEGER, _NUMERIC, _REAL, _SMALLINT, _TINYINT]
_TEXTS = [_CHAR, _VARCHAR]

# SqlSupportsConvert, from each type to the types that CAST reaches.
_CONVERT: dict[int, list[int]] = {
    **{number: sorted([*_NUMBERS, *_TEXTS]) for number in _NUMBERS},
    **{
        text: sorted([*_NUMBERS, *_TEXTS, _BINARY_CASTS, _BIT, _DATE, _TIME, _TIMESTAMP, _VARBINARY]) for text in _TEXTS
    },
    _BINARY_CASTS: sorted([_BINARY_CASTS, _BIT, _VARBINARY, *_TEXTS]),
    _VARBINARY: sorted([_BINARY_CASTS, _BIT, _VARBINARY, *_TEXTS]),
    _DATE: sorted([_DATE, _TIMESTAMP, *_TEXTS]),
    _TIME: sorted([_TIME, *_TEXTS]),
    _TIMESTAMP: sorted([_DATE, _TIME, _TIMESTAMP, *_TEXTS]),
}


def _server(engine: Engine) -> dict[int, _Fact]:
    config = engine.config
    statement_seconds = config.session_idle_seconds
    transaction_seconds = min(config.session_idle_seconds, config.transaction_idle_seconds)
    return {
        0: _text("Ducktower"),
        1: _text(metadata.version("ducktower")),
        2: _text(pa.__version__),
        3: _NO,  # read only
        4: _YES,  # SQL
        5: _NO,  # Substrait
        6: _text(""),
        7: _text(""),
        8: _int(1),  # transactions, no savepoints
        9: _YES,  # cancelling
        10: _YES,  # ingest
        11: _YES,  # ingest within transactions
        100: _int(int(statement_seconds * 1000)),  # how long a prepared statement lasts unused
        101: _int(int(transaction_seconds * 1000)),
    }


def _syntax(engine: Engine) -> dict[int, _Fact]:
    facts = engine.sql_facts()
    return {
        500: _NO,  # ATTACH is refused
        501: _YES,
        502: _YES,
        503: _int(1),  # names keep their case and match in any
        504: _text('"'),
        505: _int(1),
        506: _YES,
        507: _int(3),  # NULLs come last
        508: _texts(facts.keywords),
        509: _texts(facts.functions["numeric"]),
        510: _texts(facts.functions["string"]),
        511: _texts(facts.functions["system"]),
        512: _texts(facts.functions["datetime"]),
        513: _text("\\"),
        514: _text("$"),
        515: _YES,
        516: _YES,
        517: _Fact(_MAP, sorted(_CONVERT.items())),
        518: _YES,
        519: _NO,
        520: _YES,
        521: _YES,
        522: _bits(0, 1),
        523: _YES,
        524: _YES,
        525: _bits(0, 1),
        526: _bits(0),
        527: _YES,
        528: _bits(1, 2),  # an ordinal in the specification, a bitmask in the JDBC driver
        529: _text("schema"),
        530: _text(""),
        531: _text("database"),
        532: _YES,
        533: _bits(1),
        534: _bits(1),
        535: _bits(),
        536: _NO,
        537: _NO,
        538: _bits(0, 1, 2, 3),
        539: _YES,
        540: _bits(0, 1),
    }


def _limits(engine: Engine) -> dict[int, _Fact]:
    unlimited = {number: _bigint(0) for number in (*range(541, 556), *range(557, 562))}
    return unlimited | {
        549: _bigint(engine.config.sessions_max),
        555: _bigint(engine.config.row_bytes_max),
        556: _YES,
        557: _bigint(engine.config.sql_bytes_max),
        558: _bigint(engine.config.prepared_max),
    }


def _transactions() -> dict[int, _Fact]:
    return {
        562: _bigint(3),  # snapshot isolation: REPEATABLE READ is what the list has for it
        563: _YES,
        564: _bits(3),
        565: _NO,
        566: _NO,
        567: _bits(1),  # forward only
        568: _bits(),
        569: _bits(1),  # read only
        570: _bits(),
        571: _bits(),
        572: _YES,
        573: _NO,
        574: _NO,
        575: _NO,
        576: _NO,
    }


def sql_info(engine: Engine, wanted: Iterable[int]) -> pa.Table:
    """Return the facts with these numbers, all when none is wanted; an unknown number is left out."""
    facts = _server(engine) | _limits(engine) | _transactions()
    if not wanted or any(number in _SYNTAX for number in wanted):
        facts |= _syntax(engine)  # lists of keywords and functions: drivers ask for one number when they connect
    numbers = [number for number in dict.fromkeys(wanted) if number in facts] if wanted else sorted(facts)
    return _table([(number, facts[number]) for number in numbers])


def _table(rows: list[tuple[int, _Fact]]) -> pa.Table:
    kind = schemas.SQL_INFO.field("value").type
    values: list[list[Any]] = [[] for _ in range(kind.num_fields)]
    offsets = []
    for _, fact in rows:
        offsets.append(len(values[fact.column]))
        values[fact.column].append(fact.value)
    union = pa.UnionArray.from_dense(
        arrays.column([fact.column for _, fact in rows], pa.int8()),
        arrays.column(offsets, pa.int32()),
        [arrays.column(column, kind.field(index).type) for index, column in enumerate(values)],
        [kind.field(index).name for index in range(kind.num_fields)],
    )
    numbers = arrays.column([number for number, _ in rows], pa.uint32())
    return pa.Table.from_arrays([numbers, union], schema=schemas.SQL_INFO)
