"""Prepared statements: schemas without running, parameters with types, many rows at once, reuse."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import ducktower
from ducktower.engine import Engine, Session
from ducktower.engine.parameters import Rows
from support.engines import opened, rows
from support.threads import together
from test_types import TYPES


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Open an engine on a file, with one table of two rows."""
    with opened(database) as running:
        running.execute("CREATE TABLE t (i INTEGER PRIMARY KEY, v VARCHAR); INSERT INTO t VALUES (1,'a'),(2,'b')")
        yield running


@pytest.fixture
def session(engine: Engine) -> Session:
    """Open a session."""
    return engine.sessions.open()


def _nulls(count: int) -> pa.Array:
    """Return so many nulls, for which nothing is allocated."""
    return pa.Array.from_buffers(pa.null(), count, [None])


def parameters(*values: Any) -> pa.Table:
    """Return one row of parameters as drivers send them."""
    return pa.table({str(i): pa.array([value]) for i, value in enumerate(values)})


class TestDescription:
    """What a statement returns and takes, without running it."""

    @pytest.mark.parametrize("kind", [*TYPES, "GEOMETRY", "BIT", "TIMETZ"])
    def test_a_result_has_the_schema_that_running_gives(self, session: Session, kind: str) -> None:
        """For every type, and the same for a query without a table."""
        session.update(f'CREATE TABLE x (c {kind}, "odd "" name" {kind})')
        for sql in ("SELECT * FROM x", f"SELECT CAST(NULL AS {kind}) AS c", "DELETE FROM x RETURNING c"):
            described = session.prepare(sql).description
            assert not described.is_update
            with session.query(sql).reader as reader:
                assert described.dataset_schema.equals(reader.schema, check_metadata=True)

    @pytest.mark.parametrize("kind", [*TYPES, "GEOMETRY", "BIT", "TIMETZ"])
    def test_a_parameter_has_its_column_s_type(self, session: Session, kind: str) -> None:
        """The type of a parameter is the one that its column has in Arrow, without dictionaries."""
        session.update(f"CREATE TABLE x (i INTEGER, c {kind})")
        described = session.prepare("INSERT INTO x (c, i) VALUES (?, ?)").description
        assert described.is_update
        assert len(described.dataset_schema) == 0
        column = session.prepare("SELECT c FROM x").description.dataset_schema.field(0).type
        wanted = column.value_type if pa.types.is_dictionary(column) else column
        found = described.parameter_schema
        assert found.names == ["1", "2"]
        assert found.field(1).type == pa.int32()
        if "ENUM" not in kind:
            assert found.field(0).type == wanted
        else:
            assert "dictionary" not in str(found)

    @pytest.mark.parametrize(
        ("sql", "is_update"),
        [
            ("SELECT 1 AS x", False),
            ("FROM t", False),
            ("VALUES (1)", False),
            ("WITH c AS (SELECT 1 AS x) SELECT * FROM c", False),
            ("SHOW TABLES", False),
            ("DESCRIBE t", False),
            ("SUMMARIZE t", False),
            ("EXPLAIN SELECT 1", False),
            ("PIVOT t ON v USING count(*)", False),
            ("CALL pragma_version()", False),
            ("INSERT INTO t VALUES (3, 'c') RETURNING i", False),
            ("UPDATE t SET v = 'z' RETURNING *", False),
            ("DELETE FROM t RETURNING i + 1 AS j", False),
            ("INSERT INTO t VALUES (3, 'c')", True),
            ("UPDATE t SET v = 'z'", True),
            ("DELETE FROM t", True),
            ("TRUNCATE t", True),
            ("MERGE INTO t USING (SELECT 1 AS i) s ON t.i = s.i WHEN MATCHED THEN DELETE", True),
            ("CREATE TABLE u AS SELECT 1 AS x", True),
            ("CREATE TABLE u (i INTEGER)", True),
            ("CREATE TEMP TABLE u (i INTEGER)", True),
            ("DROP TABLE t", True),
            ("ALTER TABLE t ADD COLUMN w INTEGER", True),
            ("BEGIN", True),
            ("SET TimeZone = 'UTC'", True),
            ("USE main", True),
            ("CREATE TABLE u (i INTEGER); INSERT INTO u VALUES (1)", True),
            ("CREATE TABLE u (i INTEGER); SELECT * FROM u", False),
        ],
    )
    def test_queries_are_told_from_updates(self, session: Session, sql: str, is_update: bool) -> None:
        """Drivers choose their call by it; nothing runs meanwhile."""
        before = rows(session, "FROM duckdb_tables()")
        description = session.prepare(sql).description
        assert description.is_update is is_update
        if not is_update and "; " not in sql:
            with session.query(sql).reader as reader:
                assert description.dataset_schema == reader.schema
        elif is_update:
            assert len(description.dataset_schema) == 0
            assert rows(session, "FROM duckdb_tables()") == before
            assert rows(session, "FROM t ORDER BY i") == [(1, "a"), (2, "b")]

    def test_nothing_runs(self, session: Session) -> None:
        """Describing a query that writes, or never ends, neither writes nor runs."""
        session.update("CREATE SEQUENCE s")
        assert session.describe("SELECT nextval('s') AS n").dataset_schema.names == ["n"]
        assert session.describe(
            "SELECT count(*) AS n FROM range(1000000000000), range(1000000)"
        ).dataset_schema.names == ["n"]
        assert rows(session, "SELECT nextval('s')") == [(1,)]

    @pytest.mark.parametrize(
        ("sql", "kind"),
        [
            ("SELEC 1", ducktower.InvalidSQL),
            ("", ducktower.InvalidSQL),
            ("-- nothing", ducktower.InvalidSQL),
            ("SELECT * FROM nowhere", ducktower.TableNotFound),
            ("SELECT nope FROM t", ducktower.InvalidSQL),
            ("INSERT INTO t VALUES (?)", ducktower.InvalidSQL),
            ("SAVEPOINT x", ducktower.InvalidSQL),
        ],
    )
    def test_errors_come_at_once(self, session: Session, sql: str, kind: type[Exception]) -> None:
        """What cannot run is refused when it is prepared."""
        with pytest.raises(kind):
            session.prepare(sql)

    def test_what_only_values_tell(self, session: Session) -> None:
        """A result that hangs on parameters has its names at once and its types once they are bound."""
        prepared = session.prepare("SELECT ? AS x, i, ? || 'a' AS y FROM t")
        assert prepared.description.dataset_schema.names == ["x", "i", "y"]
        prepared.bind(parameters(1.5, "b"))
        described = prepared.description
        assert len(described.parameter_schema) == 2
        with prepared.query().reader as reader:
            assert described.dataset_schema == reader.schema
            assert reader.read_all().to_pylist()[0] == {"x": 1.5, "i": 1, "y": "ba"}

    def test_it_sees_what_the_session_sees(self, session: Session) -> None:
        """Temporary tables, and tables of an open transaction, can be described."""
        session.update("CREATE TEMP TABLE mine (a UUID)")
        assert session.describe("FROM mine").dataset_schema.names == ["a"]
        transaction = session.begin()
        session.update("CREATE TABLE yet (b JSON)")
        assert session.describe("FROM yet").dataset_schema.names == ["b"]
        session.end(transaction, commit=False)
        with pytest.raises(ducktower.TableNotFound):
            session.describe("FROM yet")

    def test_the_time_zone_is_the_session_s(self, engine: Engine, session: Session) -> None:
        """TIMESTAMPTZ carries it in Arrow, for each session its own."""
        session.update("SET TimeZone = 'Asia/Tokyo'")
        for one, zone in ((session, "Asia/Tokyo"), (engine.sessions.open(), None)):
            with one.query("SELECT now() AS x").reader as reader:
                assert one.describe("SELECT now() AS x").dataset_schema == reader.schema
                assert zone is None or reader.schema.field(0).type.tz == zone


class TestParameters:
    """Values bound by Arrow."""

    @pytest.mark.parametrize(
        ("array", "wanted"),
        [
            (pa.array([7], pa.int8()), 7),
            (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
            (pa.array([Decimal("1.50")], pa.decimal128(10, 2)), Decimal("1.50")),
            (pa.array(["ü"], pa.large_string()), "ü"),
            (pa.array(["ü"], pa.string_view()), "ü"),
            (pa.array([b"\x00\xff"], pa.binary()), b"\x00\xff"),
            (pa.array([True]), True),
            (pa.array([None], pa.null()), None),
            (pa.array([dt.date(2026, 2, 28)]), dt.date(2026, 2, 28)),
            (pa.array([dt.datetime(2026, 2, 28, 1, 2, 3, 4)]), dt.datetime(2026, 2, 28, 1, 2, 3, 4)),
            (pa.array([dt.time(1, 2, 3, 4)]), dt.time(1, 2, 3, 4)),
            (pa.array([[1, None]]), [1, None]),
            (pa.array([{"a": 1, "b": "x"}]), {"a": 1, "b": "x"}),
            (pa.array(["x"]).dictionary_encode(), "x"),
            (pa.array([dt.timedelta(days=1, microseconds=5)]), pa.MonthDayNano([0, 1, 5000])),
        ],
    )
    def test_values_arrive_as_they_are(self, session: Session, array: pa.Array, wanted: Any) -> None:
        """Each Arrow type means to DuckDB what it means."""
        prepared = session.prepare("SELECT ? AS x")
        prepared.bind(pa.table({"0": array}))
        with prepared.query().reader as reader:
            assert reader.read_all().column("x").to_pylist() == [wanted]

    @pytest.mark.parametrize("kind", TYPES)
    def test_what_a_result_gave_is_the_same_value_as_a_parameter(self, session: Session, kind: str) -> None:
        """Of every type: compared, in an UPDATE, and in an INSERT within a transaction, where it is bound."""
        values = ", ".join(f"(CAST({value} AS {kind}))" for value in TYPES[kind])
        session.update(f"CREATE TABLE x AS SELECT row_number() OVER () AS i, v FROM (VALUES {values}) t(v)")
        session.update(f"CREATE TABLE y (i BIGINT, v {kind}); INSERT INTO y SELECT i, NULL FROM x")
        with session.query("SELECT v, i FROM x ORDER BY i").reader as reader:
            given = reader.read_all()
        ask = session.prepare("SELECT count(*) FROM x WHERE v = ? AND i = ?")
        change = session.prepare("UPDATE y SET v = ? WHERE i = ?")
        insert = session.prepare("INSERT INTO y (v, i) VALUES (?, -?)")
        session.update("BEGIN")
        for row in range(given.num_rows):
            bound = given.slice(row, 1)
            ask.bind(bound)
            with ask.query().reader as reader:
                assert reader.read_all().column(0).to_pylist() == [1]
            assert change.update(bound) == insert.update(bound) == 1
        wanted = rows(session, "SELECT v::VARCHAR FROM x ORDER BY i")
        assert rows(session, "SELECT v::VARCHAR FROM y WHERE i > 0 ORDER BY i") == wanted
        assert rows(session, "SELECT v::VARCHAR FROM y WHERE i < 0 ORDER BY -i") == wanted

    @pytest.mark.parametrize("kind", ["INTERVAL[]", "TIMESTAMP_NS[]", "STRUCT(a MAP(VARCHAR, INTERVAL)[], b BIGNUM)"])
    def test_nested_ones(self, session: Session, kind: str) -> None:
        """What Python has no value for is right within others, too; NULLs are."""
        values = {
            "INTERVAL[]": "[INTERVAL '14 months 3 days 4.000005 seconds', NULL]",
            "TIMESTAMP_NS[]": "['2026-02-28 12:00:00.000000001', NULL]",
        }
        value = values.get(kind, "{'a': [MAP {'k': INTERVAL '1 month'}, MAP {'n': NULL}, MAP {}, NULL], 'b': -256}")
        session.update(f"CREATE TABLE x AS SELECT {value}::{kind} AS v")
        with session.query("FROM x").reader as reader:
            given = reader.read_all()
        prepared = session.prepare("SELECT (v = ?)::VARCHAR, v::VARCHAR FROM x")
        prepared.bind(given)
        with prepared.query().reader as reader:
            assert reader.read_all().column(0).to_pylist() == ["true"]
        session.update(f"CREATE TABLE y (v {kind})")
        session.update("BEGIN")
        assert session.prepare("INSERT INTO y VALUES (?)").update(given) == 1
        assert rows(session, "SELECT v::VARCHAR FROM y") == rows(session, "SELECT v::VARCHAR FROM x")

    def test_an_interval_that_duckdb_has_not(self, session: Session) -> None:
        """Arrow's are finer."""
        prepared = session.prepare("INSERT INTO t (v) SELECT ?::INTERVAL")
        with pytest.raises(ducktower.SchemaMismatch, match="1 nanoseconds is finer than microseconds"):
            prepared.update(pa.table({"0": pa.array([pa.MonthDayNano([0, 0, 1])])}))

    @pytest.mark.parametrize("sql", ["UPDATE x SET s = ?", "SELECT * FROM x WHERE s = ?"])
    @pytest.mark.parametrize(
        ("kind", "sent", "path"),
        [
            ("STRUCT(a INTEGER)", {"a": 1, "zz": 2}, ".zz"),
            ("STRUCT(a INTEGER)[]", [{"zz": 2}], "[].zz"),
            ("STRUCT(a STRUCT(b INTEGER))", {"A": {"b": 1, "c": 2}}, ".A.c"),
        ],
    )
    def test_fields_that_a_struct_has_not_are_refused(
        self, session: Session, sql: str, kind: str, sent: Any, path: str
    ) -> None:
        """By their path: DuckDB drops them. Fields that are missing are NULL."""
        session.update(f"CREATE TABLE x (s {kind})")
        prepared = session.prepare(sql)
        bound = parameters(sent)
        with pytest.raises(ducktower.SchemaMismatch, match=re.escape(f'there is no field "1{path}"')):
            prepared.update(bound) if prepared.description.is_update else (prepared.bind(bound), prepared.query())

    @pytest.mark.parametrize("count", [1, 2])
    def test_fields_of_plain_inserts(self, session: Session, count: int) -> None:
        """Within a transaction as outside of it, one row as many; the transaction goes on."""
        session.update("CREATE TABLE x (n INTEGER, s STRUCT(a INTEGER, b VARCHAR))")
        bad = pa.concat_tables([parameters({"a": 1, "zz": 2})] * count)
        good = pa.concat_tables([parameters({"B": "b"})] * count)
        prepared = session.prepare("INSERT INTO x (s) VALUES (?)")
        for begun in (False, True):
            if begun:
                session.update("BEGIN")
            with pytest.raises(ducktower.SchemaMismatch, match=r'column "s": .*there is no field "s\.zz"'):
                prepared.update(bad)
            assert prepared.update(good) == count
        session.update("COMMIT")
        assert rows(session, "SELECT s FROM x") == [({"a": None, "b": "b"},)] * (2 * count)

    def test_a_uuid_of_arrow_s_own(self, session: Session) -> None:
        """Arrow's extension type for UUIDs is one, bound to a query and stored by many rows."""
        keys = [uuid.uuid4() for _ in range(3)]
        session.update("CREATE TABLE x (u UUID)")
        array = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([key.bytes for key in keys], pa.binary(16)))
        assert session.prepare("INSERT INTO x VALUES (?)").update(pa.table({"0": array})) == 3
        found = session.prepare("SELECT count(*) AS n FROM x WHERE u = ?")
        found.bind(pa.table({"0": array.slice(1, 1)}))
        with found.query().reader as reader:
            assert reader.read_all().to_pylist() == [{"n": 1}]
        assert rows(session, "SELECT u::VARCHAR FROM x") == [(str(key),) for key in keys]

    def test_nanoseconds(self, session: Session) -> None:
        """They are not cut to what Python's times hold."""
        prepared = session.prepare("SELECT ?::TIMESTAMP_NS = '2026-02-28 12:00:00.000000001'::TIMESTAMP_NS AS same")
        prepared.bind(pa.table({"0": pa.array([1772280000000000001], pa.timestamp("ns"))}))
        with prepared.query().reader as reader:
            assert reader.read_all().to_pylist() == [{"same": True}]

    def test_text_where_other_types_are_meant(self, session: Session) -> None:
        """A UUID, JSON, ENUM or DATE may be sent as text."""
        key = uuid.uuid4()
        session.update("CREATE TABLE x (u UUID, j JSON, e ENUM('a', 'b'), d DATE)")
        inserted = session.prepare("INSERT INTO x VALUES (?, ?, ?, ?)")
        assert inserted.update(parameters(str(key), '{"a": 1}', "b", "2026-02-28")) == 1
        found = session.prepare("SELECT j->>'a' AS a FROM x WHERE u = ? AND e = ? AND d = ?")
        found.bind(parameters(str(key), "b", "2026-02-28"))
        with found.query().reader as reader:
            assert reader.read_all().to_pylist() == [{"a": "1"}]

    @pytest.mark.parametrize(
        ("sql", "table", "found"),
        [
            ("SELECT i FROM t WHERE v = $2 AND i = $1", {"0": [1], "1": ["a"]}, [1]),
            ("SELECT i FROM t WHERE v = $2 AND i = $1", {"2": ["a"], "1": [1]}, [1]),
            ("SELECT i FROM t WHERE v = $v AND i = $i", {"v": ["a"], "i": [1]}, [1]),
            ("SELECT i FROM t WHERE v = $v OR v = $v ORDER BY i", {"v": ["b"]}, [2]),
            ("SELECT i FROM t WHERE i = ? ORDER BY i", {"anything": [2]}, [2]),
            ("SELECT " + " + ".join(f"${n}" for n in range(1, 13)) + " AS i", {str(n): [n] for n in range(12)}, [66]),
        ],
    )
    def test_by_position_and_by_name(self, session: Session, sql: str, table: dict[str, Any], found: list[int]) -> None:
        """Columns are meant by the parameters' names when they carry them, else by position, 10 after 9."""
        prepared = session.prepare(sql)
        prepared.bind(pa.table(table))
        with prepared.query().reader as reader:
            assert reader.read_all().column(0).to_pylist() == found

    def test_several_rows_for_a_query(self, session: Session) -> None:
        """It runs once for each; the results follow each other. No rows give no result."""
        prepared = session.prepare("SELECT i, v FROM t WHERE i = ?")
        prepared.bind(pa.table({"0": [2, 7, 1]}))
        with prepared.query().reader as reader:
            assert reader.read_all().to_pylist() == [{"i": 2, "v": "b"}, {"i": 1, "v": "a"}]
        prepared.bind(pa.table({"0": pa.array([], pa.int64())}))
        with prepared.query().reader as reader:
            assert reader.schema == prepared.description.dataset_schema
            assert reader.read_all().num_rows == 0

    def test_several_rows_for_a_statement_that_returns_rows(self, session: Session) -> None:
        """It is all or nothing, and all returned rows come back."""
        prepared = session.prepare("INSERT INTO t VALUES (?, ?) RETURNING i + 1 AS j")
        prepared.bind(pa.table({"0": [5, 6], "1": ["x", "y"]}))
        with prepared.query().reader as reader:
            assert reader.read_all().to_pylist() == [{"j": 6}, {"j": 7}]
        prepared.bind(pa.table({"0": [7, 6], "1": ["x", "y"]}))
        with pytest.raises(ducktower.ConstraintViolation):
            prepared.query()
        assert rows(session, "SELECT i FROM t ORDER BY i") == [(1,), (2,), (5,), (6,)]

    def test_wrong_numbers_of_them(self, session: Session) -> None:
        """Too few, too many and none at all are refused in words."""
        prepared = session.prepare("SELECT ? + ?")
        for table in (parameters(1), parameters(1, 2, 3)):
            with pytest.raises(ducktower.InvalidArgument, match="has 2 parameters"):
                prepared.bind(table)
        with pytest.raises(ducktower.InvalidArgument, match="none are bound"):
            prepared.query()
        with pytest.raises(ducktower.InvalidArgument, match="has 0 parameters"):
            session.prepare("SELECT 1").bind(parameters(1))

    def test_parameters_of_a_script(self, session: Session) -> None:
        """They go to its last statement, also when that needs what the ones before it make."""
        prepared = session.prepare("CREATE OR REPLACE TABLE u (a INTEGER, b VARCHAR); INSERT INTO u VALUES (?, ?)")
        assert prepared.description.parameter_schema.names == ["1", "2"]
        assert prepared.update(parameters(1, "x")) == 1
        assert prepared.update(pa.table({"0": [5, 6], "1": ["y", "z"]})) == 2
        assert rows(session, "FROM u") == [(5, "y"), (6, "z")]

    def test_bounded(self, database: Path) -> None:
        """Parameters past their limit are refused, and statements past theirs."""
        with opened(database, bound_bytes_max=1000, prepared_max=2) as engine:
            session = engine.sessions.open()
            prepared = session.prepare("SELECT ?")
            with pytest.raises(ducktower.LimitExceeded, match="limit is 1000"):
                prepared.bind(parameters("x" * 1001))
            second = session.prepare("SELECT ? || '2'")
            prepared.bind(parameters("x" * 600))
            with pytest.raises(ducktower.LimitExceeded, match="limit of 1000"):
                second.bind(parameters("x" * 600))
            prepared.bind(parameters("x" * 300))
            second.bind(parameters("x" * 600))
            with pytest.raises(ducktower.LimitExceeded, match="close some"):
                session.prepare("SELECT 3")
            prepared.close()
            session.prepare("SELECT 3")

    @pytest.mark.parametrize(
        "column",
        [
            _nulls(2**40),
            pa.FixedSizeListArray.from_arrays(_nulls(2**30), 2**30),
            pa.ListArray.from_arrays(pa.array([0, 2**30], pa.int32()), _nulls(2**30)),
            pa.ListViewArray.from_arrays(
                pa.array([0, 0], pa.int32()), pa.array([2**30, 2**30], pa.int32()), _nulls(2**30)
            ),
            pa.StructArray.from_arrays([pa.FixedSizeListArray.from_arrays(_nulls(2**30), 2**30)], ["a"]),
            pa.RunEndEncodedArray.from_arrays(pa.array([2**40], pa.int64()), pa.array([1])),
        ],
        ids=lambda column: str(column.type),
    )
    @pytest.mark.parametrize("sql", ["SELECT ?", "INSERT INTO t (v) VALUES (?)", "UPDATE t SET v = ?"])
    def test_values_without_bytes_count(self, session: Session, sql: str, column: pa.Array) -> None:
        """What takes no room in Arrow would take all of the server's as values."""
        prepared = session.prepare(sql)
        sent = pa.table({"1": column})
        with pytest.raises(ducktower.LimitExceeded, match="the parameters have"):
            prepared.bind(sent)
        with pytest.raises(ducktower.LimitExceeded, match="the parameters have"):
            prepared.update(sent)

    def test_rows_become_values_a_part_at_a_time(self) -> None:
        """The first row of many is there without the others."""
        parts = Rows(pa.table({"1": _nulls(2**40)}), ["1"]).parts()
        assert next(parts)[0] == [None]
        assert len(next(parts)) < 100_000


class TestMany:
    """One statement for many rows of parameters."""

    MANY = 100_000

    def table(self) -> pa.Table:
        """Return many rows of parameters for the table."""
        return pa.table({"0": pa.array(range(10, 10 + self.MANY)), "1": pa.array([f"v{i}" for i in range(self.MANY)])})

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO t VALUES (?, ?)",
            'insert into "t" ( "i" , v ) values ( ? , ? ) ;',
            "INSERT INTO main.t (i, v) VALUES ($1, $2)",
            "INSERT INTO test.main.t (v, i) VALUES ($2, $1)",
            "INSERT INTO test.t VALUES (?, ?)",
        ],
    )
    @pytest.mark.parametrize("in_transaction", [False, True])
    def test_a_plain_insert_takes_them_at_once(self, session: Session, sql: str, in_transaction: bool) -> None:
        """100,000 rows are one Arrow insert, whichever way the statement is spelt."""
        transaction = session.begin() if in_transaction else None
        assert session.prepare(sql).update(self.table()) == self.MANY
        assert rows(session, "SELECT count(*), max(i), max(v) FROM t") == [(self.MANY + 2, 100_009, "v99999")]
        if transaction is not None:
            session.end(transaction, commit=False)
            assert rows(session, "SELECT count(*) FROM t") == [(2,)]

    def test_small_ones_share_commits(self, engine: Engine) -> None:
        """One-row INSERTs with parameters from many sessions go through the commit queue."""
        before = engine.statistics()

        def insert(number: int) -> None:
            prepared = engine.sessions.open().prepare("INSERT INTO t VALUES (?, ?)")
            for i in range(10):
                assert prepared.update(parameters(100 + number * 10 + i, "x")) == 1

        together(16, insert)
        after = engine.statistics()
        assert after["group_writes"] - before["group_writes"] == 160
        assert after["commits"] - before["commits"] < 160
        assert rows(engine.sessions.open(), "SELECT count(*) FROM t") == [(162,)]

    @pytest.mark.parametrize(
        ("sql", "table", "changed", "stored"),
        [
            ("INSERT INTO t VALUES (?, upper(?))", {"0": [3, 4], "1": ["c", "d"]}, 2, [(3, "C"), (4, "D")]),
            ("INSERT INTO t VALUES (?, $x)", None, 0, []),
            ("INSERT INTO t (i, v) VALUES (?, 'x')", {"0": [3, 4]}, 2, [(3, "x"), (4, "x")]),
            ("INSERT INTO t VALUES ($1, $1)", {"0": [3, 4]}, 2, [(3, "3"), (4, "4")]),
            ("INSERT OR IGNORE INTO t VALUES (?, ?)", {"0": [1, 4], "1": ["z", "d"]}, 1, [(4, "d")]),
            ("INSERT INTO t SELECT ?, ?", {"0": [3, 4], "1": ["c", "d"]}, 2, [(3, "c"), (4, "d")]),
            ("UPDATE t SET i = i + ? WHERE i = ?", {"0": [10, 10], "1": [1, 2]}, 2, [(11, "a"), (12, "b")]),
            ("INSERT INTO t VALUES (?, ?) RETURNING i", {"0": [3, 4], "1": ["c", "d"]}, 2, [(3, "c"), (4, "d")]),
        ],
    )
    @pytest.mark.parametrize("in_transaction", [False, True])
    def test_other_statements_run_for_each(
        self,
        session: Session,
        sql: str,
        table: dict[str, Any] | None,
        changed: int,
        stored: list[Any],
        in_transaction: bool,
    ) -> None:
        """Their changed rows add up."""
        if table is None:
            with pytest.raises(ducktower.InvalidSQL):
                session.prepare(sql)
            return
        if in_transaction:
            session.begin()
        assert session.prepare(sql).update(pa.table(table)) == changed
        assert rows(session, "SELECT * FROM t WHERE i > 2 ORDER BY i") == stored

    @pytest.mark.parametrize("sql", ["INSERT INTO t VALUES (?, ?)", "INSERT INTO t VALUES (?, lower(?))"])
    def test_all_or_nothing(self, session: Session, sql: str) -> None:
        """A bad row among good ones leaves the table as it was."""
        prepared = session.prepare(sql)
        with pytest.raises(ducktower.ConstraintViolation):
            prepared.update(pa.table({"0": [5, 6, 1], "1": ["x", "y", "z"]}))
        with pytest.raises((ducktower.SchemaMismatch, ducktower.InvalidSQL)):
            prepared.update(pa.table({"0": ["5", "no number"], "1": ["x", "y"]}))
        assert rows(session, "SELECT count(*) FROM t") == [(2,)]

    def test_none(self, session: Session) -> None:
        """No rows change nothing; no parameters at all run a statement that takes none."""
        prepared = session.prepare("INSERT INTO t VALUES (?, ?)")
        assert prepared.update(self.table().slice(0, 0)) == 0
        with pytest.raises(ducktower.InvalidArgument, match="none are bound"):
            prepared.update(pa.table({}))
        assert session.prepare("INSERT INTO t VALUES (7, 'x')").update(pa.table({})) == 1
        assert session.prepare("INSERT INTO t VALUES (8, 'x')").update() == 1

    def test_nulls_and_mixed_widths(self, session: Session) -> None:
        """A column of NULLs alone has Arrow's null type; numbers come wider than their columns."""
        prepared = session.prepare("INSERT INTO t VALUES (?, ?)")
        assert prepared.update(pa.table({"0": pa.array([5, 6], pa.uint64()), "1": pa.nulls(2)})) == 2
        assert rows(session, "SELECT * FROM t WHERE i > 2 ORDER BY i") == [(5, None), (6, None)]

    def test_a_temporary_table_that_shadows_another(self, session: Session) -> None:
        """Rows go where DuckDB sends the statement itself."""
        session.update("CREATE TEMP TABLE t (i INTEGER, v VARCHAR)")
        assert session.prepare("INSERT INTO t VALUES (?, ?)").update(self.table()) == self.MANY
        assert rows(session, "SELECT count(*) FROM t") == [(self.MANY,)]
        assert rows(session, "SELECT count(*) FROM main.t") in ([(2,)], [(self.MANY,)])
        session.update("DROP TABLE temp.main.t")
        assert rows(session, "SELECT count(*) FROM test.main.t") == [(2,)]

    @pytest.mark.parametrize("bad", ["no number", None])
    def test_a_failure_within_a_transaction(self, session: Session, bad: str | None) -> None:
        """The error is the rows' own, and the transaction has failed with it."""
        session.update("CREATE TABLE x (i INTEGER NOT NULL)")
        transaction = session.begin()
        with pytest.raises((ducktower.InvalidSQL, ducktower.ConstraintViolation, ducktower.SchemaMismatch)) as caught:
            session.prepare("INSERT INTO x VALUES (?)").update(pa.table({"0": pa.array(["1", bad])}))
        assert "aborted" not in str(caught.value)
        with pytest.raises(ducktower.InvalidSQL, match="failed earlier"):
            session.query("FROM x")
        session.end(transaction, commit=False)


class TestLife:
    """A prepared statement lasts until it or its session is closed."""

    def test_reuse(self, session: Session) -> None:
        """It outlives the transaction that it was prepared in, also one that was rolled back."""
        first = session.begin()
        prepared = session.prepare("INSERT INTO t VALUES (?, ?)", first)
        assert prepared.update(parameters(3, "c")) == 1
        session.end(first, commit=True)
        second = session.begin()
        assert prepared.update(parameters(4, "d")) == 1
        session.end(second, commit=False)
        assert prepared.update(parameters(5, "e")) == 1
        assert rows(session, "SELECT i FROM t ORDER BY i") == [(1,), (2,), (3,), (5,)]

    def test_found_by_its_handle(self, engine: Engine, session: Session) -> None:
        """Another session does not find it; closing twice is harmless."""
        prepared = session.prepare("SELECT 1")
        assert session.prepared(prepared.handle) is prepared
        with pytest.raises(ducktower.InvalidArgument, match="unknown or closed"):
            engine.sessions.open().prepared(prepared.handle)
        session.close_prepared(prepared.handle)
        session.close_prepared(prepared.handle)
        session.close_prepared(b"nonsense")
        with pytest.raises(ducktower.InvalidArgument, match="unknown or closed"):
            session.prepared(prepared.handle)

    def test_tables_that_change_meanwhile(self, session: Session) -> None:
        """It is bound anew at each run: a table that was made again is met as it is."""
        query = session.prepare("SELECT * FROM t ORDER BY ALL")
        insert = session.prepare("INSERT INTO t VALUES (?, ?)")
        session.update("DROP TABLE t; CREATE TABLE t (v VARCHAR, n DOUBLE)")
        assert insert.update(parameters("a", 1.5)) == 1
        with query.query().reader as reader:
            assert reader.read_all().to_pylist() == [{"v": "a", "n": 1.5}]
        session.update("DROP TABLE t")
        with pytest.raises(ducktower.TableNotFound):
            query.query()

    def test_a_closed_session(self, engine: Engine, session: Session) -> None:
        """Its statements are over."""
        prepared = session.prepare("SELECT 1")
        engine.sessions.close(session.id)
        with pytest.raises(ducktower.InvalidArgument, match="session is closed"):
            prepared.query()
        with pytest.raises(ducktower.InvalidArgument, match="session is closed"):
            session.prepare("SELECT 1")

    def test_from_many_threads(self, session: Session) -> None:
        """One statement without state may run beside itself."""
        prepared = session.prepare("SELECT sum(i) AS s FROM range(1000) r(i)")

        def run(_: int) -> Any:
            with prepared.query().reader as reader:
                return reader.read_all().to_pylist()

        assert together(8, run) == [[{"s": 499500}]] * 8
