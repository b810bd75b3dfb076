"""What a statement is, asked of DuckDB's parser: scripts, queries, statements that run alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

import ducktower
from ducktower.engine import statements

BYTES_MAX = 10_000


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    """Return a cursor of a database in memory, which parses."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE t (i INTEGER)")
        yield connection


@pytest.mark.parametrize(
    ("sql", "count"),
    [
        ("SELECT 1", 1),
        ("SELECT 1;", 1),
        ("SELECT 1; SELECT 2", 2),
        ("SELECT ';'; -- ; nothing\n INSERT INTO t VALUES (1)", 2),
        ("/* ; */ SELECT $$;$$", 1),
    ],
)
def test_a_script_is_cut_where_duckdb_cuts_it(cursor: Any, sql: str, count: int) -> None:
    """A semicolon in a string, a comment or dollar quotes ends nothing."""
    assert len(statements.script(cursor, sql, BYTES_MAX)) == count


@pytest.mark.parametrize("sql", ["", "   ", ";", "-- nothing", "/* nothing */;"])
def test_nothing_is_no_statement(cursor: Any, sql: str) -> None:
    """A text without a statement is refused."""
    with pytest.raises(ducktower.InvalidSQL, match="no statement"):
        statements.script(cursor, sql, BYTES_MAX)


@pytest.mark.parametrize(
    "sql",
    [
        "BEGIN",
        "begin transaction read only",
        "COMMIT",
        "ROLLBACK",
        "START TRANSACTION",
        "ABORT",
        "SELECT 1; COMMIT; DROP TABLE t",
    ],
)
def test_transactions_are_not_steered_by_a_script(cursor: Any, sql: str) -> None:
    """BEGIN, COMMIT and ROLLBACK, anywhere in a script, are refused before anything runs."""
    with pytest.raises(ducktower.InvalidSQL, match="one transaction as it is"):
        statements.script(cursor, sql, BYTES_MAX)


def test_a_long_text_is_refused_before_it_is_parsed(cursor: Any) -> None:
    """The limit is named."""
    with pytest.raises(ducktower.LimitExceeded, match="limit is 10000"):
        statements.script(cursor, "SELECT '" + "x" * BYTES_MAX + "'", BYTES_MAX)


def test_the_limit_counts_bytes(cursor: Any) -> None:
    """Characters of several bytes count as several."""
    with pytest.raises(ducktower.LimitExceeded):
        statements.script(cursor, "SELECT '" + "🦆" * (BYTES_MAX // 2) + "'", BYTES_MAX)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "FROM t",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "VALUES (1)",
        "DESCRIBE t",
        "SUMMARIZE t",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "PIVOT t ON i USING count(*)",
        "TABLE t",
    ],
)
def test_what_asks_is_a_query(cursor: Any, sql: str) -> None:
    """Every form of asking passes."""
    assert statements.one_query(cursor, sql, BYTES_MAX) is not None


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (1)",
        "UPDATE t SET i = 1",
        "DELETE FROM t",
        "MERGE INTO t USING t AS s ON t.i = s.i WHEN MATCHED THEN DELETE",
        "TRUNCATE t",
        "CREATE TABLE u (i INTEGER)",
        "CREATE TEMP TABLE u AS SELECT 1",
        "DROP TABLE t",
        "ALTER TABLE t ADD COLUMN j INTEGER",
        "COPY t TO 'x.csv'",
        "COPY t FROM 'x.csv'",
        "ATTACH 'x.duckdb'",
        "DETACH x",
        "USE main",
        "SET threads = 1",
        "SET VARIABLE a = 1",
        "RESET threads",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "CHECKPOINT",
        "VACUUM",
        "INSTALL httpfs",
        "LOAD httpfs",
        "EXPORT DATABASE 'x'",
        "IMPORT DATABASE 'x'",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "DEALLOCATE p",
        "COMMENT ON TABLE t IS 'x'",
        "ANALYZE",
    ],
)
def test_what_does_more_is_no_query(cursor: Any, sql: str) -> None:
    """Everything else is FORBIDDEN in a read, by its kind."""
    with pytest.raises(ducktower.Forbidden, match="is not a query"):
        statements.one_query(cursor, sql, BYTES_MAX)


def test_a_query_is_one_statement(cursor: Any) -> None:
    """Two queries in one text are refused."""
    with pytest.raises(ducktower.InvalidSQL, match="one statement, not 2"):
        statements.one_query(cursor, "SELECT 1; SELECT 2", BYTES_MAX)


def test_a_broken_text_is_duckdbs_to_report(cursor: Any) -> None:
    """The parser's own exception comes through, to be translated above."""
    with pytest.raises(duckdb.ParserException):
        statements.script(cursor, "SELEC 1", BYTES_MAX)


@pytest.mark.parametrize(
    ("sql", "alone"),
    [
        ("VACUUM", True),
        ("CHECKPOINT", True),
        ("SET threads = 1", True),
        ("INSERT INTO t VALUES (1)", False),
        ("SELECT 1", False),
    ],
)
def test_what_must_run_outside_a_transaction(cursor: Any, sql: str, alone: bool) -> None:
    """Statements that a transaction refuses, or would not undo, are known."""
    assert statements.runs_alone(statements.script(cursor, sql, BYTES_MAX)[0]) is alone


MANY = 1_100
"""More brackets than may be nested."""


@pytest.mark.parametrize(
    "text", ["'sad :('", '"a("', "$$ ( $$", "$x$ [ $x$", "/* { */ 1", "1 -- (\n", "e'\\'('"], ids=range(7)
)
def test_brackets_that_are_text_nest_nothing(cursor: Any, text: str) -> None:
    """In strings, quoted names and comments they are as many as one likes."""
    sql = "SELECT " + ", ".join([text] * MANY)
    assert len(statements.script(cursor, sql, 10 * BYTES_MAX)) == 1


@pytest.mark.parametrize("sql", ["(" * MANY, "([{" * MANY, "(/*)*/" * MANY, "(')'," * MANY, "é(" * MANY], ids=range(5))
def test_brackets_that_are_nested_are_refused_before_they_are_parsed(cursor: Any, sql: str) -> None:
    """Closing ones that are text close nothing."""
    with pytest.raises(ducktower.InvalidSQL, match="nested more than 1000"):
        statements.script(cursor, f"SELECT {sql}", 10 * BYTES_MAX)


def test_many_rows_with_brackets_in_their_texts_are_stored(client: ducktower.FlightClient) -> None:
    """An INSERT of literals."""
    client.execute("CREATE TABLE t (i INTEGER, v VARCHAR)")
    rows = ", ".join(f"({i}, 'sad :(')" for i in range(1_001))
    assert client.execute(f"INSERT INTO t VALUES {rows}").rows == 1_001


class TestExplain:
    """EXPLAIN ANALYZE runs what it explains: only what may run may be explained."""

    @pytest.mark.parametrize(
        "sql",
        [
            "EXPLAIN SELECT 1",
            "explain analyze (select 1)",
            "EXPLAIN ((SELECT 1))",
            "EXPLAIN (ANALYZE, FORMAT JSON) FROM range(3)",
            "EXPLAIN (FORMAT JSON) (SELECT 1)",
            "/* set */ EXPLAIN -- commit\n ANALYZE /* begin */ WITH x AS (SELECT 1) FROM x",
            "EXPLAIN ANALYZE VALUES (1)",
        ],
    )
    def test_queries_are_explained(self, client: ducktower.FlightClient, sql: str) -> None:
        """However they begin, comments and brackets included."""
        assert client.query(sql).num_rows >= 1

    @pytest.mark.parametrize(
        "inner", ["SET memory_limit = '1MB'", "SET GLOBAL TimeZone = 'UTC'", "BEGIN", "COMMIT", "CHECKPOINT"]
    )
    @pytest.mark.parametrize("head", ["EXPLAIN", "EXPLAIN ANALYZE", "explain (analyze)", "EXPLAIN /*SELECT*/ ANALYZE"])
    def test_what_may_not_run_is_not_explained(self, client: ducktower.FlightClient, head: str, inner: str) -> None:
        """A script stays one transaction, and settings stay the server's."""
        client.execute("CREATE TABLE IF NOT EXISTS t (i INTEGER)")
        for call in (client.query, client.execute):
            with pytest.raises((ducktower.Forbidden, ducktower.InvalidSQL)):
                call(f"{head} {inner}")
        with pytest.raises((ducktower.Forbidden, ducktower.InvalidSQL)):
            client.execute(f"INSERT INTO t VALUES (1); {head} {inner}; INSERT INTO t VALUES (2)")
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 0}]

    def test_letters_of_several_bytes_hide_nothing(self, client: ducktower.FlightClient) -> None:
        """The tokenizer counts bytes: a comment of other letters does not move what is looked at."""
        for letters in range(60):
            for inner in ("SET    memory_limit='777MB'", "COMMIT", "SET  GLOBAL TimeZone = 'UTC'"):
                with pytest.raises((ducktower.Forbidden, ducktower.InvalidSQL)):
                    client.query(f"EXPLAIN ANALYZE /*{'é' * letters}*/ {inner} --        select                    ")
        assert client.query("EXPLAIN /*é*/ SELECT 'é' AS é").num_rows >= 1
