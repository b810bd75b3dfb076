"""Statements that write, without bulk ingest: counts, DDL, RETURNING, scripts, prepared statements."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql


@pytest.fixture
def table(client: ducktower.FlightClient) -> str:
    """Make a table of two columns."""
    client.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v VARCHAR)")
    return "t"


def rows_of(client: ducktower.FlightClient, table: str = "t") -> list[tuple[Any, ...]]:
    """Return all rows, in order."""
    return [tuple(row.values()) for row in client.query(f"SELECT * FROM {table} ORDER BY ALL").to_pylist()]


# -- statements as text ------------------------------------------------------------------------------------


def test_row_counts_are_right(cursor: Any, table: str) -> None:
    """INSERT, UPDATE, DELETE, MERGE; DDL counts nothing."""
    counts = []
    for sql in (
        "INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')",
        "UPDATE t SET v = 'x' WHERE id > 1",
        "DELETE FROM t WHERE id = 9",
        "DELETE FROM t WHERE id = 1",
        "MERGE INTO t USING (VALUES (2, 'm'), (7, 'n')) s(id, v) ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET v = s.v WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)",
        "CREATE TABLE other (n INTEGER)",
        "DROP TABLE other",
    ):
        cursor.execute(sql)
        counts.append(cursor.rowcount)
    assert counts == [3, 2, 0, 1, 2, -1, -1]


def test_returning_gives_its_rows(cursor: Any, table: str, client: ducktower.FlightClient) -> None:
    """Of INSERT, UPDATE and DELETE; stored once."""
    cursor.execute("INSERT INTO t VALUES (1, 'a'), (2, 'b') RETURNING id, upper(v) AS v")
    assert cursor.fetchall() == [(1, "A"), (2, "B")]
    cursor.execute("UPDATE t SET v = 'z' WHERE id = ? RETURNING v", (2,))
    assert cursor.fetchall() == [("z",)]
    cursor.execute("DELETE FROM t WHERE id = 1 RETURNING *")
    assert cursor.fetchall() == [(1, "a")]
    assert rows_of(client) == [(2, "z")]


def test_dml_that_comes_as_a_query_runs_once(raw_sql: RawFlightSql, table: str, client: ducktower.FlightClient) -> None:
    """It runs in GetFlightInfo, says its count there, and its stream is empty."""
    info = raw_sql.info(m.CommandStatementQuery(query="INSERT INTO t VALUES (1, 'a'), (2, 'b')"))
    assert info.total_records == 2
    assert rows_of(client) == [(1, "a"), (2, "b")]
    assert raw_sql.fetch(info).num_rows == 0
    assert rows_of(client) == [(1, "a"), (2, "b")]


def test_updates_as_text(raw_sql: RawFlightSql, table: str) -> None:
    """DoPut with CommandStatementUpdate answers the count, also when no Arrow data comes along."""
    assert raw_sql.update("INSERT INTO t VALUES (1, 'a'), (2, 'b')") == 2
    assert raw_sql.update("UPDATE t SET v = 'y'") == 2


def test_a_script_runs_whole_or_not_at_all(cursor: Any, table: str, client: ducktower.FlightClient) -> None:
    """`executescript` takes several statements; one that fails takes the others with it."""
    cursor.executescript("INSERT INTO t VALUES (1, 'a'); INSERT INTO t VALUES (2, 'b'); UPDATE t SET v = v || '!'")
    assert rows_of(client) == [(1, "a!"), (2, "b!")]
    with pytest.raises(adbc.Error, match=r"CONSTRAINT_VIOLATION"):
        cursor.executescript("INSERT INTO t VALUES (3, 'c'); INSERT INTO t VALUES (1, 'again')")
    assert rows_of(client) == [(1, "a!"), (2, "b!")]


def test_a_script_by_execute(cursor: Any, table: str) -> None:
    """The answer is that of the last statement."""
    cursor.execute("INSERT INTO t VALUES (1, 'a'); SELECT v FROM t")
    assert cursor.fetchall() == [("a",)]


def test_an_error_keeps_its_code(cursor: Any, table: str) -> None:
    """ADBC's exception classes follow the status, and our code is in the text."""
    for sql, kind, code in (
        ("INSERT INTO t VALUES (1, 'a'), (1, 'b')", adbc.ProgrammingError, "CONSTRAINT_VIOLATION"),
        ("INSERT INTO nosuch VALUES (1)", adbc.ProgrammingError, "TABLE_NOT_FOUND"),
        ("CREATE TABLE t (n INTEGER)", adbc.ProgrammingError, "TABLE_EXISTS"),
        ("INSERT INTO t VALUES ('x', 'a')", adbc.ProgrammingError, "SCHEMA_MISMATCH"),
        ("COPY t TO '/tmp/x.csv'", adbc.ProgrammingError, "FORBIDDEN"),
        ("SELEC", adbc.ProgrammingError, "INVALID_SQL"),
    ):
        with pytest.raises(kind, match=rf"\[{code}\]") as caught:
            cursor.execute(sql)
        assert "Traceback" not in str(caught.value)


# -- prepared ----------------------------------------------------------------------------------------------


def test_what_preparing_tells(raw_sql: RawFlightSql, table: str) -> None:
    """Result schema, parameter schema with types, and whether it is an update."""
    asked = raw_sql.prepare("SELECT id, v FROM t WHERE id = ? AND v LIKE ?")
    assert pa.ipc.read_schema(pa.py_buffer(asked.dataset_schema)).names == ["id", "v"]
    assert pa.ipc.read_schema(pa.py_buffer(asked.parameter_schema)).types == [pa.int32(), pa.string()]
    assert asked.is_update is False
    written = raw_sql.prepare("INSERT INTO t VALUES (?, ?)")
    assert pa.ipc.read_schema(pa.py_buffer(written.parameter_schema)).types == [pa.int32(), pa.string()]
    assert (written.dataset_schema, written.is_update) == (b"", True)
    for untold in ("UPDATE t SET v = v || ?", "DELETE FROM t WHERE v || ? = 'x'", "INSERT INTO t SELECT 1, ? || 'x'"):
        written = raw_sql.prepare(untold)  # DuckDB cannot tell the parameter's type
        assert (written.dataset_schema, written.is_update) == (b"", True)
    returning = raw_sql.prepare("INSERT INTO t VALUES (1, 'x') RETURNING id")
    assert pa.ipc.read_schema(pa.py_buffer(returning.dataset_schema)).names == ["id"]
    assert (returning.parameter_schema, returning.is_update) == (b"", False)
    plain = raw_sql.prepare("SELECT 1")
    assert plain.parameter_schema == b""


def test_the_parameter_schema_by_the_driver(cursor: Any, table: str) -> None:
    """`adbc_prepare` returns it."""
    assert cursor.adbc_prepare("SELECT * FROM t WHERE id > ? AND v = ?").types == [pa.int32(), pa.string()]
    assert cursor.adbc_prepare("SELECT 1") in (None, pa.schema([]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        42,
        2**62,
        1.5,
        "päron",
        "",
        b"\x00\xff",
        date(2026, 11, 24),
        datetime(2026, 11, 24, 12, 0, 0, 123456),
        datetime(2026, 11, 24, 12, 0, tzinfo=UTC),
        Decimal("12.34"),
        [1, 2, 3],
    ],
    ids=repr,
)
def test_bound_values_come_back(cursor: Any, value: Any) -> None:
    """A parameter of each type that Python has for it."""
    cursor.execute("SELECT ? AS v", (value,))
    assert cursor.fetchone() == (value,)


def test_a_query_is_bound_anew_each_time(cursor: Any, table: str) -> None:
    """The same prepared statement with other values."""
    cursor.execute("INSERT INTO t SELECT i, 'v' || i FROM range(10) r(i)")
    sql = "SELECT v FROM t WHERE id = ?"
    assert [(cursor.execute(sql, (n,)), cursor.fetchone())[1] for n in (3, 7, 99)] == [("v3",), ("v7",), None]


def test_update_with_parameters(cursor: Any, table: str, client: ducktower.FlightClient) -> None:
    """One row of parameters, or many for `executemany`, an UPDATE and a DELETE too."""
    cursor.execute("INSERT INTO t VALUES (?, ?)", (1, "a"))
    assert cursor.rowcount == 1
    cursor.executemany("INSERT INTO t VALUES (?, ?)", [(2, "b"), (3, "c")])
    assert cursor.rowcount == 2
    cursor.executemany("UPDATE t SET v = ? WHERE id = ?", [("x", 1), ("y", 2)])
    assert rows_of(client) == [(1, "x"), (2, "y"), (3, "c")]
    cursor.executemany("DELETE FROM t WHERE id = ?", [(1,), (3,), (9,)])
    assert rows_of(client) == [(2, "y")]


def test_executemany_of_a_hundred_thousand_rows(cursor: Any, client: ducktower.FlightClient) -> None:
    """All of them or none: a duplicate at the end leaves the table as it was."""
    client.execute("CREATE TABLE big (id BIGINT PRIMARY KEY, v VARCHAR)")
    rows = pa.table({"id": pa.array(range(100_000)), "v": pa.array([f"v{i}" for i in range(100_000)])})
    before = client.statistics()
    cursor.executemany("INSERT INTO big VALUES (?, ?)", rows)
    assert cursor.rowcount == 100_000
    after = client.statistics()
    # One Arrow insert, with a transaction of its own: rows that run as statements are not counted by the engine.
    assert {name: after[name] - before[name] for name in ("commits", "rows", "group_writes", "groups")} == {
        "commits": 1,
        "rows": 100_000,
        "group_writes": 0,
        "groups": 0,
    }
    few = pa.table({"id": pa.array(range(-1_000, 0)), "v": pa.array(["few"] * 1_000)})
    cursor.executemany("INSERT INTO big VALUES (?, ?)", few)
    again = client.statistics()
    assert [again[name] - after[name] for name in ("rows", "group_writes", "groups")] == [1_000, 1, 1]
    cursor.execute("DELETE FROM big WHERE id < 0")
    again = pa.table({"id": [100_001, 5], "v": ["new", "duplicate"]})
    with pytest.raises(adbc.Error, match=r"CONSTRAINT_VIOLATION"):
        cursor.executemany("INSERT INTO big VALUES (?, ?)", again)
    assert client.query("SELECT count(*) AS n, max(id) AS m FROM big").to_pylist() == [{"n": 100_000, "m": 99_999}]


@pytest.mark.parametrize("autocommit", [True, False])
def test_executemany_is_one_insert_within_a_transaction_too(
    connect: Any, client: ducktower.FlightClient, autocommit: bool
) -> None:
    """A column keeps the statement that stored its row: a loop would run the one that was given."""
    client.execute("CREATE TABLE big (id BIGINT, v VARCHAR, ran VARCHAR DEFAULT current_query())")
    rows = pa.table({"id": pa.array(range(100_000)), "v": pa.array([f"v{i}" for i in range(100_000)])})
    sql = "INSERT INTO big (id, v) VALUES (?, ?)"
    connection = connect(autocommit=autocommit)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO big (id, v) VALUES (?, upper(?))", (-1, "x"))
        cursor.executemany(sql, rows)
        assert cursor.rowcount == 100_000
        if not autocommit:
            assert client.query("SELECT count(*) AS n FROM big").to_pylist() == [{"n": 0}]
            connection.commit()
    asked = "SELECT count(*) AS n, count(DISTINCT ran) AS ran, bool_or(ran LIKE '%VALUES%') AS loop FROM big WHERE id "
    assert client.query(asked + ">= 0").to_pylist() == [{"n": 100_000, "ran": 1, "loop": False}]
    assert client.query(asked + "< 0").to_pylist() == [{"n": 1, "ran": 1, "loop": True}]


def test_executemany_without_rows(cursor: Any, table: str, client: ducktower.FlightClient) -> None:
    """Stores nothing and counts nothing."""
    cursor.executemany(
        "INSERT INTO t VALUES (?, ?)", pa.table({"0": pa.array([], pa.int32()), "1": pa.array([], pa.string())})
    )
    assert rows_of(client) == []


@pytest.mark.parametrize("parameters", [(1,), (1, "a", 3), ("notanumber", "a")])
def test_parameters_that_do_not_fit_are_refused(cursor: Any, table: str, parameters: tuple[Any, ...]) -> None:
    """Too few, too many, or of another type: one clear error, nothing stored."""
    with pytest.raises(adbc.Error, match=r"\[(INVALID_SQL|INVALID_ARGUMENT|SCHEMA_MISMATCH)\]"):
        cursor.execute("INSERT INTO t VALUES (?, ?)", parameters)
    cursor.execute("SELECT count(*) FROM t")
    assert cursor.fetchone() == (0,)


def test_a_prepared_statement_outlives_a_commit(connect: Any, table: str, client: ducktower.FlightClient) -> None:
    """Its handle was made within a transaction that is over: it runs in the session's current one."""
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO t VALUES (?, ?)", (1, "a"))
        connection.commit()
        cursor.execute("INSERT INTO t VALUES (?, ?)", (2, "b"))
        assert rows_of(client) == [(1, "a")]
        connection.commit()
    assert rows_of(client) == [(1, "a"), (2, "b")]


def test_closing_twice_is_harmless(raw_sql: RawFlightSql) -> None:
    """And a handle that is closed is refused afterwards."""
    prepared = raw_sql.prepare("SELECT 1")
    raw_sql.close_prepared(prepared.prepared_statement_handle)
    raw_sql.close_prepared(prepared.prepared_statement_handle)
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
        raw_sql.ask(m.CommandPreparedStatementQuery(prepared_statement_handle=prepared.prepared_statement_handle))


def test_small_inserts_of_many_sessions_share_commits(connect: Any, table: str, server: ducktower.FlightServer) -> None:
    """Sixteen connections insert row by row: there are fewer commits than rows, and every row is there."""
    before = server.engine.statistics()
    connections = [connect() for _ in range(16)]
    start = threading.Barrier(16)

    def insert(number: int) -> None:
        with connections[number].cursor() as cursor:
            start.wait()
            for n in range(20):
                cursor.execute("INSERT INTO t VALUES (?, ?)", (number * 1000 + n, "x"))

    threads = [threading.Thread(target=insert, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    after = server.engine.statistics()
    assert after["group_writes"] - before["group_writes"] == 320
    assert after["groups"] - before["groups"] < 320
    with connections[0].cursor() as cursor:
        cursor.execute("SELECT count(*) FROM t")
        assert cursor.fetchone() == (320,)
