"""Heavy queries and uploads, 64 of each at once, with little memory: typed errors, and the process goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import psutil
import pyarrow as pa

import ducktower
from ducktower.config import MIB
from support.servers import ServerProcess
from support.threads import together

EACH = 64
TOTAL_BYTES = 512 * MIB
LOAD = pa.table({"i": range(40_000), "v": [f"{i:0150d}" for i in range(40_000)]})
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
                return error.code if error.code in TYPED else str(error), 0
            return f"read {rows}", 0

    def small(own: ducktower.FlightClient) -> tuple[str, int]:
        """Write rows one by one; none of them is too large, so all may be tried again."""
        stored = 0
        for number in range(100):
            try:
                stored += own.ingest("t", [{"i": number, "v": "small"}]).rows
            except ducktower.Overloaded:
                continue
        return "stored", stored

    with Peak(server.pid) as peak:
        outcomes = together(2 * EACH + 2, call, seconds=300)
    assert {outcome for outcome, _ in outcomes} <= {"stored", "read 300000", *TYPED}
    assert min(rows for _, rows in outcomes[2 * EACH :]) > 0
    with ducktower.connect(server.url, retry_seconds=60) as client:
        stored = sum(rows for _, rows in outcomes)
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": stored}]
        assert client.ingest("t", LOAD).rows == LOAD.num_rows
        assert client.query(QUERIES[0]).num_rows == 300_000
        assert client.health()["fatal_errors"] == 0
    # Beside the total, gRPC has received at most what was sent.
    assert peak.nbytes < TOTAL_BYTES + EACH * LOAD.nbytes
