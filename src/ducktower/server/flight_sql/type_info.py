"""DuckDB's types as JDBC and ODBC number them: XDBC type info.

Owns that list. Must never ask the database: the types are part of DuckDB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ...protocol.flight_sql import schemas
from . import arrays

__all__ = ["type_info"]

_NULLABLE = 1
_SEARCHABLE, _SEARCHABLE_BUT_LIKE = 3, 2
_DATETIME, _INTERVAL = 9, 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Type:
    name: str
    code: int
    size: int | None = None
    quotes: bool = False
    params: list[str] | None = None
    unsigned: bool | None = None
    scale: tuple[int, int] | None = None
    family: int | None = None
    subcode: int | None = None
    radix: int | None = None

    def row(self) -> dict[str, Any]:
        """Return the row of the answer."""
        quote = "'" if self.quotes else None
        low, high = self.scale or (None, None)
        return {
            "type_name": self.name,
            "data_type": self.code,
            "column_size": self.size,
            "literal_prefix": quote,
            "literal_suffix": quote,
            "create_params": self.params,
            "nullable": _NULLABLE,
            "case_sensitive": self.name == "VARCHAR",
            "searchable": _SEARCHABLE if self.name == "VARCHAR" else _SEARCHABLE_BUT_LIKE,
            "unsigned_attribute": self.unsigned,
            "fixed_prec_scale": False,
            "auto_increment": None if self.unsigned is None else False,
            "local_type_name": self.name,
            "minimum_scale": low,
            "maximum_scale": high,
            "sql_data_type": self.family or self.code,
            "datetime_subcode": self.subcode,
            "num_prec_radix": self.radix,
            "interval_precision": None,
        }


def _integer(name: str, code: int, digits: int, *, unsigned: bool = False) -> _Type:
    return _Type(name=name, code=code, size=digits, unsigned=unsigned, scale=(0, 0), radix=10)


def _moment(name: str, code: int, size: int, subcode: int, digits: int) -> _Type:
    return _Type(
        name=name, code=code, size=size, quotes=True, scale=(digits, digits), family=_DATETIME, subcode=subcode
    )


_TYPES = (
    _Type(name="BOOLEAN", code=-7, size=1),
    _integer("TINYINT", -6, 3),
    _integer("UTINYINT", -6, 3, unsigned=True),
    _integer("BIGINT", -5, 19),
    _integer("UBIGINT", -5, 20, unsigned=True),
    _Type(name="BLOB", code=-3, quotes=True),
    _Type(name="GEOMETRY", code=-3, quotes=True),
    _Type(name="BIGNUM", code=2, quotes=True, unsigned=False, scale=(0, 0), radix=10),
    _integer("HUGEINT", 2, 38),
    _integer("UHUGEINT", 2, 39, unsigned=True),
    _Type(name="DECIMAL", code=3, size=38, params=["precision", "scale"], unsigned=False, scale=(0, 38), radix=10),
    _integer("INTEGER", 4, 10),
    _integer("UINTEGER", 4, 10, unsigned=True),
    _integer("SMALLINT", 5, 5),
    _integer("USMALLINT", 5, 5, unsigned=True),
    _Type(name="FLOAT", code=7, size=24, unsigned=False, radix=2),
    _Type(name="DOUBLE", code=8, size=53, unsigned=False, radix=2),
    _Type(name="INTERVAL", code=10, quotes=True, family=_INTERVAL, subcode=110),
    _Type(name="BIT", code=12, quotes=True),
    _Type(name="ENUM", code=12, quotes=True, params=["values"]),
    _Type(name="JSON", code=12, quotes=True),
    _Type(name="UUID", code=12, size=36, quotes=True),
    _Type(name="VARCHAR", code=12, quotes=True, params=["length"]),
    _moment("DATE", 91, 10, 1, 0),
    _moment("TIME", 92, 15, 2, 6),
    _moment("TIME WITH TIME ZONE", 92, 21, 4, 6),
    _moment("TIME_NS", 92, 18, 2, 9),
    _moment("TIMESTAMP", 93, 26, 3, 6),
    _moment("TIMESTAMP WITH TIME ZONE", 93, 32, 5, 6),
    _moment("TIMESTAMPTZ_NS", 93, 35, 5, 9),
    _moment("TIMESTAMP_MS", 93, 23, 3, 3),
    _moment("TIMESTAMP_NS", 93, 29, 3, 9),
    _moment("TIMESTAMP_S", 93, 19, 3, 0),
)


def type_info(code: int | None) -> pa.Table:
    """Return the types with that number, or all, ordered by number and name."""
    found = [one for one in _TYPES if code is None or one.code == code]
    rows = [one.row() for one in sorted(found, key=lambda one: (one.code, one.name))]
    return arrays.table(rows, schemas.XDBC_TYPE_INFO)
