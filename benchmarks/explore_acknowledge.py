"""The exploration behind the acknowledgements of open streams: which thread should write them.

Owns a stand-alone script with a small Flight server of its own: each batch of a DoExchange is one write, it
is committed in a group, and its acknowledgement is written by the committing thread itself, by one thread for
all streams, or by one thread for each stream. Must never be read as a promise.

    python -m benchmarks.explore_acknowledge [--seconds S] [--rounds N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
from rich.console import Console
from rich.table import Table

from .explore_commit import (
    SCHEMA,
    CommittingThread,
    SwappedStream,
    call_all,
    chosen_directory,
    database,
    prepared_insert,
    rows,
)

PROCESSES, STREAMS = 4, 4  # streams in each process
WINDOWS = (1, 64)  # writes that one stream keeps in flight
STARTING_SECONDS = 60.0
ACKNOWLEDGEMENT = b'{"sequence": 1, "rows": 1, "commit": 1}'


ITSELF = "the committing thread"
BY_GROUP = "one thread for all streams, told once a group"
BY_WRITE = "one thread for all streams, told each write"
EACH = "a thread for each stream"
WAYS = (ITSELF, BY_GROUP, BY_WRITE, EACH)


class Acknowledger:
    """A thread that writes acknowledgements, those of one group after the other."""

    def __init__(self) -> None:
        self._writes: queue.SimpleQueue[list[Callable[[], object]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self.put = self._writes.put

    def put_one(self, write: Callable[[], object]) -> None:
        """Hand over a single acknowledgement."""
        self._writes.put([write])

    def close(self) -> None:
        """Return when all that was put is written."""
        self._writes.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (writes := self._writes.get()) is not None:
            call_all(writes)


class Server(flight.FlightServerBase):
    """One table behind DoExchange; `way` says who acknowledges."""

    def __init__(self, way: str, insert: Callable[[Any], object]) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._way = way
        self._shared = Acknowledger()
        self._committer = CommittingThread(insert, self._shared.put if way == BY_GROUP else call_all)

    def close(self) -> None:
        """Stop serving, then committing."""
        self.shutdown()
        self._committer.close()

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Commit each batch; end when each is acknowledged."""
        del context, descriptor
        own = Acknowledger() if self._way == EACH else None
        ended = threading.Semaphore(0)

        def write() -> None:
            writer.write_metadata(ACKNOWLEDGEMENT)
            ended.release()

        at_once = self._way in (ITSELF, BY_GROUP)
        committed = write if at_once else partial((own or self._shared).put_one, write)
        sent = 0
        for chunk in reader:
            self._committer.submit(chunk.data, committed)
            sent += 1
        for _ in range(sent):
            ended.acquire()
        if own:
            own.close()


def serve(way: str, place: str, answers: Connection) -> None:
    """Serve until told to stop, then say how many rows are stored."""
    with database(Path(place), "acknowledge") as connection:
        server = Server(way, prepared_insert(connection, SwappedStream()))
        answers.send(server.port)
        answers.recv()
        answers.send(connection.cursor().execute("SELECT count(*) FROM t").fetchone())
        server.close()


def stream(url: str, window: int, seconds: float, barrier: Any, counts: list[int]) -> None:
    """Keep `window` writes in flight on one stream, and count the acknowledgements."""
    batch = rows(1)
    with flight.FlightClient(url) as client:
        writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"{}"))
        with writer:
            writer.begin(SCHEMA)
            barrier.wait(STARTING_SECONDS)
            end = time.perf_counter() + seconds
            for _ in range(window):
                writer.write_batch(batch)
            acknowledged = 0
            while time.perf_counter() < end:
                reader.read_chunk()
                writer.write_batch(batch)
                acknowledged += 1
            writer.done_writing()
            for _ in range(window):
                reader.read_chunk()
            counts.append(acknowledged + window)


def streams(url: str, window: int, seconds: float, barrier: Any, answers: Any) -> None:
    """Run this process's share of the streams."""
    counts: list[int] = []
    threads = [threading.Thread(target=stream, args=(url, window, seconds, barrier, counts)) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.put(sum(counts))


def measure(way: str, window: int, seconds: float) -> float:
    """Return the acknowledged writes a second of all streams."""
    spawn = multiprocessing.get_context("spawn")
    barrier, answers = spawn.Barrier(PROCESSES * STREAMS), spawn.Queue()
    with tempfile.TemporaryDirectory(prefix="ducktower-explore-", dir=chosen_directory()) as place:
        ours, theirs = spawn.Pipe()
        server = spawn.Process(target=serve, args=(way, place, theirs), daemon=True)
        server.start()
        url = f"grpc://127.0.0.1:{ours.recv()}"
        clients = [
            spawn.Process(target=streams, args=(url, window, seconds, barrier, answers), daemon=True)
            for _ in range(PROCESSES)
        ]
        for client in clients:
            client.start()
        acknowledged: int = sum(answers.get(timeout=STARTING_SECONDS + 2 * seconds) for _ in clients)
        ours.send("stop")
        stored = ours.recv()[0]
        for process in (*clients, server):
            process.join(STARTING_SECONDS)
    if stored != acknowledged:
        raise SystemExit(f"{way}: {acknowledged} acknowledged, {stored} stored")
    return acknowledged / seconds


def main() -> None:
    """Compare the ways."""
    parser = argparse.ArgumentParser(description="Which thread should acknowledge the writes of open streams")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args()
    rates: dict[tuple[int, str], list[float]] = {(window, way): [] for window in WINDOWS for way in WAYS}
    for _ in range(chosen.rounds):
        for window, way in rates:
            rates[window, way].append(measure(way, window, chosen.seconds))
    table = Table(title=f"Acknowledged one-row writes a second, {PROCESSES * STREAMS} streams")
    for heading in ("in flight", "acknowledged by", "a second", "lowest", "highest"):
        table.add_column(heading)
    for (window, way), values in rates.items():
        figures = (statistics.median(values), min(values), max(values))
        table.add_row(str(window), way, *(f"{figure:,.0f}" for figure in figures))
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
