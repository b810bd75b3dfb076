"""The rows of bulk work, in memory.

Owns how they get there: by DuckDB, which must never be a server's own.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from .lineitem import create_table

__all__ = ["lineitem_table"]

BATCH_ROWS = 65_536


def lineitem_table(rows: int) -> pa.Table:
    """Make so many rows shaped like lineitem."""
    with duckdb.connect() as connection:
        connection.execute("SET enable_progress_bar = false")  # it would be drawn into the report
        connection.execute(create_table(rows))
        table: pa.Table = connection.sql("SELECT * FROM lineitem").to_arrow_table(BATCH_ROWS)
        return table
