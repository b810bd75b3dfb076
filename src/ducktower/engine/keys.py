"""Primary and foreign keys, as the Arrow tables that Flight SQL's commands answer with.

Owns their columns and how DuckDB's constraints become them. DuckDB's foreign keys stay within a schema and refuse
changes of rows that are referred to: its one rule is NO ACTION.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pyarrow as pa

from .metadata import answered

__all__ = ["Named", "foreign_keys", "primary_keys"]

_NO_ACTION = 3  # UpdateDeleteRules of FlightSql.proto

_PRIMARY_KEYS = pa.schema(
    [
        pa.field("catalog_name", pa.string()),
        pa.field("db_schema_name", pa.string()),
        pa.field("table_name", pa.string(), nullable=False),
        pa.field("column_name", pa.string(), nullable=False),
        pa.field("key_name", pa.string()),
        pa.field("key_sequence", pa.int32(), nullable=False),
    ]
)
_FOREIGN_KEYS = pa.schema(
    [
        pa.field("pk_catalog_name", pa.string()),
        pa.field("pk_db_schema_name", pa.string()),
        pa.field("pk_table_name", pa.string(), nullable=False),
        pa.field("pk_column_name", pa.string(), nullable=False),
        pa.field("fk_catalog_name", pa.string()),
        pa.field("fk_db_schema_name", pa.string()),
        pa.field("fk_table_name", pa.string(), nullable=False),
        pa.field("fk_column_name", pa.string(), nullable=False),
        pa.field("key_sequence", pa.int32(), nullable=False),
        pa.field("fk_key_name", pa.string()),
        pa.field("pk_key_name", pa.string()),
        pa.field("update_rule", pa.uint8(), nullable=False),
        pa.field("delete_rule", pa.uint8(), nullable=False),
    ]
)

_CONSTRAINTS = "SELECT * FROM duckdb_constraints() WHERE database_name IN ($served, 'temp')"

_PRIMARY = f"""
SELECT database_name, schema_name, table_name,
    unnest(constraint_column_names), constraint_name, unnest(range(1, len(constraint_column_names) + 1))
FROM ({_CONSTRAINTS}) WHERE constraint_type = 'PRIMARY KEY'
    AND ($catalog IS NULL OR lower(database_name) = lower($catalog))
    AND ($schema IS NULL OR lower(schema_name) = lower($schema))
    AND lower(table_name) = lower($table)
ORDER BY 1, 2, 3, 5, 6
"""

_FOREIGN = f"""
WITH found AS ({_CONSTRAINTS}), pairs AS (
    SELECT fk.*, pk.constraint_name AS pk_name, pk.table_name AS pk_table
    FROM found fk JOIN found pk ON pk.database_name = fk.database_name AND pk.schema_name = fk.schema_name
        AND lower(pk.table_name) = lower(fk.referenced_table)
        AND pk.constraint_type IN ('PRIMARY KEY', 'UNIQUE')
        AND list_transform(list_sort(pk.constraint_column_names), lambda name: lower(name))
            = list_transform(list_sort(fk.referenced_column_names), lambda name: lower(name))
    WHERE fk.constraint_type = 'FOREIGN KEY' AND len(fk.referenced_column_names) > 0
    QUALIFY row_number() OVER (PARTITION BY fk.database_name, fk.constraint_index ORDER BY pk.constraint_type) = 1
)
SELECT database_name, schema_name, pk_table, unnest(referenced_column_names), database_name, schema_name, table_name,
    unnest(constraint_column_names), unnest(range(1, len(constraint_column_names) + 1)), constraint_name, pk_name,
    {_NO_ACTION}, {_NO_ACTION}
FROM pairs
WHERE ($pk_table IS NULL OR lower(pk_table) = lower($pk_table))
    AND ($pk_catalog IS NULL OR lower(database_name) = lower($pk_catalog))
    AND ($pk_schema IS NULL OR lower(schema_name) = lower($pk_schema))
    AND ($fk_table IS NULL OR lower(table_name) = lower($fk_table))
    AND ($fk_catalog IS NULL OR lower(database_name) = lower($fk_catalog))
    AND ($fk_schema IS NULL OR lower(schema_name) = lower($fk_schema))
"""


class Named(NamedTuple):
    """A table as a client names it; what is None is not looked at."""

    catalog: str | None = None
    schema: str | None = None
    table: str | None = None


def primary_keys(cursor: Any, served: str, named: Named) -> Any:
    """Return the columns of a table's primary key, in its order."""
    values = {"served": served, "catalog": named.catalog, "schema": named.schema, "table": named.table}
    return answered(cursor, _PRIMARY, values, _PRIMARY_KEYS)


def foreign_keys(cursor: Any, served: str, primary: Named, foreign: Named, *, by_primary: bool) -> Any:
    """Return the pairs of columns of the foreign keys from `foreign` to `primary`.

    They are ordered by the primary table with `by_primary`, else by the foreign one, then by the key's own order.
    """
    values = {
        "served": served,
        **{f"pk_{name}": value for name, value in primary._asdict().items()},
        **{f"fk_{name}": value for name, value in foreign._asdict().items()},
    }
    order = "1, 2, 3, 11, 10, 9" if by_primary else "5, 6, 7, 10, 9"
    return answered(cursor, f"{_FOREIGN} ORDER BY {order}", values, _FOREIGN_KEYS)
