"""Exactly once by Flight SQL: headers name a write, which takes effect once however often a driver sends it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql

HEADER = "adbc.flight.sql.rpc.call_header.x-ducktower-"


def name(cursor: Any, writer: str, sequence: int) -> None:
    """Name the cursor's next write; a driver adds values, so the last ones are taken back."""
    for header, value in (("writer", writer), ("sequence", str(sequence))):
        cursor.adbc_statement.set_options(**{HEADER + header: ""})
        cursor.adbc_statement.set_options(**{HEADER + header: value})


@pytest.fixture
def table(client: ducktower.FlightClient) -> ducktower.FlightClient:
    """Make the table and return the client."""
    client.execute("CREATE TABLE t (i BIGINT, v VARCHAR)")
    return client


@pytest.fixture
def writing(connect: Any) -> Callable[[int, Any], list[Any]]:
    """Return a function that runs something with a cursor twice, under one name, and gives both outcomes."""
    connection = connect()

    def twice(sequence: int, run: Any) -> list[Any]:
        outcomes = []
        for _ in range(2):
            with connection.cursor() as cursor:
                name(cursor, "w", sequence)
                outcomes.append(run(cursor))
        return outcomes

    return twice


def executed(sql: str, parameters: Any = None) -> Any:
    """Return what runs a statement and gives the rows that it changed."""

    def run(cursor: Any) -> int:
        cursor.execute(sql, parameters)
        return int(cursor.rowcount)

    return run


def count(client: ducktower.FlightClient) -> int:
    """Return the number of rows."""
    return int(client.query("SELECT count(*) AS n FROM t")["n"][0].as_py())


class TestRepeats:
    """A repeat is answered with the first rows and changes nothing."""

    def test_statements(self, writing: Any, table: ducktower.FlightClient) -> None:
        """Plain INSERTs, which share commits with everybody's, and statements with a transaction of their own."""
        runs = [
            (executed("INSERT INTO t VALUES (1, 'a'), (2, 'b')"), 2),
            (executed("INSERT INTO t VALUES (?, ?)", (3, "c")), 1),
            (executed("INSERT INTO t SELECT i + 10, v FROM t"), 3),
            (executed("UPDATE t SET v = v || ? WHERE i > ?", ("!", 2)), 4),
            (executed("CREATE TABLE made AS FROM t"), 6),
            (executed("DROP TABLE made"), -1),
        ]
        for sequence, (run, rows) in enumerate(runs, start=1):
            assert writing(sequence, run) == [rows, rows]
        assert table.query("SELECT string_agg(v, ' ' ORDER BY i) AS v FROM t")["v"][0].as_py() == "a b c! a! b! c!"
        assert table.writer("w")[:2] == (6, 16)

    @pytest.mark.parametrize("rows", [0, 1, 30_000])
    @pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (?, ?)", "INSERT INTO t SELECT ?, ? || '!'"])
    def test_many_parameters(self, writing: Any, table: ducktower.FlightClient, sql: str, rows: int) -> None:
        """All rows of parameters are one write, whether they are stored as one Arrow table or one by one."""
        rows = min(rows, 300) if "SELECT" in sql else rows
        data = pa.table({"1": pa.array(range(rows), pa.int64()), "2": pa.array(["v"] * rows, pa.string())})

        def run(cursor: Any) -> int:
            cursor.executemany(sql, data)
            return int(cursor.rowcount)

        assert writing(1, run) == [rows, rows]
        assert count(table) == rows
        assert table.writer("w")[:2] == (1, rows)

    @pytest.mark.parametrize("mode", ["append", "create", "replace", "create_append"])
    @pytest.mark.parametrize("rows", [1, 300_000])
    def test_ingest(self, writing: Any, table: ducktower.FlightClient, mode: str, rows: int) -> None:
        """Bulk ingest, small and large, also when its repeat meets the table that it made."""
        if mode != "append":
            table.execute("DROP TABLE t")
        if mode == "replace":
            table.execute("CREATE TABLE t (other BIGINT)")
        data = pa.table({"i": pa.array(range(rows), pa.int64()), "v": ["v"] * rows})
        assert writing(1, lambda cursor: cursor.adbc_ingest("t", data, mode=mode)) == [rows, rows]
        assert count(table) == rows

    def test_without_preparing(self, raw_sql: RawFlightSql, table: ducktower.FlightClient) -> None:
        """CommandStatementUpdate has headers, too; a script is one write."""
        raw_sql.headers.send |= {"x-ducktower-writer": "w", "x-ducktower-sequence": "1"}
        script = m.CommandStatementUpdate(query="INSERT INTO t VALUES (1, 'a'); UPDATE t SET v = v || '!'")
        first = raw_sql.put(script)
        assert raw_sql.put(script) == first
        assert table.query("FROM t").to_pylist() == [{"i": 1, "v": "a!"}]
        raw_sql.headers.send["x-ducktower-sequence"] = "2"
        plain = m.CommandStatementUpdate(query="INSERT INTO t VALUES (2, 'b')")
        assert raw_sql.put(plain) == raw_sql.put(plain)
        assert count(table) == 2

    def test_whichever_way_it_is_stored(self, connect: Any, table: ducktower.FlightClient) -> None:
        """A plain INSERT that is repeated when its table is another one gets the first answer, too."""
        with connect().cursor() as cursor:
            name(cursor, "w", 1)
            cursor.execute("INSERT INTO t VALUES (?, ?)", (1, "a"))
            table.execute("DROP TABLE t; CREATE TABLE other (i BIGINT)")
            cursor.execute("INSERT INTO t VALUES (?, ?)", (1, "a"))
            assert cursor.rowcount == 1
            with pytest.raises(adbc.ProgrammingError, match="other content"):
                cursor.execute("INSERT INTO t VALUES (?, ?)", (1, "b"))


class TestRefusals:
    """What would not be exactly once says so, and stores nothing."""

    def test_gap_and_other_content(self, connect: Any, table: ducktower.FlightClient) -> None:
        """As everywhere."""
        with connect().cursor() as cursor:
            for sequence, value, refusal in ((1, 1, ""), (1, 2, "other content"), (3, 3, "2 comes next"), (2, 2, "")):
                name(cursor, "w", sequence)
                if refusal:
                    with pytest.raises(adbc.ProgrammingError, match=refusal):
                        cursor.execute("INSERT INTO t VALUES (?, 'v')", (value,))
                else:
                    cursor.execute("INSERT INTO t VALUES (?, 'v')", (value,))
        assert count(table) == 2

    @pytest.mark.parametrize("sql", ["SELECT 1", "INSERT INTO t VALUES (1, 'a') RETURNING i"])
    def test_what_returns_rows(self, connect: Any, table: ducktower.FlightClient, sql: str) -> None:
        """A query, and RETURNING."""
        with connect().cursor() as cursor:
            name(cursor, "w", 1)
            with pytest.raises(adbc.ProgrammingError, match="asks for rows"):
                cursor.execute(sql)
        assert count(table) == 0

    def test_in_a_transaction(self, connect: Any, table: ducktower.FlightClient) -> None:
        """An open transaction is the client's; the ledger's row would wait for its COMMIT."""
        connection = connect(autocommit=False)
        data = pa.table({"i": [1], "v": ["a"]})
        with connection.cursor() as cursor:
            name(cursor, "w", 1)
            with pytest.raises(adbc.ProgrammingError, match="turn autocommit on"):
                cursor.execute("INSERT INTO t VALUES (1, 'a')")
            with pytest.raises(adbc.ProgrammingError, match="turn autocommit on"):
                cursor.adbc_ingest("t", data, mode="append")
        connection.adbc_connection.set_autocommit(True)
        with connection.cursor() as cursor:
            name(cursor, "w", 1)
            cursor.execute("INSERT INTO t VALUES (1, 'a')")
        assert count(table) == 1

    def test_in_a_session_with_state(self, connect: Any, table: ducktower.FlightClient) -> None:
        """Temporary tables and settings end with the session, so nothing that may need them is repeatable."""
        connection = connect(username="ada", password="any")  # its session begins with Handshake
        with connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE t2 (i BIGINT, v VARCHAR)")
            name(cursor, "w", 1)
            with pytest.raises(adbc.ProgrammingError, match="without temporary tables"):
                cursor.execute("INSERT INTO t2 VALUES (1, 'a')")
        with connect().cursor() as cursor:
            name(cursor, "w", 1)
            with pytest.raises(adbc.ProgrammingError, match="cannot have a writer"):
                cursor.execute("CREATE TEMP TABLE t3 (i BIGINT)")
            with pytest.raises(adbc.ProgrammingError, match="temporary table cannot have a writer"):
                cursor.adbc_ingest("t3", pa.table({"i": [1]}), mode="create", temporary=True)
        assert table.writer("w").sequence == 0

    @pytest.mark.parametrize(
        ("headers", "refusal"),
        [
            ([("writer", "w")], "belong together"),
            ([("sequence", "1")], "belong together"),
            ([("writer", ""), ("sequence", "1")], "must not be empty"),
            ([("writer", "w"), ("sequence", "0")], "from 1"),
            ([("writer", "w"), ("sequence", "-1")], "from 1"),
            ([("writer", "w"), ("sequence", "1.0")], "from 1"),
            ([("writer", "w"), ("sequence", "9" * 30)], "from 1"),
            ([("writer", "w"), ("sequence", "0" * 12 + "8" + "1" * 30)], "from 1"),
            ([("writer", "w"), ("sequence", "0" * 15 + "1" * 5_000)], "from 1"),
            ([("writer", "w"), ("sequence", str(2**63))], "from 1"),
            ([("writer", "w"), ("sequence", "1"), ("sequence", "2")], "came 2 times"),
            ([("writer", "w" * 256), ("sequence", "1")], "1 to 255 characters"),
        ],
    )
    def test_headers(
        self,
        server: ducktower.FlightServer,
        table: ducktower.FlightClient,
        headers: list[tuple[str, str]],
        refusal: str,
    ) -> None:
        """Half a name, no number, a number too many."""
        options = flight.FlightCallOptions(
            headers=[(f"x-ducktower-{header}".encode(), value.encode()) for header, value in headers]
        )
        command = m.CommandStatementUpdate(query="INSERT INTO t VALUES (1, 'a')")
        with RawFlightSql(server.url) as raw, pytest.raises(pa.ArrowInvalid, match=refusal):
            raw.put(command, options=options)
        assert count(table) == 0

    def test_plain_flight(self, server: ducktower.FlightServer, table: ducktower.FlightClient) -> None:
        """There the command names the write: headers would go unheard."""
        options = flight.FlightCallOptions(headers=[(b"x-ducktower-writer", b"w"), (b"x-ducktower-sequence", b"1")])
        with flight.connect(server.url) as raw:
            action = flight.Action("execute", b"INSERT INTO t VALUES (1, 'a')")
            with pytest.raises(pa.ArrowInvalid, match="fields of the command"):
                list(raw.do_action(action, options))
            writer, _ = raw.do_put(flight.FlightDescriptor.for_path("t"), pa.schema([("i", pa.int64())]), options)
            with pytest.raises(pa.ArrowInvalid, match="fields of the command"):
                writer.close()
        assert count(table) == 0
