"""Limits of docs/limits.md that no other test runs into: told by their codes, and whoever stays within them goes on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import ducktower
from ducktower.engine import Caller, Principal, Target
from support.engines import batches, opened, rows
from support.waiting import until

SLOW = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE a.range % 7 = b.range % 11"
GREEDY = Caller(principal=Principal("greedy"))
MODEST = Caller(principal=Principal("modest"))


def test_columns_of_a_stream(database: Path) -> None:
    """An open stream with more than `queue_columns_max` is refused; a write of its own may be wider."""
    with (
        ducktower.serve(str(database), queue_columns_max=2) as server,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE t (a INTEGER, b INTEGER, c INTEGER)")
        wide = {"a": 1, "b": 2, "c": 3}
        with client.appender("t") as appender, pytest.raises(ducktower.LimitExceeded, match="2 columns, not 3"):
            appender.append(wide).result(30)
        assert client.ingest("t", [wide]).rows == 1
        with client.appender("t") as narrow:
            narrow.append({"a": 1, "b": 2})
        assert client.query("SELECT count(*) AS n, count(c) AS c FROM t").to_pylist() == [{"n": 2, "c": 1}]


def test_name_of_a_writer(database: Path) -> None:
    """A longer one is refused, in characters and not in bytes; nothing is stored."""
    with (
        ducktower.serve(str(database), writer_name_chars_max=3) as server,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE t (a INTEGER)")
        assert client.ingest("t", [{"a": 1}], writer="äöü", sequence=1).rows == 1
        with pytest.raises(ducktower.InvalidArgument, match="1 to 3 characters, not 4"):
            client.ingest("t", [{"a": 1}], writer="abcd", sequence=1)
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 1}]


def test_plans(database: Path) -> None:
    """With one plan kept, writes to several tables by turns and at once are stored all the same."""
    with opened(database, plans_max=1) as engine:
        tables = [Target(f"t{number}") for number in range(4)]
        for target in tables:
            engine.execute(f"CREATE TABLE {target.table} (i BIGINT, v VARCHAR)")
        for _ in range(3):
            for target in tables:
                assert engine.put(target, batches(1, 2)).rows == 2
        with ThreadPoolExecutor(16) as pool:
            stored = pool.map(lambda number: engine.put(tables[number % 4], batches(1, 1)).rows, range(64))
            assert sum(stored) == 64
        for target in tables:
            counted = engine.read(f"SELECT count(*) AS n FROM {target.table}").read_all()
            assert counted.to_pylist() == [{"n": 3 * 2 + 64 // 4}]


def test_statements_that_write(database: Path) -> None:
    """Past `executes_in_flight_max` one waits, then hears OVERLOADED; reads and small writes go on."""
    with opened(database, executes_in_flight_max=1, lease_wait_seconds=0.05) as engine, ThreadPoolExecutor(1) as pool:
        engine.execute("CREATE TABLE t (i BIGINT)")
        first = pool.submit(engine.execute, f"INSERT INTO t {SLOW}")
        try:
            until(engine.running, "the statement")
            with pytest.raises(ducktower.Overloaded, match="another execute") as refused:
                engine.execute("DELETE FROM t")
            assert refused.value.retry_after_seconds
            assert engine.read("SELECT 1 AS n").read_all().num_rows == 1
            assert engine.put(Target("t"), pa.table({"i": [1]}).to_reader()).rows == 1
        finally:
            for call in engine.running():
                assert engine.cancel(call["id"])
        with pytest.raises(ducktower.Cancelled):
            first.result(30)
        assert engine.execute("DELETE FROM t").rows == 1


def test_large_writes_of_one(database: Path) -> None:
    """One principal's second upload is refused for its own number, while another's is stored."""
    settings = {"principal_large_writes_in_flight_max": 1, "small_write_bytes_max": 100, "lease_wait_seconds": 0.05}
    with opened(database, **settings) as engine, ThreadPoolExecutor(1) as pool:
        engine.execute("CREATE TABLE t (i BIGINT)")
        large = pa.table({"i": range(100)})
        begun, rest = threading.Event(), threading.Event()

        def slowly() -> Iterator[pa.RecordBatch]:
            yield from large.to_batches()
            begun.set()
            assert rest.wait(60)

        try:
            slow = pa.RecordBatchReader.from_batches(large.schema, slowly())
            first = pool.submit(engine.put, Target("t"), slow, GREEDY)
            assert begun.wait(30)
            with pytest.raises(ducktower.Overloaded, match='"greedy" has all of its places for a large write'):
                engine.put(Target("t"), large.to_reader(), GREEDY)
            assert engine.put(Target("t"), large.to_reader(), MODEST).rows == 100
        finally:
            rest.set()
        assert first.result(30).rows == 100
        assert engine.put(Target("t"), large.to_reader(), GREEDY).rows == 100


def uploads(client: ducktower.FlightClient) -> list[dict[str, Any]]:
    """Return the large uploads that are under way."""
    return [call for call in client.sessions() if call["kind"] == "upload"]


def test_time_of_an_upload(database: Path) -> None:
    """A client that sends half of a large upload and falls silent is told TIMEOUT; nothing of it is stored."""
    with (
        ducktower.serve(str(database), upload_timeout_seconds=0.2) as server,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE t (i BIGINT)")
        batch = pa.record_batch({"i": range(200_000)})
        told = threading.Event()

        def half() -> Iterator[pa.RecordBatch]:
            yield from [batch] * 5
            until(lambda: any(upload["ending"] for upload in uploads(client)), "the end of its time")
            told.set()
            yield batch

        with pytest.raises(ducktower.TimedOut, match=r"0\.2 seconds"):
            client.ingest("t", pa.RecordBatchReader.from_batches(batch.schema, half()))
        assert told.is_set()
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 0}]
        assert client.ingest("t", [{"i": 1}]).rows == 1


def test_time_of_a_backup(database: Path, tmp_path: Path) -> None:
    """Past it TIMEOUT; no file is left, neither here nor there."""
    with (
        ducktower.serve(str(database), backup_timeout_seconds=0.001) as server,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE t AS SELECT hash(i) AS h FROM range(1_000_000) r(i)")
        with pytest.raises(ducktower.TimedOut, match=r"0\.001 seconds"):
            client.backup(tmp_path / "copy")
        assert {path.name for path in tmp_path.iterdir()} <= {database.name, f"{database.name}.wal"}
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 1_000_000}]


def test_memory_to_look_through_a_backup(database: Path, tmp_path: Path) -> None:
    """Too little of it ends the backup, not the server, and the text says that it was the copy."""
    with (
        ducktower.serve(str(database), backup_memory_bytes_max=1024) as server,
        ducktower.connect(server.url, retry_seconds=0.01) as client,
    ):
        client.execute("CREATE TABLE t AS SELECT hash(i)::VARCHAR AS h FROM range(100_000) r(i)")
        with pytest.raises(ducktower.Unavailable, match=r"the backup was not made, its copy failed: .*allocate"):
            client.backup(tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
        assert client.ingest("t", [{"h": "after"}]).rows == 1


def test_result_of_a_session_that_is_taken_whole(database: Path) -> None:
    """Within its bytes the next statement runs while it is read; past them that waits until it was read."""
    with opened(database, session_result_bytes_max=8_000, session_wait_seconds=0.05) as engine:
        session = engine.sessions.open()
        session.update("CREATE TEMPORARY TABLE mine AS SELECT i FROM range(1_000_000) r(i)")
        with session.query("FROM mine LIMIT 1000").reader as small:
            assert rows(session, "SELECT 1 FROM mine LIMIT 1") == [(1,)]
            assert small.read_all().num_rows == 1_000
        with session.query("FROM mine").reader as large:
            with pytest.raises(ducktower.Overloaded, match="still being read") as refused:
                rows(session, "SELECT 1 FROM mine LIMIT 1")
            assert refused.value.retry_after_seconds
            assert large.read_all().num_rows == 1_000_000
        assert rows(session, "SELECT 1 FROM mine LIMIT 1") == [(1,)]


def test_text_of_an_error(database: Path) -> None:
    """It is cut to its bytes, its code stays, and the cut leaves whole characters."""
    with (
        ducktower.serve(str(database), error_bytes_max=100) as server,
        ducktower.connect(server.url) as client,
    ):
        with pytest.raises(ducktower.InvalidSQL) as told:
            client.query(f"SELECT error('{'ä' * 1_000}')")
        assert told.value.message.endswith("ä...")
        assert 90 < len(f"[INVALID_SQL] {told.value.message}".encode()) <= 100
