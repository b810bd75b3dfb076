"""What there is, as the Arrow tables that Flight SQL's metadata commands answer with.

Owns their columns (https://arrow.apache.org/docs/format/FlightSql.html) and what of DuckDB's catalog they show:
the served database, and the temporary tables of the session that asks. Internal schemas are left out. Names match
in any case, as DuckDB's do; patterns are those of LIKE, with a backslash before a character that is meant itself.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from .describing import Describer
from .ledger import SCHEMA
from .packing import packed

__all__ = ["TABLE_TYPES", "answered", "catalogs", "db_schemas", "names_of", "table_types", "tables_of"]

TABLE_TYPES = ("LOCAL TEMPORARY", "TABLE", "VIEW")
_SAME = {"BASE TABLE": "TABLE"}
"""What some clients ask for, after information_schema, when they mean tables."""

_CATALOGS = pa.schema([pa.field("catalog_name", pa.string(), nullable=False)])
_DB_SCHEMAS = pa.schema(
    [pa.field("catalog_name", pa.string()), pa.field("db_schema_name", pa.string(), nullable=False)]
)
_TABLES = pa.schema(
    [
        pa.field("catalog_name", pa.string()),
        pa.field("db_schema_name", pa.string()),
        pa.field("table_name", pa.string(), nullable=False),
        pa.field("table_type", pa.string(), nullable=False),
    ]
)
_TABLE_SCHEMA = pa.field("table_schema", pa.binary(), nullable=False)
_TABLE_TYPES = pa.schema([pa.field("table_type", pa.string(), nullable=False)])

_RELATIONS = f"""
SELECT database_name, schema_name, table_name, if(temporary, 'LOCAL TEMPORARY', 'TABLE') AS table_type
FROM duckdb_tables() WHERE NOT internal AND schema_name <> '{SCHEMA}'
UNION ALL
SELECT database_name, schema_name, view_name, if(temporary, 'LOCAL TEMPORARY', 'VIEW')
FROM duckdb_views() WHERE NOT internal AND NOT starts_with(view_name, '__ducktower_')
"""

# Of the catalogs the one that is served, and the temporary one where it holds something.
_SCHEMAS = f"""
SELECT database_name, schema_name FROM duckdb_schemas()
WHERE database_name = $served AND schema_name NOT IN ('information_schema', 'pg_catalog', '{SCHEMA}')
UNION
SELECT database_name, schema_name FROM ({_RELATIONS}) WHERE database_name = 'temp'
"""

_SELECTED = f"""
WITH selected AS (
    SELECT * FROM ({_RELATIONS})
    WHERE database_name IN ($served, 'temp')
        AND ($catalog IS NULL OR lower(database_name) = lower($catalog))
        AND ($schemas IS NULL OR schema_name ILIKE $schemas ESCAPE '\\')
        AND ($tables IS NULL OR table_name ILIKE $tables ESCAPE '\\')
        AND ($types IS NULL OR list_contains($types, table_type))
)
"""

_ORDER = "ORDER BY database_name, schema_name, table_name, table_type"

_SELECTED_COLUMNS = f"""
{_SELECTED}
SELECT selected.*, column_name, data_type, is_nullable, numeric_precision, numeric_scale,
    coalesce(column_default LIKE 'nextval(%', false) AS counts_up
FROM selected LEFT JOIN duckdb_columns() columns USING (database_name, schema_name, table_name)
{_ORDER}, column_index
"""


def catalogs(cursor: Any, served: str) -> Any:
    """Return the catalogs: catalog_name."""
    sql = f"SELECT DISTINCT database_name FROM ({_SCHEMAS}) ORDER BY ALL"
    return answered(cursor, sql, {"served": served}, _CATALOGS)


def db_schemas(cursor: Any, served: str, catalog: str | None, pattern: str | None) -> Any:
    """Return the schemas: catalog_name, db_schema_name."""
    sql = (
        f"SELECT * FROM ({_SCHEMAS}) WHERE ($catalog IS NULL OR lower(database_name) = lower($catalog)) "
        "AND ($pattern IS NULL OR schema_name ILIKE $pattern ESCAPE '\\') ORDER BY ALL"
    )
    return answered(cursor, sql, {"served": served, "catalog": catalog, "pattern": pattern}, _DB_SCHEMAS)


def table_types() -> Any:
    """Return the kinds of tables: table_type."""
    return pa.Table.from_arrays([packed(TABLE_TYPES, pa.string())], schema=_TABLE_TYPES)


def tables_of(
    cursor: Any,
    describer: Describer,
    served: str,
    catalog: str | None,
    schemas: str | None,
    tables: str | None,
    types: Sequence[str] | None,
    *,
    include_schema: bool,
) -> Any:
    """Return tables and views: catalog_name, db_schema_name, table_name, table_type and, if asked for, table_schema.

    That is the Arrow schema of the table's rows as an IPC message, with Flight SQL's metadata in its fields.
    """
    filters = {
        "served": served,
        "catalog": catalog,
        "schemas": schemas,
        "tables": tables,
        "types": [_SAME.get(kind.upper(), kind.upper()) for kind in types] if types else None,
    }
    if not include_schema:
        return answered(cursor, f"{_SELECTED} SELECT * FROM selected {_ORDER}", filters, _TABLES)
    found = cursor.sql(_SELECTED_COLUMNS, params=filters).to_arrow_table()
    columns = list(zip(*(column.to_pylist() for column in found.columns), strict=True))
    known = describer.fields(cursor, {column[5] for column in columns if column[5] is not None})
    starts = array("q")
    messages = []
    at = 0
    for table, group in itertools.groupby(columns, key=lambda column: column[:4]):
        members = list(group)
        fields = [_field(table, column[4:], known) for column in members if column[4] is not None]
        messages.append(pa.schema(fields).serialize().to_pybytes())
        starts.append(at)
        at += len(members)
    first_rows = pa.Array.from_buffers(pa.int64(), len(starts), [None, pa.py_buffer(starts)])
    names = _exactly(found.select(range(4)).take(first_rows), _TABLES)
    return names.append_column(_TABLE_SCHEMA, _binary(messages))


def names_of(cursor: Any, served: str) -> Any:
    """Return every table and view that the cursor sees: catalog_name, db_schema_name, table_name, table_type."""
    filters: dict[str, Any] = {"served": served, "catalog": None, "schemas": None, "tables": None, "types": None}
    return answered(cursor, f"{_SELECTED} SELECT * FROM selected {_ORDER}", filters, _TABLES)


def answered(cursor: Any, sql: str, values: dict[str, Any], schema: Any) -> Any:
    """Run a query of the catalog and return its rows under exactly this pyarrow.Schema.

    They stay Arrow all the way: making arrays of Python's lists imports pandas, where that is installed.
    """
    return _exactly(cursor.sql(sql, params=values).to_arrow_table(), schema)


def _exactly(table: Any, schema: Any) -> Any:
    columns = [column.cast(field.type) for column, field in zip(table.columns, schema, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema)


def _binary(values: Sequence[bytes]) -> Any:
    offsets = array("i", itertools.accumulate(map(len, values), initial=0))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


def _field(table: Sequence[str], column: Sequence[Any], known: dict[str, Any]) -> Any:
    name, kind, nullable, precision, scale, counts_up = column
    field = known[kind]
    metadata = {
        "ARROW:FLIGHT:SQL:CATALOG_NAME": table[0],
        "ARROW:FLIGHT:SQL:SCHEMA_NAME": table[1],
        "ARROW:FLIGHT:SQL:TABLE_NAME": table[2],
        "ARROW:FLIGHT:SQL:TYPE_NAME": kind,
        "ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT": "1" if counts_up else "0",
        "ARROW:FLIGHT:SQL:IS_CASE_SENSITIVE": "1" if kind == "VARCHAR" else "0",
        "ARROW:FLIGHT:SQL:IS_READ_ONLY": "1" if table[3] == "VIEW" else "0",
        "ARROW:FLIGHT:SQL:IS_SEARCHABLE": "1",
    }
    if precision is not None:
        metadata["ARROW:FLIGHT:SQL:PRECISION"] = str(precision)
    if scale is not None:
        metadata["ARROW:FLIGHT:SQL:SCALE"] = str(scale)
    return pa.field(name, field.type, nullable, {**(field.metadata or {}), **metadata})
