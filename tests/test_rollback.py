"""A failed transaction is over, whatever hits its ROLLBACK: what comes after it is no part of it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from ducktower.engine.rollback import rolled_back
from ducktower.engine.words import Target
from support.engines import opened

ROUNDS = 3


@contextlib.contextmanager
def interrupted(interrupt: Callable[[], None]) -> Iterator[None]:
    """Interrupt all the time, as the watching thread does with a call that is to end."""
    over = threading.Event()

    def run() -> None:
        while not over.is_set():
            interrupt()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_a_rollback_that_is_interrupted_takes_place(tmp_path: Path) -> None:
    """It is tried again, and the cursor is another one when that is of no use."""
    with opened(tmp_path / "rollback.duckdb") as engine:
        engine.execute("CREATE TABLE t (i BIGINT)")
        lease = engine._database.lease("internal")
        for _ in range(ROUNDS):
            lease.cursor.execute("BEGIN TRANSACTION")
            lease.cursor.execute("INSERT INTO t VALUES (1)")
            with interrupted(lease.interrupt):
                if not rolled_back(lease.cursor):
                    lease.renew()
            with pytest.raises(duckdb.TransactionException, match="no transaction is active"):
                lease.cursor.execute("ROLLBACK")
        assert lease.cursor.execute("SELECT count(*) FROM t").fetchall() == [(0,)]
        lease.close()


def test_a_group_after_a_failed_one_is_committed(tmp_path: Path) -> None:
    """Also when nothing but another cursor ends the failed one's transaction: else it was told, and not stored."""
    with opened(tmp_path / "group.duckdb") as engine:
        engine.execute("CREATE TABLE t (i BIGINT)")
        rows = pa.table({"i": [1]})
        engine.put(Target("t"), rows.to_reader())
        committer = engine._committer
        with committer._lock:
            lease = committer._lease
            assert lease is not None
            lease.cursor.execute("BEGIN TRANSACTION")
            lease.cursor.execute("INSERT INTO t VALUES (100)")
            with interrupted(lease.interrupt):
                committer._roll_back(lease)
        engine.put(Target("t"), rows.to_reader())
        with engine.read("SELECT count(*) AS n, sum(i)::BIGINT AS s FROM t") as reader:
            assert reader.read_all().to_pylist() == [{"n": 2, "s": 2}]
