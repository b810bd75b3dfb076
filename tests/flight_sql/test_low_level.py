"""The ADBC driver's low level: what the DB-API never sends, statements as text above all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql
import adbc_driver_manager as manager
import pyarrow as pa
import pytest

import ducktower


@pytest.fixture
def connection(server: ducktower.FlightServer) -> Iterator[manager.AdbcConnection]:
    """Return an autocommitting connection."""
    with adbc_driver_flightsql.connect(server.url) as database, manager.AdbcConnection(database) as one:
        yield one


@pytest.fixture
def statement(connection: manager.AdbcConnection) -> Iterator[manager.AdbcStatement]:
    """Return a statement of it."""
    with manager.AdbcStatement(connection) as one:
        yield one


def table_of(executed: tuple[Any, int]) -> pa.Table:
    """Read a result."""
    with pa.RecordBatchReader._import_from_c(executed[0].address) as reader:
        return reader.read_all()


def schema_of(handle: Any) -> pa.Schema:
    """Read a schema."""
    return pa.Schema._import_from_c(handle.address)


def bind(statement: manager.AdbcStatement, table: pa.Table) -> None:
    """Bind all rows of a table."""
    handle = manager.ArrowArrayStreamHandle()
    table.to_reader()._export_to_c(handle.address)
    statement.bind_stream(handle)


def update(statement: manager.AdbcStatement, sql: str) -> int:
    """Run an update given as text."""
    statement.set_sql_query(sql)
    return int(statement.execute_update())


def test_a_query_as_text(statement: manager.AdbcStatement) -> None:
    """CommandStatementQuery: the result, its rows, its schema before."""
    statement.set_sql_query("SELECT i AS n, 'x' AS s FROM range(3) t(i)")
    assert schema_of(statement.execute_schema()).names == ["n", "s"]
    executed = statement.execute_query()
    assert executed[1] == 3
    assert table_of(executed)["n"].to_pylist() == [0, 1, 2]


def test_updates_as_text(statement: manager.AdbcStatement) -> None:
    """CommandStatementUpdate: counts, DDL, a script."""
    assert update(statement, "CREATE TABLE t (n INTEGER)") == -1
    assert update(statement, "INSERT INTO t VALUES (1), (2)") == 2
    assert update(statement, "INSERT INTO t VALUES (3); DELETE FROM t WHERE n > 1") == 2
    statement.set_sql_query("DELETE FROM t RETURNING n")
    assert table_of(statement.execute_query())["n"].to_pylist() == [1]


def test_dml_by_execute_query(statement: manager.AdbcStatement) -> None:
    """An INSERT that comes as a query is run once."""
    update(statement, "CREATE TABLE t (n INTEGER)")
    statement.set_sql_query("INSERT INTO t VALUES (1), (2)")
    executed = statement.execute_query()
    assert executed[1] == 2
    assert table_of(executed).num_rows == 0
    statement.set_sql_query("SELECT count(*) AS n FROM t")
    assert table_of(statement.execute_query())["n"].to_pylist() == [2]


def test_a_transaction_of_texts(connection: manager.AdbcConnection, client: ducktower.FlightClient) -> None:
    """Its id travels with each statement."""
    client.execute("CREATE TABLE t (n INTEGER)")
    connection.set_autocommit(False)
    with manager.AdbcStatement(connection) as statement:
        assert update(statement, "INSERT INTO t VALUES (1)") == 1
        assert client.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]
        statement.set_sql_query("SELECT count(*) AS n FROM t")
        assert table_of(statement.execute_query())["n"].to_pylist() == [1]
        connection.rollback()
        assert update(statement, "INSERT INTO t VALUES (2)") == 1
        connection.commit()
    assert client.query("SELECT n FROM t")["n"].to_pylist() == [2]


def test_many_rows_bound_to_a_query(statement: manager.AdbcStatement) -> None:
    """A query runs once for each row of parameters; the results follow each other."""
    statement.set_sql_query("SELECT ? * 2 AS n")
    statement.prepare()
    bind(statement, pa.table({"0": pa.array([1, 2, 3], pa.int64())}))
    assert table_of(statement.execute_query())["n"].to_pylist() == [2, 4, 6]


def test_prepared_and_run_again(statement: manager.AdbcStatement) -> None:
    """The parameters' types, and other values each time."""
    update(statement, "CREATE TABLE t (n INTEGER, v VARCHAR)")
    statement.set_sql_query("INSERT INTO t VALUES (?, ?)")
    statement.prepare()
    assert schema_of(statement.get_parameter_schema()).types == [pa.int32(), pa.string()]
    for rows in ([1, 2], [3]):
        bind(statement, pa.table({"0": pa.array(rows, pa.int32()), "1": ["x"] * len(rows)}))
        assert statement.execute_update() == len(rows)


def test_numbered_and_named_parameters(statement: manager.AdbcStatement) -> None:
    """$1 twice is one parameter; names are bound by name."""
    statement.set_sql_query("SELECT $2 AS b, $1 AS a, $1 + 1 AS c")
    statement.prepare()
    bind(statement, pa.table({"0": pa.array([10], pa.int64()), "1": ["x"]}))
    assert table_of(statement.execute_query()).to_pylist() == [{"b": "x", "a": 10, "c": 11}]
    statement.set_sql_query("SELECT $name AS v, $other AS w")
    statement.prepare()
    bind(statement, pa.table({"other": ["o"], "name": ["n"]}))
    assert table_of(statement.execute_query()).to_pylist() == [{"v": "n", "w": "o"}]


def test_an_unknown_option_is_the_drivers_business(connection: manager.AdbcConnection) -> None:
    """The server is not asked, and goes on."""
    with pytest.raises(manager.Error):
        connection.set_options(nosuch="x")
    with manager.AdbcStatement(connection) as statement:
        statement.set_sql_query("SELECT 1 AS n")
        assert table_of(statement.execute_query()).num_rows == 1
