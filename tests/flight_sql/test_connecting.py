"""Connecting: who may, which session a call belongs to, and how sessions end."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
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
from support.flight_sql import RawFlightSql
from support.waiting import until

AUTHORIZATION = flightsql.DatabaseOptions.AUTHORIZATION_HEADER.value
COOKIES = flightsql.DatabaseOptions.WITH_COOKIE_MIDDLEWARE.value


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"username": "ada", "password": "päss:word"},
        {"username": "", "password": ""},
        {AUTHORIZATION: "Bearer some-token"},
        {COOKIES: "true"},
        {AUTHORIZATION: "Bearer some-token", COOKIES: "true"},
    ],
    ids=str,
)
@pytest.mark.parametrize("autocommit", [True, False])
def test_every_way_to_connect_has_a_session(connect: Any, options: dict[str, str], autocommit: bool) -> None:
    """With a password, a token, a cookie or nothing: a temporary table is there for the connection's next call."""
    connection = connect(autocommit=autocommit, **options)
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE mine AS SELECT 42 AS n")
        cursor.execute("SELECT n FROM mine")
        assert cursor.fetchone() == (42,)


def test_connections_do_not_see_each_others_state(connect: Any) -> None:
    """Temporary tables and settings belong to one session."""
    with (
        connect(username="ada", password="x").cursor() as mine,
        connect(username="ada", password="x").cursor() as other,
    ):
        mine.execute("CREATE TEMP TABLE mine AS SELECT 42 AS n")
        with pytest.raises(adbc.ProgrammingError, match=r"TABLE_NOT_FOUND"):
            other.execute("SELECT n FROM mine")


def test_close_rolls_back(connect: Any, client: ducktower.FlightClient, server: ducktower.FlightServer) -> None:
    """What was not committed is gone with the connection, and its session too: its rows are anybody's at once."""
    client.execute("CREATE TABLE t AS SELECT 0 AS n")
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE t SET n = 1")
    assert [one["in_transaction"] for one in server.engine.sessions.describe()] == [True]
    connection.close()
    assert server.engine.sessions.describe() == []
    other = connect(autocommit=False)
    with other.cursor() as cursor:
        cursor.execute("UPDATE t SET n = n + 10")  # a conflict, were the first transaction still open
        other.commit()
    assert client.query("SELECT n FROM t")["n"].to_pylist() == [10]


def test_a_closed_session_is_refused(server: ducktower.FlightServer) -> None:
    """Its token answers UNAUTHENTICATED from then on; a cookie is taken away, so that the next call begins anew."""
    with RawFlightSql(server.url, keep_cookies=True) as one:
        one.update("CREATE TEMP TABLE mine AS SELECT 42 AS n")
        token = one.headers.send["cookie"]
        assert one.query("SELECT n FROM mine").to_pylist() == [{"n": 42}]
        assert one.close_session() == 1
        with pytest.raises(flight.FlightUnauthenticatedError, match=r"UNAUTHENTICATED.*closed"):
            one.query("SELECT 1")
        assert one.headers.send["cookie"] != token
    bearer = "Bearer " + token.partition("=")[2]
    with (
        RawFlightSql(server.url, authorization=bearer) as other,
        pytest.raises(flight.FlightUnauthenticatedError, match=r"UNAUTHENTICATED.*closed"),
    ):
        other.query("SELECT 1")


def test_an_idle_session_expires(database: Path) -> None:
    """Its transaction is rolled back, its token refused."""
    with ducktower.serve(str(database), session_idle_seconds=1.0) as server, RawFlightSql(server.url) as raw:
        credentials = base64.b64encode(b"ada:secret").decode()
        raw.headers.send["authorization"] = f"Basic {credentials}"
        raw.begin()
        raw.headers.send["authorization"] = raw.headers.received["authorization"][0]
        assert raw.query("SELECT 1 AS n").num_rows == 1
        until(lambda: not server.engine.sessions.describe(), "the session's end", seconds=30)
        with pytest.raises(flight.FlightUnauthenticatedError, match=r"UNAUTHENTICATED.*idle"):
            raw.query("SELECT 1")


def test_what_a_session_that_is_over_held_can_be_closed(database: Path) -> None:
    """The driver's cursors and connection close without an error, all else is refused, a stranger's close too."""
    with ducktower.serve(str(database), session_idle_seconds=1.0) as server:
        with (
            adbc.connect(server.url, autocommit=True) as connection,
            connection.cursor() as one,
            connection.cursor() as other,
        ):
            one.execute("SELECT 1")
            other.execute("SELECT 1")
            until(lambda: not server.engine.sessions.describe(), "the session's end", seconds=30)
            with pytest.raises(adbc_driver_manager.ProgrammingError, match=r"UNAUTHENTICATED.*idle"):
                other.execute("SELECT 2")
        with (
            RawFlightSql(server.url, authorization="Bearer ducktower.e30.forged") as raw,
            pytest.raises(flight.FlightUnauthenticatedError, match="UNAUTHENTICATED"),
        ):
            raw.close_prepared(b"x")


def test_sessions_of_clients_without_memory_end_with_their_last_result(
    raw_sql: RawFlightSql, server: ducktower.FlightServer
) -> None:
    """While a large result is still to be read the session stays; then nobody can ever come back to it."""
    large = m.CommandStatementQuery(query="FROM range(10_000_000)")
    infos = [raw_sql.info(large), raw_sql.info(large), raw_sql.info(large)]
    assert len(server.engine.sessions.describe()) == 3
    assert raw_sql.fetch(infos[0]).num_rows == 10_000_000
    raw_sql.cancel(infos[1])
    until(lambda: len(server.engine.sessions.describe()) == 1, "the end of two sessions")
    raw_sql.flight.do_get(infos[2].endpoints[0].ticket).read_chunk()  # and no more
    until(lambda: not server.engine.sessions.describe(), "the end of the third")


def test_a_session_whose_token_was_shown_outlives_its_results(server: ducktower.FlightServer) -> None:
    """Its client comes back."""
    with RawFlightSql(server.url, keep_cookies=True) as one, RawFlightSql(server.url) as forgetful:
        info = one.info(m.CommandStatementQuery(query="FROM range(10_000_000)"))
        other = forgetful.info(m.CommandStatementQuery(query="FROM range(10_000_000)"))
        one.query("SELECT 1")
        one.fetch(info)
        forgetful.fetch(other)
        until(lambda: len(server.engine.sessions.describe()) == 1, "the end of the other session")
        assert one.close_session() == f.CloseSessionResult.CLOSED


def test_sessions_are_bounded(database: Path) -> None:
    """One too many is refused while connecting, and there is room again after a close."""
    user = {"username": "ada", "password": "x"}
    with ducktower.serve(str(database), sessions_max=2) as server, flight.connect(server.url) as plain:
        with adbc.connect(server.url, db_kwargs=user, autocommit=True):
            plain.authenticate_basic_token("bob", "x")
            with pytest.raises(flight.FlightUnavailableError, match=r"OVERLOADED"):
                plain.authenticate_basic_token("eve", "x")
        with adbc.connect(server.url, db_kwargs=user, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("SELECT 1")


def test_sessions_that_hold_nothing_make_room(database: Path) -> None:
    """Clients that never end theirs keep nobody out; who comes back goes on, and who holds something is left alone."""
    with (
        ducktower.serve(str(database), sessions_max=2, session_spared_seconds=0.000_001) as server,
        RawFlightSql(server.url) as holding,
        RawFlightSql(server.url) as silent,
        flight.connect(server.url) as plain,
    ):
        for client in (holding, silent):
            name, value = client.flight.authenticate_basic_token("ada", "x")
            client.headers.send[name.decode()] = value.decode()
        holding.update("CREATE TEMP TABLE mine AS SELECT 42 AS n")
        for _ in range(5):
            plain.authenticate_basic_token("bob", "x")
        assert holding.query("SELECT n FROM mine")["n"].to_pylist() == [42]
        assert silent.query("SELECT 1 AS n")["n"].to_pylist() == [1]
        silent.begin()
        with pytest.raises(flight.FlightUnavailableError, match=r"OVERLOADED"):
            plain.authenticate_basic_token("eve", "x")


LONG_NAME = "Basic " + base64.b64encode(b"x" * 300 + b":p").decode()


@pytest.mark.parametrize("sent", ["Basic !!!", "Basic " + base64.b64encode(b"nocolon").decode(), "Digest x", LONG_NAME])
def test_credentials_that_cannot_be_read_are_refused(server: ducktower.FlightServer, sent: str) -> None:
    """With UNAUTHENTICATED."""
    with RawFlightSql(server.url, authorization=sent) as raw, pytest.raises(flight.FlightUnauthenticatedError):
        raw.query("SELECT 1")


@pytest.mark.parametrize("change", [lambda t: t[:-2] + "xx", lambda t: t.replace(".", "..", 1), lambda t: t + "."])
def test_a_token_that_was_tampered_with_is_refused(server: ducktower.FlightServer, change: Any) -> None:
    """A session cannot be guessed or made up."""
    with RawFlightSql(server.url) as raw:
        raw.query("SELECT 1")
        token = raw.headers.received["authorization"][0]
        raw.headers.send["authorization"] = change(token)
        with pytest.raises(flight.FlightUnauthenticatedError, match=r"UNAUTHENTICATED"):
            raw.query("SELECT 1")


def test_a_session_of_an_earlier_server_is_refused(database: Path) -> None:
    """It is said that the server was started anew, so that nobody believes to be in a transaction still."""
    with ducktower.serve(str(database)) as server, RawFlightSql(server.url) as raw:
        raw.query("SELECT 1")
        token = raw.headers.received["authorization"][0]
    with (
        ducktower.serve(str(database)) as server,
        RawFlightSql(server.url, authorization=token) as raw,
        pytest.raises(flight.FlightUnauthenticatedError, match=r"started anew"),
    ):
        raw.query("SELECT 1")


def test_a_client_without_memory_leaves_no_sessions(server: ducktower.FlightServer, raw_sql: RawFlightSql) -> None:
    """One that shows neither cookie nor token can use handles and ids; when the last one ended, so did the session."""
    for n in range(20):
        assert raw_sql.query(f"SELECT {n} AS n")["n"].to_pylist() == [n]
    assert server.engine.sessions.describe() == []
    raw_sql.update("CREATE TABLE t (n INTEGER)")
    transaction = raw_sql.begin()
    assert raw_sql.update("INSERT INTO t VALUES (1), (2)", transaction) == 2
    assert raw_sql.query("SELECT count(*) AS n FROM t", transaction)["n"].to_pylist() == [2]
    assert raw_sql.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]
    raw_sql.end(transaction)
    assert raw_sql.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [2]
    prepared = raw_sql.prepare("SELECT 1")
    assert len(server.engine.sessions.describe()) == 1
    raw_sql.close_prepared(prepared.prepared_statement_handle)
    assert server.engine.sessions.describe() == []


def test_handles_of_another_principal_are_unknown(server: ducktower.FlightServer) -> None:
    """A handle or id is worth nothing in other hands."""
    ada, bob = (f"Basic {base64.b64encode(name).decode()}" for name in (b"ada:x", b"bob:x"))
    with RawFlightSql(server.url, authorization=ada) as mine, RawFlightSql(server.url, authorization=bob) as other:
        transaction = mine.begin()
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*unknown"):
            other.update("CREATE TABLE t (n INTEGER)", transaction)
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*unknown"):
            other.end(transaction)
        info = mine.info(m.CommandStatementQuery(query="SELECT 1 AS n"))
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*ticket"):
            other.fetch(info)
        assert mine.fetch(info).num_rows == 1
        mine.end(transaction)


def test_an_operator_sees_sessions(connect: Any, client: ducktower.FlightClient, raw: flight.FlightClient) -> None:
    """The action `sessions` names them beside the calls that run."""
    client.execute("CREATE TABLE t (n INTEGER)")
    with connect(autocommit=False, username="ada", password="x").cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (1)")
        (answer,) = raw.do_action(flight.Action("sessions", b""))
        (session,) = json.loads(answer.body.to_pybytes())["flight_sql"]
        assert (session["principal"], session["in_transaction"]) == ("ada", True)


def test_a_closed_server_leaves_no_thread(database: Path) -> None:
    """With sessions, transactions and results open, closing the server ends them all."""
    before = set(threading.enumerate())
    with ducktower.serve(str(database)) as server, RawFlightSql(server.url) as raw:
        raw.update("CREATE TABLE t (n INTEGER)")
        raw.update("INSERT INTO t VALUES (1)", raw.begin())
        raw.prepare("SELECT 1")
        raw.info(m.CommandStatementQuery(query="SELECT * FROM range(10_000_000)"))
    until(lambda: set(threading.enumerate()) <= before, "the end of every thread")
    with ducktower.serve(str(database)) as server, RawFlightSql(server.url) as raw:
        assert raw.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]


QUIET = """
import ducktower
import pyarrow.flight as flight

server = ducktower.serve()
client = flight.connect(server.url)
try:
    client.do_get(flight.Ticket(b"SELECT nosuch")).read_all()
except Exception as error:
    assert "INVALID_SQL" in str(error)
client.close()
server.close()
"""


def test_a_program_that_served_ends_quietly(tmp_path: Path) -> None:
    """Also when a call failed, nothing of the database is left to Python's end, where it would be complained of."""
    done = subprocess.run([sys.executable, "-c", QUIET], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
