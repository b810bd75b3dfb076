"""Transactions: with autocommit off, by hand, and as SQL."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql


@pytest.fixture
def table(client: ducktower.FlightClient) -> str:
    """Make a table with one row."""
    client.execute("CREATE TABLE t (id INTEGER, v INTEGER)")
    client.execute("INSERT INTO t VALUES (0, 0)")
    return "t"


def count(client: ducktower.FlightClient) -> int:
    """Count what others see."""
    found: int = client.query("SELECT count(*) AS n FROM t")["n"][0].as_py()
    return found


def test_commit_and_rollback(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """Own changes are seen at once, by others after commit, and not at all after rollback."""
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (3,)
        assert count(client) == 1
        connection.rollback()
        assert count(client) == 1
        cursor.execute("INSERT INTO t VALUES (1, 1)")
        connection.commit()
        assert count(client) == 2


def test_ddl_is_part_of_the_transaction(connect: Any, client: ducktower.FlightClient) -> None:
    """CREATE TABLE is rolled back too."""
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE made (n INTEGER)")
        cursor.execute("INSERT INTO made VALUES (1)")
        connection.rollback()
    assert "made" not in client.tables()["table_name"].to_pylist()


def test_autocommit_can_be_changed(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """Off and on again: switching it on commits what is open."""
    connection = connect(autocommit=True)
    connection.adbc_connection.set_autocommit(False)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 1)")
        assert count(client) == 1
        connection.commit()
        connection.adbc_connection.set_autocommit(True)
        cursor.execute("INSERT INTO t VALUES (2, 2)")
        assert count(client) == 3


def test_a_reader_keeps_its_snapshot(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """Within a transaction every SELECT sees the same state."""
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (1,)
        client.execute("INSERT INTO t VALUES (5, 5)")
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (1,)
        connection.commit()
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (2,)


def test_a_conflict_is_reported_as_retryable(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """The second of two transactions that change one row gets CONFLICT, and succeeds when it begins again."""
    first, second = connect(autocommit=False), connect(autocommit=False)
    with first.cursor() as one, second.cursor() as other:
        one.execute("UPDATE t SET v = v + 1")
        with pytest.raises(adbc.OperationalError, match=r"\[CONFLICT\]") as caught:
            other.execute("UPDATE t SET v = v + 10")
        assert caught.value.status_code == adbc_driver_manager.AdbcStatusCode.IO  # the driver's word for UNAVAILABLE
        first.commit()
        second.rollback()
        other.execute("UPDATE t SET v = v + 10")
        second.commit()
    assert client.query("SELECT v FROM t")["v"].to_pylist() == [11]


def test_a_conflict_is_unavailable_for_every_client(server: ducktower.FlightServer, table: str) -> None:
    """The status that says to try again, without a driver between."""
    with RawFlightSql(server.url) as one, RawFlightSql(server.url) as other:
        first, second = one.begin(), other.begin()
        one.update("UPDATE t SET v = v + 1", first)
        with pytest.raises(flight.FlightUnavailableError, match=r"\[CONFLICT\]"):
            other.update("UPDATE t SET v = v + 10", second)
        other.end(second, commit=False)
        one.end(first)


def test_a_failed_statement_fails_the_transaction(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """Later statements say so, until it is rolled back; then the connection goes on."""
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 1)")
        with pytest.raises(adbc.Error):
            cursor.execute("SELECT error('no') FROM t")
        with pytest.raises(adbc.Error, match=r"roll it back"):
            cursor.execute("INSERT INTO t VALUES (2, 2)")
        connection.rollback()
        assert count(client) == 1
        cursor.execute("INSERT INTO t VALUES (3, 3)")
        connection.commit()
    assert count(client) == 2


def test_a_failed_transaction_is_not_committed(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """COMMIT says that nothing was stored. The driver then refuses the connection any further statement."""
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1, 1)")
        with pytest.raises(adbc.Error):
            cursor.execute("SELECT error('no') FROM t")
        with pytest.raises(adbc.Error, match=r"nothing was stored"):
            connection.commit()
        assert count(client) == 1
        with pytest.raises(adbc.Error, match=r"missing a valid transaction"):
            cursor.execute("INSERT INTO t VALUES (3, 3)")
    assert count(client) == 1


def test_sql_level_transactions(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """BEGIN, COMMIT and ROLLBACK as statements of an autocommitting connection."""
    with connect().cursor() as cursor:
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (1, 1)")
        assert count(client) == 1
        cursor.execute("ROLLBACK")
        assert count(client) == 1
        cursor.execute("BEGIN TRANSACTION")
        cursor.execute("INSERT INTO t VALUES (1, 1)")
        cursor.execute("COMMIT")
        assert count(client) == 2
        with pytest.raises(adbc.ProgrammingError, match=r"none is open"):
            cursor.execute("COMMIT")


def test_sql_level_transactions_by_text(
    server: ducktower.FlightServer, table: str, client: ducktower.FlightClient
) -> None:
    """The same through CommandStatementUpdate, with a cookie for a session."""
    with RawFlightSql(server.url, keep_cookies=True) as raw:
        raw.update("BEGIN")
        raw.update("INSERT INTO t VALUES (1, 1)")
        assert raw.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [2]
        assert count(client) == 1
        raw.update("COMMIT")
        assert count(client) == 2


@pytest.mark.parametrize("unknown", [b"", b"x", b"no.such", b"\xff.\xff", b"." * 100])
def test_unknown_transactions_are_refused(raw_sql: RawFlightSql, table: str, unknown: bytes) -> None:
    """An id that was never given, for every call that takes one."""
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
        raw_sql.end(unknown)
    if unknown:
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
            raw_sql.update("INSERT INTO t VALUES (1, 1)", unknown)
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
            raw_sql.query("SELECT 1", unknown)


def test_an_id_is_dead_after_its_end(server: ducktower.FlightServer, table: str) -> None:
    """Ending twice, and using it, is refused."""
    with RawFlightSql(server.url, keep_cookies=True) as raw:
        transaction = raw.begin()
        raw.update("INSERT INTO t VALUES (1, 1)", transaction)
        raw.end(transaction)
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*unknown"):
            raw.end(transaction)
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*unknown"):
            raw.update("INSERT INTO t VALUES (2, 2)", transaction)


def test_an_end_without_an_action_is_refused(raw_sql: RawFlightSql) -> None:
    """It neither commits nor rolls back."""
    transaction = raw_sql.begin()
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*commit or roll back"):
        raw_sql.act("EndTransaction", m.ActionEndTransactionRequest(transaction_id=transaction))
    raw_sql.end(transaction, commit=False)


@pytest.mark.parametrize("action", ["BeginSavepoint", "EndSavepoint"])
def test_savepoints_are_refused_clearly(raw_sql: RawFlightSql, action: str) -> None:
    """UNIMPLEMENTED, with the reason."""
    with pytest.raises(NotImplementedError, match=r"savepoints are not offered"):
        raw_sql.act(action, b"")


def test_savepoints_as_sql_are_refused_clearly(cursor: Any) -> None:
    """SAVEPOINT as a statement."""
    with pytest.raises(adbc.Error, match="no savepoints"):
        cursor.execute("SAVEPOINT a")


def test_a_client_that_vanishes_leaves_nothing(
    server: ducktower.FlightServer, table: str, client: ducktower.FlightClient
) -> None:
    """Its open transaction blocks nobody for ever: an operator's or the expiry's close rolls it back."""
    with RawFlightSql(server.url) as raw:
        transaction = raw.begin()
        raw.update("UPDATE t SET v = 99", transaction)
    (session,) = server.engine.sessions.describe()
    assert session["in_transaction"] is True
    server.engine.sessions.close(transaction.partition(b".")[0].decode())
    client.execute("UPDATE t SET v = 1")
    assert client.query("SELECT v FROM t")["v"].to_pylist() == [1]


def test_plain_flight_is_untouched_by_a_transaction(
    server: ducktower.FlightServer, table: str, client: ducktower.FlightClient
) -> None:
    """Plain calls on the same connection are not part of it."""
    with RawFlightSql(server.url, keep_cookies=True) as raw:
        transaction = raw.begin()
        raw.update("INSERT INTO t VALUES (1, 1)", transaction)
        plain = raw.flight.do_get(flight.Ticket(b"SELECT count(*) AS n FROM t")).read_all()
        assert plain["n"].to_pylist() == [1]
        raw.end(transaction, commit=False)


@pytest.mark.parametrize("begun_by", ["call", "sql"])
def test_an_empty_id_is_no_transaction_s(table: str, server: ducktower.FlightServer, begun_by: str) -> None:
    """The session's name alone ends nothing, and nothing is run under it as if it were within the transaction."""
    with RawFlightSql(server.url, keep_cookies=True) as one:
        if begun_by == "call":
            one.begin()
        else:
            one.update("BEGIN")
        one.update("INSERT INTO t VALUES (1, 1)")
        empty = one.prepare("SELECT 1").prepared_statement_handle.partition(b".")[0] + b"."
        for call in (
            lambda: one.end(empty, commit=True),
            lambda: one.end(empty, commit=False),
            lambda: one.query("SELECT 1", empty),
            lambda: one.update("DELETE FROM t", empty),
            lambda: one.prepare("SELECT 1", empty),
            lambda: one.put(m.CommandStatementIngest(table="t", transaction_id=empty), pa.table({"id": [9]})),
        ):
            with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*transaction is unknown"):
                call()
        assert one.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [2]
        one.update("ROLLBACK")
        assert one.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [1]
