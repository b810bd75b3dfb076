"""What a database holds, as a few numbers: equal for two databases with the same tables and rows.

Owns which queries that takes. Must never depend on the order of rows, nor write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .inserts import quoted
from .ledger import SCHEMA

__all__ = ["Fingerprint", "TableRows", "fingerprint", "fingerprint_of", "names_of", "tables_of"]

_TABLES = """
SELECT schema_name, table_name, list(column_name ORDER BY column_index), list(data_type ORDER BY column_index)
FROM duckdb_columns()
JOIN duckdb_tables() USING (database_name, schema_name, table_name)
WHERE database_name = current_database() AND NOT duckdb_tables.temporary AND NOT duckdb_tables.internal
GROUP BY ALL ORDER BY ALL
"""
# By name: how DuckDB writes a definition down may differ after it was stored.
_NAMES = """
FROM (
    SELECT 'view', schema_name, view_name FROM duckdb_views()
    WHERE database_name = current_database() AND NOT temporary AND NOT internal
    UNION ALL SELECT 'index', schema_name, index_name FROM duckdb_indexes()
    WHERE database_name = current_database()
    UNION ALL SELECT 'sequence', schema_name, sequence_name FROM duckdb_sequences()
    WHERE database_name = current_database() AND NOT temporary
    UNION ALL SELECT 'macro', schema_name, function_name FROM duckdb_functions()
    WHERE database_name = current_database() AND NOT internal
    UNION ALL SELECT 'type', schema_name, type_name FROM duckdb_types()
    WHERE database_name = current_database() AND NOT internal
) ORDER BY ALL
"""


@dataclass(frozen=True, slots=True)
class TableRows:
    """One table: its columns, how many rows it has, and the sum of the rows' hashes, whatever their order."""

    schema: str
    table: str
    columns: tuple[tuple[str, str], ...]
    """Names and types."""
    rows: int = 0
    checksum: str = ""

    @property
    def name(self) -> str:
        """As people write it."""
        return self.table if self.schema == "main" else f"{self.schema}.{self.table}"


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """All tables, and the names of views, indexes, sequences, macros and types."""

    of_tables: tuple[TableRows, ...]
    names: tuple[tuple[str, ...], ...]

    @property
    def tables(self) -> int:
        """How many tables there are, without the server's own."""
        return sum(one.schema != SCHEMA for one in self.of_tables)

    @property
    def rows(self) -> int:
        """How many rows these have."""
        return sum(one.rows for one in self.of_tables if one.schema != SCHEMA)

    @property
    def checksum(self) -> str:
        """All of it, the server's own tables included, in 64 hexadecimal digits."""
        said = ([(one.schema, one.table, one.columns, one.rows, one.checksum) for one in self.of_tables], self.names)
        return hashlib.sha256(repr(said).encode()).hexdigest()

    def difference(self, other: Fingerprint) -> str:
        """Name the first thing that is not the same in `other`."""
        mine, its = ({one.name: one for one in found.of_tables} for found in (self, other))
        for name in sorted(mine.keys() | its.keys()):
            if mine.get(name) != its.get(name):
                return f'table "{name}"'
        return "the names of views, indexes, sequences, macros and types"


def fingerprint(cursor: Any, check: Callable[[], None] = lambda: None) -> Fingerprint:
    """Read all of the cursor's database once; `check` is called between tables and may raise."""
    found = []
    for table in tables_of(cursor):
        check()
        found.append(fingerprint_of(cursor, table))
    check()
    return Fingerprint(tuple(found), names_of(cursor))


def tables_of(cursor: Any) -> list[TableRows]:
    """Return the tables without their rows."""
    return [
        TableRows(schema, table, tuple(zip(columns, types, strict=True)))
        for schema, table, columns, types in cursor.execute(_TABLES).fetchall()
    ]


def fingerprint_of(cursor: Any, table: TableRows) -> TableRows:
    """Read one table once; return it with its rows."""
    # In full: a schema may be called as the database is.
    catalog = cursor.execute("SELECT current_database()").fetchall()[0][0]
    name = ".".join(map(quoted, (catalog, table.schema, table.table)))
    columns = ", ".join(quoted(column) for column, _ in table.columns)
    rows, total = cursor.execute(f"SELECT count(*), sum(hash({columns})) FROM {name}").fetchall()[0]
    return TableRows(table.schema, table.table, table.columns, int(rows), f"{total or 0}")


def names_of(cursor: Any) -> tuple[tuple[str, ...], ...]:
    """Return kind, schema and name of what there is beside tables."""
    return tuple(cursor.execute(_NAMES).fetchall())
