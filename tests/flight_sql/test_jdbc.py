"""The calls of the Arrow Flight SQL JDBC driver, replayed by hand: the driver itself cannot be had here.

As its source has them (apache/arrow-java, flight-sql-jdbc-core): Basic credentials in a Handshake, then the bearer
token of its answer; cookies kept; everything prepared; parameters of the types that preparing told; `is_update`, or
an empty result schema, to tell updates from queries; BEGIN, COMMIT and ROLLBACK only as SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql


class Jdbc:
    """A connection as the driver has one."""

    def __init__(self, url: str, user: str | None = None, password: str = "", catalog: str | None = None) -> None:
        self.raw = RawFlightSql(url, keep_cookies=True)
        if user is not None:
            name, value = self.raw.flight.authenticate_basic_token(user, password)
            self.raw.headers.send[name.decode()] = value.decode()
        if catalog is not None:
            value = f.SessionOptionValue(string_value=catalog)
            self.raw.act(
                "SetSessionOptions", f.SetSessionOptionsRequest(session_options={"catalog": value}), packed=False
            )

    def execute(self, sql: str, *values: Any) -> pa.Table | int:
        """PreparedStatement: setObject for each value, then execute."""
        prepared = self.raw.prepare(sql)
        handle = prepared.prepared_statement_handle
        try:
            parameters = self._bound(prepared, values)
            if prepared.is_update or not prepared.dataset_schema:
                command = m.CommandPreparedStatementUpdate(prepared_statement_handle=handle)
                return int(m.DoPutUpdateResult.FromString(self.raw.put(command, parameters)).record_count)
            command = m.CommandPreparedStatementQuery(prepared_statement_handle=handle)
            if parameters is not None:
                answer = m.DoPutPreparedStatementResult.FromString(self.raw.put(command, parameters))
                if answer.HasField("prepared_statement_handle"):
                    command.prepared_statement_handle = answer.prepared_statement_handle
            info = self.raw.info(command)
            table = self.raw.fetch(info)
            announced = pa.ipc.read_schema(pa.py_buffer(prepared.dataset_schema))
            assert announced.names == table.schema.names
            return table
        finally:
            self.raw.close_prepared(handle)

    def rows(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        """Run a query and return its rows."""
        table = self.execute(sql, *values)
        assert isinstance(table, pa.Table)
        return [tuple(row.values()) for row in table.to_pylist()]

    @staticmethod
    def _bound(prepared: Any, values: tuple[Any, ...]) -> pa.Table | None:
        if not prepared.parameter_schema:
            assert not values
            return None
        schema = pa.ipc.read_schema(pa.py_buffer(prepared.parameter_schema))
        assert len(schema) == len(values)
        # The driver converts each value to the type that it was told.
        columns = [pa.array([value], field.type) for value, field in zip(values, schema, strict=True)]
        return pa.Table.from_arrays(columns, schema=schema)

    def close(self) -> int:
        """Connection.close."""
        return self.raw.close_session()


@pytest.fixture(params=["password", "nothing"])
def jdbc(server: ducktower.FlightServer, request: pytest.FixtureRequest) -> Iterator[Jdbc]:
    """Connect with a password, and with nothing but cookies."""
    connection = Jdbc(server.url, *(("ada", "secret") if request.param == "password" else ()))
    yield connection
    connection.raw.flight.close()


def test_a_day_of_dbeaver(jdbc: Jdbc) -> None:
    """Connect, look around, make a table, fill it, change it, read it, close."""
    facts = jdbc.raw.ask(m.CommandGetSqlInfo())
    assert dict(zip(facts["info_name"].to_pylist(), facts["value"].to_pylist(), strict=True))[504] == '"'
    assert jdbc.rows("SELECT 1") == [(1,)]
    assert jdbc.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v VARCHAR, sent TIMESTAMP)") == -1
    assert jdbc.execute("INSERT INTO t VALUES (1, 'a', NULL), (2, 'b', NULL)") == 2
    assert jdbc.execute("UPDATE t SET v = ? WHERE id = ?", "z", 1) == 1
    assert jdbc.rows("SELECT id, v FROM t WHERE id = ?", 1) == [(1, "z")]
    assert jdbc.rows("SELECT v FROM t WHERE v LIKE ? ORDER BY id LIMIT ?", "%", 5) == [("z",), ("b",)]
    assert jdbc.execute("DELETE FROM t WHERE id = ?", 2) == 1
    tables = jdbc.raw.ask(m.CommandGetTables(catalog="test", db_schema_filter_pattern="%", include_schema=True))
    assert tables["table_type"].to_pylist() == ["TABLE"]
    columns = pa.ipc.read_schema(pa.py_buffer(tables["table_schema"][0].as_py()))
    assert columns.names == ["id", "v", "sent"]
    assert jdbc.raw.ask(m.CommandGetPrimaryKeys(catalog="test", db_schema="main", table="t")).num_rows == 1
    assert jdbc.raw.ask(m.CommandGetXdbcTypeInfo()).num_rows > 20
    assert jdbc.close() == f.CloseSessionResult.CLOSED


def test_the_types_of_facts_are_those_that_the_driver_casts_to(jdbc: Jdbc) -> None:
    """A string, boolean, long, int, list or map in the wrong place is a ClassCastException there."""
    texts = {0, 1, 2, 504, 513, 514, 529, 530, 531}
    lists = {508, 509, 510, 511, 512}
    longs = {*range(541, 556), *range(557, 563)}
    ints = {522, 525, 526, 528, 533, 534, 535, 538, 540, 564, 567, 568, 569, 570, 571}
    booleans = {
        3,
        515,
        516,
        518,
        519,
        520,
        521,
        523,
        524,
        527,
        532,
        536,
        537,
        539,
        556,
        563,
        565,
        566,
        *range(572, 577),
    }
    answer = jdbc.raw.ask(m.CommandGetSqlInfo())
    (union,) = answer["value"].chunks
    kinds = dict(zip(answer["info_name"].to_pylist(), union.type_codes.to_pylist(), strict=True))
    for wanted, numbers in ((0, texts), (1, booleans), (2, longs), (3, ints), (4, lists), (5, {517})):
        assert {number: kinds[number] for number in numbers} == dict.fromkeys(numbers, wanted)


def test_transactions_as_sql(jdbc: Jdbc, client: ducktower.FlightClient) -> None:
    """The driver's own commit does nothing; BEGIN and ROLLBACK as statements do."""
    jdbc.execute("CREATE TABLE t (id INTEGER)")
    jdbc.execute("BEGIN TRANSACTION")
    jdbc.execute("INSERT INTO t VALUES (?)", 1)
    assert jdbc.rows("SELECT count(*) FROM t") == [(1,)]
    assert client.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]
    jdbc.execute("ROLLBACK")
    assert jdbc.rows("SELECT count(*) FROM t") == [(0,)]


def test_a_batch(jdbc: Jdbc) -> None:
    """addBatch and executeBatch: one DoPut of many rows."""
    jdbc.execute("CREATE TABLE t (id INTEGER, v VARCHAR)")
    prepared = jdbc.raw.prepare("INSERT INTO t VALUES (?, ?)")
    schema = pa.ipc.read_schema(pa.py_buffer(prepared.parameter_schema))
    rows = pa.Table.from_arrays([pa.array([1, 2, 3], schema.types[0]), pa.array(["a", None, "c"])], schema=schema)
    command = m.CommandPreparedStatementUpdate(prepared_statement_handle=prepared.prepared_statement_handle)
    assert m.DoPutUpdateResult.FromString(jdbc.raw.put(command, rows)).record_count == 3
    assert jdbc.rows("SELECT count(*), count(v) FROM t") == [(3, 2)]


def test_a_catalog_in_the_url(server: ducktower.FlightServer) -> None:
    """The driver sets it as a session option when it connects."""
    connection = Jdbc(server.url, "ada", "x", catalog="test")
    assert connection.rows("SELECT current_database()") == [("test",)]
    connection.raw.flight.close()


def test_temporary_tables_and_settings_stay(jdbc: Jdbc) -> None:
    """The session is the connection."""
    jdbc.execute("CREATE TEMP TABLE mine AS SELECT 42 AS n")
    jdbc.execute("CREATE SCHEMA other")
    jdbc.execute("USE other")
    assert jdbc.rows("SELECT current_schema()") == [("other",)]
    assert jdbc.rows("SELECT n FROM mine") == [(42,)]


def test_a_parameter_whose_type_is_not_known(jdbc: Jdbc) -> None:
    """It is told as text, and what it is bound to decides."""
    assert jdbc.rows("SELECT ? AS v", "x") == [("x",)]
