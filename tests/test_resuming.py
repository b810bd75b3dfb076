"""Appenders of a named writer: they go on after whatever ends, each row once and in order."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

import ducktower
from support.proxy import Proxy
from support.servers import ServerProcess, environment
from support.threads import together
from support.waiting import until

SCHEMA = pa.schema([("i", pa.int64())])
TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightServer]:
    """Start a server that the tests of this module share; its queue is short, and nobody waits for room in it."""
    database = tmp_path_factory.mktemp("resuming") / "shared.duckdb"
    with ducktower.serve(str(database), queue_writes_max=4, queue_wait_seconds=0.05) as running:
        yield running


@pytest.fixture
def client(server: ducktower.FlightServer) -> Iterator[ducktower.FlightClient]:
    """Make the table anew, which refuses values below 0, and connect without a proxy."""
    with ducktower.connect(server.url) as connected:
        connected.execute("CREATE OR REPLACE TABLE t (i BIGINT CHECK (i >= 0))")
        yield connected


def numbers(client: ducktower.FlightClient) -> list[int]:
    """Return what is stored, in the order in which it was."""
    return list(client.query("SELECT i FROM t ORDER BY rowid")["i"].to_pylist())


class TestGoingOn:
    """Connections and servers end; the appender sends again what was not acknowledged."""

    def test_the_answer_is_lost(self, server: ducktower.FlightServer, client: ducktower.FlightClient) -> None:
        """Rows that were stored, and whose acknowledgement never came, are acknowledged over the next connection."""
        with (
            Proxy(server.port) as proxy,
            ducktower.connect(proxy.url) as far,
            far.appender("t", writer="lost", rows_per_write=1) as rows,
        ):
            rows.append({"i": 0}).result()
            proxy.lose_answers()
            pending = [rows.append({"i": i}) for i in range(1, 4)]
            until(lambda: len(numbers(client)) == 4, "the rows")
            assert not any(write.done() for write in pending)
            proxy.cut()
            assert [write.result(60).rows for write in pending] == [1, 1, 1]
            assert rows.append({"i": 4}).result().rows == 1
        assert numbers(client) == list(range(5))
        assert client.writer("lost")[:2] == (5, 5)

    def test_a_network_that_fails_again_and_again(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient
    ) -> None:
        """Threads that share an appender lose nothing and double nothing, whatever is cut."""
        done = threading.Event()
        with (
            Proxy(server.port) as proxy,
            ducktower.connect(proxy.url, retry_seconds=60) as far,
            far.appender("t", writer="shared", rows_per_write=3) as rows,
        ):

            def work(number: int) -> None:
                if number == 3:
                    for _ in range(12):
                        sent = proxy.bytes_sent
                        proxy.cut_after(2_000)
                        until(lambda sent=sent: done.is_set() or proxy.bytes_sent > sent + 2_000, "bytes")  # type: ignore[misc]
                    done.set()
                    return
                while not done.is_set():
                    for _ in range(20):
                        rows.append({"i": number})
                    assert rows.append({"i": number}).result(60)

            together(4, work)
            rows.flush()
            acknowledged = rows.acknowledged_rows
        assert len(numbers(client)) == acknowledged
        assert client.writer("shared").rows == acknowledged

    def test_a_server_that_is_killed(self, start_server: Callable[..., ServerProcess]) -> None:
        """Rows flow while the server is killed and comes back, twice; each is stored once, in order."""
        first = start_server()
        with ducktower.connect(first.url, retry_seconds=60) as client:
            client.create_table("t", SCHEMA)
            with client.appender("t", writer="w", rows_per_write=7) as rows:
                number = 0
                running = first
                for _ in range(2):
                    until_stored = rows.acknowledged_rows + 140
                    while rows.acknowledged_rows < until_stored:
                        rows.append({"i": number})
                        number += 1
                    running.kill()
                    last = rows.append({"i": number})
                    number += 1
                    running = start_server(port=first.port)
                    assert last.result(60)
            assert numbers(client) == list(range(number))
            assert client.writer("w").rows == number

    def test_a_server_that_cannot_take_it_now(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient
    ) -> None:
        """A refusal that passes, with others behind it that do not, is met by sending all of them again."""
        refused = client.statistics()["refused_writes"]
        rows = client.appender("t", writer="refused", rows_per_write=1)
        with server.engine._committer._lock:  # hold the commits, so that the queue is full
            for i in range(40):
                rows.write(pa.record_batch([pa.array([i])], schema=SCHEMA))
            until(lambda: server.engine.statistics()["refused_writes"] > refused, "a refusal")
        rows.close()
        assert numbers(client) == list(range(40))


class TestEnds:
    """What cannot be stored ends the appender, and whoever resumes goes on behind the last row that was."""

    def test_a_refused_write(self, client: ducktower.FlightClient) -> None:
        """What came before it is stored, nothing behind it is, and each row hears so."""
        rows = client.appender("t", writer="refusing", rows_per_write=1)
        pending = [rows.append({"i": i}) for i in (0, 1, -1, 3, 4)]
        assert [write.result().rows for write in pending[:2]] == [1, 1]
        with pytest.raises(ducktower.ConstraintViolation) as caught:
            pending[2].result()
        assert not caught.value.outcome_unknown
        for write in pending[3:]:
            with pytest.raises(ducktower.ConstraintViolation, match="stopped at a write that was refused") as behind:
                write.result()
            assert not behind.value.outcome_unknown
        with pytest.raises(ducktower.ConstraintViolation, match='writer "refusing" stopped'):
            rows.append({"i": 5})
        rows.close()
        with client.appender("t", writer="refusing") as again:
            assert again.resumed is not None
            assert again.resumed[:2] == (2, 2)
            again.append({"i": 2}).result()
        assert numbers(client) == [0, 1, 2]

    def test_a_value_that_does_not_fit(self, client: ducktower.FlightClient) -> None:
        """The same for a row that Arrow refuses before it leaves."""
        rows = client.appender("t", writer="misfit", rows_per_write=1)
        rows.append({"i": 0})
        rows.append({"i": "x"})
        with pytest.raises(ducktower.SchemaMismatch, match='column "i": found str'):
            rows.close()
        assert numbers(client) == [0]
        assert client.writer("misfit")[:2] == (1, 1)

    def test_a_server_that_does_not_come_back(self, database: Path) -> None:
        """After `resume_seconds` what was sent has an unknown outcome, what was not sent has none."""
        server = ducktower.serve(str(database))
        with Proxy(server.port) as proxy, ducktower.connect(proxy.url) as far, ducktower.connect(server.url) as near:
            near.create_table("t", SCHEMA)
            rows = far.appender("t", writer="left", rows_per_write=1, resume_seconds=0.3)
            rows.append({"i": 0}).result()
            proxy.lose_answers()
            sent = rows.append({"i": 1})
            until(lambda: len(numbers(near)) == 2, "the row")
            server.close()
            proxy.close()
            with pytest.raises(ducktower.Unavailable, match="resume the writer") as caught:
                sent.result(60)
            assert caught.value.outcome_unknown
            with pytest.raises(ducktower.Unavailable, match='writer "left" stopped'):
                rows.append({"i": 2})
            rows.close()

    def test_who_resumes_takes_over(self, client: ducktower.FlightClient) -> None:
        """An appender whose writer was resumed is refused; the other one goes on where it was."""
        old = client.appender("t", writer="moved")
        old.append({"i": 0}).result()
        with client.appender("t", writer="moved") as new:
            assert new.resumed is not None
            assert new.resumed[:2] == (1, 1)
            with pytest.raises(ducktower.InvalidArgument, match="resumed by another client"):
                old.append({"i": 100}).result()
            new.append({"i": 1}).result()
        old.close()
        assert numbers(client) == [0, 1]

    def test_limits(self, client: ducktower.FlightClient) -> None:
        """No more writes in flight than a server remembers."""
        with pytest.raises(ducktower.InvalidArgument, match="1024"):
            client.appender("t", writer="w", writes_in_flight=1025)
        assert client.appender("t").resumed is None


class TestCrashes:
    """The program dies; the next one goes on in its source by the rows that are stored."""

    @pytest.mark.parametrize("rows_per_write", [1, 17])
    def test_collectors_that_are_killed(self, client: ducktower.FlightClient, rows_per_write: int) -> None:
        """Three processes one after the other, killed with rows on their way, store each number once and in order."""
        writer = f"collector {rows_per_write}"
        for _ in range(3):
            before = client.writer(writer).rows
            killed_collector(client.url, writer, rows_per_write)
            assert client.writer(writer).rows >= before + 100
        found = numbers(client)
        assert found == list(range(len(found)))
        assert client.writer(writer).rows == len(found)


def killed_collector(url: str, writer: str, rows_per_write: int) -> None:
    """Run a collector until 100 rows more were acknowledged, and kill it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.collector", url, writer, str(rows_per_write)],
        stdout=subprocess.PIPE,
        cwd=TESTS,
        env=environment(),
        text=True,
    )
    assert process.stdout is not None
    try:
        begun = int(process.stdout.readline().removeprefix("resumed "))
        while int(process.stdout.readline().removeprefix("stored ")) < begun + 100:
            pass
    finally:
        process.kill()
        process.wait(60)
        process.stdout.close()
