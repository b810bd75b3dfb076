"""One token's limits, as options of `ducktower serve`: each is met on the wire with a typed error; others go on."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.server.token_file import TokenFile
from support.flight_sql import RawFlightSql
from support.servers import running

OPTIONS = {
    "--principal-sessions-max": 4,
    "--principal-reads-in-flight-max": 2,
    "--principal-executes-in-flight-max": 1,
    "--principal-query-timeout": 1.5,
    "--principal-calls-in-flight-max": 6,
    "--lease-wait-seconds": 0.1,
    "--result-bytes-max": 8_000_000,
    "--upload-bytes-max": 100_000,
}
SLOW = "SELECT count(*) AS n FROM range(100_000_000) a, range(100_000) b WHERE a.range % 7 = b.range % 11"
MANY = pa.table({"n": range(20_000)})
FEW = MANY.slice(0, 10)
_Ingest = m.CommandStatementIngest.TableDefinitionOptions
APPEND = _Ingest(if_not_exist=_Ingest.TABLE_NOT_EXIST_OPTION_FAIL, if_exists=_Ingest.TABLE_EXISTS_OPTION_APPEND)


class Both:
    """A token's client of plain Flight, and a way to get ones of Flight SQL."""

    def __init__(self, url: str, token: str, stack: contextlib.ExitStack) -> None:
        self.url, self.token = url, token
        self._stack = stack
        self.plain = stack.enter_context(ducktower.connect(url, token=token, retry_seconds=0))

    def sql(self, *, keep: bool = False) -> RawFlightSql:
        """Connect by Flight SQL, with a session of its own when cookies are kept."""
        authorization = f"Bearer {self.token}"
        one = self._stack.enter_context(RawFlightSql(self.url, authorization=authorization, keep_cookies=keep))
        if keep:
            self._stack.callback(_closed, one)
        return one


def _closed(one: RawFlightSql) -> None:
    """End its session, if that is not over."""
    with contextlib.suppress(flight.FlightError):
        one.close_session()


Everybody = tuple[Both, Both]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, str]]:
    """Serve in a process of its own, with those options, to two tokens."""
    folder = tmp_path_factory.mktemp("limits")
    database: Path = folder / "a.duckdb"
    tokens = TokenFile(f"{database}.tokens")
    greedy, modest = (tokens.create(name, "owner")[1] for name in ("greedy", "modest"))
    with running(database, folder / "log", *(str(part) for option in OPTIONS.items() for part in option)) as server:
        with ducktower.connect(server.url, token=modest) as client:
            client.create_table("t", MANY.schema)
        yield server.url, greedy, modest
        assert "Traceback" not in server.stderr


@pytest.fixture
def both(served: tuple[str, str, str]) -> Iterator[Everybody]:
    """Return the one who takes all, and another."""
    url, greedy, modest = served
    with contextlib.ExitStack() as stack:
        yield Both(url, greedy, stack), Both(url, modest, stack)


def told(call: Callable[[], Any]) -> str:
    """Return the code of a refusal."""
    with pytest.raises((ducktower.DucktowerError, flight.FlightError, pa.ArrowException, OSError)) as caught:
        call()
    if isinstance(caught.value, ducktower.DucktowerError):
        return caught.value.code
    found = re.search(r"\[([A-Z_]+)\]", str(caught.value))
    assert found is not None, caught.value
    return found[1]


def test_sessions(both: Everybody) -> None:
    """A fifth one is refused, retryably, while another token begins its own; one that ends makes room."""
    greedy, modest = both
    *held, last = [greedy.sql(keep=True) for _ in range(5)]
    for one in held:
        one.begin()
    assert told(last.begin) == "OVERLOADED"
    modest.sql(keep=True).begin()
    held[0].close_session()
    last.begin()


def test_queries_at_once(both: Everybody) -> None:
    """By either kind of Flight; results that wait for their DoGet count as well."""
    greedy, modest = both
    wide = "SELECT i, repeat('x', 20) AS v FROM range(1_000_000_000) t(i)"
    sql = greedy.sql()
    waiting = [sql.info(m.CommandStatementQuery(query=wide)) for _ in range(2)]
    assert told(lambda: greedy.plain.query("SELECT 1")) == "OVERLOADED"
    assert told(lambda: sql.query("SELECT 1")) == "OVERLOADED"
    assert modest.plain.query("SELECT 1 AS n").num_rows == 1
    for one in waiting:
        sql.cancel(one)
    assert greedy.plain.query("SELECT 1 AS n").num_rows == 1


@pytest.mark.parametrize("way", ["DoGet", "update"])
def test_query_time(both: Everybody, way: str) -> None:
    """A statement ends with TIMEOUT, which says not to try again."""
    greedy, _ = both
    sql = greedy.sql()
    calls: dict[str, Callable[[], Any]] = {
        "DoGet": lambda: greedy.plain.query(SLOW),
        "update": lambda: sql.update(f"CREATE TABLE slow AS {SLOW}"),
    }
    assert told(calls[way]) == "TIMEOUT"


def test_bytes_of_a_result(both: Everybody) -> None:
    """Whole or streamed, by either kind of Flight."""
    greedy, _ = both
    sql = greedy.sql()
    for query in ("SELECT * FROM range(3_000_000)", "SELECT repeat('x', 100) FROM range(1_000_000)"):
        assert told(lambda query=query: greedy.plain.query(query)) == "LIMIT_EXCEEDED"
        assert told(lambda query=query: sql.query(query)) == "LIMIT_EXCEEDED"
    assert greedy.plain.query("SELECT * FROM range(200_000)").num_rows == 200_000


def test_bytes_of_an_upload(both: Everybody) -> None:
    """Small enough to be collected, and refused all the same; nothing of it is stored."""
    greedy, modest = both
    ingest = m.CommandStatementIngest(table="t", table_definition_options=APPEND)
    sql = greedy.sql()
    before = modest.plain.query("SELECT count(*) AS n FROM t")["n"].to_pylist()
    assert told(lambda: greedy.plain.ingest("t", MANY)) == "LIMIT_EXCEEDED"
    assert told(lambda: sql.put(ingest, MANY)) == "LIMIT_EXCEEDED"
    assert modest.plain.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == before
    assert greedy.plain.ingest("t", FEW).rows == 10
    sql.put(ingest, FEW)


def test_calls_at_once(both: Everybody) -> None:
    """Open streams count; past the limit all but what an operator needs is refused at once, for that token alone."""
    greedy, modest = both
    with contextlib.ExitStack() as streams:
        for _ in range(6):
            client = streams.enter_context(ducktower.connect(greedy.url, token=greedy.token))
            rows = streams.enter_context(client.appender("t"))
            rows.append({"n": 1}).result()
        for call in (lambda: greedy.plain.query("SELECT 1"), lambda: greedy.sql().query("SELECT 1")):
            assert told(call) == "OVERLOADED"
        assert greedy.plain.health()["status"] == "serving"
        assert modest.plain.query("SELECT 1 AS n").num_rows == 1
    assert greedy.plain.query("SELECT 1 AS n").num_rows == 1
