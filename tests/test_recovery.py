"""What survives: SIGTERM and kill -9 of the server under load, and a fatal error of the engine."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import ducktower
from support.endings import fails_with
from support.servers import ServerProcess
from support.waiting import until

SCHEMA = pa.schema([("writer", pa.int32()), ("i", pa.int64())])
Start = Callable[..., ServerProcess]


class Load:
    """Clients in threads that write until the server is gone, and remember what was acknowledged."""

    def __init__(self, url: str, writers: int = 9) -> None:
        self.acknowledged: dict[int, int] = dict.fromkeys(range(writers), 0)
        self.unknown: dict[int, int] = dict.fromkeys(range(writers), 0)
        self._url = url
        self._threads = [
            threading.Thread(target=(self._single, self._appended, self._bulk)[number % 3], args=(number,))
            for number in range(writers)
        ]
        for thread in self._threads:
            thread.start()

    def busy(self) -> bool:
        """Whether every writer was acknowledged several writes."""
        return min(self.acknowledged.values()) >= 3

    def ended(self) -> None:
        """Wait for the writers, which end when the server does."""
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()

    def _single(self, number: int) -> None:
        with ducktower.connect(self._url, retry_seconds=0.01) as client:
            try:
                while True:
                    self.unknown[number] = 1
                    client.ingest("t", [{"writer": number, "i": self.acknowledged[number]}])
                    self.acknowledged[number] += 1
                    self.unknown[number] = 0
            except ducktower.Unavailable:
                return

    def _appended(self, number: int) -> None:
        with ducktower.connect(self._url, retry_seconds=0.01) as client:
            try:
                rows = client.appender("t")
                while True:
                    self.unknown[number] += 5
                    batch = pa.RecordBatch.from_pylist(
                        [{"writer": number, "i": self.acknowledged[number] + i} for i in range(5)], schema=SCHEMA
                    )
                    rows.write(batch).result()
                    self.acknowledged[number] += 5
                    self.unknown[number] -= 5
            except ducktower.Unavailable:
                return

    def _bulk(self, number: int) -> None:
        with ducktower.connect(self._url, retry_seconds=0.01) as client:
            try:
                while True:
                    start = self.acknowledged[number]
                    table = pa.table(
                        {"writer": pa.array([number] * 100_000, pa.int32()), "i": range(start, start + 100_000)}
                    )
                    self.unknown[number] = 100_000
                    client.ingest("t", table)
                    self.acknowledged[number] += 100_000
                    self.unknown[number] = 0
            except ducktower.Unavailable:
                return

    def check(self, client: ducktower.FlightClient) -> None:
        """Every acknowledged row is there once; of each unanswered write all rows are there, or none."""
        found = {
            row["writer"]: row
            for row in client.query(
                "SELECT writer, count(*) AS n, count(DISTINCT i) AS d, max(i) AS m FROM t GROUP BY ALL"
            ).to_pylist()
        }
        for number, acknowledged in self.acknowledged.items():
            row = found[number]
            assert row["n"] in (acknowledged, acknowledged + self.unknown[number])
            assert row["n"] == row["d"] == row["m"] + 1


@pytest.mark.parametrize("end", ["terminate", "kill"])
def test_a_server_that_ends_under_load(start_server: Start, end: str) -> None:
    """SIGTERM and kill -9 lose no acknowledged row, and leave no half of a write; again and again."""
    for round_number in range(2):
        server = start_server("--drain-seconds", "2")
        with ducktower.connect(server.url) as client:
            client.execute("DROP TABLE IF EXISTS t")
            client.create_table("t", SCHEMA)
        load = Load(server.url)
        until(load.busy, "three acknowledged writes of each", seconds=60)
        if end == "terminate":
            assert server.terminate() == 0
        else:
            server.kill()
        load.ended()
        again = start_server()
        with ducktower.connect(again.url) as client:
            load.check(client)
        assert again.terminate() == 0
        assert "Traceback" not in again.stderr, f"round {round_number}"


def test_after_sigterm_there_is_one_file(start_server: Start, database: Path) -> None:
    """An orderly end leaves a checkpointed file without a WAL, which DuckDB opens by itself."""
    server = start_server()
    with ducktower.connect(server.url) as client:
        client.ingest("t", pa.table({"i": range(1000)}), mode="create")
    assert server.terminate() == 0
    assert not database.with_name(database.name + ".wal").exists()
    with duckdb.connect(str(database), read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM t").fetchall() == [(1000,)]


def test_a_client_finds_a_restarted_server(start_server: Start) -> None:
    """The same client goes on after a restart on the same port: reads and writes, without a new connection."""
    server = start_server()
    with ducktower.connect(server.url, retry_seconds=60) as client:
        client.create_table("t", SCHEMA)
        for round_number in range(3):
            assert client.ingest("t", [{"writer": 0, "i": round_number}]).rows == 1
            server.kill()
            server = start_server(port=server.port)
            assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": round_number + 1}]
            assert client.health()["status"] == "serving"


def test_a_read_waits_for_a_server_that_comes_back(start_server: Start) -> None:
    """A query sent while the server is away is answered once it is back; a write is told UNAVAILABLE."""
    server = start_server()
    port = server.port
    with ducktower.connect(server.url, retry_seconds=60) as client:
        client.ingest("t", [{"i": 1}], mode="create")
        server.kill()
        with ducktower.connect(server.url, retry_seconds=0.1) as hurried, pytest.raises(ducktower.Unavailable):
            hurried.ingest("t", [{"i": 2}])
        found: list[int] = []
        asking = threading.Thread(target=lambda: found.append(client.query("FROM t").num_rows))
        asking.start()
        start_server(port=port)
        asking.join(60)
        assert found == [1]


class TestFatal:
    """The engine gives its database up: it is opened again, and nothing acknowledged is lost."""

    def fail(self, server: ServerProcess, client: ducktower.FlightClient, database: Path) -> None:
        """Let no file of the server grow, so that a checkpoint fails in the middle."""
        limit = database.stat().st_size
        _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (limit, hard))
        try:
            until(lambda: self.checkpoint_failed(client), "a checkpoint that fails")
            health = client.health()
            assert health["fatal_errors"] == 1
            assert health["status"] in ("reopening", "serving")
            assert health["last_fatal_error"]
        finally:
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))

    def checkpoint_failed(self, client: ducktower.FlightClient) -> bool:
        try:
            client.checkpoint()
        except ducktower.Conflict:
            return False  # beside writers a checkpoint waits for its chance
        except ducktower.Unavailable:
            return client.health()["fatal_errors"] == 1
        raise AssertionError("the checkpoint was meant to fail")

    def appended(self, client: ducktower.FlightClient, rows: ducktower.Appender) -> int:
        """Append a row by an open stream, or when it was hung up on, by a new one."""
        try:
            stored = rows.append({"writer": 1, "i": 1}).result(60).rows
            rows.close()
        except ducktower.Unavailable:
            with client.appender("t") as again:
                stored = again.append({"writer": 1, "i": 1}).result(60).rows
        return stored

    def test_health_recovers_and_every_row_is_there(self, start_server: Start, database: Path) -> None:
        """Health goes from reopening to serving; acknowledged rows are there; later writes work."""
        server = start_server()
        with (
            ducktower.connect(server.url, retry_seconds=0.01) as client,
            ducktower.connect(server.url, retry_seconds=0.01) as standing_still,
        ):
            client.create_table("t", SCHEMA)
            client.ingest("t", [{"writer": 0, "i": i} for i in range(100)])
            rows = client.appender("t")
            rows.append({"writer": 1, "i": 0}).result()
            client.execute("CREATE TABLE filler AS SELECT i, hash(i) AS h FROM range(200000) r(i)")
            reader = standing_still.reader("SELECT i FROM range(50000000) r(i)")
            reader.read_next_batch()
            self.fail(server, client, database)
            until(lambda: client.health()["status"] == "serving", "the reopening", seconds=60)
            assert client.health()["fatal_errors"] == 1
            fails_with(ducktower.Unavailable, reader)
            assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 101}]
            assert client.query("SELECT count(*) AS n FROM filler").to_pylist() == [{"n": 200_000}]
            appended = self.appended(client, rows)
            assert client.ingest("t", [{"writer": 0, "i": 100}]).rows == 1
            assert client.ingest(
                "t", pa.table({"writer": pa.array([2] * 100_000, pa.int32()), "i": range(100_000)})
            ).rows
            assert client.execute("INSERT INTO t VALUES (3, 0)").rows == 1
            client.checkpoint()
            assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 100_103 + appended}]
        assert server.terminate() == 0
        with duckdb.connect(str(database), read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchall() == [(100_103 + appended,)]

    def test_under_load(self, start_server: Start, database: Path) -> None:
        """While nine clients write: nobody hangs, and no acknowledged row is lost or doubled."""
        server = start_server()
        with ducktower.connect(server.url, retry_seconds=0.01) as client:
            client.create_table("t", SCHEMA)
            load = Load(server.url)
            until(load.busy, "three acknowledged writes of each", seconds=60)
            client.execute("CREATE TABLE filler AS SELECT i, hash(i) AS h FROM range(200000) r(i)")
            self.fail(server, client, database)
            until(lambda: client.health()["status"] == "serving", "the reopening", seconds=60)
            assert client.ingest("t", [{"writer": 100, "i": 0}]).rows == 1
            assert server.terminate() == 0
            load.ended()
        again = start_server()
        with ducktower.connect(again.url) as client:
            load.check(client)
