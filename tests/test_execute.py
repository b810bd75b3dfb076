"""SQL that writes: counts, RETURNING, scripts as one transaction, conflicts tried again, parameters."""

from __future__ import annotations

import datetime as dt
import math
import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import ducktower
from support.cursors import all_returned
from support.servers import environment
from support.threads import together
from support.waiting import until


@pytest.fixture
def table(client: ducktower.FlightClient) -> str:
    """Make a table of three rows and return its name."""
    client.execute(
        "CREATE TABLE t (i INTEGER PRIMARY KEY, v VARCHAR); INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c')"
    )
    return "t"


@pytest.mark.usefixtures("table")
class TestOutcome:
    """What `execute` says it did."""

    @pytest.mark.parametrize(
        ("sql", "rows"),
        [
            ("INSERT INTO t VALUES (4, 'd'), (5, 'e')", 2),
            ("INSERT INTO t SELECT i, 'x' FROM range(10, 1010) r(i)", 1000),
            ("UPDATE t SET v = 'z' WHERE i > 1", 2),
            ("DELETE FROM t WHERE i = 77", 0),
            ("DELETE FROM t", 3),
            ("TRUNCATE t", 3),
            ("INSERT INTO t VALUES (1, 'z') ON CONFLICT DO NOTHING", 0),
            ("INSERT OR REPLACE INTO t VALUES (1, 'z')", 1),
            ("MERGE INTO t USING (SELECT 1 AS i) s ON t.i = s.i WHEN MATCHED THEN UPDATE SET v = 'm'", 1),
            ("CREATE TABLE u AS FROM t", 3),
            ("CREATE TABLE u (i INTEGER)", -1),
            ("DROP TABLE t", -1),
            ("ALTER TABLE t ADD COLUMN z INTEGER", -1),
            ("CHECKPOINT", -1),
            ("INSERT INTO t VALUES (8, 'x'); DELETE FROM t", 4),
        ],
    )
    def test_rows_changed_are_counted(self, client: ducktower.FlightClient, sql: str, rows: int) -> None:
        """The rows of the last statement, or -1 where DuckDB does not count; no table comes with a count."""
        before = client.health()["commit"]
        done = client.execute(sql)
        assert (done.rows, done.table) == (rows, None)
        assert done.commit == before + 1 == client.health()["commit"]

    def test_returning_gives_rows(self, client: ducktower.FlightClient) -> None:
        """INSERT, UPDATE and DELETE with RETURNING answer with their rows."""
        done = client.execute("INSERT INTO t VALUES (4, 'd') RETURNING i AS id, v")
        assert done.rows == 1
        assert done.table.to_pylist() == [{"id": 4, "v": "d"}]
        assert client.execute("UPDATE t SET v = 'z' WHERE i <= 2 RETURNING i").rows == 2
        assert client.execute("DELETE FROM t WHERE i = 77 RETURNING *").table.to_pylist() == []
        assert client.execute("DELETE FROM t RETURNING i").table.num_rows == 4

    def test_a_returned_column_named_count_is_a_column(self, client: ducktower.FlightClient) -> None:
        """A RETURNING that looks like DuckDB's own count is still given to the caller."""
        done = client.execute("INSERT INTO t VALUES (4, 'd'), (5, 'e') RETURNING i AS \"Count\"")
        assert done.table is not None
        assert done.table.to_pylist() == [{"Count": 4}, {"Count": 5}]

    def test_a_large_returned_result(self, client: ducktower.FlightClient) -> None:
        """A RETURNING of many rows comes whole, with its types."""
        done = client.execute("INSERT INTO t SELECT i, repeat('x', 50) FROM range(10, 200010) r(i) RETURNING *")
        assert done.table.num_rows == done.rows == 200_000
        assert sorted(done.table.column("i").to_pylist()) == list(range(10, 200_010))

    def test_a_query_may_be_executed(self, client: ducktower.FlightClient) -> None:
        """A SELECT, also after statements that write, answers with its rows."""
        done = client.execute("INSERT INTO t VALUES (4, 'd'); SELECT count(*) AS n FROM t")
        assert done.table.to_pylist() == [{"n": 4}]

    def test_a_returned_result_over_the_limit_is_rolled_back(self, database: Path, tmp_path: Path) -> None:
        """LIMIT_EXCEEDED names the limit, and nothing was stored."""
        with (
            ducktower.serve(str(tmp_path / "limit.duckdb"), returned_bytes_max=100_000) as server,
            ducktower.connect(server.url) as client,
        ):
            client.execute("CREATE TABLE t (i BIGINT)")
            with pytest.raises(ducktower.LimitExceeded, match="100000 bytes"):
                client.execute("INSERT INTO t SELECT i FROM range(100000) r(i) RETURNING i")
            assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 0}]


@pytest.mark.usefixtures("table")
class TestScripts:
    """A script is one transaction."""

    @pytest.mark.parametrize(
        ("last", "kind"),
        [
            ("INSERT INTO t VALUES (3, 'again')", ducktower.ConstraintViolation),
            ("INSERT INTO nope VALUES (1)", ducktower.TableNotFound),
            ("SELECT error('mine')", ducktower.InvalidSQL),
            ("INSERT INTO t VALUES ('x', 'y')", ducktower.InvalidSQL),
        ],
    )
    def test_a_script_that_fails_leaves_nothing(
        self, client: ducktower.FlightClient, last: str, kind: type[ducktower.DucktowerError]
    ) -> None:
        """Rows, changes and tables made before the failure are gone."""
        with pytest.raises(kind):
            client.execute(
                f"INSERT INTO t VALUES (4, 'd'); CREATE TABLE made (i INTEGER); DELETE FROM t WHERE i = 1; {last}"
            )
        assert client.query("SELECT i FROM t ORDER BY i").column("i").to_pylist() == [1, 2, 3]
        assert client.tables().column("table_name").to_pylist() == ["t"]

    def test_a_script_sees_its_own_changes(self, client: ducktower.FlightClient) -> None:
        """Each statement builds on the one before."""
        done = client.execute("CREATE TABLE u AS FROM t; INSERT INTO u VALUES (4, 'd'); SELECT count(*) AS n FROM u")
        assert done.table.to_pylist() == [{"n": 4}]

    @pytest.mark.parametrize(
        "sql", ["BEGIN", "COMMIT", "ROLLBACK", "INSERT INTO t VALUES (9, 'x'); COMMIT; DROP TABLE t"]
    )
    def test_transactions_are_not_steered(self, client: ducktower.FlightClient, sql: str) -> None:
        """BEGIN, COMMIT and ROLLBACK are refused, and nothing beside them ran."""
        with pytest.raises(ducktower.InvalidSQL, match="one transaction as it is"):
            client.execute(sql)
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 3}]

    def test_nothing_leaks_from_one_call_to_the_next(self, client: ducktower.FlightClient) -> None:
        """Temporary tables, variables and prepared statements end with their call."""
        client.execute("CREATE TEMP TABLE scratch AS SELECT 1; SET VARIABLE secret = 5; PREPARE p AS SELECT 1")
        with pytest.raises(ducktower.TableNotFound):
            client.query("FROM scratch")
        assert client.query("SELECT getvariable('secret') AS v").to_pylist() == [{"v": None}]
        with pytest.raises(ducktower.InvalidSQL):
            client.execute("EXECUTE p")

    def test_a_broken_statement_anywhere_runs_nothing(self, client: ducktower.FlightClient) -> None:
        """The whole text is parsed before its first statement runs."""
        with pytest.raises(ducktower.InvalidSQL, match="SELEC"):
            client.execute("INSERT INTO t VALUES (4, 'd'); SELEC 1")
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 3}]


FORBIDDEN = [
    "COPY t TO '{path}'",
    "COPY t FROM '{path}'",
    "COPY (SELECT 1) TO '{path}'",
    "ATTACH '{path}' AS other",
    "EXPORT DATABASE '{path}'",
    "IMPORT DATABASE '{path}'",
    "CREATE TABLE x AS SELECT * FROM read_csv('{path}')",
    "CREATE TABLE x AS SELECT * FROM read_parquet('{path}')",
    "CREATE TABLE x AS SELECT * FROM read_json('{path}')",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_blob('/etc/passwd')",
    "SELECT * FROM glob('/*')",
    "INSTALL httpfs",
    "LOAD httpfs",
    "LOAD '{path}'",
    "SET enable_external_access = true",
    "SET GLOBAL enable_external_access = true",
    "RESET enable_external_access",
    "SET lock_configuration = false",
    "SET threads = 64",
    "SET memory_limit = '1TB'",
    "SET GLOBAL max_memory = '1TB'",
    "RESET memory_limit",
    "PRAGMA memory_limit = '1TB'",
    "set/**/\"memory_limit\" to '1MB'",
    "SELECT 1; SET memory_limit = '1MB'",
    "EXPLAIN ANALYZE SET memory_limit = '1MB'",
    "SET allowed_configs = ['threads']",
    "SET temp_directory = '{path}'",
    "SET python_enable_replacements = true",
    "PRAGMA enable_checkpoint_on_shutdown",
    "SELECT getenv('HOME')",
    "CREATE SECRET s (TYPE s3, KEY_ID 'x', SECRET 'y')",
    "DETACH test",
    "ALTER DATABASE test SET ALIAS TO other",
    "alter /* /* */ */ database if exists test set alias to other",
]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize("sql", FORBIDDEN)
def test_sql_reaches_nothing_outside_the_database(client: ducktower.FlightClient, tmp_path: Path, sql: str) -> None:
    """Files, network, extensions and settings are out of reach of SQL that writes, too; nothing is made."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises((ducktower.Forbidden, ducktower.InvalidSQL)):
        client.execute(sql.format(path=tmp_path / "outside"))
    assert sorted(tmp_path.iterdir()) == before
    assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 3}]


def test_python_variables_are_out_of_reach(client: ducktower.FlightClient) -> None:
    """SQL cannot read a variable of the server's process by its name, nor what the server registers."""
    import pyarrow as pa

    secret = pa.table({"x": [1]})
    assert secret.num_rows == 1
    for name in ("secret", "self", "ahead", "batches"):
        for call in (client.query, client.execute):
            with pytest.raises(ducktower.TableNotFound):
                call(f"SELECT * FROM {name}")


class TestConflicts:
    """Statements that touch the same rows all succeed, one after the other."""

    def test_one_counter(self, server: ducktower.FlightServer) -> None:
        """Sixteen clients that increment one row twenty-five times each end at 400; nobody sees a conflict."""
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE c (n INTEGER); INSERT INTO c VALUES (0)")

            def increment(_: int) -> list[int]:
                with ducktower.connect(server.url, retry_seconds=0.001) as own:
                    return [own.execute("UPDATE c SET n = n + 1").commit for _ in range(25)]

            commits = together(16, increment)
            assert client.query("SELECT n FROM c").to_pylist() == [{"n": 400}]
            assert len({commit for own in commits for commit in own}) == 400

    def test_one_counter_that_is_returned(self, server: ducktower.FlightServer) -> None:
        """With RETURNING, too: each of the 120 increments gives its caller another number, and none is left out."""
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE c (n INTEGER); INSERT INTO c VALUES (0)")

            def increment(_: int) -> list[int]:
                with ducktower.connect(server.url, retry_seconds=0.001) as own:
                    done = [own.execute("UPDATE c SET n = n + 1 RETURNING n") for _ in range(15)]
                return [one.table["n"][0].as_py() for one in done if one.table is not None]

            returned = together(8, increment)
            assert sorted(n for own in returned for n in own) == list(range(1, 121))

    def test_scripts_that_read_and_write(self, server: ducktower.FlightServer) -> None:
        """Transfers between accounts by eight clients keep the total, and every transfer is booked."""
        with ducktower.connect(server.url) as client:
            client.execute(
                "CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER); CREATE TABLE booked (writer INTEGER);"
                "INSERT INTO account SELECT i, 100 FROM range(4) r(i)"
            )

            def transfer(number: int) -> None:
                with ducktower.connect(server.url, retry_seconds=0.001) as own:
                    for i in range(15):
                        a, b = (number + i) % 4, (number + i + 1) % 4
                        own.execute(
                            f"UPDATE account SET balance = balance - 1 WHERE id = {a};"
                            f"UPDATE account SET balance = balance + 1 WHERE id = {b};"
                            f"INSERT INTO booked VALUES ({number})"
                        )

            together(8, transfer)
            assert client.query("SELECT sum(balance)::INTEGER AS s FROM account").to_pylist() == [{"s": 400}]
            assert client.query("SELECT count(*) AS n FROM booked").to_pylist() == [{"n": 120}]

    def test_ddl_beside_writes(self, server: ducktower.FlightServer) -> None:
        """A table gets columns while clients write to it: nobody fails, and no acknowledged row is missing."""
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE t (i INTEGER)")

            def work(number: int) -> int:
                with ducktower.connect(server.url) as own:
                    if number == 0:
                        for i in range(10):
                            own.execute(f"ALTER TABLE t ADD COLUMN c{i} INTEGER DEFAULT {i}")
                        return 0
                    return sum(own.ingest("t", [{"i": i}]).rows for i in range(30))

            stored = sum(together(6, work))
            assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": stored}]
            assert len(client.table_schema("t").names) == 11

    def test_a_conflict_that_does_not_end_is_reported_as_retryable(self, database: Path) -> None:
        """After `conflict_retry_seconds` the caller hears CONFLICT, and nothing was stored."""
        with (
            ducktower.serve(str(database), conflict_retry_seconds=0.3) as server,
            ducktower.connect(server.url, retry_seconds=0.001) as client,
        ):
            client.execute("CREATE TABLE c (n INTEGER); INSERT INTO c VALUES (0)")
            # A transaction that stays open, as a long script of another client's would.
            lease = server.engine._database.lease("internal")
            lease.cursor.execute("BEGIN")
            lease.cursor.execute("UPDATE c SET n = 5")
            with pytest.raises(ducktower.Conflict) as caught:
                client.execute("UPDATE c SET n = n + 1")
            assert caught.value.retryable
            lease.cursor.execute("COMMIT")
            lease.close()
            client.execute("UPDATE c SET n = n + 1")
            assert client.query("SELECT n FROM c").to_pylist() == [{"n": 6}]

    def test_an_upsert_waits_for_a_long_transaction(self, server: ducktower.FlightServer) -> None:
        """Rows that another transaction holds are upserted after it, and other writers go on meanwhile."""
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v INTEGER); INSERT INTO t VALUES (1, 0)")
            client.execute("CREATE TABLE other (i INTEGER)")
            lease = server.engine._database.lease("internal")
            lease.cursor.execute("BEGIN")
            lease.cursor.execute("UPDATE t SET v = 5")

            def work(number: int) -> int:
                with ducktower.connect(server.url) as own:
                    if number == 0:
                        return own.ingest("t", [{"k": 1, "v": 7}], mode="upsert", key="k").rows
                    for i in range(20):
                        own.ingest("other", [{"i": i}])
                    lease.cursor.execute("COMMIT")
                    return 1

            assert together(2, work) == [1, 1]
            lease.close()
            assert client.query("SELECT v FROM t").to_pylist() == [{"v": 7}]


PARAMETERS: dict[str, tuple[Any, str]] = {
    "int": (5, "INTEGER"),
    "negative": (-(2**63), "BIGINT"),
    "huge": (2**100, "HUGEINT"),
    "float": (1.5, "DOUBLE"),
    "infinity": (math.inf, "DOUBLE"),
    "text": ("ünï 🦆 ' \" ; --", "VARCHAR"),
    "empty_text": ("", "VARCHAR"),
    "bool": (True, "BOOLEAN"),
    "none": (None, "INTEGER"),
    "bytes": (b"\x00\xff", "BLOB"),
    "decimal": (Decimal("123456789012345678.25"), "DECIMAL(38,2)"),
    "date": (dt.date(2026, 2, 28), "DATE"),
    "time": (dt.time(23, 59, 59, 999999), "TIME"),
    "datetime": (dt.datetime(2026, 2, 28, 12, 0, 0, 1), "TIMESTAMP"),
    "datetime_zone": (dt.datetime(2026, 2, 28, 12, tzinfo=dt.UTC), "TIMESTAMPTZ"),
    "timedelta": (dt.timedelta(days=3, seconds=5), "INTERVAL"),
    "list": ([1, None, 3], "INTEGER[]"),
    "empty_list": ([], "INTEGER[]"),
    "nested_list": ([["a"], []], "VARCHAR[][]"),
    "dict": ({"a": 1, "b": "x"}, "STRUCT(a INTEGER, b VARCHAR)"),
    "list_of_dicts": ([{"a": 1}, {"a": 2}], "STRUCT(a INTEGER)[]"),
    "list_of_datetimes": ([dt.datetime(2026, 2, 28), None], "TIMESTAMP[]"),
    "list_of_bytes": ([b"a"], "BLOB[]"),
}


@pytest.mark.parametrize("case", PARAMETERS)
@pytest.mark.parametrize("style", ["position", "name"])
def test_parameters_arrive_as_they_are(client: ducktower.FlightClient, case: str, style: str) -> None:
    """Each kind of value goes through `execute` and `query`, by position and by name."""
    value, kind = PARAMETERS[case]
    client.execute(f"CREATE TABLE p (v {kind})")
    parameters: Any = [value] if style == "position" else {"x": value}
    mark = "?" if style == "position" else "$x"
    assert client.execute(f"INSERT INTO p VALUES ({mark})", parameters).rows == 1
    (stored,) = client.query("SELECT v FROM p").to_pylist()
    if case == "timedelta":
        assert stored["v"].days == 3
    else:
        assert stored["v"] == value
    (same,) = client.query(f"SELECT v IS NOT DISTINCT FROM {mark}::{kind} AS same FROM p", parameters).to_pylist()
    assert same["same"] is True


def test_a_nan_parameter(client: ducktower.FlightClient) -> None:
    """Not-a-number arrives as that."""
    assert client.query("SELECT isnan(?::DOUBLE) AS v", [math.nan]).to_pylist() == [{"v": True}]


def test_a_uuid_parameter(client: ducktower.FlightClient) -> None:
    """A UUID arrives, or is refused with one clear error before anything is sent."""
    value = uuid.uuid4()
    try:
        found = client.query("SELECT ?::UUID::VARCHAR AS v", [value]).to_pylist()
    except ducktower.InvalidArgument:
        return
    assert found == [{"v": str(value)}]


def test_mixed_parameters_keep_their_places(client: ducktower.FlightClient) -> None:
    """Plain and other values together, in order and by name."""
    day = dt.date(2026, 2, 28)
    assert client.query("SELECT ? AS a, ? AS b, ? AS c", [1, day, "x"]).to_pylist() == [{"a": 1, "b": day, "c": "x"}]
    assert client.query("SELECT $b AS b, $a AS a", {"a": day, "b": [1]}).to_pylist() == [{"b": [1], "a": day}]
    assert client.query("SELECT $1 + $2 AS s", (1, 2)).to_pylist() == [{"s": 3}]


@pytest.mark.parametrize(
    ("sql", "parameters"),
    [
        ("SELECT ?", []),
        ("SELECT ?", [1, 2]),
        ("SELECT $x", {"y": 1}),
        ("SELECT 1", [1]),
        ("SELECT ?", None),
        ("SELECT $x", {}),
    ],
)
@pytest.mark.parametrize("call", ["query", "execute"])
def test_parameters_that_do_not_match_are_refused(
    client: ducktower.FlightClient, call: str, sql: str, parameters: Any
) -> None:
    """Too few, too many or other names are INVALID_SQL."""
    run: Callable[..., Any] = getattr(client, call)
    with pytest.raises(ducktower.InvalidSQL):
        run(sql, parameters)


def test_a_value_that_arrow_cannot_carry_is_refused(client: ducktower.FlightClient) -> None:
    """An arbitrary object is INVALID_ARGUMENT, here, before anything is sent."""
    with pytest.raises(ducktower.InvalidArgument, match="parameter"):
        client.query("SELECT ?", [object()])


def test_parameters_go_to_the_last_statement(client: ducktower.FlightClient) -> None:
    """A script's last statement takes them."""
    client.execute("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (?)", [7])
    assert client.query("SELECT i FROM t").to_pylist() == [{"i": 7}]


def test_a_script_can_be_cancelled_by_its_timeout(database: Path) -> None:
    """A statement past `query_timeout_seconds` ends in TIMEOUT, rolled back, and its cursor comes back."""
    with (
        ducktower.serve(str(database), query_timeout_seconds=0.3) as server,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE t (i BIGINT)")
        with pytest.raises(ducktower.TimedOut, match=r"0\.3 seconds"):
            client.execute(
                "INSERT INTO t VALUES (1); INSERT INTO t SELECT sum(a.i) FROM range(1000000) a(i), range(1000000) b(i)"
            )
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 0}]
        until(lambda: client.statistics()["cursors"] == 0, "the cursor's return")


def test_a_client_that_leaves_while_its_statement_computes(server: ducktower.FlightServer) -> None:
    """The statement is interrupted without waiting for its end, and all of its script is rolled back."""
    with ducktower.connect(server.url) as operator:
        operator.execute("CREATE TABLE t (i BIGINT)")
        program = "import sys, ducktower; ducktower.connect(sys.argv[1]).execute(sys.argv[2])"
        sql = "INSERT INTO t VALUES (1); INSERT INTO t SELECT sum(a.i) FROM range(10000000) a(i), range(10000000) b(i)"
        process = subprocess.Popen([sys.executable, "-c", program, server.url, sql], env=environment())
        try:
            until(operator.sessions, "the statement")
        finally:
            process.kill()
            process.wait()
        all_returned(operator)
        assert operator.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 0}]


def test_what_stores_nothing_is_no_commit(client: ducktower.FlightClient) -> None:
    """SELECT, USE and PREPARE get the number of the last commit."""
    number = client.execute("CREATE TABLE t (i INTEGER)").commit
    for sql in ("SELECT 1", "USE main", "PREPARE p AS SELECT 1", "SELECT 1; SELECT 2"):
        assert client.execute(sql).commit == number
    assert client.execute("SELECT 1; INSERT INTO t VALUES (1)").commit == number + 1
