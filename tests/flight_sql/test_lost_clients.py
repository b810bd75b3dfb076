"""Clients that die without a word: what they hold is let go of, and nobody else's session is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.server.connections import connected, endpoint
from support.flight_sql import RawFlightSql
from support.waiting import until

HOLDER = """
import sys, time
import adbc_driver_flightsql.dbapi as adbc

with adbc.connect(sys.argv[1]) as connection, connection.cursor() as cursor:
    cursor.execute("UPDATE t SET v = 99")
    print("holding", flush=True)
    time.sleep(600)
"""


def test_a_killed_client_blocks_nobody(database: Path) -> None:
    """Its transaction is rolled back soon, and its rows can be changed by others."""
    with ducktower.serve(str(database), client_lost_seconds=0.3) as server, ducktower.connect(server.url) as client:
        client.execute("CREATE TABLE t AS SELECT 1 AS id, 0 AS v")
        holder = subprocess.Popen([sys.executable, "-c", HOLDER, server.url], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == "holding"
            assert [one["in_transaction"] for one in server.engine.sessions.describe()] == [True]
        finally:
            holder.kill()
            holder.wait(60)
            if holder.stdout is not None:
                holder.stdout.close()
        client.execute("UPDATE t SET v = v + 1")  # waits for the rows, at most as long as conflicts are tried again
        assert client.query("SELECT v FROM t")["v"].to_pylist() == [1]
        assert server.engine.sessions.describe() == []


def test_a_client_that_is_only_silent_keeps_its_session(database: Path) -> None:
    """As long as its connection is there; one that comes back in time on another connection keeps it too."""
    with (
        ducktower.serve(str(database), client_lost_seconds=3600) as patient,
        RawFlightSql(patient.url, keep_cookies=True) as first,
    ):
        first.update("CREATE TEMP TABLE mine AS SELECT 42 AS n")
        cookie = first.headers.send["cookie"]
        with RawFlightSql(patient.url, keep_cookies=True) as second:
            second.headers.send["cookie"] = cookie
            assert second.query("SELECT n FROM mine")["n"].to_pylist() == [42]


def test_connected_clients_are_left_alone(database: Path) -> None:
    """A dead client's session is closed while that of a silent one, which is older, stays."""
    with (
        ducktower.serve(str(database), client_lost_seconds=0.3) as server,
        RawFlightSql(server.url, keep_cookies=True) as silent,
    ):
        silent.update("CREATE TEMP TABLE mine AS SELECT 42 AS n")
        holder = subprocess.Popen(
            [
                sys.executable,
                "-c",
                HOLDER.replace("UPDATE t SET v = 99", "CREATE TEMP TABLE x (n INTEGER)"),
                server.url,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == "holding"
            assert len(server.engine.sessions.describe()) == 2
        finally:
            holder.kill()
            holder.wait(60)
            if holder.stdout is not None:
                holder.stdout.close()
        until(lambda: len(server.engine.sessions.describe()) == 1, "the end of the dead client's session")
        assert silent.query("SELECT n FROM mine")["n"].to_pylist() == [42]


def test_a_killed_client_s_prepared_statements_go(database: Path) -> None:
    """They are held without a cursor, and past `sessions_max` they would keep others out."""
    with ducktower.serve(str(database), client_lost_seconds=0.3) as server:
        holding = HOLDER.replace('cursor.execute("UPDATE t SET v = 99")', 'cursor.adbc_prepare("SELECT ?")')
        holder = subprocess.Popen([sys.executable, "-c", holding, server.url], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline().strip() == "holding"
            assert len(server.engine.sessions.describe()) == 1
        finally:
            holder.kill()
            holder.wait(60)
            if holder.stdout is not None:
                holder.stdout.close()
        until(lambda: not server.engine.sessions.describe(), "the end of the session")


def test_a_session_in_which_something_runs_is_left_alone(database: Path) -> None:
    """A result that waits can be fetched over another connection, however long the first one is gone."""
    with ducktower.serve(str(database), client_lost_seconds=0.2) as server:
        with RawFlightSql(server.url, keep_cookies=True) as first:
            first.prepare("SELECT 1")
            info = first.info(m.CommandStatementQuery(query="SELECT range AS i FROM range(10_000_000)"))
        with RawFlightSql(server.url, keep_cookies=True) as idle:
            idle.prepare("SELECT 1")
        until(lambda: len(server.engine.sessions.describe()) == 1, "the end of the session in which nothing runs")
        with RawFlightSql(server.url) as second:
            assert second.fetch(info).num_rows == 10_000_000
        until(lambda: not server.engine.sessions.describe(), "the end of the other session")


def test_the_token_of_a_lost_session_is_refused(database: Path) -> None:
    """Whoever comes back too late is told."""
    with ducktower.serve(str(database), client_lost_seconds=0.2) as server:
        client = flight.FlightClient(server.url)
        with RawFlightSql(server.url, keep_cookies=True) as gone:
            gone.update("CREATE TEMP TABLE mine AS SELECT 42 AS n")
            cookie = gone.headers.send["cookie"]
        client.close()
        until(lambda: not server.engine.sessions.describe(), "the end of the session")
        with RawFlightSql(server.url) as late:
            late.headers.send["cookie"] = cookie
            with pytest.raises(flight.FlightUnauthenticatedError, match=r"UNAUTHENTICATED.*closed"):
                late.query("SELECT n FROM mine")


def test_what_gRPC_calls_a_client_is_found_among_the_connections(server: ducktower.FlightServer) -> None:  # noqa: N802
    """IPv4, IPv6 and mapped addresses are the same to both; what is no TCP connection is none."""
    assert endpoint("ipv4:127.0.0.1:50412") == ("127.0.0.1", 50412)
    assert endpoint("ipv6:%5B::1%5D:50412") == ("::1", 50412)
    assert endpoint("ipv6:%5B::ffff:10.0.0.1%5D:1") == ("10.0.0.1", 1)
    assert endpoint("unix:/tmp/x") is None
    with RawFlightSql(server.url) as raw:
        raw.flight.do_get(flight.Ticket(b"SELECT 1")).read_all()
        found = connected(server.port)
    assert found is not None
    assert {address for address, _ in found} == {"127.0.0.1"}
