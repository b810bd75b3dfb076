"""How `ducktower serve` ends, told once and told twice, with real processes and writers that go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from torture.fsync import Fsync, fsync_library

import ducktower
from support.servers import ServerProcess, environment
from support.waiting import SECONDS_MAX, until

LONG = "SELECT i, repeat('x', 100) AS v FROM range(100000000) t(i)"


class Writers:
    """Threads that write one row at a time until they are told that the server is gone, and what was acknowledged."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.acknowledged: list[int] = []
        self.ended: list[BaseException] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(4)]
        for thread in self._threads:
            thread.start()

    def _run(self, number: int) -> None:
        try:
            with ducktower.connect(self._url, retry_seconds=0.001) as client:
                for row in range(number, 1_000_000, 4):
                    client.ingest("t", [{"i": row}])
                    self.acknowledged.append(row)
        except BaseException as error:
            self.ended.append(error)

    def join(self) -> None:
        """Wait for the end of all."""
        for thread in self._threads:
            thread.join(SECONDS_MAX)
            assert not thread.is_alive()


def test_a_second_signal_ends_it_at_once(start_server: Callable[..., ServerProcess]) -> None:
    """A drain that would last is cut short with the status that the page promises, and nothing acknowledged is lost."""
    server = start_server("--drain-seconds", "600")
    with ducktower.connect(server.url) as client:
        client.execute("CREATE TABLE t (i BIGINT)")
        reading = client.reader(LONG)
        writers = Writers(server.url)
        until(lambda: len(writers.acknowledged) > 50, "some writes")
        server.process.send_signal(signal.SIGTERM)
        until(lambda: "stopping" in server.stderr, "the first signal")
        writers.join()  # refused, because the server stops
        assert server.process.poll() is None  # the reader is waited for
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(SECONDS_MAX) == 130
        del reading
    assert {type(error) for error in writers.ended} == {ducktower.Unavailable}
    stored = rows(start_server())
    assert set(writers.acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))


def test_both_signals_in_the_midst_of_writes(start_server: Callable[..., ServerProcess]) -> None:
    """Two signals without a pause: what was acknowledged is there once, whatever the process was doing."""
    server = start_server()
    with ducktower.connect(server.url) as client:
        client.execute("CREATE TABLE t (i BIGINT)")
    writers = Writers(server.url)
    until(lambda: len(writers.acknowledged) > 50, "some writes")
    server.process.send_signal(signal.SIGTERM)
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(SECONDS_MAX) in (0, 130, 143)
    writers.join()
    stored = rows(start_server())
    assert set(writers.acknowledged) <= set(stored)
    assert len(stored) == len(set(stored))


def test_two_signals_while_it_starts(tmp_path: Path) -> None:
    """DuckDB is opening the file, for as long as that takes: nothing waits for it."""
    library = fsync_library(tmp_path)
    if library is None:
        pytest.skip("there is no C compiler here")
    fsync = Fsync(library, tmp_path / "orders")
    fsync.order(600_000)
    database = tmp_path / "test.duckdb"
    with (tmp_path / "stderr").open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "ducktower.cli", "serve", str(database), "--port", "0"],
            env={**environment(), **fsync.environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
        )
    try:
        until(database.exists, "the database file")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=SECONDS_MAX)
    finally:
        process.kill()
        fsync.close()
    assert process.returncode in (130, 143)
    assert not said  # it was never ready


def rows(server: ServerProcess) -> list[int]:
    """Return what is stored."""
    with ducktower.connect(server.url) as client:
        found: list[int] = client.query("SELECT i FROM t ORDER BY i")["i"].to_pylist()
        return found


def test_a_stream_that_nobody_closed_at_the_end_of_the_process() -> None:
    """It is freed while the interpreter clears its modules: the process ends all the same, and with its own status."""
    program = """
import duckdb
from ducktower.engine.streams import chained

class Cycle:
    def __init__(self):
        found = duckdb.sql("SELECT i, repeat('x', 100) AS x FROM range(1_000_000) r(i)")
        self.reader = chained([], found.to_arrow_reader(1_000), bytes_max=1 << 20)
        self.reader.read_next_batch()
        self.cycle = self

kept = Cycle()
raise SystemExit(3)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "Exception ignored" not in done.stderr
