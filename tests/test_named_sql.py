"""Exactly once for SQL: a statement with a writer and a sequence takes effect once, and is answered the same."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any

import pytest

import ducktower
from support.proxy import Proxy
from support.servers import ServerProcess
from support.threads import together
from support.waiting import until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightClient]:
    """Connect to a server that the tests of this module share."""
    database = tmp_path_factory.mktemp("named") / "shared.duckdb"
    with ducktower.serve(str(database)) as server, ducktower.connect(server.url) as connected:
        yield connected


@pytest.fixture
def table(shared: ducktower.FlightClient) -> ducktower.FlightClient:
    """Make the table anew and return the client."""
    shared.execute("CREATE OR REPLACE TABLE t (i BIGINT PRIMARY KEY, v VARCHAR)")
    return shared


def content(client: ducktower.FlightClient) -> list[tuple[Any, ...]]:
    """Return the table's rows."""
    found = client.query("FROM t ORDER BY i")
    return list(zip(found["i"].to_pylist(), found["v"].to_pylist(), strict=True))


class TestRepeats:
    """A repeat is answered with the first outcome and changes nothing."""

    def test_each_kind(self, table: ducktower.FlightClient) -> None:
        """Rows and commit are the first ones, of DML, of DDL, which counts no rows, and of a script."""
        statements: list[tuple[str, int]] = [
            ("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')", 3),
            ("UPDATE t SET i = i + 10 WHERE i < 3", 2),
            ("DELETE FROM t WHERE i = 11", 1),
            ("MERGE INTO t USING (SELECT 12 AS i) AS s USING (i) WHEN MATCHED THEN UPDATE SET v = v || '!'", 1),
            ("CREATE TABLE made (temp DOUBLE)", -1),
            ("ALTER TABLE made ADD COLUMN j BIGINT", -1),
            ("INSERT INTO made VALUES (1, 1); INSERT INTO t SELECT j + 3, 'from made' FROM made", 1),
            ("DROP TABLE made", -1),
        ]
        for sequence, (sql, changed) in enumerate(statements, start=1):
            first = table.execute(sql, writer="kinds", sequence=sequence)
            assert first.rows == changed
            assert table.execute(sql, writer="kinds", sequence=sequence) == first
        assert content(table) == [(3, "c"), (4, "from made"), (12, "b!")]
        assert table.writer("kinds")[:2] == (8, 8)
        assert "made" not in table.tables()["table_name"].to_pylist()

    def test_parameters_are_content(self, table: ducktower.FlightClient) -> None:
        """The same SQL with other parameters is another statement, whatever their types."""
        values: list[Any] = ["x", Decimal("1.50"), datetime.datetime(2026, 1, 2, 3, 4), b"\x00", None, [1, 2]]
        for sequence, value in enumerate(values, start=1):
            sql, parameters = "INSERT INTO t VALUES (?, ?::VARCHAR)", [sequence, value]
            first = table.execute(sql, parameters, writer="values", sequence=sequence)
            assert table.execute(sql, parameters, writer="values", sequence=sequence) == first
            for other in ([sequence, "other"], [sequence + 1, value]):
                with pytest.raises(ducktower.InvalidArgument, match="other content"):
                    table.execute(sql, other, writer="values", sequence=sequence)
        named = "UPDATE t SET v = $v WHERE i = $i"
        first = table.execute(named, {"v": "y", "i": 1}, writer="values", sequence=7)
        assert table.execute(named, {"i": 1, "v": "y"}, writer="values", sequence=7) == first
        assert len(content(table)) == 6

    def test_rows_and_sql_of_one_writer(self, table: ducktower.FlightClient) -> None:
        """A writer's ingests and statements count together, and neither passes for the other."""
        table.ingest("t", [{"i": 1, "v": "a"}], writer="both", sequence=1)
        table.execute("UPDATE t SET v = 'b'", writer="both", sequence=2)
        table.ingest("t", [{"i": 2, "v": "c"}], writer="both", sequence=3)
        with pytest.raises(ducktower.InvalidArgument, match="other content"):
            table.execute("INSERT INTO t VALUES (2, 'c')", writer="both", sequence=3)
        assert content(table) == [(1, "b"), (2, "c")]

    def test_twins_and_others(self, table: ducktower.FlightClient) -> None:
        """Retries at one moment, of several writers that change the same row, change it once each."""
        table.execute("INSERT INTO t VALUES (0, '')")

        def send(number: int) -> list[ducktower.Executed]:
            return [
                table.execute("UPDATE t SET v = v || 'x'", writer=f"twins {number % 2}", sequence=n + 1)
                for n in range(10)
            ]

        receipts = together(4, send)
        assert content(table) == [(0, "x" * 20)]
        assert receipts[0] == receipts[2]
        assert receipts[1] == receipts[3]


class TestRefusals:
    """What cannot be answered for is refused, and takes no sequence."""

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT 1",
            "INSERT INTO t VALUES (1, 'a') RETURNING i",
            "INSERT INTO t VALUES (1, 'a'); SELECT 1",
            "SET TimeZone = 'UTC'",
            "INSERT INTO t VALUES (1, 'a'); SET TimeZone = 'UTC'",
            "CREATE TEMP TABLE mine (i BIGINT)",
            "CREATE OR REPLACE /* ! */ TEMPORARY TABLE mine (i BIGINT)",
            "BEGIN; INSERT INTO t VALUES (1, 'a'); COMMIT",
            "CHECKPOINT",
            "EXPLAIN ANALYZE INSERT INTO t VALUES (1, 'a')",
        ],
    )
    def test_no_effect_to_answer_for(self, table: ducktower.FlightClient, sql: str) -> None:
        """Queries, RETURNING, settings, transactions, temporary things."""
        before = table.writer("refused")
        with pytest.raises(ducktower.InvalidSQL):
            table.execute(sql, writer="refused", sequence=before.sequence + 1)
        assert table.writer("refused") == before
        assert content(table) == []

    def test_a_failed_statement(self, table: ducktower.FlightClient) -> None:
        """It is rolled back with its row in the ledger: its sequence is still to be had, a later one is not."""
        table.execute("INSERT INTO t VALUES (1, 'a')", writer="failed", sequence=1)
        for _ in range(2):
            with pytest.raises(ducktower.ConstraintViolation):
                table.execute("DELETE FROM t; INSERT INTO t VALUES (2, 'b'), (2, 'c')", writer="failed", sequence=2)
        with pytest.raises(ducktower.InvalidArgument, match="2 comes next"):
            table.execute("INSERT INTO t VALUES (3, 'c')", writer="failed", sequence=3)
        table.execute("INSERT INTO t VALUES (2, 'b')", writer="failed", sequence=2)
        assert content(table) == [(1, "a"), (2, "b")]

    def test_half_a_name(self, table: ducktower.FlightClient) -> None:
        """A writer without a sequence is none, and a query has no place for either."""
        for half in ({"writer": "w"}, {"sequence": 1}):
            with pytest.raises(ducktower.InvalidArgument, match="belong together"):
                table.execute("DELETE FROM t", **half)  # type: ignore[arg-type]
        for sequence in (0, -1, 2**63):
            with pytest.raises(ducktower.InvalidArgument):
                table.execute("DELETE FROM t", writer="w", sequence=sequence)


class TestEndings:
    """The client sends again by itself, whoever is gone."""

    def test_the_answer_is_lost(self, table: ducktower.FlightClient) -> None:
        """The connection breaks when the statement has taken effect: its repeat gets the first outcome."""
        port = int(table.url.rpartition(":")[2])
        with (
            Proxy(port) as proxy,
            ducktower.connect(proxy.url, retry_seconds=60) as client,
            ThreadPoolExecutor(1) as pool,
        ):
            client.health()
            proxy.lose_answers()
            sent = pool.submit(client.execute, "INSERT INTO t VALUES (1, 'a')", writer="lost", sequence=1)
            until(lambda: table.writer("lost").sequence, "the statement's effect")
            assert not sent.done()
            proxy.cut()
            assert sent.result(60)[:2] == (1, table.writer("lost").commit)
        assert content(table) == [(1, "a")]

    def test_killed_servers(self, start_server: Callable[..., ServerProcess]) -> None:
        """Statements whose server is killed are each there once, and repeats get the first outcomes after it."""
        server = start_server()
        with ducktower.connect(server.url, retry_seconds=60) as client:
            client.execute("CREATE TABLE t (i BIGINT, v VARCHAR)")
            receipts = []
            for sequence in range(1, 61):
                if sequence == 30:
                    server.kill()
                    start_server(port=server.port)
                receipts.append(
                    client.execute("INSERT INTO t VALUES (?, 'v')", [sequence], writer="w", sequence=sequence)
                )
            again = [client.execute("INSERT INTO t VALUES (?, 'v')", [n], writer="w", sequence=n) for n in range(1, 61)]
            assert again == receipts
            assert [i for i, _ in content(client)] == list(range(1, 61))
