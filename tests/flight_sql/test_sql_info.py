"""SqlInfo: what the server says of itself is so. Each claim that a statement can show is shown by one."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql

# Number -> (statements that must succeed when the fact is true and fail when it is false).
CLAIMS: dict[int, tuple[bool, str]] = {
    500: (False, "CREATE DATABASE another"),
    501: (True, "CREATE SCHEMA made; DROP SCHEMA made"),
    502: (True, "CREATE TABLE made (n INTEGER); DROP TABLE made"),
    515: (True, "SELECT n AS other FROM t"),
    518: (True, "SELECT x.n FROM t AS x"),
    520: (True, "SELECT n FROM t ORDER BY n + 1"),
    521: (True, "SELECT n FROM t ORDER BY s"),
    523: (True, "SELECT s LIKE 'a$_' ESCAPE '$' FROM t"),
    524: (True, "CREATE TABLE made (n INTEGER NOT NULL); DROP TABLE made"),
    527: (True, "CREATE TABLE made (n INTEGER CHECK (n > 0) UNIQUE); DROP TABLE made"),
    532: (True, "SELECT * FROM test.main.t"),
    536: (False, "SELECT n FROM t FOR UPDATE"),
    537: (False, "{call nosuch()}"),
    539: (True, "SELECT * FROM t AS o WHERE n = (SELECT max(n) FROM t AS i WHERE i.s = o.s)"),
    563: (True, "BEGIN; ROLLBACK"),
    573: (False, "BEGIN; SAVEPOINT a"),
}
BITS: dict[tuple[int, int], str] = {
    (522, 0): "SELECT count(*) FROM t GROUP BY s",
    (522, 1): "SELECT s, count(*) FROM t GROUP BY s, n",
    (528, 1): "SELECT * FROM t a LEFT JOIN t b ON a.n = b.n",
    (528, 2): "SELECT * FROM t a FULL OUTER JOIN t b ON a.n = b.n",
    (533, 1): "CREATE INDEX made ON main.t (n); DROP INDEX made",
    (534, 1): "CREATE INDEX made ON test.main.t (n); DROP INDEX made",
    (538, 0): "SELECT * FROM t WHERE n = (SELECT 1)",
    (538, 1): "SELECT * FROM t WHERE EXISTS (SELECT 1)",
    (538, 2): "SELECT * FROM t WHERE n IN (SELECT 1)",
    (538, 3): "SELECT * FROM t WHERE n > ALL (SELECT 1)",
    (540, 0): "SELECT 1 UNION SELECT 2",
    (540, 1): "SELECT 1 UNION ALL SELECT 2",
}
CONVERTIBLE = {
    0: "BIGINT",
    1: "BLOB",
    2: "BIT",
    3: "VARCHAR",
    4: "DATE",
    5: "DECIMAL(9,2)",
    6: "DOUBLE",
    7: "INTEGER",
    12: "DECIMAL(9,2)",
    13: "FLOAT",
    14: "SMALLINT",
    15: "TIME",
    16: "TIMESTAMP",
    17: "TINYINT",
    18: "BLOB",
    19: "VARCHAR",
}


@pytest.fixture
def facts(raw_sql: RawFlightSql, client: ducktower.FlightClient) -> dict[int, Any]:
    """Return all facts, and make the table that the statements ask."""
    client.execute("CREATE TABLE t AS SELECT 1 AS n, 'a' AS s")
    return {row["info_name"]: row["value"] for row in raw_sql.ask(m.CommandGetSqlInfo()).to_pylist()}


def runs(cursor: Any, sql: str) -> bool:
    """Whether the server takes it."""
    try:
        cursor.executescript(sql)
    except adbc.Error:
        return False
    return True


def test_every_number_of_the_protocol_is_there(facts: dict[int, Any]) -> None:
    """The specification's list, without a gap."""
    assert set(facts) == {*range(12), 100, 101, *range(500, 577)}


def test_the_wanted_ones_in_the_wanted_order(raw_sql: RawFlightSql) -> None:
    """Numbers that do not exist are left out."""
    found = raw_sql.ask(m.CommandGetSqlInfo(info=[8, 99_999, 0, 8]))
    assert found["info_name"].to_pylist() == [8, 0]
    assert found["value"].to_pylist() == [1, "Ducktower"]


@pytest.mark.parametrize("number", CLAIMS)
def test_claims(connect: Any, facts: dict[int, Any], number: int) -> None:
    """Yes and no."""
    claimed, sql = CLAIMS[number]
    assert facts[number] is claimed
    with connect().cursor() as cursor:
        assert runs(cursor, sql) is claimed


@pytest.mark.parametrize(("number", "bit"), BITS)
def test_bits(connect: Any, facts: dict[int, Any], number: int, bit: int) -> None:
    """Each bit that is set."""
    assert facts[number] >> bit & 1
    with connect().cursor() as cursor:
        assert runs(cursor, BITS[number, bit])


def test_names_and_nulls(connect: Any, facts: dict[int, Any]) -> None:
    """Quotes, case, NULLs in order and in sums, the extra character of names, the escape of patterns."""
    with connect().cursor() as cursor:
        cursor.execute(f"SELECT {facts[504]}N{facts[504]}, n{facts[514]}x FROM (SELECT 1 AS n, 2 AS n$x)")
        assert cursor.fetchone() == (1, 2)
        cursor.execute("SELECT n FROM (VALUES (NULL), (1)) v(n) ORDER BY n")
        assert (facts[507], cursor.fetchall()) == (3, [(1,), (None,)])
        cursor.execute("SELECT n FROM (VALUES (NULL), (1)) v(n) ORDER BY n DESC")
        assert cursor.fetchall() == [(1,), (None,)]  # at the end, and not merely high
        cursor.execute("SELECT NULL || 'x' IS NULL")
        assert (facts[516], cursor.fetchone()) == (True, (True,))
    assert (facts[503], facts[505], facts[513]) == (1, 1, "\\")


def test_what_the_server_can_do(connect: Any, raw_sql: RawFlightSql, facts: dict[int, Any]) -> None:
    """It writes, takes SQL and no Substrait, has transactions, cancels, and ingests, within transactions too."""
    assert [facts[number] for number in (3, 4, 5, 8, 9, 10, 11)] == [False, True, False, 1, True, True, True]
    with pytest.raises(NotImplementedError):
        raw_sql.act("CreatePreparedSubstraitPlan")
    waiting = raw_sql.info(m.CommandStatementQuery(query="FROM range(10_000_000)"))
    assert raw_sql.cancel(waiting) == f.CANCEL_STATUS_CANCELLED
    more = pa.table({"n": [2], "s": ["b"]})
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", more, mode="append") == 1
        connection.rollback()
        assert cursor.adbc_ingest("t", more, mode="append") == 1
        connection.commit()
    assert raw_sql.query("SELECT n FROM t ORDER BY n")["n"].to_pylist() == [1, 2]


def test_conversions(connect: Any, facts: dict[int, Any]) -> None:
    """Every pair that is claimed can be cast."""
    conversions = dict(facts[517])
    with connect().cursor() as cursor:
        for source, targets in conversions.items():
            for target in targets:
                cursor.execute(f"SELECT CAST(CAST(NULL AS {CONVERTIBLE[source]}) AS {CONVERTIBLE[target]})")
                cursor.fetchall()
    assert len(conversions) > 10


def test_keywords_and_functions(connect: Any, facts: dict[int, Any]) -> None:
    """Lists from DuckDB itself."""
    assert {"SELECT", "QUALIFY"} <= {word.upper() for word in facts[508]}
    assert {"abs", "round"} <= set(facts[509])
    assert {"upper", "substring"} <= set(facts[510])
    assert {"age", "year"} <= set(facts[512])


def test_limits_are_those_of_the_settings(database: Any) -> None:
    """What is configured is what is told."""
    settings = {"sessions_max": 7, "prepared_max": 5, "row_bytes_max": 1_000_000}
    settings |= {"session_idle_seconds": 90, "transaction_idle_seconds": 30}
    with ducktower.serve(str(database), **settings) as server, RawFlightSql(server.url) as raw:
        asked = raw.ask(m.CommandGetSqlInfo(info=[100, 101, 549, 555, 558, 557]))
        limits = dict(zip(asked["info_name"].to_pylist(), asked["value"].to_pylist(), strict=True))
    assert limits == {100: 90_000, 101: 30_000, 549: 7, 555: 1_000_000, 558: 5, 557: 262_144}


def test_prepared_statements_are_bounded(database: Any) -> None:
    """As SqlInfo says."""
    with (
        ducktower.serve(str(database), prepared_max=3) as server,
        RawFlightSql(server.url, keep_cookies=True) as raw,
    ):
        handles = [raw.prepare("SELECT 1").prepared_statement_handle for _ in range(3)]
        with pytest.raises(pa.ArrowInvalid, match=r"\[LIMIT_EXCEEDED\]"):
            raw.prepare("SELECT 1")
        raw.close_prepared(handles[0])
        raw.prepare("SELECT 1")


def test_parameters_without_bytes_are_bounded(raw_sql: RawFlightSql) -> None:
    """A column of nulls has no bytes on the wire, whatever its length is."""
    nulls = pa.table({"1": pa.Array.from_buffers(pa.null(), 2**31 - 1, [None])})
    prepared = raw_sql.prepare("SELECT ?").prepared_statement_handle
    for command in (m.CommandPreparedStatementQuery, m.CommandPreparedStatementUpdate):
        with pytest.raises(pa.ArrowInvalid, match=r"\[LIMIT_EXCEEDED\] the parameters have more than"):
            raw_sql.put(command(prepared_statement_handle=prepared), nulls)
