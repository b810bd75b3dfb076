"""What a hostile or broken client must not achieve: each of these once stopped, stalled or confused the server."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import pack
from ducktower.server.connections import cut
from support.waiting import until

SCHEMA = pa.schema([("id", pa.int64())])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ducktower.FlightServer]:
    """A server of a file with one table."""
    with ducktower.serve(str(tmp_path / "hostile.duckdb"), drain_seconds=1.0) as running:
        running.engine.execute("CREATE TABLE t (id BIGINT)")
        yield running


@pytest.fixture
def client(server: ducktower.FlightServer) -> Iterator[ducktower.FlightClient]:
    """A client of it."""
    with ducktower.connect(server.url, retry_seconds=1.0) as connected:
        yield connected


def one(number: int) -> pa.RecordBatch:
    """Return a row."""
    return pa.record_batch({"id": pa.array([number], pa.int64())})


def text_that_is_none() -> pa.Array:
    """Two bytes that are no UTF-8, in an array that says that it is text."""
    return pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe"))


def test_a_stream_that_ends_in_garbage_while_answers_are_due(server: ducktower.FlightServer) -> None:
    """Its writes are answered or dropped, the stream is refused, and the server lives on."""
    command = flight.FlightDescriptor.for_command(b'{"append":{"table":"t"}}')
    for _ in range(20):
        with flight.connect(server.url) as raw:
            writer, reader = raw.do_exchange(command)
            writer.begin(SCHEMA)
            for number in range(3):
                writer.write_with_metadata(one(number), b"%d" % number)
            writer.write_with_metadata(one(3), b"{}")
            with pytest.raises(pa.ArrowInvalid, match="INVALID_ARGUMENT"):
                reader.read_all()
            with pytest.raises(pa.ArrowInvalid):
                writer.close()
    with ducktower.connect(server.url) as client:
        assert client.query("SELECT count(*) AS n FROM t")["n"][0].as_py() == 60


def test_what_a_client_makes_has_a_bound(tmp_path: Path) -> None:
    """Ticket, command, path, criteria and body: past the limit each is refused by name, and nothing else is."""
    with (
        ducktower.serve(str(tmp_path / "a.duckdb"), command_bytes_max=1_000, action_bytes_max=1_000) as server,
        flight.connect(server.url) as raw,
    ):
        server.engine.execute("CREATE TABLE t (id BIGINT)")

        def put(descriptor: flight.FlightDescriptor) -> None:
            writer, reader = raw.do_put(descriptor, SCHEMA)
            with writer:
                writer.write_batch(one(1))
                writer.done_writing()
                reader.read()

        def exchange(descriptor: flight.FlightDescriptor) -> None:
            writer, reader = raw.do_exchange(descriptor)
            with writer:
                writer.begin(SCHEMA)
                writer.write_with_metadata(one(1), b"1")
                writer.done_writing()
                reader.read_chunk()

        def commands(size: int) -> list[tuple[str, flight.FlightDescriptor]]:
            padded = '{"table": "t"}'.ljust(size).encode()
            packed = pack(m.CommandStatementUpdate(query="SELECT 1".ljust(size)))
            append = '{"append": {"table": "t"}}'.ljust(size).encode()
            return [
                ("put", flight.FlightDescriptor.for_command(padded)),
                ("put", flight.FlightDescriptor.for_command(packed)),
                ("exchange", flight.FlightDescriptor.for_command(append)),
                ("info", flight.FlightDescriptor.for_command("SELECT 1".ljust(size).encode())),
                ("schema", flight.FlightDescriptor.for_command("SELECT 1".ljust(size).encode())),
            ]

        ways = {"put": put, "exchange": exchange, "info": raw.get_flight_info, "schema": raw.get_schema}
        for way, descriptor in commands(500):
            ways[way](descriptor)
        paths = [(way, flight.FlightDescriptor.for_path(b"x" * 900, b"y" * 900)) for way in ("put", "info", "schema")]
        calls = [
            *(lambda way=way, one=one: ways[way](one) for way, one in (*commands(1_500), *paths)),
            lambda: raw.do_get(flight.Ticket("SELECT 1".ljust(1_500).encode())),
            lambda: list(raw.list_flights(b"x" * 1_500)),
            lambda: list(raw.do_action(flight.Action("tables", b" " * 1_500))),
        ]
        for call in calls:
            with pytest.raises((pa.ArrowException, flight.FlightError), match=r"LIMIT_EXCEEDED.*the limit is 1000"):
                call()
        assert raw.do_get(flight.Ticket("SELECT 1".ljust(900).encode())).read_all().num_rows == 1


def test_cutting_connections_leaves_no_descriptor(
    server: ducktower.FlightServer, client: ducktower.FlightClient
) -> None:
    """Looking for a connection closes whatever it opened, sockets and files alike."""
    client.health()
    cut(server.port, "ipv4:127.0.0.1:1")
    before = len(os.listdir("/dev/fd"))
    for _ in range(50):
        assert cut(server.port, "ipv4:127.0.0.1:1") == 0
    assert len(os.listdir("/dev/fd")) <= before + 5
    assert client.health()["status"] == "serving"


def test_text_that_is_no_text_fails_alone(client: ducktower.FlightClient) -> None:
    """Forty writes at one moment, one of them with bytes that DuckDB cannot even quote: the others are stored."""
    outcomes: list[object] = []

    def write(number: int) -> None:
        rows = pa.table({"id": text_that_is_none() if number == 7 else pa.array([str(number)])})
        try:
            outcomes.append(client.ingest("t", rows))
        except ducktower.DucktowerError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    errors = [outcome for outcome in outcomes if isinstance(outcome, ducktower.DucktowerError)]
    assert [error.code for error in errors] == ["SCHEMA_MISMATCH"]
    assert client.query("SELECT count(*) AS n FROM t")["n"][0].as_py() == 39


def test_brackets_without_end(client: ducktower.FlightClient) -> None:
    """Deep nesting is refused before DuckDB's parser, which would stop everybody for seconds, sees it."""
    with pytest.raises(ducktower.InvalidSQL, match="nested"):
        client.query("SELECT " + "(" * 50_000 + "1" + ")" * 50_000)
    assert client.query("SELECT ((1)) AS n")["n"][0].as_py() == 1


def test_sql_beyond_its_limit(client: ducktower.FlightClient) -> None:
    """A text over `sql_bytes_max` names the limit."""
    with pytest.raises(ducktower.LimitExceeded, match="262144"):
        client.query(f"SELECT '{'x' * 300_000}'")


@pytest.mark.parametrize(
    "ticket",
    [
        json.dumps({"query": "SELECT '\ud800'"}).encode(),
        b'{"query": "SELECT ?", "parameters": [' + b"[" * 900 + b"]" * 900 + b"]}",
        b'{"query": 7}',
        b"\xff\xfe",
    ],
)
def test_tickets_that_no_client_of_ours_sends(server: ducktower.FlightServer, ticket: bytes) -> None:
    """One clear error each, without a traceback."""
    with flight.connect(server.url) as raw, pytest.raises(pa.ArrowInvalid) as caught:
        raw.do_get(flight.Ticket(ticket)).read_all()
    assert "Traceback" not in str(caught.value)
    assert "[INVALID_ARGUMENT]" in str(caught.value) or "[LIMIT_EXCEEDED]" in str(caught.value)


def test_a_name_without_end(client: ducktower.FlightClient) -> None:
    """A table's name has a limit: DuckDB would look for similar names for seconds."""
    with pytest.raises(ducktower.InvalidArgument, match="1000"):
        client.ingest("t" * 100_000, [{"id": 1}])


def test_every_place_taken(tmp_path: Path) -> None:
    """With all places taken by streams that do nothing, health and sessions answer all the same."""
    with ducktower.serve(str(tmp_path / "full.duckdb"), calls_in_flight_max=4, drain_seconds=0.5) as server:
        server.engine.execute("CREATE TABLE t (id BIGINT)")
        with flight.connect(server.url) as raw, ducktower.connect(server.url, retry_seconds=0.1) as client:
            streams = []
            for _ in range(4):
                writer, reader = raw.do_exchange(flight.FlightDescriptor.for_command(b'{"append":{"table":"t"}}'))
                writer.begin(SCHEMA)
                writer.write_batch(one(1))
                reader.read_chunk()
                streams.append((writer, reader))
            with pytest.raises(ducktower.Overloaded):
                client.query("SELECT 1")
            assert client.health()["status"] == "serving"
            assert isinstance(client.sessions(), list)
            for writer, _ in streams:
                writer.done_writing()
                writer.close()


def test_streams_in_which_nothing_is_sent(tmp_path: Path) -> None:
    """They end with a reason, and their places come back although the clients stay; others are left alone."""
    append = flight.FlightDescriptor.for_command(b'{"append":{"table":"t"}}')
    with ducktower.serve(
        str(tmp_path / "idle.duckdb"), calls_in_flight_max=4, drain_seconds=0.5, stream_idle_seconds=0.3
    ) as server:
        server.engine.execute("CREATE TABLE t (id BIGINT)")
        with ExitStack() as stack:
            raws = [stack.enter_context(flight.connect(server.url)) for _ in range(4)]
            told, silent = (raw.do_exchange(append) for raw in raws[:2])
            for writer, _ in (told, silent):
                writer.begin(SCHEMA)
            silent[0].write_batch(one(1))
            upload, _ = raws[2].do_put(flight.FlightDescriptor.for_path("t"), SCHEMA)
            upload.write_batch(one(2))
            bare = flight.FlightDescriptor.for_command(pack(m.CommandStatementIngest(table="t")))
            ingest, _ = raws[3].do_put(bare, SCHEMA)
            reason = told[1].read_chunk().app_metadata.to_pybytes()
            assert json.loads(reason)["error"]["code"] == "TIMEOUT"
            told[0].done_writing()
            told[0].close()  # in order: nothing was lost
            with ducktower.connect(server.url) as client:
                until(lambda: server._listener._admission.in_flight() == 0, "the end of all streams")
                assert client.query("FROM t")["id"].to_pylist() == [1]
            for writer in (silent[0], upload, ingest):
                with pytest.raises((pa.ArrowException, flight.FlightError, OSError)):
                    writer.close()


def test_a_stream_in_which_something_is_sent_goes_on(tmp_path: Path) -> None:
    """However long it lasts in all, an upload too."""
    with (
        ducktower.serve(str(tmp_path / "busy.duckdb"), stream_idle_seconds=1.5) as server,
        flight.connect(server.url) as raw,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE t (id BIGINT)")
        writer, reader = raw.do_exchange(flight.FlightDescriptor.for_command(b'{"append":{"table":"t"}}'))
        upload, _ = raw.do_put(flight.FlightDescriptor.for_path("t"), SCHEMA)
        writer.begin(SCHEMA)
        end = time.monotonic() + 2
        sent = 0
        while time.monotonic() < end:
            writer.write_batch(one(1))
            assert "error" not in json.loads(reader.read_chunk().app_metadata.to_pybytes())
            upload.write_batch(one(2))
            sent += 1
        writer.done_writing()
        writer.close()
        upload.close()
        assert client.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [2 * sent]


def test_a_write_that_is_slow_by_itself_does_not_hold_up_groups(tmp_path: Path) -> None:
    """A constraint that takes longer than a group may is computed beside the queue; the write is stored once."""
    with (
        ducktower.serve(
            str(tmp_path / "slow.duckdb"), group_timeout_seconds=0.005, watch_interval_seconds=0.002
        ) as server,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE slow (id BIGINT, CHECK (length(repeat('x', (100000000 + id)::BIGINT)) > 0))")
        for number in range(3):
            assert client.ingest("slow", [{"id": number}]).rows == 1
        assert client.query("SELECT id FROM slow ORDER BY id")["id"].to_pylist() == [0, 1, 2]


def test_one_dict_used_again(client: ducktower.FlightClient) -> None:
    """A program may fill one dict for every row: each row is what it was when it was appended."""
    row: dict[str, int] = {}
    with client.appender("t") as rows:
        for number in range(100):
            row["id"] = number
            rows.append(row)
    assert sorted(client.query("FROM t")["id"].to_pylist()) == list(range(100))
