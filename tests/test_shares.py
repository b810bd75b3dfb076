"""One greedy principal meets its own limits; others go on."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa
import pytest

import ducktower
from ducktower.config import EngineConfig
from ducktower.engine import LOCAL, Caller, Ingest, Principal, Receipt, Target
from ducktower.engine.commit_queue import CommitQueue
from ducktower.engine.shares import Shares
from ducktower.engine.uploads import Arriving
from ducktower.engine.words import Outcome, PlanKey, Write
from support.engines import batches, opened, rows
from support.waiting import until

GREEDY = Caller(principal=Principal("greedy"))
MODEST = Caller(principal=Principal("modest"))
LONG = "SELECT i, repeat('x', 100) AS v FROM range(10000000) t(i)"
SCHEMA = pa.schema([("i", pa.int64())])


def test_reads_at_once(database: Path) -> None:
    """A principal that has all of its places waits and is refused, retryably; others and nobody in particular read."""
    with (
        opened(database, principal_reads_in_flight_max=2, lease_wait_seconds=0.1) as engine,
        contextlib.ExitStack() as held,
    ):
        for _ in range(2):
            held.enter_context(engine.read(LONG, None, GREEDY))
        with pytest.raises(ducktower.Overloaded, match='"greedy" has all of its places') as refusal:
            engine.read("SELECT 1", None, GREEDY)
        assert refusal.value.retryable
        for caller in (MODEST, Caller(), None):
            assert engine.read("SELECT 1", None, caller).read_all().num_rows == 1
        held.close()
        for _ in range(5):
            assert engine.read("SELECT 1", None, GREEDY).read_all().num_rows == 1
        until(lambda: not engine.statistics()["cursors"], "the end of what streamed")


def test_greedy_readers_leave_some_for_others(database: Path) -> None:
    """Whatever the limit of one is: one has half, two have a third each, and whoever comes next reads at once."""
    limits = {"reads_in_flight_max": 6, "principal_reads_in_flight_max": 6, "lease_wait_seconds": 0.05}
    with opened(database, **limits) as engine, contextlib.ExitStack() as held:

        def takes(caller: Caller) -> int:
            """Open long results until one is refused; return how many there were."""
            for number in range(7):
                try:
                    held.enter_context(engine.read(LONG, None, caller))
                except ducktower.Overloaded:
                    return number
            return 7

        assert takes(GREEDY) == 3
        assert takes(Caller(principal=Principal("large"))) == 2  # of the three that were left
        for _ in range(3):
            assert engine.read("SELECT 1", None, MODEST).read_all().num_rows == 1
        assert takes(Caller()) == 1  # nobody in particular: what there is


def test_places_come_back_after_failures(database: Path) -> None:
    """Whatever fails, at whatever point, gives its place back."""
    with opened(database, principal_reads_in_flight_max=1, principal_executes_in_flight_max=1) as engine:
        for _ in range(3):
            for sql in ("SELEC", "FROM no_such", "SELECT error('x')"):
                with pytest.raises(ducktower.DucktowerError):
                    engine.read(sql, None, GREEDY).read_all()
                with pytest.raises(ducktower.DucktowerError):
                    engine.execute(sql, None, GREEDY)
        assert engine.read("SELECT 1", None, GREEDY).read_all().num_rows == 1


def test_sessions(database: Path) -> None:
    """They are counted by name; a closed one makes room."""
    with opened(database, principal_sessions_max=2) as engine:
        first = engine.sessions.open(GREEDY.principal)
        engine.sessions.open(Principal("greedy", "reader"))
        with pytest.raises(ducktower.Overloaded, match='"greedy" has 2 sessions already'):
            engine.sessions.open(GREEDY.principal)
        for principal in (MODEST.principal, MODEST.principal, LOCAL, LOCAL, LOCAL):
            engine.sessions.open(principal)
        assert engine.sessions.open(GREEDY.principal, session_id=first.id) is first
        engine.sessions.close(first.id)
        engine.sessions.open(GREEDY.principal)


def test_query_time(database: Path) -> None:
    """A named principal's statements end sooner than everybody's."""
    slow = "SELECT count(*) FROM range(100000000) a, range(100000) b WHERE a.range % 7 = b.range % 11"
    with opened(database, principal_query_timeout_seconds=0.1) as engine:
        for caller in (GREEDY, MODEST):
            with pytest.raises(ducktower.TimedOut, match=r"0\.1 seconds"):
                engine.read(slow, None, caller).read_all()
        with pytest.raises(ducktower.TimedOut):
            engine.execute(slow, None, GREEDY)
        with pytest.raises(ducktower.TimedOut):
            rows(engine.sessions.open(GREEDY.principal), slow)


@pytest.mark.parametrize(
    "sql", [LONG, "SELECT i FROM range(10000000) t(i)", "SELECT [i, i] AS v FROM range(10000000) t(i)"]
)
def test_result_bytes(database: Path, sql: str) -> None:
    """A result ends with the limit's error, wherever it is passed; smaller ones come whole."""
    with opened(database, result_bytes_max=8_000_000) as engine:
        with pytest.raises(OSError, match=r"LIMIT_EXCEEDED.*8000000 bytes"), engine.read(sql) as reader:
            reader.read_all()
        with pytest.raises(OSError, match="LIMIT_EXCEEDED"), engine.sessions.open().query(sql).reader as reader:
            reader.read_all()
        with engine.read(f"FROM ({sql}) LIMIT 50000") as reader:
            assert reader.read_all().num_rows == 50_000
        until(lambda: not engine.statistics()["cursors"], "the end of what streamed")
    with opened(database, result_bytes_max=1_000) as engine:
        for kept in (False, True):
            session = engine.sessions.open()
            session.update("SET TimeZone = 'UTC'" if kept else "SELECT 1")
            with pytest.raises(ducktower.LimitExceeded, match="1000 bytes"):
                session.query(sql)
        assert engine.read("SELECT 1").read_all().num_rows == 1


@pytest.mark.parametrize("limit", [20_000, 3_000_000])
def test_upload_bytes(database: Path, limit: int) -> None:
    """An upload past the limit stores nothing, small or large, by each way in."""
    with opened(database, upload_bytes_max=limit) as engine:
        engine.execute("CREATE TABLE t (i BIGINT, v VARCHAR)")
        session, kept = engine.sessions.open(), engine.sessions.open()
        kept.update("SET TimeZone = 'UTC'")
        for store in (
            lambda reader: engine.put(Target("t"), reader),
            lambda reader: session.ingest(Ingest(table="t"), reader),
            lambda reader: kept.ingest(Ingest(table="t"), reader),
        ):
            with pytest.raises(ducktower.LimitExceeded, match=f"{limit} bytes"):
                store(batches(300))
            store(batches(1))
        assert rows(session, "SELECT count(*) FROM t") == [(3_000,)]


def test_upload_bytes_of_a_stream(database: Path) -> None:
    """A stream has no end: each of its writes is an upload, also those that travel together."""
    with opened(database, upload_bytes_max=800) as engine:
        engine.execute("CREATE TABLE t (i BIGINT)")
        stream = engine.appending(Target("t"), SCHEMA, GREEDY)
        done: SimpleQueue[Outcome] = SimpleQueue()
        for parts in ((), (100, 101)):
            with pytest.raises(ducktower.LimitExceeded, match=r"808 bytes, the limit of an upload is 800"):
                stream.submit(pa.record_batch({"i": range(sum(parts) or 101)}), done.put, parts)
        for parts in ((), (100, 100, 0)):
            stream.submit(pa.record_batch({"i": range(sum(parts) or 100)}), done.put, parts)
            assert done.get(timeout=30).rows == (sum(parts) or 100)
        assert engine.read("SELECT count(*) AS n FROM t").read_all()["n"].to_pylist() == [300]


class Gate:
    """Commits what it gets, once it may."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()

    def commit(self, writes: Sequence[Write]) -> list[Outcome]:
        """Wait, then say that all is stored."""
        self.entered.set()
        assert self.open.wait(10)
        return [Receipt(write.rows, 1) for write in writes]


def test_the_commit_queue() -> None:
    """What of one principal waits is bounded: then it is refused or waits, and others still get in."""
    config = EngineConfig(principal_queue_writes_max=3, principal_queue_bytes_max=1_000)
    shares = Shares()
    gate = Gate()
    queue = CommitQueue(config, gate.commit)
    done: list[Outcome] = []

    def write(principal: Principal, nbytes: int = 8) -> Write:
        return Write(PlanKey(Target("t"), SCHEMA), [], 1, nbytes, done.append, share=shares.of(principal))

    try:
        queue.submit(write(MODEST.principal))
        assert gate.entered.wait(10)  # what follows waits
        for _ in range(3):
            queue.submit(write(GREEDY.principal))
        with pytest.raises(ducktower.Overloaded, match='3 writes of "greedy"'):
            queue.submit(write(GREEDY.principal))
        queue.submit(write(Principal("large"), 600))
        with pytest.raises(ducktower.Overloaded, match='"large" with 600 bytes'):
            queue.submit(write(Principal("large"), 600))
        with pytest.raises(ducktower.LimitExceeded):
            queue.submit(write(Principal("large"), 1_001))
        for _ in range(3):
            queue.submit(write(MODEST.principal))
        for _ in range(10):
            queue.submit(write(LOCAL))
        waiting = threading.Thread(target=lambda: queue.submit(write(GREEDY.principal), wait_seconds=10))
        waiting.start()
        gate.open.set()
        waiting.join(10)
        assert not waiting.is_alive()
    finally:
        gate.open.set()
        assert queue.close(10)
    assert len(done) == 19
    greedy: Any = shares.of(GREEDY.principal)
    assert (greedy.lane.count, greedy.lane.nbytes) == (0, 0)


def test_greedy_writers_leave_room_in_the_queue() -> None:
    """One has half of it waiting, a second one a third; whoever comes next is taken at once."""
    config = EngineConfig(queue_writes_max=12, queue_bytes_max=1_000)
    shares, gate = Shares(), Gate()
    queue = CommitQueue(config, gate.commit)
    done: list[Outcome] = []

    def takes(name: str, nbytes: int = 1) -> int:
        """Queue writes until one is refused; return how many there were."""
        share = shares.of(Principal(name))
        for number in range(13):
            try:
                queue.submit(Write(PlanKey(Target("t"), SCHEMA), [], 1, nbytes, done.append, share=share))
            except ducktower.Overloaded:
                return number
        return 13

    try:
        queue.submit(Write(PlanKey(Target("t"), SCHEMA), [], 1, 8, done.append))
        assert gate.entered.wait(10)  # what follows waits
        assert takes("greedy") == 6
        assert takes("large", 200) == 2  # a third one would have more bytes than are left
        assert takes("modest") >= 1
    finally:
        gate.open.set()
        assert queue.close(10)


def test_what_arrives() -> None:
    """Bytes of small writes on their way into the queue are bounded, of all and of one; one alone is let in."""
    arriving = Arriving(EngineConfig(arriving_bytes_max=100, principal_arriving_bytes_max=60))
    arriving.add("greedy", 70)
    with pytest.raises(ducktower.Overloaded, match='"greedy" of 70 bytes'):
        arriving.add("greedy", 1)
    arriving.add("modest", 20)
    with pytest.raises(ducktower.Overloaded, match="90 bytes arrive already") as refusal:
        arriving.add("", 20)
    assert refusal.value.retryable
    arriving.take_away("greedy", 70)
    arriving.add("", 80)  # nobody in particular: only the limit of all applies
    for name, nbytes in (("", 80), ("modest", 20)):
        arriving.take_away(name, nbytes)
    assert (arriving._all, arriving._of_one) == (0, {})


def test_what_arrives_leaves_room_for_others() -> None:
    """Whatever its own limit is: two greedy ones have a third each, and a third one finds as much."""
    arriving = Arriving(EngineConfig(arriving_bytes_max=90, principal_arriving_bytes_max=90))
    for name in ("greedy", "large"):
        arriving.add(name, 20)
    for name in ("greedy", "large"):
        arriving.add(name, 10)
    for name in ("greedy", "large"):
        with pytest.raises(ducktower.Overloaded, match=f'"{name}" of 30 bytes'):
            arriving.add(name, 1)
    arriving.add("modest", 15)


def test_uploads_and_streams_count_what_arrives(database: Path) -> None:
    """Half an upload counts, until it is in the queue, refused or over; another one's goes on meanwhile."""
    with opened(database, principal_arriving_bytes_max=1_000) as engine:
        engine.execute("CREATE TABLE t (i BIGINT)")
        batch = pa.record_batch({"i": range(100)})
        half, rest = threading.Event(), threading.Event()

        def slowly() -> Iterator[pa.RecordBatch]:
            yield batch
            half.set()
            assert rest.wait(30)

        def store(caller: Caller, rows: Iterable[pa.RecordBatch]) -> Receipt:
            return engine.put(Target("t"), pa.RecordBatchReader.from_batches(SCHEMA, rows), caller)

        with ThreadPoolExecutor(1) as pool:
            slow = pool.submit(store, GREEDY, slowly())
            assert half.wait(30)
            with pytest.raises(ducktower.Overloaded, match='"greedy" of 800 bytes'):
                store(GREEDY, [batch])
            with pytest.raises(ducktower.Overloaded):
                engine.appending(Target("t"), SCHEMA, GREEDY).submit(batch, lambda _: None)
            assert store(MODEST, [batch]).rows == 100
            rest.set()
            assert slow.result(30).rows == 100
        for _ in range(3):
            assert store(GREEDY, [batch]).rows == 100
        nulls = pa.record_batch({"i": pa.nulls(100)})  # no bytes, and counted all the same
        assert engine.put(Target("t"), pa.Table.from_batches([nulls]).to_reader(), GREEDY).rows == 100
        assert (engine._arriving._all, engine._arriving._of_one) == (0, {})


def test_a_large_upload_counts_until_it_has_its_place(database: Path) -> None:
    """What came of one that waits for a place is in memory: a third is refused at once, and nothing is left counted."""
    settings = {"large_writes_in_flight_max": 1, "small_write_bytes_max": 500, "arriving_bytes_max": 1_500}
    with opened(database, **settings, lease_wait_seconds=60) as engine, ThreadPoolExecutor(2) as pool:
        engine.execute("CREATE TABLE t (i BIGINT)")
        batch = pa.record_batch({"i": range(100)})
        begun, rest = threading.Event(), threading.Event()

        def slowly() -> Iterator[pa.RecordBatch]:
            yield batch
            begun.set()
            assert rest.wait(60)

        def store(rows: Iterable[pa.RecordBatch]) -> Receipt:
            return engine.put(Target("t"), pa.RecordBatchReader.from_batches(SCHEMA, rows), MODEST)

        first = pool.submit(store, slowly())
        assert begun.wait(30)
        assert engine._arriving._all == 0  # it flows
        second = pool.submit(store, [batch])
        until(lambda: engine._arriving._all == 800, "the second one's wait")
        with pytest.raises(ducktower.Overloaded, match="writes of 800 bytes arrive already"):
            store([batch])
        rest.set()
        assert [first.result(60).rows, second.result(60).rows] == [100, 100]
        assert (engine._arriving._all, engine._arriving._of_one) == (0, {})
