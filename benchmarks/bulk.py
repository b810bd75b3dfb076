"""Bulk: millions of rows read into an Arrow table, and written from one, over the wire and inside a process.

Owns both directions, in turns with their bases. Must never time the making of the rows or of an empty table.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import pyarrow as pa

import ducktower

from .figures import Bench, Figure, expect_rows
from .inprocess import READER_ROWS, bulk_read_seconds, bulk_write_seconds, make
from .lineitem import columns, create_table
from .load import stored_rows
from .processes import apart, serving
from .rows import lineitem_table

__all__ = ["bulk_read", "bulk_write"]

REPEATS = 3  # of the reads in one round: each is shorter than a second


def bulk_read(bench: Bench) -> list[Figure]:
    """Read the whole lineitem-shaped table into a pyarrow.Table."""
    rows = bench.scale.bulk_rows
    base = Figure(
        name="base_bulk_read",
        title=f"in-process to_arrow_reader, best of {', '.join(map(str, READER_ROWS))} rows",
        unit="Mrows/s",
    )
    read = Figure(
        name="bulk_read",
        title=f"bulk read, {rows / 1e6:g}M rows x 16 columns",
        unit="Mrows/s",
        base_title=base.title,
        base=base.values,
        target=0.4,
    )
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        path = Path(place) / "lineitem.duckdb"
        apart(make, path, create_table(rows))
        for _ in range(bench.scale.rounds):
            base.values.append(rows / 1e6 / apart(bulk_read_seconds, path, rows, REPEATS))
            with serving(path, *bench.flags) as server:
                read.values.append(rows / 1e6 / apart(_read_seconds, server.url, rows))
    return [base, read]


def _read_seconds(url: str, rows: int) -> float:
    """Return the median seconds of some reads; the first, which fills the cache, does not count."""
    taken: list[float] = []
    with ducktower.connect(url) as client:
        for _ in range(REPEATS + 1):
            start = time.perf_counter()
            table = client.query("SELECT * FROM lineitem")
            taken.append(time.perf_counter() - start)
            expect_rows("bulk read", rows, table.num_rows)
            del table
    return sorted(taken[1:])[REPEATS // 2]


def bulk_write(bench: Bench) -> list[Figure]:
    """Store lineitem-shaped batches that are in the client's memory."""
    rows = bench.scale.bulk_rows // 2
    base = Figure(name="base_bulk_write", title="in-process INSERT ... SELECT, same batches", unit="Mrows/s")
    write = Figure(
        name="bulk_write",
        title=f"bulk write, {rows / 1e6:g}M rows x 16 columns",
        unit="Mrows/s",
        base_title=base.title,
        base=base.values,
        target=0.8,
    )
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        for base_seconds, seconds in apart(_write_seconds, Path(place), rows, bench.scale.rounds, bench.flags):
            base.values.append(rows / 1e6 / base_seconds)
            write.values.append(rows / 1e6 / seconds)
    return [base, write]


def _write_seconds(directory: Path, rows: int, rounds: int, flags: tuple[str, ...]) -> list[tuple[float, float]]:
    """Return, for each round, the seconds in process (the better of two ways) and through the server.

    One process holds the batches and does both, in turns: they are the same memory.
    """
    batches = lineitem_table(rows).to_batches()
    taken: list[tuple[float, float]] = []
    for _ in range(rounds):
        inside = min(bulk_write_seconds(directory, batches, table) for table in (True, False))
        taken.append((inside, _ingest_seconds(directory, batches, flags)))
    return taken


def _ingest_seconds(directory: Path, batches: list[pa.RecordBatch], flags: tuple[str, ...]) -> float:
    """Store the batches through a fresh server with a fresh file."""
    rows = sum(batch.num_rows for batch in batches)
    path = directory / "served.duckdb"
    with serving(path, *flags) as server:
        with ducktower.connect(server.url) as client:
            client.execute(f"CREATE TABLE lineitem ({columns()})")
            table = pa.Table.from_batches(batches)
            start = time.perf_counter()
            receipt = client.ingest("lineitem", table)
            seconds = time.perf_counter() - start
        expect_rows("bulk write", rows, receipt.rows)
        expect_rows("bulk write", rows, stored_rows(server.url, "lineitem"))
    path.unlink()
    return seconds
