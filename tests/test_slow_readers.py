"""A client that stops taking its result holds nobody up for ever: its stream ends, with it cursor and snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.engine.streams import Probe, chained
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql, cursors_back
from support.waiting import until

FIXED = "SELECT i, i + 1 AS j FROM range(100_000_000) r(i)"
TEXTS = "SELECT repeat('x', 200) || i AS v FROM range(20_000_000) r(i)"
SCHEMA = pa.schema([("i", pa.int64())])


@pytest.fixture
def impatient(database: Path) -> Iterator[ducktower.FlightServer]:
    """Serve with a short limit, and a WAL that is to be written into the file soon."""
    settings: dict[str, Any] = {"slow_reader_seconds": 0.5, "wal_checkpoint_bytes": 20_000, "disk_look_seconds": 0.02}
    with ducktower.serve(str(database), drain_seconds=5, **settings) as server:
        yield server


def plain(server: ducktower.FlightServer, sql: str) -> tuple[flight.FlightClient, Any]:
    """Ask by DoGet with SQL as the ticket; take one batch."""
    client = flight.connect(server.url)
    return client, client.do_get(flight.Ticket(sql.encode()))


def by_flight_sql(server: ducktower.FlightServer, sql: str) -> tuple[flight.FlightClient, Any]:
    """Ask by Flight SQL."""
    client = RawFlightSql(server.url)
    (endpoint,) = client.info(m.CommandStatementQuery(query=sql)).endpoints
    return client.flight, client.flight.do_get(endpoint.ticket)


@pytest.mark.parametrize("ask", [plain, by_flight_sql])
@pytest.mark.parametrize("sql", [FIXED, TEXTS], ids=["native", "looked at"])
def test_the_stream_of_a_client_that_stops_reading_ends(
    impatient: ducktower.FlightServer, ask: Callable[..., tuple[flight.FlightClient, Any]], sql: str
) -> None:
    """Its cursor comes back without it, and when it reads on it is told an error, not an end."""
    client, reader = ask(impatient, sql)
    with client:
        assert reader.read_chunk().data.num_rows > 0
        cursors_back(impatient)
        with pytest.raises((flight.FlightError, pa.ArrowException)):
            reader.read_all()


@pytest.mark.parametrize("sql", [FIXED, TEXTS], ids=["native", "looked at"])
def test_a_client_that_reads_on_at_once_is_told_why(impatient: ducktower.FlightServer, sql: str) -> None:
    """Between the limit and the end of its connection the error has its code."""
    client, reader = plain(impatient, sql)
    with client:
        reader.read_chunk()
        until(lambda: [call for call in impatient.engine.running() if call["ending"] == "slow"], "the limit")
        with pytest.raises((flight.FlightError, pa.ArrowException), match=r"\[TIMEOUT\] nothing of the result"):
            reader.read_all()
        cursors_back(impatient)


def test_it_keeps_neither_writers_nor_checkpoints_away(impatient: ducktower.FlightServer) -> None:
    """Rows that it still needs are updated meanwhile; the WAL is written into the file once its stream ended."""
    engine = impatient.engine
    with ducktower.connect(impatient.url) as writer:
        writer.execute("CREATE TABLE t AS SELECT i, i + 1 AS j FROM range(20_000_000) r(i)")
        client, reader = plain(impatient, "FROM t")
        with client:
            reader.read_chunk()
            writer.execute("UPDATE t SET j = 0 WHERE i < 10_000")
            before = engine.statistics()["checkpoint_seconds"]["count"]
            until(lambda: engine.statistics()["checkpoint_seconds"]["count"] > before, "the checkpoint")
            assert writer.query("SELECT count(*) AS n FROM t WHERE j = 0").to_pylist() == [{"n": 10_000}]


def test_a_slow_client_that_goes_on_is_left_alone(database: Path) -> None:
    """One that takes a batch now and then reads to the end, however long that takes in all."""
    with (
        ducktower.serve(str(database), slow_reader_seconds=5) as server,
        ducktower.connect(server.url) as client,
        client.reader("SELECT i, i + 1 AS j FROM range(15_000_000) r(i)") as reader,
    ):
        pause = threading.Event()
        seen = 0
        for batch in reader:
            seen += batch.num_rows
            pause.wait(0.03)  # 229 batches: 7 seconds in all, and a second for what the wire holds
        assert seen == 15_000_000


class TestProbe:
    """`Probe`: what is known of a stream between two batches."""

    def test_it_is_told_of_every_batch_that_it_asked_for(self) -> None:
        """After each question the next batch is told of, the ones after it are not."""
        probe = Probe()
        reader = chained([batch(0)], stream(5), probe=probe)
        assert probe.asked_at is None
        assert probe.reader_idle_seconds(1e9) == 0
        reader.read_next_batch()
        first = probe.asked_at
        assert first is not None
        reader.read_next_batch()
        assert probe.asked_at == first  # native
        probe.ask()
        reader.read_next_batch()
        second = probe.asked_at
        assert second is not None
        assert second > first
        assert probe.reader_idle_seconds(second + 7) == 7
        assert reader.read_all().num_rows == 30

    def test_what_is_computed_is_not_the_readers_fault(self) -> None:
        """While a batch that was asked for is made, nobody is slow."""
        probe = Probe()
        began, go = threading.Event(), threading.Event()

        def slow() -> Iterator[pa.RecordBatch]:
            began.set()
            go.wait(30)
            yield batch(10)

        reader = chained([batch(0)], pa.RecordBatchReader.from_batches(SCHEMA, slow()), probe=probe)
        reader.read_next_batch()
        probe.ask()
        thread = threading.Thread(target=reader.read_next_batch)
        thread.start()
        assert began.wait(30)
        assert probe.working
        assert probe.reader_idle_seconds(1e9) == 0
        go.set()
        thread.join(30)
        assert not probe.working


def batch(start: int) -> pa.RecordBatch:
    """Return ten numbers."""
    return pa.record_batch([pa.array(range(start, start + 10), pa.int64())], schema=SCHEMA)


def stream(batches: int) -> pa.RecordBatchReader:
    """Return a native stream of so many batches."""
    return pa.RecordBatchReader.from_batches(SCHEMA, (batch(10 * number) for number in range(batches)))
