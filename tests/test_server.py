"""The server: its actions and descriptors, bad input, its start and its end."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from support.cursors import all_returned
from support.endings import fails_with
from support.resources import held, settles_within
from support.servers import ServerProcess, environment
from support.threads import together
from support.waiting import until

SCHEMA = pa.schema([("i", pa.int64()), ("v", pa.string())])
HOSTILE = 'a"; DROP TABLE b; --'


@pytest.fixture
def table(client: ducktower.FlightClient) -> str:
    """Make a table of three rows and return its name."""
    client.create_table("t", SCHEMA)
    client.ingest("t", pa.table({"i": [1, 2, 3], "v": ["a", "b", "c"]}))
    return "t"


def action(raw: flight.FlightClient, name: str, body: bytes = b"") -> list[bytes]:
    """Run an action and return the bodies of its results."""
    return [result.body.to_pybytes() for result in raw.do_action(flight.Action(name, body))]


class TestLooking:
    """What an operator asks."""

    @pytest.mark.usefixtures("table")
    def test_health(self, client: ducktower.FlightClient) -> None:
        """State, database, versions, age and commit."""
        health = client.health()
        assert health["status"] == "serving"
        assert health["database"] == "test"
        assert health["version"] == ducktower.__version__
        assert health["duckdb_version"] == duckdb.__version__
        assert health["uptime_seconds"] >= 0
        assert health["commit"] == 2
        assert health["fatal_errors"] == 0

    @pytest.mark.usefixtures("table")
    def test_statistics(self, client: ducktower.FlightClient) -> None:
        """Counters that agree with what was done."""
        before = client.statistics()
        assert before["queue_writes"] == before["queue_bytes"] == 0
        for _ in range(5):
            client.ingest("t", [{"i": 1}, {"i": 2}])
        client.query("FROM t")
        after = client.statistics()
        assert after["rows"] - before["rows"] == 10
        assert after["commits"] - before["commits"] == 5
        assert after["group_writes"] - before["group_writes"] == 5
        assert after["groups"] - before["groups"] == 5
        assert after["reads"] - before["reads"] == 1
        latency = after["commit_seconds"]
        assert set(latency) == {"count", "mean", "p50", "p99", "p999", "max"}
        assert 0 < latency["p50"] <= latency["max"]

    def test_sessions_and_cancel(self, client: ducktower.FlightClient) -> None:
        """A running read is shown with its text, and ends when it is cancelled; an unknown id is False."""
        assert client.sessions() == []
        reader = client.reader("SELECT i FROM range(50000000) r(i)")
        (call,) = client.sessions()
        assert set(call) >= {"id", "kind", "peer", "text", "seconds"}
        assert (call["kind"], call["text"]) == ("query", "SELECT i FROM range(50000000) r(i)")
        assert "127.0.0.1" in call["peer"]
        assert client.cancel(call["id"] + 1000) is False
        assert client.cancel(call["id"]) is True
        fails_with(ducktower.Cancelled, reader)
        all_returned(client)

    @pytest.mark.usefixtures("table")
    def test_tables(self, client: ducktower.FlightClient) -> None:
        """Tables and views with schema, kind, rows and columns; nothing temporary or internal."""
        client.execute(
            'CREATE SCHEMA s; CREATE TABLE s."odd ""name" AS SELECT 1 AS a; CREATE VIEW w AS SELECT 1 AS a, 2 AS b'
        )
        assert client.tables().to_pylist() == [
            {"schema_name": "main", "table_name": "t", "table_type": "BASE TABLE", "rows": 3, "columns": 2},
            {"schema_name": "main", "table_name": "w", "table_type": "VIEW", "rows": None, "columns": 2},
            {"schema_name": "s", "table_name": 'odd "name', "table_type": "BASE TABLE", "rows": 1, "columns": 1},
        ]

    def test_no_tables(self, client: ducktower.FlightClient) -> None:
        """An empty database lists an empty table of the same columns."""
        assert client.tables().column_names == ["schema_name", "table_name", "table_type", "rows", "columns"]
        assert client.tables().num_rows == 0

    @pytest.mark.usefixtures("table")
    def test_checkpoint(self, client: ducktower.FlightClient, database: Path) -> None:
        """The WAL goes into the file."""
        wal = database.with_name(database.name + ".wal")
        assert wal.stat().st_size > 0
        client.checkpoint()
        assert not wal.exists() or wal.stat().st_size == 0

    @pytest.mark.usefixtures("table")
    def test_a_checkpoint_beside_readers_and_writers(self, server: ducktower.FlightServer) -> None:
        """Checkpoints asked for while others read and write fail nobody."""

        def work(number: int) -> int:
            with ducktower.connect(server.url) as own:
                for i in range(15):
                    if number == 0:
                        own.checkpoint()
                    elif number < 3:
                        own.ingest("t", [{"i": i}])
                    else:
                        own.query("SELECT count(*) FROM t")
            return 1

        assert together(6, work) == [1] * 6


class TestFlight:
    """Plain Flight, as any language calls it."""

    @pytest.mark.usefixtures("table")
    def test_list_flights(self, client: ducktower.FlightClient, raw: flight.FlightClient) -> None:
        """Every table with its schema, rows, and a ticket that reads it."""
        client.execute('CREATE SCHEMA s; CREATE TABLE s."odd ""name" (x DOUBLE); CREATE VIEW w AS SELECT i FROM t')
        infos = {tuple(info.descriptor.path): info for info in raw.list_flights()}
        assert set(infos) == {(b"main", b"t"), (b"s", b'odd "name'), (b"main", b"w")}
        info = infos[b"main", b"t"]
        assert info.schema == SCHEMA
        assert info.total_records == 3
        for one in infos.values():
            assert raw.do_get(one.endpoints[0].ticket).read_all().schema == one.schema
        assert raw.do_get(info.endpoints[0].ticket).read_all().num_rows == 3

    @pytest.mark.usefixtures("table")
    @pytest.mark.parametrize("path", [["t"], ["main", "t"]])
    def test_get_flight_info_of_a_table(self, raw: flight.FlightClient, path: list[str]) -> None:
        """By its name, with or without a schema."""
        info = raw.get_flight_info(flight.FlightDescriptor.for_path(*path))
        assert (info.schema, info.total_records) == (SCHEMA, 3)
        assert raw.do_get(info.endpoints[0].ticket).read_all().column("i").to_pylist() == [1, 2, 3]
        assert raw.get_schema(flight.FlightDescriptor.for_path(*path)).schema == SCHEMA

    @pytest.mark.usefixtures("table")
    @pytest.mark.parametrize(
        "command",
        [
            b"SELECT i FROM t WHERE i > 1",
            b'{"query": "SELECT i FROM t WHERE i > ?", "parameters": [1]}',
            b'{"query": "SELECT i FROM t WHERE i > $low", "parameters": {"low": 1}}',
            b'  {"query": "SELECT i FROM t WHERE i > 1"}',
        ],
    )
    def test_get_flight_info_of_a_query(self, raw: flight.FlightClient, command: bytes) -> None:
        """Its schema, and a ticket that runs it; the ticket may as well be the command itself."""
        info = raw.get_flight_info(flight.FlightDescriptor.for_command(command))
        assert info.schema.names == ["i"]
        assert raw.do_get(info.endpoints[0].ticket).read_all().to_pylist() == [{"i": 2}, {"i": 3}]
        assert raw.do_get(flight.Ticket(command)).read_all().to_pylist() == [{"i": 2}, {"i": 3}]
        assert raw.get_schema(flight.FlightDescriptor.for_command(command)).schema.names == ["i"]

    def test_a_description_does_not_run_the_query(
        self, client: ducktower.FlightClient, raw: flight.FlightClient
    ) -> None:
        """The schema of a query that would never end is there at once, and one that fails when run has one too."""
        for sql in (
            "SELECT sum(a.i) AS s FROM range(10000000) a(i), range(10000000) b(i)",
            "SELECT v::INTEGER AS n FROM (SELECT 'x' || i AS v FROM range(10) r(i))",
        ):
            assert len(raw.get_schema(flight.FlightDescriptor.for_command(sql.encode())).schema) == 1
        all_returned(client)

    def test_list_actions(self, raw: flight.FlightClient) -> None:
        """Each action is named and described."""
        actions = {one.type: one.description for one in raw.list_actions()}
        assert set(actions) >= {"health", "execute", "tables", "statistics", "sessions", "cancel", "checkpoint"}
        assert all(actions.values())

    @pytest.mark.usefixtures("table")
    def test_execute_over_the_wire(self, raw: flight.FlightClient) -> None:
        """SQL or JSON; rows and commit as JSON, returned rows as an Arrow stream behind it."""
        first, *rest = action(raw, "execute", b"INSERT INTO t VALUES (4, 'd') RETURNING i")
        assert json.loads(first) == {"rows": 1, "commit": 3}
        assert pa.ipc.open_stream(b"".join(rest)).read_all().to_pylist() == [{"i": 4}]
        body = b'{"query": "UPDATE t SET v = $1 WHERE i > 2", "parameters": ["z"]}'
        assert [json.loads(one) for one in action(raw, "execute", body)] == [{"rows": 2, "commit": 4}]

    @pytest.mark.usefixtures("table")
    def test_put_with_a_command(self, raw: flight.FlightClient) -> None:
        """Modes and keys in JSON; one answer in the metadata."""
        for body, rows in (
            ({"table": "t"}, 4),
            ({"table": "t", "schema": "main", "mode": "append"}, 5),
            ({"table": "t", "mode": "upsert", "key": ["i"]}, 5),
            ({"table": "u", "mode": "create"}, 1),
            ({"table": "t", "mode": "replace"}, 1),
        ):
            writer, reader = raw.do_put(flight.FlightDescriptor.for_command(json.dumps(body).encode()), SCHEMA)
            writer.write_batch(pa.record_batch([pa.array([9]), pa.array(["z"])], schema=SCHEMA))
            writer.done_writing()
            assert json.loads(reader.read().to_pybytes())["rows"] == 1
            assert reader.read() is None
            writer.close()
            table = raw.do_get(flight.Ticket(f"FROM {body['table']}".encode())).read_all()
            assert table.num_rows == rows


GARBAGE = [
    b"\xff\xfe",
    b"{",
    b"{}",
    b'{"query": 5}',
    b'{"query": "SELECT 1", "nope": 1}',
    b'{"query": "SELECT 1", "parameters": 5}',
    b'{"query": "SELECT 1", "parameters": "x"}',
    b'{"query": "SELECT ?", "arrow_parameters": "!!!"}',
    b'{"query": "SELECT ?", "arrow_parameters": "AAAA"}',
    b'{"query": "SELECT ?", "arrow_parameters": 7}',
    b'{"query": ["SELECT 1"]}',
    b'{"a": ' * 100_000,
    b'{"query": "SELECT 1"} trailing',
]
PUT_GARBAGE = [
    b"",
    b"\xff",
    b"{",
    b"[]",
    b"5",
    b"{}",
    b'{"table": ""}',
    b'{"table": 5}',
    b'{"table": "t", "mode": 5}',
    b'{"table": "t", "mode": "overwrite"}',
    b'{"table": "t", "schema": []}',
    b'{"table": "t", "key": "i", "mode": "upsert"}',
    b'{"table": "t", "key": [5], "mode": "upsert"}',
    b'{"table": "t", "mode": "upsert"}',
    b'{"table": "t", "key": ["i"]}',
    b'{"table": "t", "nope": 1}',
    b'{"table": "t", "writer": "w"}',
    b'{"table": "t", "sequence": 1}',
]


@pytest.mark.usefixtures("table")
class TestGarbage:
    """What is not what it should be gets INVALID_ARGUMENT, one line, and changes nothing."""

    def refused(self, call: Callable[[], Any], client: ducktower.FlightClient) -> None:
        with pytest.raises((flight.FlightError, pa.ArrowException), match=r"^\[INVALID_ARGUMENT\] ") as caught:
            call()
        assert "Traceback" not in str(caught.value)
        assert ".py" not in str(caught.value)
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 3}]
        all_returned(client)

    @pytest.mark.parametrize("ticket", GARBAGE, ids=range(len(GARBAGE)))
    def test_tickets(self, client: ducktower.FlightClient, raw: flight.FlightClient, ticket: bytes) -> None:
        """Of DoGet, and as a command of GetFlightInfo and a body of `execute`."""
        self.refused(lambda: raw.do_get(flight.Ticket(ticket)).read_all(), client)
        self.refused(lambda: raw.get_flight_info(flight.FlightDescriptor.for_command(ticket)), client)
        self.refused(lambda: action(raw, "execute", ticket), client)

    @pytest.mark.parametrize("command", PUT_GARBAGE, ids=range(len(PUT_GARBAGE)))
    def test_put_commands(self, client: ducktower.FlightClient, raw: flight.FlightClient, command: bytes) -> None:
        """Of DoPut."""

        def put() -> None:
            writer, reader = raw.do_put(flight.FlightDescriptor.for_command(command), SCHEMA)
            try:
                writer.write_batch(pa.record_batch([pa.array([9]), pa.array(["z"])], schema=SCHEMA))
                writer.done_writing()
                reader.read()
            finally:
                writer.close()

        self.refused(put, client)

    @pytest.mark.parametrize("path", [[], ["a", "b", "c"], [""], ["", "t"]], ids=range(4))
    def test_paths(self, client: ducktower.FlightClient, raw: flight.FlightClient, path: list[Any]) -> None:
        """Of descriptors: too few names, too many, empty ones."""
        descriptor = flight.FlightDescriptor.for_path(*path)
        self.refused(lambda: raw.get_flight_info(descriptor), client)
        self.refused(lambda: raw.get_schema(descriptor), client)

    @pytest.mark.parametrize(
        ("name", "body"),
        [
            ("nope", b""),
            ("", b""),
            ("cancel", b""),
            ("cancel", b"{}"),
            ("cancel", b'{"id": "1"}'),
            ("cancel", b'{"id": true}'),
            ("cancel", b"\xff"),
            ("health", b"{"),
            ("checkpoint", b"[]"),
        ],
    )
    def test_actions(self, client: ducktower.FlightClient, raw: flight.FlightClient, name: str, body: bytes) -> None:
        """Unknown names and bodies that do not fit."""
        self.refused(lambda: action(raw, name, body), client)

    def test_an_empty_ticket(self, client: ducktower.FlightClient, raw: flight.FlightClient) -> None:
        """No SQL is INVALID_SQL, as SQL without a statement is."""
        with pytest.raises(pa.ArrowInvalid, match=r"\[INVALID_SQL\] there is no statement"):
            raw.do_get(flight.Ticket(b"")).read_all()

    def test_a_body_over_the_limit(self, tmp_path: Path) -> None:
        """LIMIT_EXCEEDED names the limit."""
        with (
            ducktower.serve(str(tmp_path / "l.duckdb"), action_bytes_max=1000) as server,
            ducktower.connect(server.url) as client,
            pytest.raises(ducktower.LimitExceeded, match="1000"),
        ):
            client.execute(f"SELECT '{'x' * 2000}'")

    def test_sql_over_the_limit(self, tmp_path: Path) -> None:
        """Also in a ticket."""
        with (
            ducktower.serve(str(tmp_path / "l.duckdb"), sql_bytes_max=1000) as server,
            ducktower.connect(server.url) as client,
            pytest.raises(ducktower.LimitExceeded, match="1000"),
        ):
            client.query(f"SELECT '{'x' * 2000}'")

    def test_no_traceback_in_the_log_either(
        self, client: ducktower.FlightClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        """What a user can cause is no error of the server's."""
        for call in (
            lambda: client.query("SELEC"),
            lambda: client.ingest("nope", [{"i": 1}]),
            lambda: client.ingest("t", [{"nope": 1}]),
            lambda: client.ingest("t", [{"i": "x"}]),
            lambda: client.execute("INSERT INTO t VALUES ('x', 1)"),
        ):
            with pytest.raises(ducktower.DucktowerError):
                call()
        assert [record for record in caplog.records if record.exc_info or record.levelname == "ERROR"] == []

    def test_a_peer_that_speaks_no_grpc(self, server: ducktower.FlightServer, client: ducktower.FlightClient) -> None:
        """Bytes that are no gRPC, and connections that say nothing, disturb nobody."""
        with socket.create_connection(("127.0.0.1", server.port)) as silent:
            with socket.create_connection(("127.0.0.1", server.port)) as noisy:
                noisy.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" + b"\x00" * 10_000)
            assert client.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]
            silent.sendall(b"P")
        assert client.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]


class TestStart:
    """What a server refuses to start on, in one clear line."""

    def test_a_port_in_use(self, server: ducktower.FlightServer, tmp_path: Path) -> None:
        """Named, and the other server goes on."""
        with pytest.raises(ducktower.Unavailable, match=f"{server.port}"):
            ducktower.serve(str(tmp_path / "other.duckdb"), port=server.port)
        with ducktower.connect(server.url) as client:
            assert client.health()["status"] == "serving"
        with ducktower.serve(str(tmp_path / "other.duckdb")) as other:
            assert other.port != server.port

    def test_one_port_in_the_same_instant(self) -> None:
        """Of several servers that all find the port free exactly one serves, and the others say why they do not."""
        with ducktower.serve() as before:
            port = before.port
        refusals: list[ducktower.Unavailable] = []

        def start(_: int) -> ducktower.FlightServer | None:
            try:
                return ducktower.serve(port=port)
            except ducktower.Unavailable as refusal:
                refusals.append(refusal)
                return None

        servers = [one for one in together(6, start) if one is not None]
        try:
            assert len(servers) == 1
            assert len(refusals) == 5
            assert all(str(port) in str(refusal) for refusal in refusals)
            with ducktower.connect(f"grpc://127.0.0.1:{port}") as client:
                assert client.health()["status"] == "serving"
        finally:
            for one in servers:
                one.close()

    @pytest.mark.parametrize("spelling", ["same", "dots", "link", "relative"])
    def test_the_same_file_twice_in_one_process(
        self,
        server: ducktower.FlightServer,
        database: Path,
        tmp_path: Path,
        spelling: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """However it is spelt: DuckDB itself would open it twice and lose it."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / "link.duckdb").symlink_to(database)
        other = {
            "same": str(database),
            "dots": str(tmp_path / "x" / ".." / database.name),
            "link": str(tmp_path / "link.duckdb"),
            "relative": database.name,
        }[spelling]
        (tmp_path / "x").mkdir()
        with pytest.raises(ducktower.Unavailable, match="served by this process"):
            ducktower.serve(other)
        with ducktower.connect(server.url) as client:
            client.create_table("t", SCHEMA)

    def test_the_same_file_twice_in_two_processes(
        self, server: ducktower.FlightServer, database: Path, tmp_path: Path
    ) -> None:
        """The second process says which file is held and by whom, with exit status 1 and no traceback."""
        done = subprocess.run(
            [sys.executable, "-m", "ducktower.cli", "serve", str(database), "--port", "0"],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment(),
        )
        assert done.returncode == 1
        assert str(database) in done.stderr
        assert f"(PID {os.getpid()})" in done.stderr
        assert "UNAVAILABLE: " in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_file_can_be_served_again(self, database: Path) -> None:
        """After close, and after a start that failed."""
        for number in range(3):
            with ducktower.serve(str(database)) as server, ducktower.connect(server.url) as client:
                client.ingest("t", [{"i": number}], mode="create_append")
                assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": number + 1}]
                with pytest.raises(ducktower.Unavailable):
                    ducktower.serve(str(database))
        with pytest.raises(ducktower.Forbidden):
            ducktower.serve(str(database), host="0.0.0.0")
        ducktower.serve(str(database)).close()

    @pytest.mark.parametrize(
        ("content", "named"),
        [(b"this is a text file, and no database at all\n" * 1000, "no DuckDB database"), (b"x", "no DuckDB database")],
        ids=["text", "one_byte"],
    )
    def test_a_file_that_is_no_database(self, tmp_path: Path, content: bytes, named: str) -> None:
        """Named, and left as it was."""
        file = tmp_path / "notes.txt"
        file.write_bytes(content)
        with pytest.raises(ducktower.InvalidArgument, match=named) as caught:
            ducktower.serve(str(file))
        assert str(file) in caught.value.message
        assert file.read_bytes() == content

    def test_a_directory(self, tmp_path: Path) -> None:
        """Named."""
        with pytest.raises(ducktower.InvalidArgument, match="is a directory"):
            ducktower.serve(str(tmp_path))

    def test_a_missing_directory(self, tmp_path: Path) -> None:
        """Named, and not made."""
        with pytest.raises(ducktower.InvalidArgument, match="no directory"):
            ducktower.serve(str(tmp_path / "no" / "x.duckdb"))
        assert not (tmp_path / "no").exists()

    @pytest.mark.parametrize("host", ["0.0.0.0", "::"])
    def test_an_open_address_must_be_meant(self, tmp_path: Path, host: str) -> None:
        """An address that other machines reach is FORBIDDEN without `insecure`, and nothing is opened."""
        file = tmp_path / "open.duckdb"
        with pytest.raises(ducktower.Forbidden, match="insecure"):
            ducktower.serve(str(file), host=host)
        assert not file.exists()

    def test_an_open_address_that_is_meant(self) -> None:
        """With `insecure` it serves, and its URL can be connected to."""
        with ducktower.serve(host="0.0.0.0", insecure=True) as server, ducktower.connect(server.url) as client:
            assert client.health()["status"] == "serving"

    def test_a_host_that_does_not_exist(self) -> None:
        """Named."""
        with pytest.raises(ducktower.InvalidArgument, match=r"no\.such\.host\.invalid"):
            ducktower.serve(host="no.such.host.invalid")

    @pytest.mark.parametrize("settings", [{"memory_limit": "a lot"}, {"threads": -3}])
    def test_a_setting_that_duckdb_refuses(self, settings: dict[str, Any]) -> None:
        """INVALID_ARGUMENT, and the next start works."""
        with pytest.raises(ducktower.InvalidArgument):
            ducktower.serve(**settings)
        ducktower.serve(threads=1, memory_limit="500MB").close()

    def test_a_server_that_was_not_started(self) -> None:
        """Asking it for its address says so; closing it is harmless."""
        server = ducktower.FlightServer()
        with pytest.raises(ducktower.InvalidArgument, match="not started"):
            server.url  # noqa: B018 - asking is the test
        server.close()

    def test_memory_databases_are_apart(self) -> None:
        """Two servers of `:memory:` in one process share nothing."""
        with ducktower.serve() as one, ducktower.serve() as two:
            with ducktower.connect(one.url) as client:
                client.create_table("t", SCHEMA)
            with ducktower.connect(two.url) as client:
                assert client.tables().num_rows == 0


class TestEnd:
    """How a server stops."""

    def test_calls_after_the_end(self, database: Path) -> None:
        """A client of a closed server hears UNAVAILABLE; closing twice is harmless."""
        server = ducktower.serve(str(database))
        with ducktower.connect(server.url, retry_seconds=0.05) as client:
            client.create_table("t", SCHEMA)
            server.close()
            server.close()
            assert server.wait(0) is True
            for call in (
                lambda: client.query("SELECT 1"),
                lambda: client.ingest("t", [{"i": 1}]),
                lambda: client.execute("SELECT 1"),
                client.health,
            ):
                with pytest.raises(ducktower.Unavailable):
                    call()

    def test_an_idle_appender_does_not_hold_it(self, database: Path) -> None:
        """Closing returns while a client keeps a stream open; the file is free afterwards."""
        server = ducktower.serve(str(database), drain_seconds=0.5)
        with ducktower.connect(server.url) as client:
            client.create_table("t", SCHEMA)
            rows = client.appender("t")
            rows.append({"i": 1}).result()
            closing = threading.Thread(target=server.close)
            closing.start()
            closing.join(60)
            assert not closing.is_alive()
            ducktower.serve(str(database)).close()
            with pytest.raises(ducktower.Unavailable):
                rows.append({"i": 2}).result(60)

    def test_a_read_that_stands_still_does_not_hold_it(self, database: Path) -> None:
        """A client that does not read on is cut off after the drain, with UNAVAILABLE."""
        server = ducktower.serve(str(database), drain_seconds=0.5)
        with ducktower.connect(server.url) as client:
            reader = client.reader("SELECT i FROM range(50000000) r(i)")
            reader.read_next_batch()
            closing = threading.Thread(target=server.close)
            closing.start()
            closing.join(60)
            assert not closing.is_alive()
            fails_with(ducktower.Unavailable, reader)
        ducktower.serve(str(database)).close()

    def test_calls_in_flight_are_finished(self, database: Path) -> None:
        """Within the drain a running query gets its whole answer, and a write its acknowledgement."""
        server = ducktower.serve(str(database), drain_seconds=30)
        with ducktower.connect(server.url) as client, ducktower.connect(server.url) as operator:
            client.create_table("t", SCHEMA)
            found: list[Any] = []
            sql = "SELECT count(*) AS n FROM range(10000) a(i), range(10000) b(i) WHERE (a.i * b.i) % 7 = 1"
            asking = threading.Thread(target=lambda: found.append(client.query(sql).num_rows))
            asking.start()
            until(operator.sessions, "the query")
            server.close()
            asking.join(60)
            assert found == [1]

    @pytest.mark.parametrize("kind", ["small", "large", "appended"])
    def test_a_write_in_flight_is_finished(self, database: Path, kind: str) -> None:
        """Within the drain a write that the server has begun to take is stored and acknowledged; a new one is not."""
        server = ducktower.serve(str(database), drain_seconds=60)
        going_on = threading.Event()

        def gated() -> Iterator[pa.RecordBatch]:
            yield pa.record_batch({"i": pa.array(range(500_000))})
            assert going_on.wait(60)
            yield pa.record_batch({"i": pa.array(range(500_000))})

        with ducktower.connect(server.url, retry_seconds=0.001) as client, ThreadPoolExecutor(2) as pool:
            client.execute("CREATE TABLE t (i BIGINT)")
            appender = client.appender("t")
            appender.append({"i": 0}).result(60)
            committing = server.engine._committer._lock
            with committing if kind in ("small", "appended") else contextlib.nullcontext():
                if kind == "small":
                    sent = pool.submit(lambda: client.ingest("t", [{"i": 1}]).rows)
                elif kind == "appended":
                    answer = appender.append({"i": 1})
                    sent = pool.submit(lambda: answer.result(60).rows)
                else:
                    rows = pa.RecordBatchReader.from_batches(pa.schema([("i", pa.int64())]), gated())
                    sent = pool.submit(lambda: client.ingest("t", rows).rows)
                if kind == "large":
                    until(lambda: any(call["kind"] == "upload" for call in client.sessions()), "the upload")
                else:
                    until(lambda: server.engine._queue.committing_seconds() > 0, "the write")
                closing = pool.submit(server.close)
                until(lambda: client.health()["status"] == "stopping", "the stop")
                with pytest.raises(ducktower.Unavailable, match="stopping"):
                    client.ingest("t", [{"i": 2}])
                assert not sent.done()
                going_on.set()
            stored = sent.result(60)
            closing.result(60)
        assert stored == (1_000_000 if kind == "large" else 1)
        with duckdb.connect(str(database), read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchall() == [(1 + stored,)]

    def test_the_wal_is_written_into_the_file(self, database: Path) -> None:
        """After an orderly end there is one file, which DuckDB opens by itself."""
        with ducktower.serve(str(database)) as server, ducktower.connect(server.url) as client:
            client.ingest("t", pa.table({"i": range(1000)}), mode="create")
        assert [path.name for path in database.parent.iterdir()] == [database.name]
        with duckdb.connect(str(database), read_only=True) as connection:
            assert connection.execute("SELECT count(*) FROM t").fetchall() == [(1000,)]

    def test_twenty_cycles_leave_nothing(self, tmp_path: Path) -> None:
        """Starting, using and closing a server twenty times leaves no threads and descriptors."""

        def cycle() -> None:
            with ducktower.serve(str(tmp_path / "cycle.duckdb")) as server, ducktower.connect(server.url) as client:
                client.ingest("t", [{"i": 1}], mode="create_append")
                with client.appender("t") as rows:
                    rows.append({"i": 2})
                client.query("FROM t")

        for _ in range(3):
            cycle()
        before = held()
        for _ in range(20):
            cycle()
        settles_within(before, spare_threads=4, spare_descriptors=4)

    def test_twenty_failed_starts_leave_nothing(self, tmp_path: Path) -> None:
        """Nor do starts that fail."""
        (tmp_path / "notes.txt").write_text("no database" * 1000)

        def cycle() -> None:
            for arguments in (
                {"database": str(tmp_path / "notes.txt")},
                {"host": "0.0.0.0"},
                {"memory_limit": "a lot"},
            ):
                with pytest.raises(ducktower.DucktowerError):
                    ducktower.serve(**arguments)

        cycle()
        before = held()
        for _ in range(20):
            cycle()
        settles_within(before, spare_threads=1, spare_descriptors=1)


BAD_INPUT: dict[str, tuple[Callable[[ducktower.FlightClient], Any], str, str]] = {
    "missing_table": (lambda c: c.ingest("nope", [{"i": 1}]), "TABLE_NOT_FOUND", '"nope"'),
    "hostile_table": (lambda c: c.ingest(HOSTILE, [{"i": 1}]), "TABLE_NOT_FOUND", HOSTILE),
    "unknown_column": (lambda c: c.ingest("t", [{"i": 1, "nope": 1}]), "SCHEMA_MISMATCH", '"nope"'),
    "value": (lambda c: c.ingest("t", [{"i": "seven"}]), "SCHEMA_MISMATCH", '"i"'),
    "null": (lambda c: c.ingest("t", [{"i": None}]), "CONSTRAINT_VIOLATION", "t.i"),
    "large_null": (
        lambda c: c.ingest("t", pa.table({"i": pa.array([1] * 300_000 + [None], pa.int64())})),
        "CONSTRAINT_VIOLATION",
        "t.i",
    ),
    "query": (lambda c: c.query("SELEC 1"), "INVALID_SQL", "SELEC"),
    "statement": (lambda c: c.execute("INSERT INTO t VALUES ('x')"), "INVALID_SQL", "'x'"),
}


def test_bad_input_beside_a_writer(start_server: Callable[..., ServerProcess]) -> None:
    """One line with its code and the thing's name each, nothing of it stored, no word of it in the server's stderr, and
    whoever writes good rows meanwhile has them all."""
    server = start_server()
    with ducktower.connect(server.url) as client:
        client.execute("CREATE TABLE t (i BIGINT NOT NULL); CREATE TABLE b (i BIGINT)")
        said = server.stderr
        stop = threading.Event()

        def write(number: int) -> int:
            with ducktower.connect(server.url, retry_seconds=0.001) as own:
                if number == 0:
                    stored = 0
                    while not stop.is_set():
                        stored += own.ingest("t", [{"i": stored}]).rows
                    return stored
                try:
                    for call, code, named in list(BAD_INPUT.values()) * 5:
                        with pytest.raises(ducktower.DucktowerError) as caught:
                            call(own)
                        assert caught.value.code == code
                        assert named in caught.value.message
                        assert "\n" not in caught.value.message
                finally:
                    stop.set()
                return 0

        stored, _ = together(2, write)
        assert stored > 0
        assert client.query("SELECT i FROM t ORDER BY i")["i"].to_pylist() == list(range(stored))
        assert client.tables()["table_name"].to_pylist() == ["b", "t"]
        assert server.stderr == said


def test_a_server_process_holds_no_more_after_many_clients(start_server: Callable[..., ServerProcess]) -> None:
    """A hundred clients that come, write, read and go leave the server's threads and descriptors as they were."""
    server = start_server()

    def visit(number: int) -> None:
        with ducktower.connect(server.url) as client:
            client.ingest("t", [{"i": number}], mode="create_append")
            with client.appender("t") as rows:
                rows.append({"i": number})
            client.query("SELECT count(*) FROM t")
            client.reader("SELECT i FROM range(5000000) r(i)").read_next_batch()

    together(10, visit)
    before = held(server.pid)
    for _ in range(10):
        together(10, visit)
    with ducktower.connect(server.url) as client:
        all_returned(client)
    settles_within(before, spare_threads=16, spare_descriptors=16, pid=server.pid)
