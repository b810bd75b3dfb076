"""What a call leaves for the audit log: kinds, tables and rows, never values; of what was refused, too."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import ducktower
from ducktower.engine import Caller, Engine, Ingest, Principal, Target, Trail
from support.engines import batches, opened, rows
from support.waiting import until


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Return an engine with a table and a view."""
    with opened(database) as opened_engine:
        opened_engine.execute(
            "CREATE TABLE t (i BIGINT, v VARCHAR); CREATE VIEW w AS FROM t; CREATE TABLE k (i INTEGER)"
        )
        yield opened_engine


def noted(trail: Trail) -> tuple[list[str], list[str], int | None]:
    """Return what was written down."""
    return trail.statements, trail.tables, trail.rows


@pytest.mark.parametrize(
    ("sql", "kinds", "tables", "changed"),
    [
        ("INSERT INTO t VALUES (1, 'hush')", ["INSERT"], ["t"], 1),
        ("INSERT INTO main.t SELECT 2, 'hush' FROM w", ["INSERT"], ["main.t", "t", "w"], 0),
        ("UPDATE t SET v = 'hush' WHERE i IN (FROM k)", ["UPDATE"], ["k", "t"], 0),
        ("DELETE FROM t USING k WHERE t.i = k.i", ["DELETE"], ["k", "t"], 0),
        ("WITH x AS (FROM k) SELECT * FROM x, t", ["SELECT"], ["k", "t"], 0),
        ("SELECT * FROM k, (WITH k AS (FROM t) FROM k)", ["SELECT"], ["k", "t"], 0),
        ("WITH x AS (WITH t AS (FROM k) FROM t) SELECT * FROM x, t", ["SELECT"], ["k", "t"], 0),
        ("WITH RECURSIVE t AS (SELECT i FROM t UNION FROM t) FROM t", ["SELECT"], ["t"], 0),
        ("CREATE TABLE made AS FROM t; DROP TABLE made", ["CREATE", "DROP"], ["made", "t"], None),
        ("EXPLAIN FROM t", ["EXPLAIN"], ["t"], 1),
    ],
)
def test_statements(engine: Engine, sql: str, kinds: list[str], tables: list[str], changed: int | None) -> None:
    """By each way in the same is written down, and no value."""
    if len(kinds) > 1:
        trail = Trail()
        engine.execute(sql, None, Caller(trail=trail))
        assert (trail.statements, sorted(trail.tables)) == (kinds, tables)
        return
    session = engine.sessions.open()
    prepared = session.prepare(sql)
    for way in (
        lambda caller: engine.execute(sql, None, caller),
        lambda caller: session.query(sql, None, None, caller).reader.close(),
        lambda caller: session.update(sql, None, None, caller),
        lambda caller: prepared.update(caller=caller),
    ):
        trail = Trail()
        way(Caller(trail=trail))
        assert noted(trail) == (kinds, tables, changed)
        assert "hush" not in repr(trail)


def test_reads(engine: Engine) -> None:
    """A result that is there at once is counted, one that streams as far as it was read."""
    trail = Trail()
    engine.read("SELECT * FROM range(3), t", None, Caller(trail=trail)).close()
    assert noted(trail) == (["SELECT"], ["t"], 0)
    trail = Trail()
    engine.read("SELECT * FROM range(10000000)", None, Caller(trail=trail)).close()
    assert noted(trail) == (["SELECT"], [], 0)
    assert not trail.complete
    trail = Trail()
    assert engine.read("SELECT * FROM range(10000000)", None, Caller(trail=trail)).read_all().num_rows == 10_000_000
    assert noted(trail) == (["SELECT"], [], 10_000_000)
    assert trail.complete


def test_rows_that_come(engine: Engine) -> None:
    """By DoPut's way, by an open stream, and by both ways of a session."""
    kept = engine.sessions.open()
    kept.update("SET TimeZone = 'UTC'")
    for store in (
        lambda caller: engine.put(Target("t"), batches(1, 10), caller),
        lambda caller: engine.sessions.open().ingest(Ingest(table="t"), batches(1, 10), caller),
        lambda caller: kept.ingest(Ingest(table="t"), batches(1, 10), caller),
    ):
        trail = Trail()
        store(Caller(trail=trail))
        assert noted(trail) == (["INGEST append"], ["main.t"], 10)
    trail, done = Trail(), threading.Event()
    batch = pa.record_batch({"i": [1, 2], "v": ["hush", "hush"]})
    appending = engine.appending(Target("t"), batch.schema, Caller(trail=trail))
    appending.submit(batch, lambda _: None)
    appending.submit(batch, lambda _: done.set(), (1, 1))
    until(done.is_set, "the commit")
    assert noted(trail) == (["INGEST append"], ["main.t"], 4)


def test_what_was_refused(engine: Engine) -> None:
    """Kinds and tables are written down before a role is asked."""
    reader = Principal("rita", "reader")
    ways: list[Any] = [
        (lambda caller: engine.execute("DELETE FROM t", None, caller), ["DELETE"], ["t"]),
        (lambda caller: engine.read("DELETE FROM t", None, caller), ["DELETE"], ["t"]),
        (lambda caller: engine.sessions.open(reader).update("DELETE FROM t", caller=caller), ["DELETE"], ["t"]),
        (lambda caller: rows_of(engine, reader, caller), ["DROP"], []),
        (lambda caller: engine.put(Target("t"), batches(1), caller), ["INGEST append"], ["main.t"]),
        (
            lambda caller: engine.sessions.open(reader).ingest(Ingest(table="t"), batches(1), caller),
            ["INGEST append"],
            ["main.t"],
        ),
    ]
    for way, kinds, tables in ways:
        trail = Trail()
        with pytest.raises(ducktower.Forbidden):
            way(Caller(principal=reader, trail=trail))
        assert noted(trail) == (kinds, tables, None)
    assert rows(engine.sessions.open(), "SELECT count(*) FROM t") == [(0,)]


def rows_of(engine: Engine, principal: Principal, caller: Caller) -> None:
    """Ask for what is no question."""
    engine.sessions.open(principal).query("DROP TABLE t", None, None, caller)
