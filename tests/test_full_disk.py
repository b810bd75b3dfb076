"""A disk that takes no more, for real: writes are refused as a whole, reads go on, and it is over when it is over.

The kernel refuses the bytes: the server's files may not grow past a limit that is set and lifted from outside.
"""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.status import from_flight
from support.flight_sql import RawFlightSql
from support.servers import ServerProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits another process's files")

ROOM_BYTES = 200_000
COUNTS = """
SELECT (SELECT count(*) FROM t) AS rows, (SELECT sum(i) FROM t) AS ids, (SELECT count(*) FROM k) AS keys,
    (SELECT bit_xor(hash(v)) FROM k) AS texts, (SELECT count(*) FROM duckdb_tables()) AS tables
"""
NOISE = "SELECT i, repeat(hash(i)::VARCHAR, 3) || hash(i + 1)::VARCHAR AS v FROM range(20_000) r(i)"
"""Rows that take more than the room that there is, compressed or not."""


def noise(count: int) -> pa.Table:
    """Return as many rows that cannot be compressed."""
    return pa.table({"i": pa.array(range(count), pa.int64()), "v": [os.urandom(500).hex() for _ in range(count)]})


class Full:
    """A server with two tables, whose disk can be filled; a client of either kind."""

    def __init__(self, server: ServerProcess, database: Path) -> None:
        self.server = server
        self._database = database
        # What is refused is to be seen, not tried again.
        self.client = ducktower.connect(server.url, retry_seconds=0.01)
        self.sql = RawFlightSql(server.url)
        self.client.execute(
            "CREATE TABLE t (i BIGINT, v VARCHAR); CREATE TABLE k (i BIGINT PRIMARY KEY, v VARCHAR);"
            "INSERT INTO t VALUES (1, 'old'); INSERT INTO k VALUES (1, 'old')"
        )
        sql = f"INSERT INTO t SELECT i + ?, v FROM ({NOISE})"
        self.prepared = self.sql.prepare(sql).prepared_statement_handle
        self.client.ingest("t", [{"i": 1, "v": "old"}])
        self.client.checkpoint()

    def fill(self, room_bytes: int = ROOM_BYTES) -> None:
        """Let no file become larger than the largest is, and a little."""
        largest = max(path.stat().st_size for path in self._database.parent.iterdir() if path.is_file())
        self._limit(largest + room_bytes)

    def empty(self) -> None:
        """Let files grow again."""
        self._limit(resource.RLIM_INFINITY)

    def counts(self) -> dict[str, int]:
        """Count everything, in a query."""
        (found,) = self.client.query(COUNTS).to_pylist()
        return dict(found)

    def close(self) -> None:
        """Close the clients."""
        self.sql.flight.close()
        self.client.close()

    def _limit(self, nbytes: int) -> None:
        resource.prlimit(self.server.pid, resource.RLIMIT_FSIZE, (nbytes, resource.RLIM_INFINITY))

    # -- writes ---------------------------------------------------------------------------------------

    def small(self) -> None:
        """One write that is committed in a group."""
        self.client.ingest("t", noise(800))

    def appended(self) -> None:
        """One write of an open stream."""
        with self.client.appender("t") as appender:
            appender.append({"i": 7, "v": os.urandom(400_000).hex()}).result(60)

    def large(self) -> None:
        """An upload in a transaction of its own."""
        self.client.ingest("t", noise(20_000))

    def executed(self) -> None:
        """A prepared INSERT."""
        command = m.CommandPreparedStatementUpdate(prepared_statement_handle=self.prepared)
        try:
            self.sql.put(command, pa.table({"1": [7]}))
        except flight.FlightError as error:
            raise from_flight(error) from error

    def in_transaction(self) -> None:
        """A transaction, whose COMMIT is what fails."""
        try:
            transaction = self.sql.begin()
            self.sql.update(f"INSERT INTO t {NOISE}", transaction)
            self.sql.end(transaction)
        except flight.FlightError as error:
            raise from_flight(error) from error

    def created(self) -> None:
        """A table made of a query's rows."""
        self.client.execute(f"CREATE TABLE made AS {NOISE}")

    def upserted(self) -> None:
        """An upsert that is committed in a group."""
        self.client.ingest("k", noise(800), mode="upsert", key=["i"])

    def upserted_large(self) -> None:
        """An upsert in a transaction of its own."""
        self.client.ingest("k", noise(20_000), mode="upsert", key=["i"])


@pytest.fixture
def full(start_server: Callable[..., ServerProcess], database: Path) -> Iterator[Full]:
    """Start a server that does not look at the free space itself."""
    found = Full(start_server("--min-free-space", "0"), database)
    try:
        yield found
    finally:
        found.close()


@pytest.mark.parametrize(
    "write",
    [
        *(Full.small, Full.appended, Full.large, Full.executed),
        *(Full.in_transaction, Full.created, Full.upserted, Full.upserted_large),
    ],
    ids=lambda write: write.__name__,
)
def test_a_write_is_refused_as_a_whole_and_taken_later(
    full: Full, write: Callable[[Full], None], start_server: Callable[..., ServerProcess], database: Path
) -> None:
    """It is told so, may be tried again, left nothing behind, disturbed nobody; and the same write is stored later."""
    full.fill()
    refused: list[ducktower.DucktowerError] = []
    tries = 0
    while len(refused) < 3:
        before = full.counts()
        try:
            write(full)
        except ducktower.DucktowerError as error:
            refused.append(error)
            assert full.counts() == before
        tries += 1
        assert tries < 20, "the disk did not become full"  # what fits is stored
    for error in refused:
        assert error.code == "UNAVAILABLE"
        assert error.retryable
        assert not error.outcome_unknown
        assert "nothing was stored" in str(error)
    full.empty()
    write(full)
    stored = full.counts()
    assert stored != before
    full.server.kill()
    with ducktower.connect(start_server().url) as again:
        assert again.query(COUNTS).to_pylist() == [stored]


def test_a_checkpoint_that_finds_no_room_loses_nothing(full: Full) -> None:
    """DuckDB gives its database up then: it is opened again, with everything that was acknowledged."""
    for _ in range(20):
        full.client.ingest("t", noise(800))
    before = full.counts()
    full.fill(room_bytes=1)
    with pytest.raises(ducktower.Unavailable):
        full.client.checkpoint()
    full.empty()
    with ducktower.connect(full.server.url) as client:
        assert client.query(COUNTS).to_pylist() == [before]
        assert client.health()["fatal_errors"] == 1
        client.checkpoint()
        assert client.query(COUNTS).to_pylist() == [before]
