"""What each role may do, on every way into the engine that runs SQL or stores rows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ducktower
from ducktower.engine import Caller, Engine, Ingest, Principal, Target
from support.engines import batches, opened, rows

READER = Principal("rita", "reader")
WRITER = Principal("walt", "writer")
OWNER = Principal("olga", "owner")
CONTENTS = "SELECT sum(i), count(*) FROM t"


def called(principal: Principal) -> Caller:
    """Return a caller that is this principal."""
    return Caller(principal=principal)


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Return an engine with a table, a view and a sequence."""
    with opened(database) as opened_engine:
        opened_engine.execute("CREATE TABLE t (i INTEGER, v VARCHAR); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
        opened_engine.execute("CREATE TABLE other (i INTEGER); CREATE SEQUENCE s; CREATE VIEW w AS FROM t")
        yield opened_engine


FACTS = (
    "SELECT i, v FROM t ORDER BY ALL",
    "SELECT schema_name, table_name, comment, column_count FROM duckdb_tables() ORDER BY ALL",
    "SELECT view_name, sql FROM duckdb_views() WHERE NOT internal ORDER BY ALL",
    "SELECT sequence_name, last_value FROM duckdb_sequences() ORDER BY ALL",
    "SELECT function_name FROM duckdb_functions() WHERE NOT internal",
    "SELECT count(*) FROM duckdb_types()",
    "SELECT count(*) FROM duckdb_indexes()",
    "SELECT schema_name FROM duckdb_schemas() ORDER BY ALL",
    "SELECT database_name, path FROM duckdb_databases() ORDER BY ALL",
    "SELECT name, value FROM duckdb_settings() WHERE name != 'memory_limit' ORDER BY ALL",
)


def state(engine: Engine) -> Any:
    """Return what may be different after a statement: rows, tables, sequences, what is attached, settings."""
    return [engine.read(fact).read_all().to_pylist() for fact in FACTS]


# -- the ways in ---------------------------------------------------------------------------------------


def by_read(engine: Engine, principal: Principal, sql: str) -> None:
    """Ask by a ticket."""
    engine.read(sql, None, called(principal)).read_all()


def by_describe(engine: Engine, principal: Principal, sql: str) -> None:
    """Ask for the schema alone."""
    engine.describe(sql, None, called(principal))


def by_execute(engine: Engine, principal: Principal, sql: str) -> None:
    """Use the action `execute`."""
    engine.execute(sql, None, called(principal))


def by_query(engine: Engine, principal: Principal, sql: str) -> None:
    """Ask in a session."""
    rows(engine.sessions.open(principal), sql)


def by_update(engine: Engine, principal: Principal, sql: str) -> None:
    """Update in a session."""
    engine.sessions.open(principal).update(sql)


def by_prepared_query(engine: Engine, principal: Principal, sql: str) -> None:
    """Prepare, then ask."""
    with engine.sessions.open(principal).prepare(sql).query().reader as reader:
        reader.read_all()


def by_prepared_update(engine: Engine, principal: Principal, sql: str) -> None:
    """Prepare, then update."""
    engine.sessions.open(principal).prepare(sql).update()


def in_transaction(engine: Engine, principal: Principal, sql: str) -> None:
    """Ask within a transaction that was begun earlier, and commit it."""
    session = engine.sessions.open(principal)
    transaction = session.begin()
    rows(session, "SELECT 1")
    with session.query(sql, None, transaction).reader as reader:
        reader.read_all()
    session.end(transaction, commit=True)


def in_sql_transaction(engine: Engine, principal: Principal, sql: str) -> None:
    """Update after a BEGIN that wants to write."""
    session = engine.sessions.open(principal)
    session.update("BEGIN TRANSACTION READ WRITE")
    session.update(sql)
    session.update("COMMIT")


def with_settings(engine: Engine, principal: Principal, sql: str) -> None:
    """Ask where a cursor is kept because of a setting."""
    session = engine.sessions.open(principal)
    session.update("SET TimeZone = 'UTC'")
    rows(session, sql)
    rows(session, "SELECT 1")


def in_script(engine: Engine, principal: Principal, sql: str) -> None:
    """Hide it among statements that only ask."""
    engine.sessions.open(principal).update(f"SELECT 1; {sql}; SELECT 2")


Way = Callable[[Engine, Principal, str], None]

WAYS = [
    *(by_read, by_describe, by_execute, by_query, by_update, by_prepared_query, by_prepared_update),
    *(in_transaction, in_sql_transaction, with_settings, in_script),
]

CHANGES = [
    "INSERT INTO t VALUES (3, 'c')",
    "INSERT INTO t SELECT 3, 'c'",
    "UPDATE t SET i = 9",
    "DELETE FROM t",
    "TRUNCATE t",
    "MERGE INTO t USING other ON t.i = other.i WHEN NOT MATCHED THEN INSERT VALUES (7, 'm')",
    "WITH x AS (SELECT 3 AS i) INSERT INTO t SELECT i, 'x' FROM x",
    "WITH x AS (INSERT INTO t VALUES (4, 'd') RETURNING *) SELECT * FROM x",
    "WITH x AS (DELETE FROM t RETURNING *) SELECT count(*) FROM x",
    "EXPLAIN ANALYZE INSERT INTO t VALUES (3, 'c')",
    "EXPLAIN (ANALYZE, FORMAT json) DELETE FROM t",
    "EXPLAIN ANALYZE WITH x AS (DELETE FROM t RETURNING *) FROM x",
    "INSERT INTO t VALUES (3, 'c') RETURNING i",
    "SELECT nextval('s')",
    "PIVOT (SELECT nextval('s') AS n, i FROM t) ON i USING sum(n)",
    "EXPLAIN ANALYZE SELECT nextval('s')",
]
"""What writers may and readers may not."""

OWNERS = [
    "CREATE TABLE made (i INTEGER)",
    "CREATE OR REPLACE TABLE t AS SELECT 1 AS i",
    "CREATE TABLE made AS (PIVOT t ON v USING count(*))",
    "CREATE TEMP TABLE made (i INTEGER)",
    "CREATE VIEW made AS FROM t",
    "CREATE MACRO made() AS 1",
    "CREATE TYPE made AS ENUM ('a')",
    "CREATE SEQUENCE made",
    "CREATE INDEX made ON t (i)",
    "CREATE SCHEMA made",
    "CREATE SECRET made (TYPE http)",
    "ALTER TABLE t ADD COLUMN z INTEGER",
    "COMMENT ON TABLE t IS 'x'",
    "DROP TABLE t",
    "DROP VIEW w",
    "PREPARE p AS INSERT INTO t VALUES (5, 'p')",
    "EXECUTE p",
    "DEALLOCATE p",
    "CALL checkpoint()",
    "CHECKPOINT",
    "PRAGMA force_checkpoint",
    "PRAGMA table_info('t')",
    "PRAGMA threads = 1",
    "VACUUM",
    "ANALYZE",
    "ATTACH ':memory:' AS made",
    "DETACH test",
    "COPY t TO 'made.csv'",
    "COPY t FROM 'made.csv'",
    "EXPORT DATABASE 'made'",
    "IMPORT DATABASE 'made'",
    "COPY FROM DATABASE test TO temp",
    "INSTALL json",
    "LOAD json",
    "UPDATE EXTENSIONS",
    "SET threads = 1",
    "SET VARIABLE made = 1",
    "SET VARIABLE made = nextval('s')",
    "SET TimeZone = (SELECT 'UTC' || nextval('s'))",
    "SET GLOBAL TimeZone = 'UTC'",
    "SET memory_limit = '1GB'",
    "RESET threads",
    "EXPLAIN ANALYZE CREATE TABLE made (i INTEGER)",
    "EXPLAIN ANALYZE SET threads = 1",
    "EXPLAIN ANALYZE EXECUTE p",
]
"""What neither readers nor writers may."""

READS = [
    "SELECT * FROM t",
    "FROM w",
    "WITH x AS (FROM t) SELECT count(*) FROM x",
    "PIVOT t ON v USING count(*)",
    "EXPLAIN ANALYZE SELECT * FROM t",
    "EXPLAIN (FORMAT json) FROM t",
    "DESCRIBE t",
    "SHOW TABLES",
    "SUMMARIZE t",
    "VALUES (1)",
]


def refused(engine: Engine, way: Way, principal: Principal, statements: list[str]) -> list[str]:
    """Return those of the statements that were not refused; see to it that none of the others changed anything."""
    before = state(engine)
    ran = []
    for sql in statements:
        with contextlib.suppress(ducktower.Forbidden):
            way(engine, principal, sql)
            ran.append(sql)
    assert state(engine) == before
    return ran


ONLY_DESCRIBED = [sql for sql in CHANGES if sql.startswith(("SELECT", "PIVOT", "WITH x AS (", "EXPLAIN ANALYZE SEL"))]
"""What a description needs not refuse, since it runs nothing."""


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_changes_nothing(engine: Engine, way: Way) -> None:
    """Whatever the statement and the way in: an error, and nothing is different afterwards."""
    lenient = ONLY_DESCRIBED if way is by_describe else []
    assert [sql for sql in refused(engine, way, READER, CHANGES + OWNERS) if sql not in lenient] == []


@pytest.mark.parametrize("way", WAYS)
def test_a_writer_makes_and_operates_nothing(engine: Engine, way: Way) -> None:
    """DDL, settings, files and what hides statements are the owner's."""
    assert refused(engine, way, WRITER, OWNERS) == []


@pytest.mark.parametrize("way", [by_execute, by_query, by_update, by_prepared_update, in_transaction, with_settings])
def test_a_writer_changes_data(engine: Engine, way: Way) -> None:
    """All that changes rows and no tables is allowed."""
    for sql in CHANGES:
        engine.execute(
            "DELETE FROM t; INSERT INTO t VALUES (1, 'a'), (2, 'b'); INSERT INTO other VALUES (nextval('s'))"
        )
        before = state(engine)
        way(engine, WRITER, sql)
        assert state(engine) != before, sql


@pytest.mark.parametrize("principal", [READER, WRITER, OWNER])
def test_everybody_reads(engine: Engine, principal: Principal) -> None:
    """Each way in gives a reader its rows."""
    before = state(engine)
    for sql in READS:
        for way in WAYS:
            way(engine, principal, sql)
    assert state(engine) == before


# -- rows, and what operates ---------------------------------------------------------------------------


def test_rows_of_a_reader_are_refused(engine: Engine) -> None:
    """By DoPut's way, by an open stream, and by both ways of a session."""
    before = state(engine)
    data = batches(1)
    for store in (
        lambda: engine.put(Target("t"), data, called(READER)),
        lambda: engine.put(Target("t", mode="upsert", key=("i",)), data, called(READER)),
        lambda: engine.appending(Target("t"), data.schema, called(READER)),
        lambda: engine.sessions.open(READER).ingest(Ingest(table="t"), data),
        lambda: engine.sessions.open(READER).ingest(Ingest(table="t", temporary=True, if_missing="create"), data),
    ):
        with pytest.raises(ducktower.Forbidden, match="a reader may not"):
            store()
    assert state(engine) == before


def test_a_writer_stores_rows_but_makes_no_tables(engine: Engine) -> None:
    """Append and upsert are open to it, what makes or replaces a table is not."""
    assert engine.put(Target("t"), batches(1, 10), called(WRITER)).rows == 10
    assert engine.put(Target("t", mode="upsert", key=("i",)), batches(1, 10), called(WRITER)).rows == 10
    assert engine.sessions.open(WRITER).ingest(Ingest(table="t"), batches(1, 10)) == 10
    before = state(engine)
    for mode in ("create", "replace", "create_append"):
        for table in ("t", "made"):
            with pytest.raises(ducktower.Forbidden, match="a writer may not make tables"):
                engine.put(Target(table, mode=mode), batches(1), called(WRITER))
    for ingest in (
        Ingest(table="made", if_missing="create"),
        Ingest(table="t", if_exists="replace"),
        Ingest(table="t", if_exists="fail", if_missing="create"),
        Ingest(table="made", temporary=True, if_missing="create"),
    ):
        with pytest.raises(ducktower.Forbidden):
            engine.sessions.open(WRITER).ingest(ingest, batches(1))
    assert state(engine) == before


def test_a_session_allows_no_more_than_its_principal_and_its_caller(engine: Engine) -> None:
    """Whichever of the two may less decides: a session of a reader stays one."""
    with pytest.raises(ducktower.Forbidden):
        engine.sessions.open(READER).update("DELETE FROM t", caller=called(OWNER))
    with pytest.raises(ducktower.Forbidden):
        engine.sessions.open(OWNER).update("DELETE FROM t", caller=called(READER))
    session = engine.sessions.open(OWNER)
    prepared = session.prepare("DELETE FROM t", caller=called(OWNER))
    with pytest.raises(ducktower.Forbidden):
        prepared.update(caller=called(READER))
    transaction = session.begin(called(WRITER))
    with pytest.raises(ducktower.Forbidden, match="begun by a role that may write"):
        session.query("FROM t", None, transaction, called(READER))


def test_only_the_owner_operates(engine: Engine) -> None:
    """Statistics of everybody and checkpoints are the owner's; health is anybody's."""
    for principal in (READER, WRITER):
        with pytest.raises(ducktower.Forbidden, match="an owner may"):
            engine.statistics(called(principal))
        with pytest.raises(ducktower.Forbidden, match="an owner may"):
            engine.checkpoint(called(principal))
    assert engine.statistics(called(OWNER))["cursors"] >= 0
    engine.checkpoint(called(OWNER))
    assert engine.health()["status"] == "serving"


def test_calls_and_sessions_of_others_are_the_owners_business(engine: Engine) -> None:
    """Everybody else sees and cancels its own alone."""
    mine, others = engine.sessions.open(READER), engine.sessions.open(WRITER)
    with mine.query("FROM range(100000000)").reader, others.query("FROM range(100000000)").reader:
        (call,) = engine.running(called(READER))
        (other,) = engine.running(called(WRITER))
        assert {one["id"] for one in engine.running(called(OWNER))} == {call["id"], other["id"]}
        assert [one["principal"] for one in engine.sessions.describe(called(READER))] == ["rita"]
        assert {one["principal"] for one in engine.sessions.describe(called(OWNER))} == {"rita", "walt"}
        assert engine.cancel(other["id"], called(READER)) is False
        assert engine.cancel(call["id"], called(READER)) is True
        assert engine.cancel(other["id"], called(OWNER)) is True


def test_calls_of_somebody_who_is_known_no_longer_end(engine: Engine) -> None:
    """They are told why; those of others go on."""
    gone, stays = Principal("rita", "reader"), Principal("rita", "reader")
    ending = engine.read("SELECT count(*) FROM range(3)", None, called(stays))
    doomed = engine.read("FROM range(1000000000)", None, called(gone))
    assert engine.end_calls(lambda principal: principal is gone) == 1
    with doomed, pytest.raises(OSError, match=r"UNAUTHENTICATED.*revoked"):
        doomed.read_all()
    assert ending.read_all().num_rows == 1
