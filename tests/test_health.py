"""Health: the same checks by HTTP and by the action, told however busy, broken or late the server is."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.engine.checks import checks_of
from ducktower.engine.commit_queue import CommitQueue
from ducktower.engine.words import Outcome, PlanKey, Receipt, Target, Write
from support.engines import opened
from support.servers import ServerProcess
from support.waiting import SECONDS_MAX, until

WELL = {"commit": "ok", "database": "ok", "disk": "ok", "accepting": "ok"}


def ask(server: ducktower.FlightServer, path: str, method: str = "GET") -> tuple[int, dict[str, Any]]:
    """Return the status and the body of one HTTP request."""
    assert server.health_url is not None
    connection = http.client.HTTPConnection(server.health_url.split("/")[2], timeout=SECONDS_MAX)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        assert answer.getheader("content-type") == "application/json"
        return answer.status, json.loads(body) if body else {}
    finally:
        connection.close()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightServer]:
    """A server of a file with health checks, few connections to them, and one place for calls."""
    with ducktower.serve(
        str(tmp_path_factory.mktemp("health") / "h.duckdb"),
        health_port=0,
        health_connections_max=3,
        health_request_seconds=0.2,
        calls_in_flight_max=1,
        drain_seconds=0.1,
    ) as server:
        server.engine.execute("CREATE TABLE t (i BIGINT)")
        yield server


def test_what_is_told(served: ducktower.FlightServer) -> None:
    """Both paths answer 200 with every check by name; HEAD answers without a body."""
    assert ask(served, "/health/live") == (200, {"live": True, "checks": WELL})
    assert ask(served, "/health/ready?verbose") == (200, {"ready": True, "checks": WELL})
    assert ask(served, "/health/ready", "HEAD") == (200, {})
    with ducktower.connect(served.url) as client:
        assert client.health()["checks"] == WELL


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 404),
        (b"GET /health/../etc HTTP/1.1\r\n\r\n", 404),
        (b"POST /health/live HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"DELETE /health/live HTTP/1.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /health/live\n\n", 400),
        (b"\xff\xfe\x00 \xff \xff\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ],
)
def test_what_is_not_asked_for(served: ducktower.FlightServer, request_: bytes, status: int) -> None:
    """Other paths, methods and bytes are refused in one line, and the next request is answered."""
    with connected(served) as sock:
        sock.sendall(request_)
        assert everything(sock).startswith(b"HTTP/1.1 %d " % status)
    assert ask(served, "/health/live")[0] == 200


def test_a_request_without_end(served: ducktower.FlightServer) -> None:
    """Headers past 8 KiB, and a client that sends nothing more, are dropped without an answer."""
    with connected(served) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\nX: " + b"x" * 8_200)
        assert everything(sock) == b""
    with connected(served) as sock:
        sock.sendall(b"GET /health/live HTTP/1.1\r\n")
        assert everything(sock) == b""


def test_connections_that_ask_nothing_are_no_hindrance(served: ducktower.FlightServer) -> None:
    """However many are held open, the next request is answered: the oldest give way."""
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(served))
            assert ask(served, "/health/ready")[0] == 200


def test_a_full_server_answers(served: ducktower.FlightServer) -> None:
    """With every place for calls taken and others waiting, the action and the port answer at once."""
    append = flight.FlightDescriptor.for_command(b'{"append":{"table":"t"}}')
    waiting: list[BaseException] = []

    def query() -> None:
        try:
            with ducktower.connect(served.url, retry_seconds=0.001) as client:
                client.query("SELECT 1")
        except BaseException as error:
            waiting.append(error)

    with flight.connect(served.url) as raw, ducktower.connect(served.url) as client:
        writer, reader = raw.do_exchange(append)
        writer.begin(pa.schema([("i", pa.int64())]))
        writer.write_batch(pa.record_batch({"i": [1]}))
        reader.read_chunk()
        asking = [threading.Thread(target=query) for _ in range(20)]
        for one in asking:
            one.start()
        for _ in range(20):
            assert client.health()["checks"] == WELL
            assert ask(served, "/health/ready")[0] == 200
        writer.done_writing()
        writer.close()
        for one in asking:
            one.join(SECONDS_MAX)
            assert not one.is_alive()
    assert {type(error) for error in waiting} <= {ducktower.Overloaded}


def test_a_full_disk(tmp_path: Path) -> None:
    """It is not ready, since writes are refused; a restart would not help, so it is live."""
    with ducktower.serve(str(tmp_path / "d.duckdb"), health_port=0, free_bytes_min=1 << 60) as server:
        status, body = ask(server, "/health/ready")
        assert (status, body["ready"]) == (503, False)
        assert body["checks"] == WELL | {"disk": "writes are refused: the disk is nearly full"}
        assert ask(server, "/health/live")[0] == 200


def test_a_fatal_error(tmp_path: Path) -> None:
    """While the database is opened again it is not ready; when that takes too long, not live; then all is well."""
    with ducktower.serve(str(tmp_path / "f.duckdb"), health_port=0, stuck_seconds=0.05) as server:
        lease_out = server.engine._database.lease("internal")
        server.engine._database.note(duckdb.FatalException("FATAL Error: made up"))
        status, body = ask(server, "/health/ready")
        assert status == 503
        assert body["checks"]["database"] != "ok"
        until(lambda: ask(server, "/health/live")[0] == 503, "the end of patience")
        assert "has not opened again" in ask(server, "/health/live")[1]["checks"]["database"]
        lease_out.close()
        until(lambda: ask(server, "/health/ready")[0] == 200, "the database")


@pytest.mark.filterwarnings("ignore:Exception in thread ducktower-commit")  # that is what is looked for
def test_a_stuck_commit(database: Path) -> None:
    """A group that is in commit for too long says so until it is over; a thread that is gone says so for ever."""
    gate, inside = threading.Event(), threading.Event()

    def commit(writes: Any) -> list[Outcome]:
        inside.set()
        assert gate.wait(SECONDS_MAX)
        return [Receipt(1, 1) for _ in writes]

    def end(_: Any) -> list[Outcome]:
        raise SystemExit

    def write() -> Write:
        return Write(PlanKey(Target("t"), None), [], 1, 1, lambda _: None)

    with opened(database) as engine:
        queue = CommitQueue(engine.config, commit)

        def commit_check(seconds: float) -> Any:
            return checks_of(queue, engine._database, engine._disk, seconds)[0]

        try:
            queue.submit(write())
            assert inside.wait(SECONDS_MAX)
            assert commit_check(60).problem == ""
            found = until(lambda: commit_check(0.01) if commit_check(0.01).problem else None, "the stuck group")
            assert "in commit for" in found.problem
            assert found.restart
            gate.set()
            until(lambda: commit_check(0.01).problem == "", "the end of the commit")
        finally:
            gate.set()
            assert queue.close(SECONDS_MAX)
        assert commit_check(60).problem == ""
        queue = CommitQueue(engine.config, end)
        queue.submit(write())
        until(lambda: commit_check(60).restart, "the end of the thread")


def test_a_stuck_commit_of_a_server(tmp_path: Path) -> None:
    """The port says that a restart helps, the action answers beside it, and both are well when the commit is over."""
    with (
        ducktower.serve(str(tmp_path / "c.duckdb"), health_port=0, stuck_seconds=0.05) as server,
        ducktower.connect(server.url) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        client.execute("CREATE TABLE t (i BIGINT)")
        with server.engine._committer._lock:  # what a commit needs that does not come to its end
            sent = pool.submit(client.ingest, "t", [{"i": 1}])
            until(lambda: ask(server, "/health/live")[0] == 503, "the stuck group")
            for path, key in (("/health/live", "live"), ("/health/ready", "ready")):
                status, body = ask(server, path)
                assert (status, body[key]) == (503, False)
                assert "in commit for" in body["checks"]["commit"]
                assert body["checks"] | {"commit": "ok"} == WELL
            assert "in commit for" in client.health()["checks"]["commit"]
            assert not sent.done()
        assert sent.result(SECONDS_MAX).rows == 1
        until(lambda: ask(server, "/health/ready") == (200, {"ready": True, "checks": WELL}), "the end of it")


def test_a_stopping_server(tmp_path: Path) -> None:
    """While calls in flight are finished the port says 503 and the action answers; nothing else is taken."""
    with (
        ducktower.serve(str(tmp_path / "s.duckdb"), health_port=0, drain_seconds=SECONDS_MAX) as server,
        ducktower.connect(server.url, retry_seconds=0.001) as client,
    ):
        _, reading = client.batches("SELECT i, repeat('x', 100) AS v FROM range(10000000) t(i)")
        stopping = threading.Thread(target=server.close)
        stopping.start()
        until(lambda: ask(server, "/health/ready")[0] == 503, "the stop")
        told = WELL | {"accepting": "the server is stopping"}
        assert ask(server, "/health/live") == (200, {"live": True, "checks": told})
        health = client.health()
        assert (health["status"], health["checks"]) == ("stopping", told)
        with pytest.raises(ducktower.Unavailable, match="stopping"):
            client.query("SELECT 1")
        reading.close()
        stopping.join(SECONDS_MAX)
        assert not stopping.is_alive()


def test_where_it_may_listen(tmp_path: Path) -> None:
    """The loopback alone unless it is meant; a port that is taken is an error, and off means off."""
    database = str(tmp_path / "a.duckdb")
    with pytest.raises(ducktower.Forbidden, match=r'health host "0\.0\.0\.0"'):
        ducktower.serve(database, health_port=0, health_host="0.0.0.0")
    with ducktower.serve(database, health_port=0) as server:
        assert server.health_url is not None
        taken = int(server.health_url.split(":")[2].split("/")[0])
        with pytest.raises(ducktower.Unavailable, match=f"health checks on 127.0.0.1:{taken}"):
            ducktower.serve(":memory:", health_port=taken)
    with ducktower.serve(database) as server:
        assert server.health_url is None
    with pytest.raises(ducktower.InvalidArgument, match="health_port"):
        ducktower.serve(database, health_port=70_000)


def test_the_command(start_server: Callable[..., ServerProcess]) -> None:
    """`--health-port` is told in the log, and answers."""
    server = start_server("--health-port", "0")
    line = until(lambda: [one for one in server.stderr.splitlines() if "health checks at" in one], "the line")[0]
    url = line.partition("http://")[2].split()[0]
    connection = http.client.HTTPConnection(url.split("/")[0], timeout=SECONDS_MAX)
    connection.request("GET", "/health/live")
    assert connection.getresponse().status == 200
    connection.close()
    assert server.terminate() == 0


@contextmanager
def connected(server: ducktower.FlightServer) -> Iterator[socket.socket]:
    """Connect to the port of the health checks."""
    assert server.health_url is not None
    host, port = server.health_url.split("/")[2].split(":")
    with socket.create_connection((host, int(port)), timeout=SECONDS_MAX) as sock:
        yield sock


def everything(sock: socket.socket) -> bytes:
    """Return what comes until the other side closes."""
    received = b""
    try:
        while piece := sock.recv(4096):
            received += piece
    except ConnectionResetError:
        pass
    return received
