"""What streams through a server does not stay in DuckDB's cache; what queries use does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import ducktower
from support.waiting import until

MIB = 1024 * 1024
ROWS = 6_000_000
GROWTH = 2 * MIB
KEPT = 14 * MIB
"""That growth, and what DuckDB reads ahead of the first batch."""


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a file of about 50 MiB that compresses badly."""
    path = tmp_path_factory.mktemp("cache") / "filled.duckdb"
    with duckdb.connect(path) as connection:
        connection.execute(f"CREATE TABLE t AS SELECT i, hash(i) AS h FROM range({ROWS}) AS r(i)")
    return path


def cached(client: ducktower.FlightClient) -> int:
    """Ask for the bytes of table blocks in DuckDB's cache."""
    held = client.query("SELECT sum(memory_usage_bytes)::BIGINT AS b FROM duckdb_memory() WHERE tag = 'BASE_TABLE'")
    return int(held["b"][0].as_py())


def limit(client: ducktower.FlightClient) -> str:
    """Ask for DuckDB's memory limit."""
    return str(client.query("SELECT current_setting('memory_limit') AS m")["m"][0].as_py())


@contextmanager
def half_read(client: ducktower.FlightClient) -> Iterator[None]:
    """Read half of the table and keep the stream open (the wire reads ahead); then read the rest and count."""
    with client.reader("SELECT * FROM t") as reader:
        rows, total = 0, 0
        while rows < ROWS // 2:
            batch = reader.read_next_batch()
            rows += batch.num_rows
            total += batch.column("i").to_numpy().sum()
        yield
        for batch in reader:
            rows += batch.num_rows
            total += batch.column("i").to_numpy().sum()
    assert (rows, total) == (ROWS, ROWS * (ROWS - 1) // 2)


@pytest.mark.parametrize("memory_limit", [None, "500MB"])
def test_a_long_result_leaves_little_behind(filled: Path, memory_limit: str | None) -> None:
    """While rows stream the cache grows by no more than its setting, and the operator's memory limit is back."""
    with (
        ducktower.serve(str(filled), stream_cache_bytes_max=GROWTH, memory_limit=memory_limit) as server,
        ducktower.connect(server.url) as client,
    ):
        before = limit(client)
        with half_read(client):
            until(lambda: cached(client) <= KEPT, "the cache is trimmed")
            until(lambda: limit(client) == before, "the limit is back")


def test_without_a_limit_the_cache_keeps_all(filled: Path) -> None:
    """None leaves the cache to DuckDB."""
    with (
        ducktower.serve(str(filled), stream_cache_bytes_max=None) as server,
        ducktower.connect(server.url) as client,
        half_read(client),
    ):
        assert cached(client) > 1.5 * KEPT


def test_what_was_cached_before_stays(filled: Path) -> None:
    """A stream gives back what it brought, not what queries had brought before it."""
    with (
        ducktower.serve(str(filled), stream_cache_bytes_max=GROWTH) as server,
        ducktower.connect(server.url) as client,
    ):
        client.query("SELECT sum(i), max(h) FROM t")
        held = cached(client)
        assert held > 2 * KEPT
        with half_read(client):
            assert cached(client) >= held


def test_an_upload_leaves_little_behind(database: Path) -> None:
    """Written blocks go as well, and every row is there."""
    schema, rows = pa.schema([("i", pa.int64())]), 100_000
    with (
        ducktower.serve(str(database), stream_cache_bytes_max=GROWTH) as server,
        ducktower.connect(server.url) as client,
        ducktower.connect(server.url) as other,
    ):
        client.create_table("t", schema)

        def batches() -> Iterator[pa.RecordBatch]:
            for _ in range(60):
                noise = pa.Array.from_buffers(pa.int64(), rows, [None, pa.py_buffer(os.urandom(8 * rows))])
                yield pa.record_batch([noise], schema=schema)
            until(lambda: cached(other) <= KEPT, "the cache is trimmed")

        client.ingest("t", pa.RecordBatchReader.from_batches(schema, batches()))
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 60 * rows}]


def test_in_memory_nothing_is_dropped() -> None:
    """Without a file the blocks are the data."""
    with ducktower.serve(stream_cache_bytes_max=MIB) as server, ducktower.connect(server.url) as client:
        client.execute(f"CREATE TABLE t AS SELECT i, hash(i) AS h FROM range({ROWS}) AS r(i)")
        with half_read(client):
            pass
        assert client.query("SELECT count(*) AS n, max(i) AS m FROM t").to_pylist() == [{"n": ROWS, "m": ROWS - 1}]
