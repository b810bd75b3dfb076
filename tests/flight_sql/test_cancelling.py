"""Ending what runs: the driver's cancel, deadlines, CancelFlightInfo, clients that leave."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import adbc_driver_flightsql as flightsql
import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import pack
from support.flight_sql import RawFlightSql, cursors_back, unpacked
from support.waiting import until

ENDLESS = "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b"
LONG = "SELECT i, repeat('x', 200) AS filler FROM range(50_000_000) t(i)"

# What the driver tells of a deadline that passes in the middle of a batch: its gRPC says then now and then that the
# message was cut, not why (https://github.com/grpc/grpc-go/issues/8281).
OVERDUE = r"(?i)timeout|deadline|unexpected EOF"


def cancelled(cursor: Any, client: ducktower.FlightClient, sql: str) -> str:
    """Run a statement, cancel it from another thread, and return what its caller was told."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            cursor.execute(sql)
        except adbc_driver_manager.Error as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    # The driver prepares it first: a cancel between its two calls meets neither.
    until(lambda: [one for one in client.sessions() if one["kind"] != "description"], "the statement to run")
    cursor.adbc_cancel()
    thread.join(60)
    (failure,) = failures
    until(lambda: not client.sessions(), "the statement to end")
    return str(failure).upper()


def test_cancel_by_the_driver(cursor: Any, client: ducktower.FlightClient, server: ducktower.FlightServer) -> None:
    """`adbc_cancel` from another thread ends the query on the server; the connection goes on."""
    assert "CANCEL" in cancelled(cursor, client, ENDLESS)
    cursors_back(server)
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_deadline_of_the_client(
    server: ducktower.FlightServer, client: ducktower.FlightClient, autocommit: bool
) -> None:
    """The driver's timeout ends the query on the server too, within a transaction as well."""
    options = {flightsql.ConnectionOptions.TIMEOUT_QUERY.value: "0.5"}
    with (
        adbc.connect(server.url, conn_kwargs=options, autocommit=autocommit) as connection,
        connection.cursor() as cursor,
    ):
        with pytest.raises(adbc_driver_manager.Error, match=r"(?i)timeout|deadline"):
            cursor.execute(ENDLESS)
        until(lambda: not client.sessions(), "the query to end")
    cursors_back(server)


FILL = f"INSERT INTO t SELECT a.range {ENDLESS.partition('count(*) ')[2]} WHERE hash(a.range + b.range) % 1000 = 0"


@pytest.mark.parametrize("autocommit", [True, False])
def test_a_deadline_of_an_update(connect: Any, client: ducktower.FlightClient, autocommit: bool) -> None:
    """It ends the statement on the server, and nothing of it is stored, nor of its script or transaction."""
    client.execute("CREATE TABLE t AS SELECT 1::BIGINT AS n")
    connection = connect(autocommit=autocommit)
    with connection.cursor() as limited, connection.cursor() as cursor:
        limited.adbc_statement.set_options(**{flightsql.StatementOptions.TIMEOUT_UPDATE.value: "0.5"})
        if not autocommit:
            cursor.execute("INSERT INTO t VALUES (2)")
        with pytest.raises(adbc_driver_manager.Error, match=r"(?i)timeout|deadline"):
            limited.execute(f"INSERT INTO t VALUES (3); {FILL}")
        until(lambda: not client.sessions(), "the statement to end")
        if not autocommit:
            connection.rollback()
        cursor.execute("SELECT n FROM t")
        assert cursor.fetchall() == [(1,)]
        cursor.execute("UPDATE t SET n = 5")
        if not autocommit:
            connection.commit()
    assert client.query("SELECT n FROM t")["n"].to_pylist() == [5]


def test_a_deadline_of_fetching(connect: Any, client: ducktower.FlightClient, server: ducktower.FlightServer) -> None:
    """A result that takes longer to fetch than its client has is ended on the server, too."""
    connection = connect()
    with connection.cursor() as limited, connection.cursor() as cursor:
        limited.adbc_statement.set_options(**{flightsql.StatementOptions.TIMEOUT_FETCH.value: "0.5"})
        limited.execute(LONG)
        with pytest.raises((adbc_driver_manager.Error, pa.ArrowException, OSError), match=OVERDUE):
            limited.fetch_record_batch().read_all()
        until(lambda: not client.sessions(), "the query to end")
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    cursors_back(server)


def test_cancel_of_an_update_by_the_driver(cursor: Any, client: ducktower.FlightClient) -> None:
    """`adbc_cancel` from another thread ends it on the server, and nothing is stored."""
    client.execute("CREATE TABLE t AS SELECT 1::BIGINT AS n")
    assert "CANCEL" in cancelled(cursor, client, FILL)
    cursor.execute("SELECT n FROM t")
    assert cursor.fetchall() == [(1,)]


def test_a_reader_that_is_dropped(cursor: Any, server: ducktower.FlightServer, client: ducktower.FlightClient) -> None:
    """A client that stops reading and closes its cursor frees the query's cursor."""
    cursor.execute(LONG)
    reader = cursor.fetch_record_batch()
    reader.read_next_batch()
    reader.close()
    cursor.close()
    until(lambda: not client.sessions(), "the query to end")
    cursors_back(server)


def test_cancelling_a_result_that_waits(raw_sql: RawFlightSql, server: ducktower.FlightServer) -> None:
    """CancelFlightInfo before DoGet: its cursor is free, its ticket refused; a second time there is nothing to do."""
    info = raw_sql.info(m.CommandStatementQuery(query=LONG))
    assert raw_sql.cancel(info) == f.CANCEL_STATUS_CANCELLED
    cursors_back(server)
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*ticket"):
        raw_sql.fetch(info)
    assert raw_sql.cancel(info) == f.CANCEL_STATUS_NOT_CANCELLABLE


def test_cancelling_a_result_that_is_read(
    raw_sql: RawFlightSql, server: ducktower.FlightServer, client: ducktower.FlightClient
) -> None:
    """CancelFlightInfo during DoGet: the stream ends with CANCELLED."""
    info = raw_sql.info(m.CommandStatementQuery(query=LONG))
    reader = raw_sql.flight.do_get(info.endpoints[0].ticket)
    reader.read_chunk()
    with RawFlightSql(server.url) as other:
        assert other.cancel(info) == f.CANCEL_STATUS_CANCELLED
    with pytest.raises((pa.ArrowException, flight.FlightError), match=r"CANCELLED"):
        reader.read_all()
    until(lambda: not client.sessions(), "the query to end")
    cursors_back(server)


def test_the_older_way_to_cancel(raw_sql: RawFlightSql) -> None:
    """CancelQuery, whose answer is packed."""
    info = raw_sql.info(m.CommandStatementQuery(query=LONG))
    (answer,) = raw_sql.act("CancelQuery", m.ActionCancelQueryRequest(info=info.serialize()))
    result = unpacked(answer, m.ActionCancelQueryResult).result
    assert result == m.ActionCancelQueryResult.CANCEL_RESULT_CANCELLED


def test_what_cannot_be_cancelled(raw_sql: RawFlightSql) -> None:
    """Metadata is no query that runs."""
    info = raw_sql.info(m.CommandGetCatalogs())
    assert raw_sql.cancel(info) == f.CANCEL_STATUS_NOT_CANCELLABLE


def test_others_cannot_cancel(server: ducktower.FlightServer, client: ducktower.FlightClient) -> None:
    """Another principal's cancel does nothing, neither while a result waits nor while it is read."""
    with RawFlightSql(server.url, authorization="Basic YWRhOng") as ada, RawFlightSql(server.url) as nobody:
        info = ada.info(m.CommandStatementQuery(query=LONG))
        assert nobody.cancel(info) == f.CANCEL_STATUS_NOT_CANCELLABLE
        reader = ada.flight.do_get(info.endpoints[0].ticket)
        assert reader.read_chunk().data.num_rows
        assert nobody.cancel(info) == f.CANCEL_STATUS_NOT_CANCELLABLE
        assert reader.read_chunk().data.num_rows
        assert ada.cancel(info) == f.CANCEL_STATUS_CANCELLED
        with pytest.raises((pa.ArrowException, flight.FlightError), match=r"CANCELLED"):
            reader.read_all()
    until(lambda: not client.sessions(), "the query to end")


def test_cancelling_and_closing_when_all_places_are_taken(database: Path) -> None:
    """They are what makes room; and the ADBC driver fails for good when it may not close a statement."""
    with (
        ducktower.serve(str(database), calls_in_flight_max=1) as server,
        ducktower.connect(server.url) as operator,
        RawFlightSql(server.url) as raw,
    ):
        infos = [raw.info(m.CommandStatementQuery(query=LONG)) for _ in range(2)]
        prepared = raw.prepare("SELECT 1").prepared_statement_handle
        descriptor = flight.FlightDescriptor.for_command(pack(m.CommandStatementUpdate(query=ENDLESS)))
        writer, _ = raw.flight.do_put(descriptor, pa.schema([]))
        until(lambda: any(one["text"] == ENDLESS for one in operator.sessions()), "the statement that takes the place")
        with pytest.raises(flight.FlightUnavailableError, match=r"\[OVERLOADED\]"):
            raw.query("SELECT 1")
        raw.close_prepared(prepared)
        assert raw.cancel(infos[0]) == f.CANCEL_STATUS_CANCELLED
        request = m.ActionCancelQueryRequest(info=infos[1].serialize())
        (answer,) = raw.act("CancelQuery", request)
        result = unpacked(answer, m.ActionCancelQueryResult).result
        assert result == m.ActionCancelQueryResult.CANCEL_RESULT_CANCELLED
        for one in operator.sessions():
            operator.cancel(one["id"])
        with pytest.raises((pa.ArrowException, flight.FlightError), match=r"CANCELLED"):
            writer.close()


def test_abandoned_streams_leave_nothing(connect: Any, server: ducktower.FlightServer) -> None:
    """Thirty results, each given up after its first batch."""
    connection = connect()
    for _ in range(30):
        with connection.cursor() as cursor:
            cursor.execute("SELECT i, repeat('x', 100) AS filler FROM range(2_000_000) t(i)")
            cursor.fetch_record_batch().read_next_batch()
    cursors_back(server)
