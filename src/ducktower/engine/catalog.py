"""What tables there are, as Arrow tables. Reads DuckDB's catalog; must never show what is internal."""

from __future__ import annotations

from typing import Any

from .carried import schema_of
from .inserts import table_columns, table_name
from .ledger import SCHEMA
from .words import Target

__all__ = ["list_tables", "table_rows", "table_schema"]

_TABLES = f"""
SELECT schema_name, table_name, 'BASE TABLE' AS table_type, estimated_size AS rows, column_count AS columns
FROM duckdb_tables() WHERE database_name = $catalog AND NOT internal AND NOT temporary
    AND schema_name <> '{SCHEMA}'
UNION ALL
SELECT schema_name, view_name, 'VIEW', NULL, column_count
FROM duckdb_views() WHERE database_name = $catalog AND NOT internal AND NOT temporary
ORDER BY schema_name, table_name
"""


def list_tables(cursor: Any, catalog: str) -> Any:
    """Return a pyarrow.Table: schema_name, table_name, table_type, rows (NULL for views), columns."""
    return cursor.sql(_TABLES, params={"catalog": catalog}).to_arrow_table()


def table_schema(cursor: Any, catalog: str, target: Target) -> Any:
    """Return the Arrow schema of a table or view. Raises TableNotFound."""
    table_columns(cursor, catalog, target)
    return schema_of(cursor.sql(f"FROM {table_name(catalog, target)}"))


def table_rows(cursor: Any, catalog: str, target: Target) -> int:
    """Count the rows of a table or view, now: a view's query runs for it."""
    return int(cursor.execute(f"SELECT count(*) FROM {table_name(catalog, target)}").fetchall()[0][0])
