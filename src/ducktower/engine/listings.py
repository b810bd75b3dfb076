"""What SQL may list of the database: everything but the schema that belongs to the server.

DuckDB's listings (information_schema, pg_catalog, sqlite_master, SHOW ALL TABLES) are made of four table functions,
which it looks up by their name alone, temporary macros first. So before a statement that lists, its cursor gets
temporary macros of their names, which leave that schema out.

Owns those macros, and which texts need them. Must never be what keeps the ledger from being read or written: that is
the guard's, whatever is listed.
"""

from __future__ import annotations

import re
from typing import Any

from .ledger import SCHEMA

__all__ = ["hide_ledger"]

_LISTS = re.compile(
    r"\b(?:duckdb_(?:tables|columns|schemas|constraints)|information_schema|pg_[a-z]+|sqlite_\w*(?:master|schema)"
    r"|show|show_tables\w*|describe)\b",
    re.IGNORECASE,
)
_HINTS = ("duckdb_", "information_schema", "pg_", "sqlite_", "show", "describe")
"""A text without any of these lists nothing: looked for first, because most are let through by this."""

_MACROS = ";".join(
    f"CREATE TEMP MACRO IF NOT EXISTS {name}() AS TABLE "
    f"SELECT * FROM system.main.{name}() WHERE schema_name <> '{SCHEMA}'"
    for name in ("duckdb_tables", "duckdb_columns", "duckdb_schemas", "duckdb_constraints")
)


def hide_ledger(cursor: Any, sql: str) -> None:
    """See to it that a statement of this text, run next on the cursor, does not list the server's schema.

    It may be within a transaction, also one that only reads. Whatever is no listing costs a microsecond.
    """
    lowered = sql.lower()
    if any(hint in lowered for hint in _HINTS) and _LISTS.search(lowered) is not None:
        cursor.execute(_MACROS)
