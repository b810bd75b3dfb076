"""Memory: how much a server's resident memory grows while millions of rows stream through it.

Owns the sampling of one server process. Must never sample its own process or count what the
server held before.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa

import ducktower

from .figures import Bench, Figure, expect_rows
from .inprocess import make
from .load import SCHEMA, TABLE, stored_rows
from .processes import apart, serving

__all__ = ["memory"]

INTERVAL_SECONDS = 0.01
GROWTH_MAX_MB = 300.0
BATCH_ROWS = 65_536
LIMIT = "192MB"
"""DuckDB's `memory_limit` in the second measurement of each kind: what bounds its cache of table blocks."""
MB = 1e6


class Growth:
    """Samples one process's resident memory in a thread; `peak` is above what it was at the start."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before = self._process.memory_info().rss
        self._ended = threading.Event()
        self.peak = 0
        self._thread = threading.Thread(target=self._run, daemon=True)

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Sample until the block ends."""
        self._thread.start()
        try:
            yield
        finally:
            self._ended.set()
            self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self.peak = max(self.peak, self._process.memory_info().rss - self._before)


def memory(bench: Bench) -> list[Figure]:
    """Read and write 50M rows of `(id BIGINT, value VARCHAR)`, by default and with a memory limit."""
    rows = bench.scale.memory_rows
    limited = ("--memory-limit", LIMIT)
    made = f"SELECT i AS id, printf('%016x', hash(i)) AS value FROM range({rows}) AS numbers(i)"
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        path = Path(place) / "memory.duckdb"
        apart(make, path, f"CREATE TABLE {TABLE} AS {made}")
        for what, query, flags in (
            ("a table, default settings", f"SELECT id, value FROM {TABLE}", ()),
            (f"a table, --memory-limit {LIMIT}", f"SELECT id, value FROM {TABLE}", limited),
            ("range(), default settings", made, ()),
        ):
            figures += _read(path, query, rows, what, (*bench.flags, *flags))
        path.unlink()
        for what, flags in (("default settings", ()), (f"--memory-limit {LIMIT}", limited)):
            figures += _write(Path(place) / "written.duckdb", rows, what, (*bench.flags, *flags))
    return figures


def _buffers_mb(url: str) -> float:
    """Ask DuckDB for the size of what its buffer manager holds: cached blocks, mostly."""
    with ducktower.connect(url) as client:
        held = client.query("SELECT sum(memory_usage_bytes) AS held FROM duckdb_memory()")["held"][0].as_py()
        return float(held) / MB


def _figures(kind: str, what: str, rows: int, seconds: float, growth: Growth, buffers_mb: float) -> list[Figure]:
    """Make the figure of the growth, with what DuckDB says of its own part, and that of the rate."""
    name = f"memory_{kind}_{'_'.join(what.replace('--', '').replace(',', '').replace('()', '').split())}"
    title = f"server memory, {rows / 1e6:g}M-row {kind}, {what}"
    return [
        Figure(
            name=name,
            title=title,
            unit="MB growth",
            values=[growth.peak / MB],
            target=GROWTH_MAX_MB,
            at_most=True,
            note=f"DuckDB's own buffers held {buffers_mb:.0f} MB at the end",
        ),
        Figure(name=f"{name}_rate", title="  its rate", unit="Mrows/s", values=[rows / MB / seconds]),
    ]


def _read(path: Path, query: str, rows: int, what: str, flags: tuple[str, ...]) -> list[Figure]:
    with serving(path, *flags) as server:
        apart(_read_rows, server.url, f"{query} LIMIT 1000")  # what the first call of a server costs is no growth
        growth = Growth(server.pid)
        start = time.perf_counter()
        with growth.sampled():
            found = apart(_read_rows, server.url, query)
        seconds = time.perf_counter() - start
        buffers_mb = _buffers_mb(server.url)
    expect_rows(f"read of {what}", rows, found)
    return _figures("read", f"from {what}", rows, seconds, growth, buffers_mb)


def _read_rows(url: str, query: str) -> int:
    """Count the rows of a stream without keeping them."""
    with ducktower.connect(url) as client, client.reader(query) as reader:
        return sum(batch.num_rows for batch in reader)


def _write(path: Path, rows: int, what: str, flags: tuple[str, ...]) -> list[Figure]:
    with serving(path, *flags) as server:
        with ducktower.connect(server.url) as client:
            client.create_table(TABLE, SCHEMA)
            client.ingest(TABLE, _batches(1000).read_all())
        growth = Growth(server.pid)
        start = time.perf_counter()
        with growth.sampled():
            stored = apart(_write_rows, server.url, rows)
        seconds = time.perf_counter() - start
        buffers_mb = _buffers_mb(server.url)
        expect_rows("streamed write", rows, stored)
        expect_rows("streamed write", rows + 1000, stored_rows(server.url))
    path.unlink()
    return _figures("write", what, rows, seconds, growth, buffers_mb)


def _write_rows(url: str, rows: int) -> int:
    with ducktower.connect(url) as client:
        count: int = client.ingest(TABLE, _batches(rows)).rows
        return count


def _batches(rows: int) -> pa.RecordBatchReader:
    """Make a stream that is larger than memory could be: each batch is made when it is asked for."""
    values = pa.array([f"{hash((7, index)) & 0xFFFFFFFFFFFFFFFF:016x}" for index in range(BATCH_ROWS)])

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, BATCH_ROWS):
            size = min(BATCH_ROWS, rows - start)
            ids = pa.array(range(start, start + size), pa.int64())
            yield pa.record_batch([ids, values.slice(0, size)], schema=SCHEMA)

    return pa.RecordBatchReader.from_batches(SCHEMA, batches())
