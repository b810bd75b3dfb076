"""SELECT through Flight SQL: by the ADBC driver and by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.server.token_file import TokenFile
from support.flight_sql import RawFlightSql, cursors_back
from support.waiting import until

TYPES = {
    "BOOLEAN": "true",
    "TINYINT": "-128",
    "UTINYINT": "255",
    "SMALLINT": "-32768",
    "USMALLINT": "65535",
    "INTEGER": "-2147483648",
    "UINTEGER": "4294967295",
    "BIGINT": "-9223372036854775808",
    "UBIGINT": "18446744073709551615",
    "HUGEINT": "123456789012345678901234567890",
    "UHUGEINT": "123456789012345678901234567890",
    "FLOAT": "1.5",
    "DOUBLE": "2.25",
    "DECIMAL(4,1)": "123.4",
    "DECIMAL(38,10)": "1234567890.0123456789",
    "VARCHAR": "'päron 🦆'",
    "BLOB": "'\\xAA\\x00'",
    "BIT": "'0101'",
    "DATE": "'2026-11-24'",
    "TIME": "'12:34:56.789012'",
    "TIME_NS": "'12:34:56.789012345'",
    "TIMETZ": "'12:34:56+02'",
    "TIMESTAMP": "'2026-11-24 12:34:56.789012'",
    "TIMESTAMP_S": "'2026-11-24 12:34:56'",
    "TIMESTAMP_MS": "'2026-11-24 12:34:56.789'",
    "TIMESTAMP_NS": "'2026-11-24 12:34:56.789012345'",
    "TIMESTAMPTZ": "'2026-11-24 12:34:56+00'",
    "TIMESTAMPTZ_NS": "'2026-11-24 12:34:56.789012345+00'",
    "INTERVAL": "'1 month 2 days 3 seconds'",
    "UUID": "'4ac7a9e9-607c-4c8a-84f3-843f0191e3fd'",
    "JSON": """'{"a": [1, null]}'""",
    "ENUM('a', 'b')": "'b'",
    "INTEGER[]": "[1, NULL, 3]",
    "INTEGER[3]": "[1, 2, 3]",
    "STRUCT(a INTEGER, b VARCHAR)": "{'a': 1, 'b': 'x'}",
    "MAP(VARCHAR, INTEGER)": "MAP {'k': 1}",
    "UNION(n INTEGER, s VARCHAR)": "'x'",
    "BIGNUM": "'123456789012345678901234567890123456789012345678901234567890'",
    "GEOMETRY": "'POINT (1 2)'",
    "VARIANT": "42",
    "STRUCT(l STRUCT(d DECIMAL(9,2))[], m MAP(VARCHAR, DOUBLE))": "{'l': [{'d': 1.25}, NULL], 'm': MAP {'k': 1.5}}",
}


def test_one_batch_and_its_row_count(cursor: Any) -> None:
    """A small result says how many rows it has before it is read."""
    cursor.execute("SELECT i, 'v' || i AS v FROM range(5) t(i) ORDER BY i")
    assert cursor.rowcount == 5
    assert cursor.fetch_arrow_table().to_pydict() == {"i": [0, 1, 2, 3, 4], "v": ["v0", "v1", "v2", "v3", "v4"]}


def test_many_batches_in_order(cursor: Any) -> None:
    """A large result arrives whole and in order, in batches that every client takes."""
    cursor.execute("SELECT i, repeat('x', 100) AS filler FROM range(300_000) t(i) ORDER BY i")
    reader = cursor.fetch_record_batch()
    seen = 0
    batches = 0
    for batch in reader:
        assert batch.nbytes <= 4 * 1024 * 1024
        assert batch["i"][0].as_py() == seen
        seen += batch.num_rows
        batches += 1
    assert (seen, batches > 5) == (300_000, True)


def test_an_empty_result_has_its_columns(cursor: Any) -> None:
    """No rows, but names and types."""
    cursor.execute("SELECT 1 AS n, 'x' AS s WHERE false")
    table = cursor.fetch_arrow_table()
    assert (table.num_rows, table.schema.names) == (0, ["n", "s"])


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_every_type_arrives_as_in_plain_flight(cursor: Any, client: ducktower.FlightClient, kind: str) -> None:
    """A value and NULL of each DuckDB type, the schema announced without running, and after."""
    sql = f"SELECT CAST(v AS {kind}) AS v FROM (VALUES (CAST({TYPES[kind]} AS {kind})), (NULL)) t(v)"
    wanted = client.query(sql)
    announced = cursor.adbc_execute_schema(sql)
    cursor.execute(sql)
    found = cursor.fetch_arrow_table()
    assert announced.types == wanted.schema.types
    assert found.schema.types == wanted.schema.types
    assert found.equals(wanted)


def test_a_schema_is_told_without_running(cursor: Any, raw_sql: RawFlightSql, client: ducktower.FlightClient) -> None:
    """Neither GetSchema nor preparing runs anything: a sequence that it would advance stays where it is."""
    client.execute("CREATE SEQUENCE s")
    asked = "SELECT nextval('s') AS n"
    assert cursor.adbc_execute_schema(asked) == pa.schema([("n", pa.int64())])
    assert raw_sql.schema(m.CommandStatementQuery(query=asked)) == pa.schema([("n", pa.int64())])
    raw_sql.prepare(asked)
    cursor.execute(asked)
    assert cursor.fetchone() == (1,)


def test_a_query_that_fails_says_why(cursor: Any) -> None:
    """With our code and DuckDB's reason; the connection goes on."""
    with pytest.raises(adbc.ProgrammingError, match=r"\[INVALID_SQL\].*nosuch"):
        cursor.execute("SELECT nosuch")
    with pytest.raises(adbc.ProgrammingError, match=r"\[TABLE_NOT_FOUND\].*nosuch"):
        cursor.execute("SELECT * FROM nosuch")
    cursor.execute("SELECT 1")
    assert cursor.fetchone() == (1,)


def test_a_failure_in_the_middle_of_a_stream_says_why(cursor: Any) -> None:
    """After the first batch there is still our code."""
    cursor.execute("SELECT CASE WHEN i < 9_900_000 THEN i ELSE error('late') END AS n FROM range(10_000_000) t(i)")
    with pytest.raises((adbc_driver_manager.Error, pa.ArrowException, OSError), match=r"INVALID_SQL.*late"):
        cursor.fetch_arrow_table()


def test_a_ticket_works_once(raw_sql: RawFlightSql) -> None:
    """The second DoGet is refused, and nothing runs twice."""
    info = raw_sql.info(m.CommandStatementQuery(query="SELECT 1 AS n"))
    assert raw_sql.fetch(info).num_rows == 1
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*used already"):
        raw_sql.fetch(info)


def test_a_result_that_nobody_fetches_gives_its_cursor_back(database: Path) -> None:
    """After `results_waiting_seconds`, and its ticket is refused."""
    with ducktower.serve(str(database), results_waiting_seconds=0.2) as server, RawFlightSql(server.url) as raw:
        info = raw.info(m.CommandStatementQuery(query="SELECT * FROM range(10_000_000)"))
        cursors_back(server)
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*0\.2 seconds"):
            raw.fetch(info)


def test_results_that_wait_are_bounded(database: Path) -> None:
    """One too many is refused before it is run, and there is room again when one was fetched."""
    with (
        ducktower.serve(str(database), results_waiting_max=2, results_spared_seconds=3600) as server,
        RawFlightSql(server.url) as raw,
    ):
        ask: Callable[[], Any] = lambda: raw.info(m.CommandStatementQuery(query="SELECT 1 AS n"))  # noqa: E731
        first, _ = ask(), ask()
        with pytest.raises(pa.ArrowException, match=r"OVERLOADED"):
            ask()
        raw.fetch(first)
        raw.fetch(ask())


def test_results_that_nobody_fetches_give_way_to_reads(database: Path) -> None:
    """The oldest first, and only those that hold a place; its ticket says so, the others can still be fetched."""
    with (
        ducktower.serve(str(database), reads_in_flight_max=2, results_spared_seconds=0.05) as server,
        RawFlightSql(server.url, keep_cookies=True) as raw,
        ducktower.connect(server.url) as client,
    ):
        small = raw.info(m.CommandStatementQuery(query="SELECT 1 AS n"))
        oldest, other = (raw.info(m.CommandStatementQuery(query="FROM range(10_000_000)")) for _ in range(2))
        assert client.query("SELECT 42 AS n").to_pylist() == [{"n": 42}]
        with pytest.raises(flight.FlightUnavailableError, match=r"\[OVERLOADED\].*gave way.*run the query again"):
            raw.fetch(oldest)
        assert raw.fetch(other).num_rows == 10_000_000
        assert raw.fetch(small).num_rows == 1


def test_results_that_nobody_fetches_give_way_to_others(database: Path) -> None:
    """One too many is not refused for long: small results, which hold no place for reads, would keep everybody out."""
    with (
        ducktower.serve(str(database), results_waiting_max=2, results_spared_seconds=0.05) as server,
        RawFlightSql(server.url) as raw,
    ):
        command = m.CommandStatementQuery(query="SELECT 1 AS n")
        oldest, other = raw.info(command), raw.info(command)

        def another() -> Any:
            try:
                return raw.info(command)
            except flight.FlightUnavailableError:
                return None

        info = until(another, "the end of the time in which the oldest is spared")
        with pytest.raises(flight.FlightUnavailableError, match=r"\[OVERLOADED\].*gave way.*run the query again"):
            raw.fetch(oldest)
        assert raw.fetch(other).num_rows == raw.fetch(info).num_rows == 1


@pytest.mark.parametrize(
    "limit", [{"principal_results_waiting_max": 2}, {"principal_results_waiting_bytes_max": 1_500_000}]
)
def test_results_of_one_principal_are_bounded(database: Path, limit: dict[str, Any]) -> None:
    """Whoever fetches nothing has its own queries refused, and nobody else's."""
    file = TokenFile(f"{database}.tokens")
    tokens = {name: file.create(name, "reader", (), None)[1] for name in ("greedy", "modest")}
    with (
        ducktower.serve(str(database), **limit) as server,
        RawFlightSql(server.url, authorization=f"Bearer {tokens['greedy']}") as greedy,
        RawFlightSql(server.url, authorization=f"Bearer {tokens['modest']}") as modest,
    ):
        command = m.CommandStatementQuery(query="SELECT repeat('x', 1_000_000) AS filler")
        first = greedy.info(command)
        greedy.info(command)
        with pytest.raises(flight.FlightUnavailableError, match=r'\[OVERLOADED\].*"greedy"'):
            greedy.info(command)
        assert modest.query("SELECT 1 AS n").num_rows == 1
        assert greedy.fetch(first).num_rows == 1
        assert greedy.query("SELECT 1 AS n").num_rows == 1


def test_results_that_were_just_made_do_not_give_way(database: Path) -> None:
    """A client on its way to fetch is not robbed: the read hears OVERLOADED after its wait."""
    with (
        ducktower.serve(
            str(database), reads_in_flight_max=1, results_spared_seconds=3600, lease_wait_seconds=0.2
        ) as server,
        RawFlightSql(server.url) as raw,
    ):
        info = raw.info(m.CommandStatementQuery(query="FROM range(10_000_000)"))
        with pytest.raises(flight.FlightUnavailableError, match=r"\[OVERLOADED\] .*no place for another read"):
            raw.query("SELECT 1")
        assert raw.fetch(info).num_rows == 10_000_000


def test_the_bytes_that_wait_are_bounded(database: Path) -> None:
    """Results in memory count by their size, and no more when they were fetched or dropped."""
    with (
        ducktower.serve(str(database), results_waiting_bytes_max=1_500_000, results_spared_seconds=3600) as server,
        RawFlightSql(server.url) as raw,
    ):
        command = m.CommandStatementQuery(query="SELECT repeat('x', 1_000_000) AS filler")
        first, second = raw.info(command), raw.info(command)
        with pytest.raises(pa.ArrowException, match=r"OVERLOADED.*bytes"):
            raw.info(command)
        assert raw.fetch(first).num_rows == 1
        third = raw.info(command)
        raw.cancel(second)
        raw.cancel(third)
        assert raw.fetch(raw.info(command)).num_rows == 1


def test_the_answer_is_of_one_snapshot(raw_sql: RawFlightSql, client: ducktower.FlightClient) -> None:
    """What is committed between GetFlightInfo and DoGet is not in it."""
    client.execute("CREATE TABLE t AS SELECT * FROM range(1_000_000) r(i)")
    info = raw_sql.info(m.CommandStatementQuery(query="SELECT i FROM t"))
    client.execute("DELETE FROM t")
    assert raw_sql.fetch(info).num_rows == 1_000_000


def test_partitions_can_be_read_by_another_connection(connect: Any) -> None:
    """What `adbc_execute_partitions` hands out is fetched elsewhere, once, by the same principal."""
    ada = {"username": "ada", "password": "x"}
    with connect(**ada).cursor() as one, connect(**ada).cursor() as other, connect(username="eve").cursor() as eve:
        partitions, schema = one.adbc_execute_partitions("SELECT i FROM range(1_000_000) t(i)")
        assert schema.names == ["i"]
        (partition,) = partitions
        with pytest.raises(adbc_driver_manager.ProgrammingError, match="INVALID_ARGUMENT"):
            eve.adbc_read_partition(partition)
        other.adbc_read_partition(partition)
        assert other.fetch_arrow_table().num_rows == 1_000_000
        with pytest.raises(adbc_driver_manager.ProgrammingError, match="the ticket was used already"):
            other.adbc_read_partition(partition)


def test_a_partition_ends_with_its_session(server: ducktower.FlightServer, connect: Any) -> None:
    """Whoever comes later is told why, and no cursor is held for it."""
    with adbc.connect(server.url, autocommit=True) as connection, connection.cursor() as one:
        (partition,), _ = one.adbc_execute_partitions("SELECT i FROM range(1_000_000) t(i)")
    cursors_back(server)
    with (
        connect().cursor() as other,
        pytest.raises(adbc_driver_manager.ProgrammingError, match="its session was closed"),
    ):
        other.adbc_read_partition(partition)


def test_many_streams_side_by_side(connect: Any, server: ducktower.FlightServer) -> None:
    """Open results of one session do not disturb each other, and all cursors come back."""
    connection = connect()
    cursors = [connection.cursor() for _ in range(4)]
    for cursor in cursors:
        cursor.execute("SELECT i FROM range(300_000) t(i)")
    readers = [cursor.fetch_record_batch() for cursor in cursors]
    assert [sum(batch.num_rows for batch in reader) for reader in readers] == [300_000] * 4
    for cursor in cursors:
        cursor.close()
    cursors_back(server)
