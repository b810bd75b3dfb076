"""What the client sends again by itself, and what it says of a write that it must not send again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

import ducktower
from ducktower.client.retrying import hinted, waits
from support.proxy import Proxy
from support.waiting import until

SCHEMA = pa.schema([("i", pa.int64())])
ROW = pa.table({"i": [1]}, schema=SCHEMA)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightServer]:
    """Start a server that the tests of this module share."""
    with ducktower.serve(str(tmp_path_factory.mktemp("retrying") / "shared.duckdb")) as running:
        yield running


@pytest.fixture
def table(server: ducktower.FlightServer) -> Iterator[ducktower.FlightClient]:
    """Make the table anew and return a client that no proxy comes between."""
    with ducktower.connect(server.url) as client:
        client.ingest("t", pa.Table.from_batches([], schema=SCHEMA), mode="replace")
        yield client


def count(client: ducktower.FlightClient) -> int:
    """Return the number of rows."""
    return int(client.query("SELECT count(*) AS n FROM t")["n"][0].as_py())


def send(client: ducktower.FlightClient, way: str) -> int:
    """Store one row, in one of the ways that there are."""
    if way == "table":
        return client.ingest("t", ROW).rows
    if way == "reader":
        return client.ingest("t", ROW.to_reader()).rows
    if way == "writer":
        return client.ingest("t", ROW, writer="retried", sequence=client.writer("retried").sequence + 1).rows
    return client.execute("INSERT INTO t VALUES (1)").rows


class TestLostAnswers:
    """The row is stored, its answer never arrives."""

    @pytest.mark.parametrize("way", ["table", "reader", "execute"])
    def test_without_a_writer(self, server: ducktower.FlightServer, table: ducktower.FlightClient, way: str) -> None:
        """The write is not sent again, and its error says that its outcome is not known."""
        with Proxy(server.port) as proxy, ducktower.connect(proxy.url, retry_seconds=30) as far:
            far.health()
            proxy.lose_answers()
            with ThreadPoolExecutor(1) as pool:
                sent = pool.submit(send, far, way)
                until(lambda: count(table) == 1, "the row")
                proxy.cut()
                with pytest.raises(ducktower.Unavailable) as caught:
                    sent.result(60)
            assert caught.value.outcome_unknown
            assert send(far, way) == 1
        assert count(table) == 2

    def test_with_a_writer(self, server: ducktower.FlightServer, table: ducktower.FlightClient) -> None:
        """The write is sent again by itself, and answered with its first receipt."""
        with Proxy(server.port) as proxy, ducktower.connect(proxy.url, retry_seconds=30) as far:
            for number in range(1, 4):
                sequence = table.writer("retried").sequence + 1
                far.health()
                proxy.lose_answers()
                with ThreadPoolExecutor(1) as pool:
                    sent = pool.submit(far.ingest, "t", ROW, writer="retried", sequence=sequence)
                    until(lambda number=number: count(table) == number, "the row")  # type: ignore[misc]
                    proxy.cut()
                    receipt = sent.result(60)
                assert receipt == table.ingest("t", ROW, writer="retried", sequence=sequence)
        assert count(table) == 3

    def test_a_limit_that_is_over(self, server: ducktower.FlightServer, table: ducktower.FlightClient) -> None:
        """The client's own limit ends a write whose outcome is not known; a read has none."""
        with ducktower.connect(server.url, timeout_seconds=0.3) as client:
            with server.engine._committer._lock, pytest.raises(ducktower.TimedOut) as caught:
                client.ingest("t", ROW)
            assert caught.value.outcome_unknown
            with pytest.raises(ducktower.TimedOut) as caught:
                client.query("SELECT sum(a.i) FROM range(10000000) a(i), range(10000000) b(i)")
            assert not caught.value.outcome_unknown


class TestRefused:
    """What was refused before it did anything is sent again, whatever it is."""

    @pytest.mark.parametrize("way", ["table", "execute", "writer"])
    def test_a_server_that_is_not_there_yet(self, database: Path, way: str) -> None:
        """A write waits for its server, and is stored once."""
        with ducktower.serve(str(database)) as first, ducktower.connect(first.url) as client:
            client.create_table("t", SCHEMA)
            port = first.port
        with ducktower.connect(f"grpc://127.0.0.1:{port}", retry_seconds=60) as client, ThreadPoolExecutor(1) as pool:
            with (
                ducktower.connect(client.url, retry_seconds=0) as impatient,
                pytest.raises(ducktower.Unavailable) as no,
            ):
                impatient.ingest("t", ROW)
            assert not no.value.outcome_unknown
            sent = pool.submit(send, client, way)
            with ducktower.serve(str(database), port=port):
                assert sent.result(60) == 1
                assert count(client) == 1


def test_pauses_grow_and_differ() -> None:
    """From some 20 ms each is about twice the one before, up to about a second; no two clients wait the same times."""
    some, others = ([pause for pause, _ in zip(waits(), range(20), strict=False)] for _ in range(2))
    for number, pause in enumerate(some):
        about = min(0.02 * 2**number, 1.0)
        assert 0.5 * about <= pause <= 1.5 * about
    assert len({pause / min(0.02 * 2**number, 1.0) for number, pause in enumerate(some)}) > 15
    assert not set(some) & set(others)


def test_a_hint_is_waited_for() -> None:
    """Not before the server's hint, and not all at once behind it; a longer pause of one's own stays."""
    error = ducktower.Overloaded("full", retry_after_seconds=2.0)
    found = {hinted(error, 0.02) for _ in range(20)}
    assert len(found) > 15
    assert min(found) >= 2.0
    assert max(found) <= 2.5
    assert hinted(error, 5.0) == 5.0
    assert hinted(ducktower.Overloaded("full"), 0.3) == 0.3
