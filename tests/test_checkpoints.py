"""The WAL is written into the database file beside those who write, and bounded also when there is no moment for it."""

from __future__ import annotations

from pathlib import Path

from ducktower.config import EngineConfig
from ducktower.engine import Engine, Target
from support.engines import batches, opened, rows
from support.waiting import until

SMALL = 50_000
TABLE = "CREATE TABLE t (i BIGINT, v VARCHAR)"


def written(engine: Engine) -> int:
    """Return how many checkpoints the thread wrote."""
    return int(engine.statistics()["checkpoint_seconds"]["count"])


def write_past(engine: Engine, nbytes: int) -> int:
    """Write until the WAL has been so large; return the rows written."""
    before = written(engine)
    count = 0
    while written(engine) == before and engine.health()["wal_bytes"] < nbytes:
        count += engine.put(Target("t"), batches(1)).rows
    return count


def test_the_wal_is_written_into_the_file_by_itself(database: Path) -> None:
    """Under steady writes it is small again and again, and every row is there when it is opened again."""
    stored = 0
    with opened(database, wal_checkpoint_bytes=SMALL, disk_look_seconds=0.01) as engine:
        engine.execute(TABLE)
        for number in range(1, 4):
            while written(engine) < number:
                stored += engine.put(Target("t"), batches(1)).rows
        until(lambda: engine.health()["wal_bytes"] < SMALL, "a small WAL")
        assert "checkpoint_refused_seconds" not in engine.health()
    with opened(database) as engine, engine.read("SELECT count(*) AS n FROM t") as reader:
        assert reader.read_all().to_pylist() == [{"n": stored}]


def test_a_checkpoint_is_written_while_a_snapshot_is_read(database: Path) -> None:
    """A reader of rows that nobody changes does not keep it away, and reads on in its snapshot."""
    with opened(database, wal_checkpoint_bytes=SMALL, disk_look_seconds=0.01) as engine:
        engine.execute("CREATE TABLE large AS SELECT i, 'v' || i AS v FROM range(2_000_000) r(i)")
        engine.execute(TABLE)
        before = written(engine)
        with engine.read("FROM large") as reader:
            seen = reader.read_next_batch().num_rows
            while written(engine) == before:
                engine.put(Target("t"), batches(1))
            seen += sum(batch.num_rows for batch in reader)
        assert seen == 2_000_000


def test_a_transaction_that_does_not_allow_one_is_told_and_waited_for(database: Path) -> None:
    """An open UPDATE keeps checkpoints away: writes go on, health says since when, and one is written at its end."""
    with opened(database, wal_checkpoint_bytes=SMALL, wal_warn_bytes=SMALL, disk_look_seconds=0.01) as engine:
        engine.execute(TABLE)
        engine.execute("CREATE TABLE kept AS SELECT 1 AS i")
        session = engine.sessions.open()
        transaction = session.begin()
        session.update("UPDATE kept SET i = 2")
        write_past(engine, 2 * SMALL)
        until(lambda: engine.health().get("checkpoint_refused_seconds"), "the refusal")
        (warning,) = until(lambda: engine.health().get("warnings"), "the warning") or ()
        assert "open transactions" in warning
        engine.put(Target("t"), batches(1))
        assert rows(session, "FROM kept") == [(2,)]
        session.end(transaction, commit=True)
        # By the thread, or by DuckDB within the COMMIT, where writes had come far while nobody looked at the WAL.
        until(lambda: engine.health()["wal_bytes"] < SMALL, "the checkpoint")
        until(lambda: "checkpoint_refused_seconds" not in engine.health(), "the end of the refusal")
        until(lambda: "warnings" not in engine.health(), "the end of the warning")


def test_duckdb_writes_one_when_the_thread_does_not(database: Path) -> None:
    """At four times the size DuckDB does it within a COMMIT: the WAL is bounded also where no moment is found."""
    with opened(database, wal_checkpoint_bytes=SMALL, disk_look_seconds=1_000) as engine:
        engine.execute(TABLE)
        log = database.with_name(database.name + ".wal")
        largest = size = 0
        while size >= largest:
            largest = size
            engine.put(Target("t"), batches(1))
            size = log.stat().st_size if log.exists() else 0
        assert written(engine) == 0
        assert largest > 2 * SMALL
        assert largest < 6 * SMALL


def test_it_is_left_to_duckdb_with_none() -> None:
    """No size means DuckDB's own, and none is a size that may be given."""
    assert EngineConfig(wal_checkpoint_bytes=None).wal_checkpoint_bytes is None
