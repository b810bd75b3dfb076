"""COMMIT and CHECKPOINT find memory whatever queries hold; and one that finds none does not spoil what follows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import ducktower
from ducktower.config import KIB, MIB
from ducktower.engine import Engine
from ducktower.engine.failures import is_fatal
from ducktower.engine.headroom import Headroom, held
from ducktower.engine.words import Target
from support.engines import opened
from support.waiting import until

FIRST, NEXT = 5_000, 3_000
COLUMNS = 10
VALUES = ", ".join(f"i + {k} AS c{k}" for k in range(COLUMNS))
WRONG = " OR ".join(f"c{k} <> c0 + {k}" for k in range(COLUMNS))
"""Each row tells whether its values belong together."""


def ingested(engine: Engine) -> None:
    """Store the next rows by a group commit."""
    rows = pa.table({f"c{k}": range(k, k + NEXT) for k in range(COLUMNS)})
    assert engine.put(Target("t"), rows.to_reader()).rows == NEXT


def loaded(engine: Engine) -> None:
    """Store them by a write with a transaction of its own."""
    rows = pa.table({f"c{k}": range(k, k + NEXT) for k in range(COLUMNS)})
    assert engine.put(Target("t", mode="create_append"), rows.to_reader()).rows == NEXT


def executed(engine: Engine) -> None:
    """Store them by SQL of its own transaction."""
    engine.execute(f"INSERT INTO t SELECT {VALUES} FROM range({NEXT}) r(i)")


def in_session(engine: Engine) -> None:
    """Store them in a client's transaction."""
    session = engine.sessions.open()
    try:
        session.update(f"BEGIN; INSERT INTO t SELECT {VALUES} FROM range({NEXT}) r(i); COMMIT")
    finally:
        session.close()


@pytest.mark.parametrize("store", [ingested, loaded, executed, in_session])
def test_nothing_is_built_upon_a_commit_without_memory(tmp_path: Path, store: Callable[[Engine], None]) -> None:
    """DuckDB leaves its rows in some columns: the database is opened again before anything is appended to them."""
    with opened(tmp_path / "spoiled.duckdb", wal_checkpoint_bytes=1024 * MIB) as engine:
        engine.execute(f"CREATE TABLE t AS SELECT {VALUES} FROM range({FIRST}) r(i)")
        root = engine._database._root.cursor()
        used = held(root).total
        stored = FIRST
        for more in range(0, 4 * MIB, 16 * KIB):
            root.execute(f"SET memory_limit = '{used + more}B'")  # as if queries had taken the rest since the last look
            try:
                store(engine)
            except ducktower.Unavailable as error:
                failure = error
                break
            except (ducktower.Overloaded, ducktower.LimitExceeded):
                continue  # the statement itself found none
            stored += NEXT
        else:
            pytest.fail("no COMMIT was without memory")
        assert "nothing was stored, COMMIT found no memory" in failure.message
        assert not failure.outcome_unknown
        root.close()
        until(lambda: engine.health()["status"] == "serving", "the database", seconds=30)
        assert engine.health()["fatal_errors"] == 1
        store(engine)
        stored += NEXT
        sql = f"SELECT count(*) AS n, count(*) FILTER ({WRONG}) AS wrong, sum(c0)::BIGINT AS s FROM t"
        with engine.read(sql) as reader:
            found = reader.read_all().to_pylist()
        times = (stored - FIRST) // NEXT
        assert found == [{"n": stored, "wrong": 0, "s": sum(range(FIRST)) + times * sum(range(NEXT))}]


MOST = 64 * MIB


class Tower:
    """A database that cannot put anything by, with its headroom, and a transaction that holds what queries can have."""

    def __init__(self, path: Path) -> None:
        self.root = duckdb.connect(str(path), config={"memory_limit": f"{MOST}B", "temp_directory": ""})
        self.noted: list[BaseException] = []
        self.headroom = Headroom(self.root.cursor, lambda: True, self.noted.append, f"{MOST}B")
        self.headroom.opened(self.root)
        self.root.execute("CREATE TABLE t (i BIGINT, v VARCHAR); INSERT INTO t VALUES (0, '')")
        self.holder = self.root.cursor()

    @property
    def limit(self) -> int:
        """The limit that queries have, in bytes."""
        return int(float(self.root.execute("SELECT current_setting('memory_limit')").fetchall()[0][0].split()[0]) * MIB)

    def fill(self) -> None:
        """Hold all but a little, until `holder` rolls back."""
        self.holder.execute("BEGIN TRANSACTION")
        self.holder.execute("CREATE TABLE other (v VARCHAR)")
        while held(self.root).total < self.limit - 2 * MIB:
            self.holder.execute("INSERT INTO other SELECT repeat('x', 1000) || i FROM range(1000) r(i)")

    def insert(self, count: int) -> Any:
        """Return a cursor with a transaction that has so many rows of a KiB and is to be committed."""
        cursor = self.root.cursor()
        cursor.execute("BEGIN TRANSACTION")
        cursor.execute(f"INSERT INTO t SELECT i, lpad(i::VARCHAR, 1000, '0') FROM range({count}) r(i)")
        return cursor


@pytest.fixture
def tower(tmp_path: Path) -> Iterator[Tower]:
    """Return one on a file."""
    tower = Tower(tmp_path / "tower.duckdb")
    yield tower
    tower.holder.close()
    tower.root.close()


def test_queries_have_less_than_the_whole(tower: Tower) -> None:
    """What is kept from them is there for COMMIT."""
    assert MOST * 3 // 4 < tower.limit < MOST


def test_a_commit_finds_room_that_queries_cannot_take(tower: Tower) -> None:
    """The limit is raised for it alone."""
    cursor = tower.insert(1_000)
    tower.fill()
    with pytest.raises(duckdb.OutOfMemoryException):
        tower.root.cursor().execute("CREATE TEMP TABLE own AS SELECT repeat('x', 1000) || i FROM range(10000) r(i)")
    at_rest = tower.limit
    with tower.headroom.taken(2 * MIB):
        assert tower.limit > at_rest
        cursor.execute("COMMIT")
    assert tower.limit == at_rest
    assert tower.root.execute("SELECT count(*) FROM t").fetchall() == [(1_001,)]
    assert tower.noted == []


def test_more_than_is_kept_is_waited_for(tower: Tower) -> None:
    """It begins when others let go; nobody who waits has raised the limit."""
    tower.fill()
    at_rest = tower.limit
    timer = threading.Timer(0.3, tower.holder.rollback)
    timer.start()
    with tower.headroom.taken(MOST // 4):
        assert held(tower.root).total < MOST * 3 // 4
    timer.join()
    assert tower.limit == at_rest


def test_it_is_refused_when_nobody_lets_go(tower: Tower) -> None:
    """Nothing was committed, and it may come again."""
    tower.fill()
    at_rest = tower.limit
    with pytest.raises(ducktower.Overloaded, match="nothing was stored") as caught, tower.headroom.taken(MOST // 4):
        pytest.fail("there is no room")
    assert caught.value.retry_after_seconds
    assert tower.limit <= at_rest


def test_what_can_never_have_room_is_a_limit(tower: Tower) -> None:
    """It is told at once, with both figures."""
    with (
        pytest.raises(ducktower.LimitExceeded, match=f"{MOST} bytes of memory more, and DuckDB has"),
        tower.headroom.taken(MOST),
    ):
        pytest.fail("there is no room")


def test_a_checkpoint_finds_room(tower: Tower) -> None:
    """Else it would be fatal."""
    cursor = tower.insert(2_000)
    with tower.headroom.taken():
        cursor.execute("COMMIT")
    cursor.execute("BEGIN TRANSACTION READ ONLY")
    tower.holder.execute("CREATE TEMP TABLE kept (v VARCHAR)")
    while held(tower.root).total < tower.limit - 2 * MIB:
        tower.holder.execute("INSERT INTO kept SELECT repeat('x', 1000) || i FROM range(1000) r(i)")
    cursor.execute("ROLLBACK")
    with tower.headroom.for_checkpoint():
        tower.root.execute("CHECKPOINT")
    wrong = "SELECT count(*) FROM t WHERE v <> '' AND v <> lpad(i::VARCHAR, 1000, '0')"
    assert tower.root.execute(wrong).fetchall() == [(0,)]


def test_a_failure_is_noted_before_anybody_else_commits(tower: Tower) -> None:
    """Of what is fatal; other failures are the caller's."""
    fatal = duckdb.TransactionException("Failed to commit: could not allocate block of size 256.0 KiB")
    assert is_fatal(fatal)
    for error in (fatal, duckdb.ConstraintException("twice")):
        with pytest.raises(type(error)), tower.headroom.taken(1):
            raise error
    assert tower.noted == [fatal]
