"""One huge row: refused by name wherever it is made or sent, and no harm to what is as large in many rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.config import EngineConfig
from ducktower.engine import Caller, Engine, Ingest, Target
from ducktower.engine.calls import Calls
from ducktower.engine.streams import Probe
from support.engines import opened, rows
from support.waiting import until

LIMIT = 1_000_000
HUGE = {
    "text": "SELECT repeat('x', 1_000_001) AS v",
    "behind others": "SELECT repeat('x', CASE i WHEN 200_000 THEN 1_000_001 ELSE 1 END) AS v FROM range(300_000) t(i)",
    "within a list": "SELECT [repeat('x', 500_000), repeat('y', 500_001)] AS v",
    "of several columns": "SELECT repeat('x', 500_000) AS a, repeat('y', 500_001)::BLOB AS b",
    "numbers": "SELECT range(125_001) AS v",
}
LARGE = "SELECT i, repeat('x', 900_000) AS v FROM range(20) t(i)"
REFUSED = r"a row of the result has 10\d+ bytes, the limit is 1000000"


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Return an engine with a table, and a small limit."""
    with opened(database, row_bytes_max=LIMIT) as one:
        one.execute("CREATE TABLE t (v VARCHAR)")
        yield one


@pytest.mark.parametrize("sql", HUGE.values(), ids=list(HUGE))
def test_a_result_ends_with_the_limit(engine: Engine, sql: str) -> None:
    """In the first batch or a later one, by each way to read; its cursor comes back."""
    with pytest.raises((ducktower.LimitExceeded, OSError), match=REFUSED), engine.read(sql) as reader:
        reader.read_all()
    plain, kept = engine.sessions.open(), engine.sessions.open()
    kept.update("SET TimeZone = 'UTC'")
    for session in (plain, kept):
        with pytest.raises((ducktower.LimitExceeded, OSError), match=REFUSED), session.query(sql).reader as reader:
            reader.read_all()
        assert rows(session, "SELECT 1") == [(1,)]
    kept.close()
    until(lambda: not engine.statistics()["cursors"], "the return of every cursor")


def test_many_rows_may_be_larger(engine: Engine) -> None:
    """The limit is one of each row."""
    with engine.read(LARGE) as reader:
        assert reader.read_all().num_rows == 20
    assert engine.execute(f"INSERT INTO t SELECT v FROM ({LARGE}) RETURNING v").rows == 20


def test_what_a_statement_returns(engine: Engine) -> None:
    """It is rolled back."""
    with pytest.raises(ducktower.LimitExceeded, match="a row that the statement returns has 10"):
        engine.execute("INSERT INTO t SELECT repeat('x', 1_000_001) RETURNING v")
    assert engine.read("FROM t").read_all().num_rows == 0


def _put(engine: Engine, reader: Any) -> None:
    engine.put(Target("t"), reader)


def _ingest(engine: Engine, reader: Any) -> None:
    engine.sessions.open().ingest(Ingest(table="t"), reader)


def _ingest_on_its_own_cursor(engine: Engine, reader: Any) -> None:
    session = engine.sessions.open()
    session.update("SET TimeZone = 'UTC'")
    session.ingest(Ingest(table="t"), reader)


@pytest.mark.parametrize("store", [_put, _ingest, _ingest_on_its_own_cursor])
@pytest.mark.parametrize("before", [0, 1, 30])
def test_an_upload_stores_nothing(engine: Engine, store: Callable[[Engine, Any], None], before: int) -> None:
    """Wherever in it the row is; a batch of smaller rows is as large as it likes."""
    fits = pa.record_batch({"v": ["x" * 900_000] * 3})
    huge = pa.record_batch({"v": ["x", "y" * 1_000_001]})
    with pytest.raises(ducktower.LimitExceeded, match=r"a row of the upload has 10\d+ bytes, the limit is 1000000"):
        store(engine, pa.Table.from_batches([*[fits] * before, huge]).to_reader())
    assert engine.read("FROM t").read_all().num_rows == 0
    store(engine, pa.Table.from_batches([fits] * 2).to_reader())
    assert engine.read("FROM t").read_all().num_rows == 6


def test_a_write_of_an_open_stream(engine: Engine) -> None:
    """One past the limit in all is sent as a write of its own, where its rows are looked at."""
    batch = pa.record_batch({"v": ["y" * 1_000_001]})
    with pytest.raises(ducktower.LimitExceeded, match="send it as a write of its own"):
        engine.appending(Target("t"), batch.schema).submit(batch, lambda _: None)


def test_rows_without_bytes_count(database: Path) -> None:
    """Nulls have none in Arrow: so many of them are no small write, which would hold up the others' commit."""
    nulls = pa.record_batch({"v": pa.Array.from_buffers(pa.null(), 20_000, [None])})
    with opened(database, small_write_bytes_max=10_000, group_bytes_max=10_000) as engine:
        engine.execute("CREATE TABLE t (v VARCHAR)")
        with pytest.raises(ducktower.LimitExceeded, match="has 20000 bytes, the limit is 10000"):
            engine.appending(Target("t"), nulls.schema).submit(nulls, lambda _: None)
        _put(engine, pa.Table.from_batches([nulls]).to_reader())
        assert engine.statistics()["group_writes"] == 0
        assert engine.read("FROM t").read_all().num_rows == 20_000


def test_clients_are_told(database: Path) -> None:
    """By our own client, plain Flight and the ADBC driver; the connection goes on."""
    with ducktower.serve(str(database), row_bytes_max=LIMIT) as server:
        for sql in HUGE.values():
            with ducktower.connect(server.url) as client, pytest.raises(ducktower.LimitExceeded, match=REFUSED):
                client.query(sql)
            with flight.connect(server.url) as raw, pytest.raises(pa.ArrowException, match=r"\[LIMIT_EXCEEDED\]"):
                raw.do_get(flight.Ticket(sql.encode())).read_all()
        with adbc.connect(server.url, autocommit=True) as connection, connection.cursor() as cursor:

            def fetched(sql: str) -> Any:
                cursor.execute(sql)
                return cursor.fetch_arrow_table()

            for sql in HUGE.values():
                with pytest.raises(adbc_driver_manager.Error, match=rf"\[LIMIT_EXCEEDED\] {REFUSED}"):
                    fetched(sql)
            with pytest.raises(adbc_driver_manager.Error, match=r"\[LIMIT_EXCEEDED\] a row of the upload has 10"):
                cursor.adbc_ingest("t", pa.table({"v": ["y" * 1_000_001]}), mode="create")
            cursor.execute("SELECT 1")
            assert cursor.fetchone() == (1,)


@pytest.mark.parametrize(("kind", "in_wire"), [("query", False), ("query", True), ("upload", True)])
def test_who_is_hung_up_on(kind: str, in_wire: bool) -> None:
    """Only a client that keeps a call in the wire: one that waits for DuckDB is told TIMEOUT, however late."""
    calls = Calls(EngineConfig().watch_interval_seconds)
    try:
        told: list[str] = []
        caller = Caller(hang_up=lambda: told.append("hung up"))
        call = calls.start(kind, "", caller, timeout_seconds=1, interrupt=lambda: told.append("interrupted"))
        assert call.in_wire is (kind == "upload")
        if kind == "query":
            probe = Probe()
            call.streams(probe, None)
            if not in_wire:
                probe.begins()
        assert call.in_wire is in_wire
        for seconds in (2, 100, 200):
            call.look(call.started + seconds, ask=False)
        assert told.count("interrupted") >= 3
        assert told.count("hung up") == (1 if in_wire else 0)
        assert re.search("ran longer than its limit of 1 seconds", str(call.error()))
        calls.finish(call)
    finally:
        calls.close()
