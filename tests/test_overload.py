"""More at once than there is room for: typed errors with a hint when to come back, and nothing is kept afterwards.

Heavy queries and uploads, 64 of each, with little memory; and small calls of 200 clients, with few places.
"""

from __future__ import annotations

import gc
import json
import threading
from collections.abc import Callable
from typing import TypeVar

import psutil
import pyarrow as pa
import pyarrow.flight as flight

import ducktower
from ducktower.client.retrying import if_refused, retried
from ducktower.config import MIB
from ducktower.errors import from_coded_text
from support.flight_sql import RawFlightSql
from support.resources import held, settles_within
from support.servers import ServerProcess
from support.threads import together
from support.waiting import until

T = TypeVar("T")

EACH = 64
TOTAL_BYTES = 512 * MIB
WIDTH = 150
LOAD = pa.table({"i": range(40_000), "v": [f"{i:0{WIDTH}d}" for i in range(40_000)]})
"""Each row tells itself whether its values belong together."""
TYPED = ("LIMIT_EXCEEDED", "OVERLOADED")
"""The memory of one call's own, and what others have."""
QUERIES = (
    "SELECT i, v FROM large ORDER BY v",
    "SELECT a.i, b.v FROM large a JOIN large b ON a.h = b.h + 0",
    "SELECT v, count(*) AS n, max(i) AS m FROM large GROUP BY v",
    "SELECT i, v, row_number() OVER (ORDER BY h) AS n FROM large",
)


class Peak:
    """Samples the memory of a process until its block ends."""

    def __init__(self, pid: int) -> None:
        self.nbytes = 0
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.02):
            self.nbytes = max(self.nbytes, self._process.memory_info().rss)


def test_an_overload_ends_with_typed_errors(start_server: Callable[..., ServerProcess]) -> None:
    """Each call is answered or refused by name, what was acknowledged is there, and the memory stays within bounds."""
    server = start_server("--memory-bytes-max", str(TOTAL_BYTES), "--lease-wait-seconds", "5")
    with ducktower.connect(server.url) as client:
        client.execute(
            "CREATE TABLE large AS SELECT i, hash(i) AS h, hash(i)::VARCHAR || repeat(hash(i + 1)::VARCHAR, 5) AS v "
            "FROM range(300_000) r(i); CREATE TABLE t (i BIGINT, v VARCHAR)"
        )

    unknown: list[int] = []  # rows of writes whose outcome is not known

    def call(number: int) -> tuple[str, int]:
        """Read, upload, or write small ones; return how it ended, and the rows that were stored."""
        with ducktower.connect(server.url, retry_seconds=0.01) as own:
            if number >= 2 * EACH:
                return small(own)
            try:
                if number % 2:
                    return "stored", own.ingest("t", LOAD).rows
                with own.reader(QUERIES[number // 2 % len(QUERIES)]) as reader:
                    rows = sum(batch.num_rows for batch in reader)
            except ducktower.DucktowerError as error:
                if error.outcome_unknown:
                    unknown.append(LOAD.num_rows)
                return error.code if error.code in (*TYPED, "UNAVAILABLE") else str(error), 0
            return f"read {rows}", 0

    def small(own: ducktower.FlightClient) -> tuple[str, int]:
        """Write rows one by one; none of them is too large, so all may be tried again."""
        stored = 0
        for number in range(100):
            try:
                stored += own.ingest("t", [{"i": number, "v": "small"}]).rows
            except ducktower.Overloaded:
                continue
            except ducktower.Unavailable as error:  # the database is opened again: see below
                if error.outcome_unknown:
                    unknown.append(1)
        return "stored", stored

    with Peak(server.pid) as peak:
        outcomes = together(2 * EACH + 2, call, seconds=300)
    # Queries that take what was kept for a COMMIT while it runs cost an opening, once in many runs on a machine that
    # has other work (docs/decisions, memory for commits). Nothing else may be fatal.
    opened = server.stderr.count("fatal database error, reopening: Failed to commit: failed to")
    assert {outcome for outcome, _ in outcomes} <= {"stored", "read 300000", *TYPED, *["UNAVAILABLE"] * opened}
    assert min(rows for _, rows in outcomes[2 * EACH :]) > 0
    with ducktower.connect(server.url, retry_seconds=60) as client:
        stored = sum(rows for _, rows in outcomes)
        assert stored <= client.query("SELECT count(*) AS n FROM t")["n"][0].as_py() <= stored + sum(unknown)
        assert client.query(f"SELECT * FROM t WHERE v NOT IN ('small', lpad(i::VARCHAR, {WIDTH}, '0'))").num_rows == 0
        assert client.ingest("t", LOAD).rows == LOAD.num_rows
        assert client.query(QUERIES[0]).num_rows == 300_000
        assert client.health()["fatal_errors"] == opened
    # Beside the total, gRPC has received at most what was sent.
    assert peak.nbytes < TOTAL_BYTES + EACH * LOAD.nbytes


CLIENTS = 200
CALLS_EACH = 5
THREADS_KEPT_MAX = 16
"""What DuckDB and gRPC keep for their next work."""


class Crowd:
    """Clients of four kinds, each with a connection; how often they were refused on the way to their answers."""

    def __init__(self, url: str) -> None:
        self.refused: list[tuple[str, float | None]] = []  # codes and hints: an error keeps its client's connection
        self._url = url
        self._kinds: tuple[Callable[[], int], ...] = (self._put, self._query, self._append, self._sql)

    def call(self, number: int) -> int:
        """Be one client; return the rows that it was told are stored."""
        return self._kinds[number % len(self._kinds)]()

    def _put(self) -> int:
        row = pa.record_batch({"i": pa.array([1], pa.int64())})

        def put() -> int:
            writer, reader = client.do_put(flight.FlightDescriptor.for_path("t"), row.schema)
            with writer:
                writer.write_batch(row)
                writer.done_writing()
                return int(json.loads(reader.read().to_pybytes())["rows"])

        with flight.connect(self._url) as client:
            return sum(self._answered(put) for _ in range(CALLS_EACH))

    def _query(self) -> int:
        def query() -> int:
            return int(client.query("SELECT count(*) AS n FROM t").num_rows)

        with ducktower.connect(self._url, retry_seconds=0.001) as client:
            assert sum(self._answered(query) for _ in range(CALLS_EACH)) == CALLS_EACH
        return 0

    def _append(self) -> int:
        with ducktower.connect(self._url, retry_seconds=60) as client, client.appender("t") as appender:
            return sum(self._answered(lambda: appender.append({"i": 1}).result(60).rows) for _ in range(CALLS_EACH))

    def _sql(self) -> int:
        # The ADBC driver does not get over a statement whose closing is refused.
        with RawFlightSql(self._url) as client:
            return sum(self._answered(lambda: client.update("INSERT INTO t VALUES (1)")) for _ in range(CALLS_EACH))

    def _answered(self, call: Callable[[], T]) -> T:
        """Call until it is answered, no sooner than the server said."""

        def told() -> T:
            try:
                return call()
            except (flight.FlightError, ducktower.DucktowerError) as error:
                found = error if isinstance(error, ducktower.DucktowerError) else from_coded_text(str(error))
                if found is None:
                    raise
                self.refused.append((found.code, found.retry_after_seconds))
                raise found from error

        return retried(told, if_refused, 60)


def test_a_crowd_is_served_in_the_end(start_server: Callable[..., ServerProcess]) -> None:
    """Past the places calls are refused with a hint, no row is lost or doubled, and the server keeps nothing."""
    server = start_server("--calls-in-flight-max", str(CLIENTS // 4))
    crowd = Crowd(server.url)
    with ducktower.connect(server.url, retry_seconds=60) as client:
        client.execute("CREATE TABLE t (i BIGINT)")
        client.ingest("t", [{"i": 0}])
        before, cursors = held(server.pid), client.statistics()["cursors"]
        stored = sum(together(CLIENTS, crowd.call, seconds=120))
        assert stored == CLIENTS * 3 // 4 * CALLS_EACH
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": stored + 1}]
        assert crowd.refused
        assert {code for code, _ in crowd.refused} == {"OVERLOADED"}
        assert all(hint for _, hint in crowd.refused)
        gc.collect()  # errors, and the frames that raised them, keep connections of the crowd
        settles_within(before, spare_threads=THREADS_KEPT_MAX, pid=server.pid)
        until(lambda: client.statistics()["cursors"] == cursors, "the leases", seconds=30)
        assert client.sessions() == []
        assert set(client.health()["checks"].values()) == {"ok"}
