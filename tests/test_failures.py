"""What DuckDB says of a failure, and what we make of it: each decision is provoked in a real database."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import ducktower
from ducktower.engine.calls import Caller, Calls
from ducktower.engine.failures import first_line, is_fatal, translate, translate_text
from ducktower.errors import DucktowerError


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Any]:
    """Open a database file with a table of ten rows."""
    with duckdb.connect(str(tmp_path / "failures.duckdb")) as connection:
        connection.execute("CREATE TABLE t (i BIGINT PRIMARY KEY, v VARCHAR NOT NULL, n INTEGER CHECK (n < 100))")
        connection.execute("INSERT INTO t SELECT i, 'a', 1 FROM range(10) r(i)")
        connection.execute("CREATE VIEW w AS FROM t")
        yield connection


def failure_of(call: Callable[[], Any]) -> DucktowerError:
    """Return the translated failure of a call that must fail."""
    with pytest.raises((duckdb.Error, pa.ArrowException, OSError)) as caught:
        call()
    return translate(caught.value)


STATEMENTS: dict[str, tuple[str, type[DucktowerError], str]] = {
    "missing_table": ("SELECT * FROM nope", ducktower.TableNotFound, "nope"),
    "missing_table_of_a_missing_schema": ("SELECT * FROM nope.t", ducktower.TableNotFound, "nope"),
    "missing_view": ("DROP VIEW nope", ducktower.TableNotFound, "nope"),
    "missing_function": ("SELECT nofunction(1)", ducktower.InvalidSQL, "nofunction"),
    "missing_type": ("CREATE TABLE x (i NOTYPE)", ducktower.InvalidSQL, "NOTYPE"),
    "table_there": ("CREATE TABLE t (i INTEGER)", ducktower.TableExists, "t"),
    "view_there": ("CREATE TABLE w (i INTEGER)", ducktower.TableExists, "w"),
    "syntax": ("SELEC 1", ducktower.InvalidSQL, "SELEC"),
    "missing_column": ("SELECT nope FROM t", ducktower.InvalidSQL, "nope"),
    "conversion": ("SELECT 'x'::INTEGER", ducktower.InvalidSQL, "'x'"),
    "out_of_range": ("SELECT 300::TINYINT", ducktower.InvalidSQL, "300"),
    "not_null": ("INSERT INTO t (i) VALUES (77)", ducktower.ConstraintViolation, "t.v"),
    "check": ("INSERT INTO t VALUES (77, 'a', 100)", ducktower.ConstraintViolation, "CHECK"),
    "primary_key": ("INSERT INTO t VALUES (1, 'a', 1)", ducktower.ConstraintViolation, "i: 1"),
    "own_error": ("SELECT error('mine')", ducktower.InvalidSQL, "mine"),
    "missing_parameter": ("SELECT ?", ducktower.InvalidSQL, "1"),
}


@pytest.mark.parametrize("case", STATEMENTS)
def test_a_failed_statement(root: Any, case: str) -> None:
    """Each gives its code, and one line that names the thing."""
    sql, kind, named = STATEMENTS[case]
    error = failure_of(lambda: root.execute(sql).fetchall())
    assert type(error) is kind
    assert named in error.message
    assert "\n" not in error.message
    assert "LINE 1" not in error.message
    assert "Error:" not in error.message


def test_a_write_in_a_read_only_transaction_is_forbidden(root: Any) -> None:
    """DuckDB's own refusal of a write is FORBIDDEN, not a conflict to be retried."""
    cursor = root.cursor()
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    error = failure_of(lambda: cursor.execute("INSERT INTO t VALUES (77, 'a', 1)"))
    assert type(error) is ducktower.Forbidden
    assert "only reads" in error.message


FIRST_AND_SECOND = {
    "update": ("UPDATE t SET v = 'b' WHERE i = 1", "UPDATE t SET v = 'c' WHERE i = 1"),
    "delete": ("DELETE FROM t WHERE i = 1", "DELETE FROM t WHERE i = 1"),
    "create": ("CREATE TABLE made (i INTEGER)", "CREATE TABLE made (i INTEGER)"),
    "alter": ("ALTER TABLE t ADD COLUMN z INTEGER", "ALTER TABLE t ADD COLUMN y INTEGER"),
    "insert_into_altered": ("ALTER TABLE t ADD COLUMN z INTEGER", "INSERT INTO t VALUES (77, 'a', 1)"),
    "insert_into_dropped": ("DROP VIEW w; DROP TABLE t", "INSERT INTO t VALUES (77, 'a', 1)"),
}


@pytest.mark.parametrize("case", FIRST_AND_SECOND)
def test_two_transactions_at_the_same_thing_conflict(root: Any, case: str) -> None:
    """The second one fails with CONFLICT, which may be retried."""
    first, second = root.cursor(), root.cursor()
    first.execute("BEGIN")
    first.execute(FIRST_AND_SECOND[case][0])
    error = failure_of(lambda: second.execute(FIRST_AND_SECOND[case][1]))
    assert type(error) is ducktower.Conflict
    assert error.retryable


def test_two_inserts_of_one_key_conflict_at_commit(root: Any) -> None:
    """The second COMMIT fails with CONFLICT; tried again it finds the key and says so."""
    first, second = root.cursor(), root.cursor()
    for cursor in (first, second):
        cursor.execute("BEGIN")
        cursor.execute("INSERT INTO t VALUES (77, 'a', 1)")
    first.execute("COMMIT")
    assert type(failure_of(lambda: second.execute("COMMIT"))) is ducktower.Conflict
    assert type(failure_of(lambda: second.execute("INSERT INTO t VALUES (77, 'a', 1)"))) is (
        ducktower.ConstraintViolation
    )


def test_a_commit_that_the_disk_refused_is_unavailable(tmp_path: Path) -> None:
    """A COMMIT that cannot write its WAL stored nothing, and says that."""
    program = """
import resource, sys, duckdb
from ducktower.engine.failures import is_fatal, translate
connection = duckdb.connect(sys.argv[1], config={"checkpoint_threshold": "10GB"})
connection.execute("CREATE TABLE t (v VARCHAR)")
connection.execute("CHECKPOINT")
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, -1))
connection.execute("BEGIN")
connection.execute("INSERT INTO t SELECT repeat('x', 1000) || i FROM range(5000) r(i)")
try:
    connection.execute("COMMIT")
except duckdb.Error as error:
    ours = translate(error)
    print(ours.code, is_fatal(error), ours.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "full.duckdb")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.startswith("UNAVAILABLE False nothing was stored: "), done.stdout + done.stderr


def test_a_dead_database_says_nothing_of_columns(tmp_path: Path) -> None:
    """After a fatal error it is not the rows' types that are refused: the caller would not try again."""
    program = """
import os, resource, sys, duckdb, pyarrow as pa
from ducktower.engine.failures import is_fatal
from ducktower.engine.inserts import source_columns
connection = duckdb.connect(sys.argv[1], config={"checkpoint_threshold": "10GB"})
connection.execute("CREATE TABLE t AS SELECT i, hash(i) FROM range(200000) r(i)")
resource.setrlimit(resource.RLIMIT_FSIZE, (os.stat(sys.argv[1]).st_size, -1))
schema = pa.schema([("i", pa.int64())])
for step in (lambda: connection.execute("CHECKPOINT"), lambda: source_columns(connection, schema)):
    try:
        step()
    except Exception as error:
        print(is_fatal(error), type(error).__name__)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "dead.duckdb")], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "True FatalException\n" * 2, done.stdout + done.stderr


def test_running_out_of_memory_is_a_limit(root: Any) -> None:
    """DuckDB's memory limit is LIMIT_EXCEEDED."""
    root.execute("SET temp_directory = ''; SET memory_limit = '20MB'")
    error = failure_of(lambda: root.execute("CREATE TABLE big AS SELECT i, repeat('x', 1000) FROM range(1000000) r(i)"))
    assert type(error) is ducktower.LimitExceeded


def test_a_file_that_is_locked_away_is_forbidden(tmp_path: Path) -> None:
    """With external access off, a file function is FORBIDDEN."""
    with duckdb.connect(config={"enable_external_access": "false"}) as connection:
        error = failure_of(lambda: connection.execute("SELECT * FROM read_csv('/etc/passwd')"))
    assert type(error) is ducktower.Forbidden


def test_a_configuration_that_is_locked_is_refused() -> None:
    """A setting that may not be changed is refused by name."""
    with duckdb.connect(config={"lock_configuration": "true"}) as connection:
        error = failure_of(lambda: connection.execute("SET threads = 1"))
    assert type(error) in (ducktower.Forbidden, ducktower.InvalidSQL)
    assert "threads" in error.message


@pytest.mark.parametrize(
    "sql",
    [
        "FROM hidden_on",
        "FROM hidden_one",
        "DROP TABLE hidden_on",
        "FROM main.hidden_on",
        "ALTER TABLE hidden_on DROP x",
    ],
)
def test_no_hint_tells_what_another_transaction_has_made(root: Any, sql: str) -> None:
    """DuckDB proposes names of tables that are not committed yet."""
    other = root.cursor()
    other.execute("BEGIN; CREATE TABLE hidden_one (i INTEGER)")
    error = failure_of(lambda: root.execute(sql))
    assert "Did you mean" not in error.message
    assert error.message.count("hidden_one") == sql.count("hidden_one")


@pytest.mark.parametrize(
    "sql",
    ["SELECT 1" + " + 1" * 1_200, "SELECT absx(1)", "FROM pg_enu", "CREATE TABLE x (i INTEGRE)", "SET thread = 1"],
)
def test_no_hint_proposes_what_is_not_offered(root: Any, sql: str) -> None:
    """Settings that are locked, tables of the system."""
    message = failure_of(lambda: root.execute(sql)).message
    assert "Did you mean" not in message
    assert "SET max" not in message


class TestStreams:
    """Failures within a native stream, where only a text is left."""

    def failure(self, root: Any, sql: str) -> str:
        reader = root.cursor().sql(sql).to_arrow_reader(1000)
        with pytest.raises((pa.ArrowException, OSError)) as caught:
            reader.read_all()
        return str(caught.value)

    def test_a_conversion(self, root: Any) -> None:
        """A value met late in a result that cannot be cast."""
        sql = "SELECT CASE WHEN i = 90000 THEN 'x' ELSE '1' END::INTEGER FROM range(100000) r(i)"
        error = translate_text(self.failure(root, sql))
        assert type(error) is ducktower.InvalidSQL
        assert error.message == "Could not convert string 'x' to INT32"

    def test_an_interrupt_with_its_reason(self, root: Any) -> None:
        """An interrupted stream is answered with why it was interrupted."""
        cursor = root.cursor()
        reader = cursor.sql("SELECT i FROM range(100000000) r(i)").to_arrow_reader(1000)
        reader.read_next_batch()
        calls = Calls(60)
        call = calls.start("query", "", Caller(), timeout_seconds=None, interrupt=cursor.interrupt)
        call.end("cancelled")
        with pytest.raises((pa.ArrowException, OSError)) as caught:
            reader.read_all()
        assert type(translate_text(str(caught.value), call)) is ducktower.Cancelled
        assert type(translate(caught.value, call)) is ducktower.Cancelled
        assert type(translate_text(str(caught.value))) is ducktower.TimedOut
        calls.finish(call)
        calls.close()

    @pytest.mark.parametrize("name", ["FATAL Error", "IO Error", "INTERNAL Error", "Constraint Error"])
    def test_a_value_cannot_pose_as_another_error(self, root: Any, name: str) -> None:
        """Text that a client wrote, quoted in an error, does not change the code."""
        sql = f"SELECT CASE WHEN i = 90000 THEN error('{name}: mine') END FROM range(100000) r(i)"
        error = translate_text(self.failure(root, sql))
        assert type(error) is ducktower.InvalidSQL
        assert "mine" in error.message
        sql = f"SELECT CASE WHEN i = 90000 THEN '{name}: mine' ELSE '1' END::INTEGER FROM range(100000) r(i)"
        assert type(translate_text(self.failure(root, sql))) is ducktower.InvalidSQL


def test_our_own_errors_pass_as_they_are() -> None:
    """An error of ours is not wrapped in another."""
    error = ducktower.SchemaMismatch("x")
    assert translate(error) is error


def test_an_unknown_exception_is_internal_and_named() -> None:
    """What nobody thought of says its class."""
    error = translate(ZeroDivisionError("division by zero"))
    assert type(error) is ducktower.InternalError
    assert "ZeroDivisionError" in error.message


def test_running_out_of_memory_in_python_is_a_limit() -> None:
    """MemoryError is LIMIT_EXCEEDED."""
    assert type(translate(MemoryError())) is ducktower.LimitExceeded


def test_only_a_fatal_error_is_fatal() -> None:
    """Reopening is for DuckDB's FatalException alone."""
    assert is_fatal(duckdb.FatalException("database has been invalidated"))
    assert not is_fatal(duckdb.InternalException("x"))
    error = translate(duckdb.FatalException("FATAL Error: database has been invalidated"))
    assert type(error) is ducktower.Unavailable
    assert "being reopened" in error.message


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ('Parser Error: syntax error at or near "x"\n\nLINE 1: x\n        ^', 'syntax error at or near "x"'),
        (
            'Catalog Error: Table with name a does not exist!\nDid you mean "b"?\n\nLINE',
            "Table with name a does not exist!",
        ),
        (
            'Catalog Error: Table with name a does not exist!\nDid you mean "b\nc?\n\nd"?',
            "Table with name a does not exist!",
        ),
        (
            'Parser Error: Max expression depth limit of 1000 exceeded. Use "SET max_expression_depth TO x" to '
            "increase the maximum expression depth.",
            "Max expression depth limit of 1000 exceeded.",
        ),
        ("no class name: here", "no class name: here"),
        ("", ""),
    ],
)
def test_one_line_is_left_of_duckdbs_text(raw: str, line: str) -> None:
    """The class name and the quoted SQL are left out, the rest is one line."""
    assert first_line(raw) == line
