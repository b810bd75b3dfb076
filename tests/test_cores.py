"""Which threads share a core: those that take small writes, and nothing that computes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import ducktower
from support.waiting import until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2, reason="threads cannot be told where to run"
)


def _cores_of_threads(prefix: str) -> list[int]:
    """Return for each thread of this process with such a name on how many cores it may run."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        try:
            if (task / "comm").read_text().startswith(prefix):
                found.append(len(os.sched_getaffinity(int(task.name))))
        except (OSError, ProcessLookupError):  # it ended meanwhile
            continue
    return found


def test_an_open_stream_of_writes_stays_on_one_core(tmp_path: Path) -> None:
    """The thread that serves it is on one core; the program that serves keeps all of them."""
    every = len(os.sched_getaffinity(0))
    with ducktower.serve(str(tmp_path / "a.duckdb")) as server, ducktower.connect(server.url) as client:
        client.create_table("t", pa.schema([("id", pa.int64())]))
        with client.appender("t") as rows:
            rows.append({"id": 1}).result(30)
            assert 1 in _cores_of_threads("grpcpp_sync")
    assert len(os.sched_getaffinity(0)) == every


def test_a_large_write_leaves_that_core(tmp_path: Path) -> None:
    """The thread of an upload that DuckDB is reading may run on every core."""
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    batch = pa.record_batch([pa.array(range(1000)), pa.array(["x" * 2000] * 1000)], schema=schema)
    seen: list[list[int]] = []

    with (
        ducktower.serve(str(tmp_path / "a.duckdb")) as server,
        ducktower.connect(server.url) as client,
        ducktower.connect(server.url) as other,
    ):
        client.create_table("t", schema)

        def batches() -> Iterator[pa.RecordBatch]:
            for _ in range(20):  # 2 MB each: past the first it is no small write
                yield batch
            until(lambda: any(call["kind"] == "upload" for call in other.sessions()), "the upload")
            seen.append(_cores_of_threads("grpcpp_sync"))
            yield batch

        client.ingest("t", pa.RecordBatchReader.from_batches(schema, batches()))
    assert len(os.sched_getaffinity(0)) in seen[0]


def test_duckdb_computes_on_every_core(tmp_path: Path) -> None:
    """DuckDB's threads are where the process is, not where a writer of one row is."""
    with ducktower.serve(str(tmp_path / "a.duckdb"), threads=4) as server, ducktower.connect(server.url) as client:
        client.create_table("t", pa.schema([("id", pa.int64())]))
        client.ingest("t", [{"id": 1}])
        cores = _cores_of_threads(Path("/proc/self/comm").read_text().strip())  # they are named as the process is
    assert cores.count(len(os.sched_getaffinity(0))) >= 3


def test_all_cores_leaves_threads_alone(tmp_path: Path) -> None:
    """With `--all-cores` a server's threads may run where the process may."""
    code = (
        "import os, sys, ducktower, pyarrow as pa\n"
        "from pathlib import Path\n"
        "with ducktower.serve(sys.argv[1], one_core=False) as s, ducktower.connect(s.url) as c:\n"
        "    c.create_table('t', pa.schema([('id', pa.int64())])); c.ingest('t', [{'id': 1}])\n"
        "    print({len(os.sched_getaffinity(int(p.name))) for p in Path('/proc/self/task').iterdir()})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.duckdb")], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == str({len(os.sched_getaffinity(0))})
