"""Sessions: transactions by id and by SQL, isolation, state of their own, waiting, cancelling, expiry, the end."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import ducktower
from ducktower.engine import Engine, Principal, Session
from support.engines import opened, rows
from support.threads import together
from support.waiting import until

ENDLESS = "SELECT count(*) FROM range(10_000_000_000) a(i), range(1000) b(j) WHERE (i * j) % 7 = 3"
LONG = "SELECT i, repeat('x', 1000) AS v FROM range(200_000) r(i)"


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Open an engine on a file, with one table of three rows."""
    with opened(database, session_wait_seconds=0.2) as running:
        running.execute(
            "CREATE TABLE t (i INTEGER PRIMARY KEY, v VARCHAR); INSERT INTO t VALUES (1,'a'),(2,'b'),(3,'c')"
        )
        yield running


@pytest.fixture
def session(engine: Engine) -> Session:
    """Open a session."""
    return engine.sessions.open(Principal("somebody"))


@pytest.fixture
def other(engine: Engine) -> Session:
    """Open another session."""
    return engine.sessions.open(Principal("another"))


def count(session: Session) -> int:
    """Count the rows of the table, as the session sees them."""
    return int(rows(session, "SELECT count(*) FROM t")[0][0])


class TestWithoutState:
    """A session that holds nothing uses what everybody uses."""

    def test_counts_and_results(self, session: Session) -> None:
        """Changed rows are counted, DDL is not, results have their rows."""
        assert session.update("CREATE TABLE u (i INTEGER)") == -1
        assert session.update("UPDATE t SET v = 'z' WHERE i > 1") == 2
        assert session.update("DELETE FROM t WHERE i = 77") == 0
        assert session.query("SELECT * FROM t").rows == 3

    def test_what_is_in_memory_is_told(self, session: Session) -> None:
        """A result says how many bytes it holds already: all of a small one, the first batches of a large one."""
        assert 8 <= session.query("SELECT 1::BIGINT AS x").nbytes < 100
        assert session.query("UPDATE t SET v = 'z'").nbytes == 0
        assert 12 <= session.query("UPDATE t SET v = 'z' RETURNING i").nbytes < 100
        ran = session.query(LONG)
        with ran.reader:
            assert ran.rows == -1
            assert 0 < ran.nbytes < 200_000_000

    def test_it_keeps_no_cursor(self, engine: Engine, session: Session) -> None:
        """Reads, writes, DDL and a begun but unused transaction leave no cursor with the session."""
        cursors = engine.statistics()["cursors"]
        assert count(session) == 3
        session.update("INSERT INTO t SELECT 4, 'd'")
        session.update("CREATE TABLE u (i INTEGER)")
        session.begin()
        assert engine.statistics()["cursors"] == cursors

    def test_statements_run_beside_each_other(self, session: Session) -> None:
        """A result that is still being read does not hold up the session's next statement."""
        reader = session.query(LONG).reader
        assert reader.read_next_batch().num_rows > 0
        assert session.update("INSERT INTO t VALUES (4, 'd')") == 1
        reader.close()

    def test_writing_that_arrives_as_a_query(self, session: Session) -> None:
        """DML runs and tells its count, DDL runs, RETURNING gives rows."""
        ran = session.query("INSERT INTO t VALUES (4, 'd'), (5, 'e')")
        assert (ran.rows, ran.reader.read_all().num_columns) == (2, 0)
        assert session.query("CREATE TABLE u (i INTEGER)").rows == -1
        assert rows(session, "DELETE FROM t WHERE i > 3 RETURNING i") == [(4,), (5,)]

    def test_a_query_that_writes(self, session: Session) -> None:
        """A SELECT of nextval, and EXPLAIN ANALYZE of an INSERT, are no reads and run all the same."""
        session.update("CREATE SEQUENCE s")
        assert rows(session, "SELECT nextval('s')") == [(1,)]
        session.query("EXPLAIN ANALYZE INSERT INTO t VALUES (9, 'x')")
        assert count(session) == 4

    def test_a_script_is_all_or_nothing(self, session: Session) -> None:
        """Several statements are one transaction; the last one's rows are counted."""
        assert session.update("INSERT INTO t VALUES (4, 'd'); DELETE FROM t WHERE i < 3") == 2
        with pytest.raises(ducktower.ConstraintViolation):
            session.update("INSERT INTO t VALUES (8, 'd'); INSERT INTO t VALUES (3, 'twice')")
        assert rows(session, "SELECT i FROM t ORDER BY i") == [(3,), (4,)]

    def test_conflicts_are_tried_again(self, engine: Engine) -> None:
        """Sessions that change one row outside transactions all succeed."""

        def change(_: int) -> int:
            return engine.sessions.open().update("UPDATE t SET v = v || 'x' WHERE i = 1")

        assert together(8, change) == [1] * 8
        assert rows(engine.sessions.open(), "SELECT length(v) FROM t WHERE i = 1") == [(9,)]

    @pytest.mark.parametrize(
        "sql",
        [
            "SAVEPOINT a",
            "savepoint a;",
            "/* x */ RELEASE SAVEPOINT a",
            "ROLLBACK TO a",
            "ROLLBACK TRANSACTION TO SAVEPOINT a",
        ],
    )
    def test_savepoints_are_refused_clearly(self, session: Session, sql: str) -> None:
        """DuckDB has none, and the error says so."""
        with pytest.raises(ducktower.InvalidSQL, match="no savepoints"):
            session.update(sql)


class TestSmallInserts:
    """Autocommitted INSERTs of few rows share commits."""

    def test_they_go_through_the_commit_queue(self, engine: Engine) -> None:
        """INSERT texts of literals from many sessions become few commits."""
        before = engine.statistics()

        def insert(number: int) -> None:
            session = engine.sessions.open()
            for i in range(20):
                assert session.update(f"INSERT INTO t (v, i) VALUES ('it''s', {1000 + number * 20 + i})") == 1

        together(16, insert)
        after = engine.statistics()
        assert after["group_writes"] - before["group_writes"] == 320
        assert after["commits"] - before["commits"] < 320
        assert rows(engine.sessions.open(), "SELECT count(*), min(v), max(i) FROM t WHERE i >= 1000") == [
            (320, "it's", 1319)
        ]

    @pytest.mark.parametrize(
        ("values", "stored"),
        [
            ("(7, 'x')", (7, "x")),
            ("(-7, NULL)", (-7, None)),
            ("( 7 , 'a''b' ) ;", (7, "a'b")),
            ("('7', 12.50)", (7, "12.50")),
            ("(7, true)", (7, "true")),
            ("(7, 'x' || 'y')", (7, "xy")),
            ("(3 + 4, 'x')", (7, "x")),
            ("(7, -- a comment\n 'x')", (7, "x")),
            ("(7, DEFAULT)", (7, None)),
            ("(7.0, '--')", (7, "--")),
            ("(7, '),(')", (7, "),(")),
            ("(0_7, e'x')", (7, "x")),
        ],
    )
    def test_each_value_is_what_duckdb_makes_of_it(
        self, engine: Engine, values: str, stored: tuple[object, ...]
    ) -> None:
        """Whichever way an INSERT takes, what it stores is what the text says."""
        session = engine.sessions.open()
        assert session.update(f"INSERT INTO t VALUES {values}") == 1
        assert rows(session, "SELECT i, v FROM t WHERE i NOT IN (1, 2, 3)") == [stored]

    def test_they_agree_with_duckdb_for_every_kind_of_column(self, session: Session) -> None:
        """Literals into other types come out as by an INSERT that takes DuckDB's own way."""
        columns = (
            "d DOUBLE, f FLOAT, n DECIMAL(9, 3), s VARCHAR, b BOOLEAN, ts TIMESTAMP, u UUID, h HUGEINT, l INTEGER[]"
        )
        texts = [
            "1.1, 0.1, 1.0005, 0.10, 1, '2026-02-28 12:00:00.5', '6d2c9f3e-8c1a-4b0e-9f53-0123456789ab', 5, '[1]'",
            "123456789012.345, 3, 2, 1.500, true, '2026-02-28', NULL, 9223372036854775807, NULL",
            "-0.0, -1.25, -7, -7, NULL, NULL, NULL, -1, '[]'",
        ]
        session.update(f"CREATE TABLE quick ({columns}); CREATE TABLE slow ({columns})")
        for text in texts:
            session.update(f"INSERT INTO quick VALUES ({text})")
            session.update(f"INSERT INTO slow VALUES ({text}) -- in DuckDB's own way")
        assert rows(session, "SELECT COLUMNS(*)::VARCHAR FROM quick") == rows(
            session, "SELECT COLUMNS(*)::VARCHAR FROM slow"
        )

    @pytest.mark.parametrize("kind", ["BIT", "UNION(n INTEGER, s VARCHAR)", "UNION(b BIGINT, n INTEGER)", "VARIANT"])
    def test_columns_that_remember_the_type_of_a_value(self, session: Session, kind: str) -> None:
        """They get what the text says, not what it would be after Arrow."""
        session.update(f"CREATE TABLE quick (c {kind}); CREATE TABLE slow (c {kind})")
        for value in ("5", "-1"):
            session.update(f"INSERT INTO quick VALUES ({value})")
            session.update(f"INSERT INTO slow VALUES ({value}) -- in DuckDB's own way")
        found = "SELECT c::VARCHAR, length(c::VARCHAR) FROM "
        assert rows(session, found + "quick") == rows(session, found + "slow")

    @pytest.mark.parametrize(
        ("sql", "kind"),
        [
            ("INSERT INTO nowhere VALUES (1)", ducktower.TableNotFound),
            ("INSERT INTO t VALUES (1, 'dup')", ducktower.ConstraintViolation),
            ("INSERT INTO t VALUES (9)", ducktower.InvalidSQL),
            ("INSERT INTO t VALUES (9, 'x', 1)", ducktower.InvalidSQL),
            ("INSERT INTO t (i, nothing) VALUES (9, 'x')", ducktower.SchemaMismatch),
            ("INSERT INTO t VALUES ('no number', 'x')", ducktower.SchemaMismatch),
        ],
    )
    def test_failures_store_nothing(self, session: Session, sql: str, kind: type[Exception]) -> None:
        """Each failure has its own error."""
        with pytest.raises(kind):
            session.update(sql)
        assert count(session) == 3


class TestTransactions:
    """Transactions with an id."""

    def test_commit(self, engine: Engine, session: Session, other: Session) -> None:
        """Others see nothing before COMMIT and all after it; the commit number grows by one."""
        before = engine.commit
        transaction = session.begin()
        session.update("INSERT INTO t VALUES (4, 'd')", transaction_id=transaction)
        session.update("UPDATE t SET v = 'z'")
        assert (count(session), count(other)) == (4, 3)
        session.end(transaction, commit=True)
        assert rows(other, "SELECT DISTINCT v FROM t") == [("z",)]
        assert engine.commit == before + 1

    def test_roll_back(self, session: Session, other: Session) -> None:
        """Nothing of it stays."""
        transaction = session.begin()
        session.update("DELETE FROM t; CREATE TABLE u (i INTEGER)")
        session.end(transaction, commit=False)
        assert (count(session), count(other)) == (3, 3)
        with pytest.raises(ducktower.TableNotFound):
            session.query("FROM u")

    def test_it_reads_one_snapshot(self, session: Session, other: Session) -> None:
        """What others commit meanwhile is not seen; afterwards it is."""
        transaction = session.begin()
        assert count(session) == 3
        other.update("DELETE FROM t")
        assert count(session) == 3
        session.end(transaction, commit=True)
        assert count(session) == 0

    def test_the_snapshot_begins_with_the_first_statement(self, session: Session, other: Session) -> None:
        """An open transaction without a statement holds no old snapshot: drivers open one at once."""
        transaction = session.begin()
        other.update("DELETE FROM t")
        assert count(session) == 0
        session.end(transaction, commit=True)

    def test_an_id_ends_once(self, session: Session, other: Session) -> None:
        """An id that ended, another session's and nonsense are refused, for every call that takes one."""
        transaction = session.begin()
        for refused in (b"nonsense", b"x" * 10_000):
            with pytest.raises(ducktower.InvalidArgument, match="transaction is unknown"):
                session.end(refused, commit=True)
        with pytest.raises(ducktower.InvalidArgument, match="transaction is unknown"):
            other.end(transaction, commit=True)
        session.end(transaction, commit=True)
        for call in (session.query, session.update, session.prepare):
            with pytest.raises(ducktower.InvalidArgument, match="transaction is unknown"):
                call("SELECT 1", transaction_id=transaction)
        with pytest.raises(ducktower.InvalidArgument, match="transaction is unknown"):
            session.end(transaction, commit=False)

    def test_a_second_one(self, session: Session) -> None:
        """Beginning again replaces a transaction without a statement, and is refused after one."""
        first = session.begin()
        second = session.begin()
        with pytest.raises(ducktower.InvalidArgument, match="unknown"):
            session.end(first, commit=True)
        session.update("DELETE FROM t")
        with pytest.raises(ducktower.InvalidArgument, match="open in this session already"):
            session.begin()
        session.end(second, commit=False)
        assert count(session) == 3

    def test_a_failed_statement(self, session: Session) -> None:
        """It fails the transaction: later statements say why, COMMIT stores nothing and says so, ROLLBACK helps."""
        transaction = session.begin()
        session.update("INSERT INTO t VALUES (4, 'd')")
        with pytest.raises(ducktower.ConstraintViolation):
            session.update("INSERT INTO t VALUES (1, 'twice')")
        with pytest.raises(ducktower.InvalidSQL, match="failed earlier, roll it back first: Duplicate key"):
            count(session)
        with pytest.raises(ducktower.InvalidSQL, match="nothing was stored"):
            session.end(transaction, commit=True)
        assert count(session) == 3
        transaction = session.begin()
        assert session.update("INSERT INTO t VALUES (4, 'd')") == 1
        session.end(transaction, commit=True)
        assert count(session) == 4

    @pytest.mark.parametrize(
        "sql", ["SELEC", "SELECT * FROM nowhere", "INSERT INTO t VALUES (1)", "SELECT nope FROM t"]
    )
    def test_a_statement_that_cannot_be_understood(self, session: Session, sql: str) -> None:
        """A misspelt statement does not cost the transaction: nothing of it ran."""
        transaction = session.begin()
        session.update("INSERT INTO t VALUES (4, 'd')")
        with pytest.raises((ducktower.InvalidSQL, ducktower.TableNotFound)):
            session.query(sql)
        session.end(transaction, commit=True)
        assert count(session) == 4

    def test_a_conflict_is_retryable(self, session: Session, other: Session) -> None:
        """Two transactions change one row: the later one gets CONFLICT, and again at COMMIT; nothing of it stays."""
        mine, theirs = session.begin(), other.begin()
        session.update("UPDATE t SET v = 'mine' WHERE i = 1")
        other.update("INSERT INTO t VALUES (9, 'lost')")
        with pytest.raises(ducktower.Conflict) as caught:
            other.update("UPDATE t SET v = 'theirs' WHERE i = 1")
        assert caught.value.retryable
        session.end(mine, commit=True)
        with pytest.raises(ducktower.Conflict, match="nothing was stored"):
            other.end(theirs, commit=True)
        assert rows(other, "SELECT i, v FROM t ORDER BY i") == [(1, "mine"), (2, "b"), (3, "c")]

    def test_a_conflict_at_commit(self, session: Session, other: Session) -> None:
        """Two transactions insert one key: the later COMMIT gets CONFLICT and the session goes on."""
        mine, theirs = session.begin(), other.begin()
        session.update("INSERT INTO t VALUES (9, 'mine')")
        other.update("INSERT INTO t VALUES (9, 'theirs')")
        session.end(mine, commit=True)
        with pytest.raises(ducktower.Conflict):
            other.end(theirs, commit=True)
        assert rows(other, "SELECT v FROM t WHERE i = 9") == [("mine",)]

    def test_prepared_inserts_see_a_table_that_a_transaction_altered(self, session: Session, other: Session) -> None:
        """Small writes of others are planned anew once a transaction that changed the table was committed."""
        other.update("INSERT INTO t VALUES (10, 'x')")
        transaction = session.begin()
        session.update("DROP TABLE t; CREATE TABLE t (v VARCHAR, i INTEGER)")
        session.end(transaction, commit=True)
        other.update("INSERT INTO t VALUES ('y', 10)")
        assert rows(other, "FROM t") == [("y", 10)]


class TestTransactionsInSQL:
    """BEGIN, COMMIT and ROLLBACK as statements."""

    @pytest.mark.parametrize("begin", ["BEGIN", "BEGIN TRANSACTION", "START TRANSACTION", "-- now\nbegin;"])
    @pytest.mark.parametrize(
        ("end", "seen"),
        [
            ("COMMIT", 4),
            ("END", 4),
            ("-- rollback\rCOMMIT", 4),
            ("/* /* abort */ rollback */ commit;", 4),
            ("ROLLBACK", 3),
            ("ABORT;", 3),
            ("/* commit */ Rollback Transaction -- commit", 3),
        ],
    )
    def test_every_spelling(self, session: Session, other: Session, begin: str, end: str, seen: int) -> None:
        """They do what they say."""
        session.update(begin)
        session.update("INSERT INTO t VALUES (4, 'd')")
        assert count(other) == 3
        session.update(end)
        assert (count(session), count(other)) == (seen, seen)

    def test_in_one_script(self, session: Session, other: Session) -> None:
        """A script may have several transactions of its own."""
        script = "BEGIN; INSERT INTO t VALUES (4, 'd'); COMMIT; BEGIN; DELETE FROM t; ROLLBACK; SELECT count(*) FROM t"
        assert rows(session, script) == [(4,)]
        assert count(other) == 4

    def test_a_script_may_leave_one_open(self, engine: Engine, session: Session, other: Session) -> None:
        """It goes on with the next call, and ends with the session."""
        session.update("BEGIN; DELETE FROM t")
        assert (count(session), count(other)) == (0, 3)
        engine.sessions.close(session.id)
        assert count(other) == 3

    def test_without_a_transaction(self, session: Session) -> None:
        """COMMIT and ROLLBACK without BEGIN, and BEGIN twice, are refused; the second leaves the first open."""
        for sql in ("COMMIT", "ROLLBACK"):
            with pytest.raises(ducktower.InvalidSQL, match="none is open"):
                session.update(sql)
        session.update("BEGIN; INSERT INTO t VALUES (4, 'd')")
        with pytest.raises(ducktower.InvalidSQL, match="open already"):
            session.update("BEGIN")
        session.update("COMMIT")
        assert count(session) == 4

    def test_a_failed_one_is_rolled_back_by_sql(self, session: Session) -> None:
        """ROLLBACK, prepared as drivers do, ends a failed transaction."""
        session.update("BEGIN; INSERT INTO t VALUES (4, 'd')")
        with pytest.raises(ducktower.InvalidSQL):
            session.query("SELECT error('stop')")
        assert session.prepare("ROLLBACK").update() == -1
        assert count(session) == 3

    def test_read_only(self, session: Session) -> None:
        """BEGIN TRANSACTION READ ONLY is kept to."""
        session.update("BEGIN TRANSACTION READ ONLY")
        with pytest.raises(ducktower.Forbidden):
            session.update("DELETE FROM t")
        session.update("ROLLBACK")
        assert count(session) == 3

    def test_read_only_under_an_id(self, session: Session) -> None:
        """READ ONLY holds for the one transaction that began so."""
        transaction = session.begin()
        session.update("BEGIN TRANSACTION READ ONLY")
        assert count(session) == 3
        session.update("COMMIT")
        assert session.update("DELETE FROM t") == 3
        session.end(transaction, commit=True)
        assert count(session) == 0

    def test_under_an_id(self, session: Session, other: Session) -> None:
        """COMMIT in SQL stores what was done; the id stays good for what comes after."""
        transaction = session.begin()
        session.update("BEGIN")
        session.update("INSERT INTO t VALUES (4, 'd')")
        session.update("COMMIT")
        assert count(other) == 4
        session.update("DELETE FROM t")
        assert count(other) == 4
        session.end(transaction, commit=True)
        assert count(other) == 0

    def test_an_id_cannot_be_had_while_sql_has_one_open(self, session: Session) -> None:
        """The two ways are not mixed silently."""
        session.update("BEGIN")
        with pytest.raises(ducktower.InvalidArgument, match="open in this session already"):
            session.begin()


class TestState:
    """What a session keeps, and nobody else sees."""

    def test_temporary_tables(self, session: Session, other: Session) -> None:
        """They are the session's own and shadow what others see."""
        session.update("CREATE TEMP TABLE mine AS SELECT 7 AS i")
        session.update("CREATE OR REPLACE TEMPORARY VIEW w AS SELECT i + 1 AS j FROM mine")
        assert rows(session, "SELECT i, j FROM mine, w") == [(7, 8)]
        with pytest.raises(ducktower.TableNotFound):
            other.query("FROM mine")
        session.update("CREATE TEMP TABLE t AS SELECT 1 AS only")
        assert rows(session, "FROM t") == [(1,)]
        assert count(other) == 3

    def test_use_and_variables(self, session: Session, other: Session) -> None:
        """USE, SET VARIABLE and PREPARE last for the session."""
        session.update("CREATE SCHEMA s; CREATE TABLE s.solo (i INTEGER)")
        session.update("USE s")
        assert session.update("INSERT INTO solo VALUES (5)") == 1
        session.update("SET VARIABLE x = 42; PREPARE q AS SELECT $1 + 1 AS y")
        assert rows(session, "SELECT getvariable('x'), i FROM solo") == [(42, 5)]
        assert rows(session, "EXECUTE q(1)") == [(2,)]
        with pytest.raises(ducktower.TableNotFound):
            other.query("FROM solo")

    def test_settings(self, session: Session, other: Session) -> None:
        """Harmless settings change for the session alone; all others, and SET GLOBAL, are refused."""
        session.update("SET TimeZone = 'Asia/Tokyo'")
        zone = "SELECT current_setting('TimeZone')"
        assert rows(session, zone) == [("Asia/Tokyo",)]
        assert rows(other, zone) != [("Asia/Tokyo",)]
        for sql in (
            "SET GLOBAL TimeZone = 'Asia/Tokyo'",
            "set/**/global timezone='UTC'",
            "SET -- x\rGLOBAL TimeZone = 'Asia/Tokyo'",
            "SET /* ' */ GLOBAL /* ' */ TimeZone = 'Asia/Tokyo'",
            "SELECT 1; SET GLOBAL TimeZone = 'Asia/Tokyo'",
            "RESET GLOBAL TimeZone",
        ):
            with pytest.raises(ducktower.Forbidden, match="SET GLOBAL"):
                session.update(sql)
        for sql in ("SET threads = 1", "SET enable_external_access = true", "SET allowed_configs = ['threads']"):
            with pytest.raises(ducktower.InvalidSQL, match="locked"):
                session.update(sql)
        assert rows(other, zone) != [("Asia/Tokyo",)]

    @pytest.mark.parametrize("begin", [False, True])
    def test_what_is_attached_is_not_theirs_to_change(self, engine: Engine, session: Session, *, begin: bool) -> None:
        """No database comes, not even one in memory, and the served one does not go."""
        if begin:
            session.begin()
        for sql in (
            "ATTACH ':memory:' AS x",
            "ATTACH ':memory:' AS x; USE x",
            "DETACH test",
            "DETACH DATABASE nowhere",
        ):
            with pytest.raises(ducktower.Forbidden, match="not offered"):
                session.update(sql)
            with pytest.raises(ducktower.Forbidden, match="not offered"):
                engine.execute(sql)
        assert count(session) == 3

    def test_the_served_database_stays_where_access_is_open(self, database: Path) -> None:
        """An operator may open ATTACH; the served database cannot be detached all the same."""
        with opened(database, external_access=True) as engine:
            session = engine.sessions.open()
            session.update("ATTACH ':memory:' AS x")
            session.update("USE x")
            for sql in ("DETACH test", 'detach database if exists "TEST"'):
                with pytest.raises(ducktower.Forbidden, match="served database"):
                    session.update(sql)
            session.update("USE test")
            session.update("DETACH x")

    def test_options(self, session: Session, other: Session) -> None:
        """Options are read and set by name; what is unknown or does not fit is told."""
        session.update("CREATE SCHEMA s")
        refused = session.set_options(
            {"schema": "s", "catalog": "test", "timezone": "Asia/Tokyo", "integer_division": True, "threads": 1}
        )
        assert refused == {"threads": "unknown name"}
        assert session.options() == {
            "catalog": "test",
            "schema": "s",
            "TimeZone": "Asia/Tokyo",
            "Calendar": "gregorian",
            "integer_division": True,
        }
        assert other.options()["schema"] == "main"
        assert session.set_options({"schema": "nowhere", "catalog": "elsewhere", "TimeZone": "Nowhere/At All"}) == {
            "schema": "unfit value",
            "catalog": "unfit value",
            "TimeZone": "unfit value",
        }
        assert session.set_options({"schema": None, "TimeZone": None, "integer_division": None}) == {}
        assert session.options() == other.options()

    def test_options_that_change_nothing(self, engine: Engine, session: Session) -> None:
        """Drivers set the default schema when they connect: no cursor is kept for that."""
        cursors = engine.statistics()["cursors"]
        assert (
            session.set_options({"schema": "main", "catalog": "test", "TimeZone": None, "integer_division": False})
            == {}
        )
        assert engine.statistics()["cursors"] == cursors
        assert session.set_options({"integer_division": True}) == {}
        assert session.set_options({"integer_division": False}) == {}
        assert session.options()["integer_division"] is False

    def test_an_option_that_is_no_option(self, session: Session) -> None:
        """A value is never SQL."""
        hostile = "main'; DROP TABLE t; --"
        assert session.set_options({"schema": hostile, "TimeZone": hostile}) == {
            "schema": "unfit value",
            "TimeZone": "unfit value",
        }
        assert count(session) == 3

    def test_options_within_a_transaction(self, session: Session) -> None:
        """A refused option does not cost the transaction."""
        transaction = session.begin()
        session.update("INSERT INTO t VALUES (4, 'd')")
        assert session.set_options({"TimeZone": "Nowhere/At All"}) == {"TimeZone": "unfit value"}
        session.end(transaction, commit=True)
        assert count(session) == 4


class TestTurns:
    """Statements on a session's own cursor wait for each other, and not for ever."""

    def test_a_small_result_waits_for_nobody(self, session: Session) -> None:
        """Within a transaction a result up to the bound is there in whole: the next statement can run at once."""
        transaction = session.begin()
        reader = session.query("SELECT i, repeat('x', 100) FROM range(50_000) r(i)").reader
        assert session.update("DELETE FROM t") == 3
        assert reader.read_all().num_rows == 50_000
        session.end(transaction, commit=True)

    def test_a_large_result_holds_the_turn(self, session: Session) -> None:
        """Beyond the bound the next statement waits, then says what it waited for; reading on helps."""
        transaction = session.begin()
        reader = session.query(LONG).reader
        reader.read_next_batch()
        with pytest.raises(ducktower.Overloaded, match="still being read"):
            session.update("DELETE FROM t")
        assert sum(batch.num_rows for batch in reader) > 0
        reader.close()
        del reader
        assert session.update("DELETE FROM t") == 3
        session.end(transaction, commit=True)

    def test_rolling_back_ends_a_result(self, session: Session) -> None:
        """ROLLBACK by id does not wait for a reader that nobody reads."""
        transaction = session.begin()
        session.update("DELETE FROM t")
        reader = session.query(LONG).reader
        reader.read_next_batch()
        thread = threading.Thread(target=lambda: until(lambda: _exhausted(reader), "the end of the result"))
        thread.start()
        until(lambda: _ended(session, transaction), "the roll back")
        thread.join()
        assert count(session) == 3

    def test_a_result_that_fails_while_it_is_read(self, session: Session) -> None:
        """The transaction has failed then, and says so."""
        transaction = session.begin()
        session.update("INSERT INTO t VALUES (4, 'd')")
        failing = "SELECT repeat('x', 1000) AS v, CASE WHEN i = 190000 THEN error('late') END FROM range(200000) r(i)"
        with pytest.raises((OSError, ducktower.InvalidSQL), match="late"), session.query(failing).reader as reader:
            reader.read_all()
        with pytest.raises(ducktower.InvalidSQL, match="failed"):
            count(session)
        with pytest.raises(ducktower.InvalidSQL, match="nothing was stored"):
            session.end(transaction, commit=True)
        assert count(session) == 3

    def test_one_session_from_many_threads(self, session: Session, engine: Engine) -> None:
        """Statements of one transaction take turns; none is lost."""
        engine.config.session_wait_seconds  # noqa: B018 - short on purpose: turns are short, too
        transaction = session.begin()
        together(8, lambda n: session.update(f"INSERT INTO t SELECT 100 + {n}, 'x'"))
        session.end(transaction, commit=True)
        assert count(session) == 11


def _exhausted(reader: object) -> bool:
    try:
        for _ in reader:  # type: ignore[attr-defined]
            pass
    except OSError:
        pass
    reader.close()  # type: ignore[attr-defined]
    return True


def _ended(session: Session, transaction: bytes) -> bool:
    try:
        session.end(transaction, commit=False)
    except ducktower.Overloaded:
        return False
    return True


class TestCancel:
    """`cancel` ends what a session runs."""

    @pytest.mark.parametrize("in_transaction", [False, True])
    def test_a_running_query(self, session: Session, *, in_transaction: bool) -> None:
        """It ends in CANCELLED; a transaction has failed with it."""
        if in_transaction:
            session.begin()
            session.update("INSERT INTO t VALUES (4, 'd')")
        failures: list[Exception] = []

        def run() -> None:
            try:
                session.query(ENDLESS)
            except ducktower.DucktowerError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        until(session.cancel, "something to cancel")
        thread.join()
        assert [type(error) for error in failures] == [ducktower.Cancelled]
        if in_transaction:
            with pytest.raises(ducktower.InvalidSQL, match="cancelled"):
                count(session)
        else:
            assert count(session) == 3

    def test_nothing_runs(self, session: Session) -> None:
        """There is nothing to cancel, and it says so."""
        assert session.cancel() is False

    def test_a_statement_past_its_time(self, database: Path) -> None:
        """The limit of one statement holds in sessions, too."""
        with opened(database, query_timeout_seconds=0.2) as engine:
            session = engine.sessions.open()
            session.update("BEGIN")
            with pytest.raises(ducktower.TimedOut):
                session.query(ENDLESS)
            session.update("ROLLBACK")


class TestRegistry:
    """Sessions are bounded, found by id, and end."""

    def test_found_by_id(self, engine: Engine, session: Session) -> None:
        """An id finds its session until that is closed; closing twice is harmless."""
        assert engine.sessions.find(session.id) is session
        assert engine.sessions.open(Principal("somebody"), session_id=session.id) is session
        assert engine.sessions.find("unknown") is None
        assert engine.sessions.close(session.id) is True
        assert engine.sessions.close(session.id) is False
        assert engine.sessions.find(session.id) is None
        with pytest.raises(ducktower.InvalidArgument, match="session is closed"):
            session.query("SELECT 1")
        with pytest.raises(ducktower.InvalidArgument, match="session is closed"):
            session.begin()

    def test_bounded(self, database: Path) -> None:
        """One more than `sessions_max` is refused, retryably, until one is closed."""
        with opened(database, sessions_max=2) as engine:
            first = engine.sessions.open()
            engine.sessions.open()
            with pytest.raises(ducktower.Overloaded, match="2 sessions"):
                engine.sessions.open()
            engine.sessions.close(first.id)
            engine.sessions.open()

    def test_cursors_are_bounded(self, database: Path) -> None:
        """One more session with state than there are places for is refused; reads go on."""
        with opened(database, session_cursors_max=1, lease_wait_seconds=0.1) as engine:
            one, two = engine.sessions.open(), engine.sessions.open()
            one.update("CREATE TEMP TABLE x (i INTEGER)")
            with pytest.raises(ducktower.Overloaded, match="session"):
                two.update("BEGIN")
            assert rows(two, "SELECT 1") == [(1,)]
            engine.sessions.close(one.id)
            two.update("BEGIN; ROLLBACK")

    def test_idle_ones_are_closed(self, database: Path) -> None:
        """A session of which nothing was asked for long is closed and its transaction rolled back."""
        with opened(database, session_idle_seconds=0.3) as engine:
            session = engine.sessions.open()
            session.update("CREATE TABLE t (i INTEGER)")
            session.update("BEGIN; INSERT INTO t VALUES (1)")
            until(lambda: not engine.sessions.describe(), "the end of the idle session")
            until(lambda: engine.statistics()["cursors"] <= 1, "the return of its cursor")
            assert engine.sessions.find(session.id) is None
            assert engine.read("SELECT count(*) AS n FROM t").read_all().to_pylist() == [{"n": 0}]

    def test_a_result_that_is_read_keeps_its_session(self, database: Path) -> None:
        """Reading slowly is not being idle."""
        with opened(database, session_idle_seconds=0.2) as engine:
            session = engine.sessions.open()
            reader = session.query(LONG).reader
            reader.read_next_batch()
            engine.sessions.open()
            until(lambda: len(engine.sessions.describe()) == 1, "the end of one that is idle")
            assert session.idle_seconds() == 0
            reader.close()

    def test_an_idle_transaction_is_rolled_back(self, database: Path) -> None:
        """The session stays and is told at its next statement."""
        with opened(database, transaction_idle_seconds=0.2) as engine:
            session = engine.sessions.open()
            session.update("CREATE TABLE t (i INTEGER)")
            transaction = session.begin()
            session.update("INSERT INTO t VALUES (1)")
            until(lambda: not engine.statistics()["cursors"], "the roll back")
            with pytest.raises(ducktower.InvalidSQL, match="rolled back after"):
                session.query("FROM t")
            with pytest.raises(ducktower.InvalidSQL, match="nothing was stored"):
                session.end(transaction, commit=True)
            assert rows(session, "SELECT count(*) FROM t") == [(0,)]

    def test_described(self, engine: Engine, session: Session) -> None:
        """An operator sees who is there and whether a transaction is open, and no whole id."""
        session.update("BEGIN; DELETE FROM t")
        (described,) = engine.sessions.describe()
        assert described["principal"] == "somebody"
        assert described["in_transaction"] is True
        assert session.id not in str(described)

    def test_closing_rolls_back_and_gives_all_back(self, engine: Engine, other: Session) -> None:
        """Fifty sessions with state leave nothing behind."""
        before = engine.statistics()["cursors"]
        for _ in range(50):
            session = engine.sessions.open()
            session.update("CREATE TEMP TABLE x AS FROM range(10); BEGIN; DELETE FROM t")
            engine.sessions.close(session.id)
        assert engine.statistics()["cursors"] == before
        assert count(other) == 3

    def test_closing_ends_what_runs(self, engine: Engine, session: Session) -> None:
        """A statement of a session that is closed ends in CANCELLED, and its cursor comes back."""
        session.update("BEGIN")
        failures: list[Exception] = []

        def run() -> None:
            try:
                session.query(ENDLESS)
            except ducktower.DucktowerError as error:
                failures.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        until(engine.running, "the query")
        engine.sessions.close(session.id)
        thread.join()
        assert [type(error) for error in failures] == [ducktower.Cancelled]
        until(lambda: engine.statistics()["cursors"] <= 1, "the return of its cursor")

    def test_a_closing_engine_rolls_sessions_back(self, database: Path) -> None:
        """What was not committed is gone when the file is opened again."""
        with opened(database) as engine:
            session = engine.sessions.open()
            session.update("CREATE TABLE t (i INTEGER)")
            session.update("BEGIN; INSERT INTO t VALUES (1)")
        with opened(database) as engine:
            assert rows(engine.sessions.open(), "SELECT count(*) FROM t") == [(0,)]


_FATAL = """
import os, resource, signal, sys, time
import ducktower
from ducktower.config import EngineConfig
from ducktower.engine import Engine

engine = Engine(EngineConfig(database=sys.argv[1]))
session, other = engine.sessions.open(), engine.sessions.open()
session.update("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1)")
session.update("CREATE TABLE filler AS SELECT i, hash(i) AS h FROM range(200000) r(i)")
transaction = session.begin()
session.query("FROM t")
other.update("CREATE TEMP TABLE mine AS SELECT 1 AS i")
size = os.stat(sys.argv[1]).st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
end = time.monotonic() + 30
while engine.health()["fatal_errors"] == 0 and time.monotonic() < end:
    try:
        engine.checkpoint()
    except ducktower.DucktowerError as error:
        print("checkpoint", error.code)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
while engine.health()["status"] != "serving" and time.monotonic() < end:
    time.sleep(0.01)
for work in (
    lambda: session.query("FROM t"),
    lambda: session.end(transaction, commit=True),
    lambda: print("rows", session.query("FROM t").rows),
    lambda: other.query("FROM mine"),
    lambda: print("rows", other.query("FROM t").rows),
    lambda: print("stored", other.update("INSERT INTO t VALUES (3)")),
):
    try:
        work()
    except ducktower.DucktowerError as error:
        print(error.code, error.message)
print("status", engine.health()["status"], engine.health()["fatal_errors"], engine.statistics()["cursors"])
engine.close()
"""


def test_a_fatal_error_of_the_database(database: Path) -> None:
    """It is opened again although sessions had cursors; an open transaction says that it was lost, others go on."""
    done = subprocess.run(
        [sys.executable, "-c", _FATAL, str(database)], capture_output=True, text=True, timeout=90, check=False
    )
    said = [line for line in done.stdout.splitlines() if not line.startswith("checkpoint")]
    assert said[0].startswith("INVALID_SQL the transaction failed earlier"), (said, done.stderr)
    assert "reopened" in said[0]
    assert said[1].startswith("INVALID_SQL nothing was stored")
    assert said[2] == "rows 1"
    assert said[3].startswith("TABLE_NOT_FOUND")
    assert said[4:6] == ["rows 1", "stored 1"]
    assert said[6].startswith("status serving 1 ")
    assert done.returncode == 0


@pytest.mark.parametrize("where", ["beside", "own cursor", "transaction"])
def test_what_explain_runs_is_noticed(database: Path, where: str) -> None:
    """EXPLAIN ANALYZE makes a table anew: an insert by position knows its columns as they are now."""
    with opened(database) as engine:
        session, others = engine.sessions.open(), engine.sessions.open()
        session.update("CREATE TABLE t (a VARCHAR, b VARCHAR)")
        others.update("INSERT INTO t VALUES ('a', 'b')")
        if where == "own cursor":
            session.update("CREATE TEMP TABLE mine (n INTEGER)")
        if where == "transaction":
            session.update("BEGIN")
        sql = "EXPLAIN ANALYZE CREATE OR REPLACE TABLE t AS SELECT 'b' AS b, 'a' AS a"
        with session.query(sql).reader as reader:
            reader.read_all()
        if where == "transaction":
            session.update("COMMIT")
        others.update("INSERT INTO t VALUES ('b', 'a')")
        assert rows(others, "SELECT DISTINCT a, b FROM t") == [("a", "b")]
