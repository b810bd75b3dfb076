"""The bases: what DuckDB does inside one process, with its default settings, for the same work.

Owns one function for each base; each runs in a process of its own and returns plain numbers. Must never use
Ducktower.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from .figures import expect_rows
from .lineitem import columns

__all__ = ["bulk_read_seconds", "bulk_write_seconds", "count_rows", "make", "one_row_insert_rate"]

READER_ROWS = (65_536, 122_880, 1_000_000)
"""Batch sizes tried for the in-process reader; the fastest is the base."""


@contextmanager
def opened(path: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a file database as anybody would, but for the progress bar: it would be drawn into the report."""
    with duckdb.connect(path) as connection:
        connection.execute("SET enable_progress_bar = false")
        yield connection


def make(path: Path, *statements: str) -> None:
    """Make a database with some SQL."""
    with opened(path) as connection:
        for statement in statements:
            connection.execute(statement)


def count_rows(path: Path, table: str) -> int:
    """Count the rows of a table in a file that nobody else has open."""
    with opened(path) as connection:
        found = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()
        assert found is not None
        count: int = found[0]
        return count


def one_row_insert_rate(path: Path, seconds: float) -> tuple[float, list[float]]:
    """Insert one row after the other, each its own durable transaction; return the rate and latencies."""
    latencies: list[float] = []
    with opened(path) as connection:
        connection.execute("CREATE TABLE t (id BIGINT, value VARCHAR)")
        for warm in range(20):
            connection.execute("INSERT INTO t VALUES (?, ?)", [warm, "abc"])
        start = before = time.perf_counter()
        number = 0
        while before - start < seconds:
            connection.execute("INSERT INTO t VALUES (?, ?)", [number, "abc"])
            after = time.perf_counter()
            latencies.append(after - before)
            before, number = after, number + 1
    expect_rows("in-process INSERT", number + 20, count_rows(path, "t"))
    return number / (before - start), latencies


def bulk_read_seconds(path: Path, rows: int, repeats: int) -> float:
    """Read the whole table into an Arrow table; return the median seconds of the fastest batch size."""
    taken: dict[int, list[float]] = {size: [] for size in READER_ROWS}
    with opened(path) as connection:
        for _ in range(repeats + 1):
            for size, seconds in taken.items():
                start = time.perf_counter()
                table = connection.sql("SELECT * FROM lineitem").to_arrow_reader(size).read_all()
                seconds.append(time.perf_counter() - start)
                expect_rows("in-process read", rows, table.num_rows)
                del table
    return min(sorted(seconds[1:])[repeats // 2] for seconds in taken.values())  # the first one warms up


def bulk_write_seconds(directory: Path, batches: list[pa.RecordBatch], table: bool) -> float:
    """Store batches that are in memory in a new file, from an Arrow table or a reader; return the seconds."""
    source = pa.Table.from_batches(batches)
    path = directory / "inprocess.duckdb"
    with opened(path) as connection:
        connection.execute(f"CREATE TABLE lineitem ({columns()})")
        connection.register("source", source if table else source.to_reader())
        start = time.perf_counter()
        connection.execute("INSERT INTO lineitem SELECT * FROM source")
        seconds = time.perf_counter() - start
        connection.unregister("source")
    expect_rows("in-process bulk write", source.num_rows, count_rows(path, "lineitem"))
    path.unlink()
    return seconds
