"""What tables there are, as Arrow tables. Reads DuckDB's catalog; must never show what is internal."""

from __future__ import annotations

from typing import Any

from .inserts import table_columns, table_name
from .words import Target

__all__ = ["list_tables", "table_info"]

_TABLES = """
SELECT schema_name, table_name, 'BASE TABLE' AS table_type, estimated_size AS rows, column_count AS columns
FROM duckdb_tables() WHERE database_name = $catalog AND NOT internal AND NOT temporary
UNION ALL
SELECT schema_name, view_name, 'VIEW', NULL, column_count
FROM duckdb_views() WHERE database_name = $catalog AND NOT internal AND NOT temporary
ORDER BY schema_name, table_name
"""


def list_tables(cursor: Any, catalog: str) -> Any:
    """Return a pyarrow.Table: schema_name, table_name, table_type, rows (NULL for views), columns."""
    return cursor.sql(_TABLES, params={"catalog": catalog}).to_arrow_table()


def table_info(cursor: Any, catalog: str, target: Target) -> tuple[Any, int]:
    """Return the Arrow schema of a table or view, and its rows (counted now). Raises TableNotFound."""
    table_columns(cursor, catalog, target)
    name = table_name(catalog, target)
    reader = cursor.sql(f"FROM {name} LIMIT 0").to_arrow_reader(1)
    schema = reader.schema
    reader.close()
    rows = cursor.execute(f"SELECT count(*) FROM {name}").fetchall()[0][0]
    return schema, int(rows)
