"""The exploration behind the group commit: how a group of small writes best becomes one durable transaction.

Owns a stand-alone script that knows DuckDB and threads alone; it shares no code with the engine, so that it
can speak against it. Must never be read as a promise: it prints what this machine does today.

    python -m benchmarks.explore_commit [--seconds S] [--rounds N] [--only QUESTION]

Variants of one question take turns, round by round, and the median is printed: a busy second hits them all.
ADBC is measured when `adbc-driver-manager` can be imported, in a file of its own, since two APIs in one
process would see one file as two databases.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table

Step = Callable[[], object]
"""One durable transaction."""

GROUPS = (1, 16, 64, 256)
SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.string())])


class SwappedStream:
    """What DuckDB scans: registered once, its content is exchanged before each insert."""

    def __init__(self) -> None:
        self.current: Any = rows(1)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.current.__arrow_c_stream__(requested_schema)


def chosen_directory() -> Path:
    """Return where databases go: a disk, where `/tmp` is often memory and a flush costs nothing."""
    return next(place for place in (Path("/var/tmp"), Path.cwd()) if place.is_dir())


def rows(count: int) -> pa.RecordBatch:
    """Make one batch of `count` rows."""
    return pa.record_batch([pa.array(range(count), pa.int64()), pa.array(["abc"] * count)], schema=SCHEMA)


@contextmanager
def database(directory: Path, name: str) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty file database with the tables `t` and `u`, and close it."""
    connection = duckdb.connect(directory / f"{name}.duckdb", config={"python_enable_replacements": "false"})
    try:
        connection.execute("CREATE TABLE t (id BIGINT, value VARCHAR)")
        connection.execute("CREATE TABLE u (id BIGINT, value VARCHAR)")
        yield connection
    finally:
        connection.close()


def prepared_insert(
    connection: duckdb.DuckDBPyConnection, stream: SwappedStream, table: str = "t"
) -> Callable[[Any], object]:
    """Return what inserts an Arrow object through a stream registered once and a statement parsed once."""
    name = f"stream_{table}_{id(stream)}"
    connection.register(name, stream)
    connection.execute(f"PREPARE insert_{name} AS INSERT INTO {table} BY NAME SELECT id, value FROM {name}")
    statement = connection.extract_statements(f"EXECUTE insert_{name}")[0]

    def insert(data: Any) -> object:
        stream.current = data
        return connection.execute(statement)

    return insert


def rate(step: Step, seconds: float) -> float:
    """Return how often a second `step` ran, one after the other."""
    for _ in range(10):
        step()
    count, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        step()
        count += 1
    return count / passed


Variants = dict[str, Callable[[float], float]]
"""A variant's name, and what measures its rate over the given seconds."""


def timed(step: Step) -> Callable[[float], float]:
    """Return what measures `step`."""
    return partial(rate, step)


def how_rows_get_in(connection: duckdb.DuckDBPyConnection, directory: Path, stack: ExitStack) -> Variants:
    """SQL parameters, an Arrow table registered anew, a stream registered once, and ADBC."""
    insert = prepared_insert(connection, SwappedStream())
    begin, commit = (connection.extract_statements(word)[0] for word in ("BEGIN", "COMMIT"))
    ingest = adbc_ingest(directory, stack)
    variants: Variants = {}
    for count in GROUPS:
        batch, table = rows(count), pa.Table.from_batches([rows(count)])
        values = [[index, "abc"] for index in range(count)]

        def with_parameters(values: list[list[object]] = values) -> None:
            if len(values) == 1:
                connection.execute("INSERT INTO t VALUES (?, ?)", values[0])
                return
            connection.execute(begin)
            connection.executemany("INSERT INTO t VALUES (?, ?)", values)
            connection.execute(commit)

        def registered_anew(table: pa.Table = table) -> None:
            connection.register("source", table)
            connection.execute("INSERT INTO t BY NAME SELECT id, value FROM source")

        variants[f"SQL parameters, {count} rows"] = timed(with_parameters)
        variants[f"Arrow table registered each time, {count} rows"] = timed(registered_anew)
        variants[f"stream registered once + EXECUTE, {count} rows"] = timed(partial(insert, batch))
        if ingest is not None:
            variants[f"ADBC ingest, {count} rows"] = timed(partial(ingest, batch))
    return variants


def adbc_ingest(directory: Path, stack: ExitStack) -> Callable[[pa.RecordBatch], object] | None:
    """Return what ingests one batch and commits it through ADBC, or None when ADBC is not installed."""
    if importlib.util.find_spec("adbc_driver_manager") is None:
        return None
    from adbc_driver_duckdb import dbapi  # type: ignore[import-untyped]

    connection = stack.enter_context(dbapi.connect(str(directory / "adbc.duckdb"), autocommit=True))
    cursor = stack.enter_context(connection.cursor())
    cursor.execute("CREATE TABLE t (id BIGINT, value VARCHAR)")
    return lambda batch: cursor.adbc_ingest("t", batch, mode="append")


def how_batches_merge(connection: duckdb.DuckDBPyConnection, directory: Path, stack: ExitStack) -> Variants:
    """One-row batches of a group: scanned as chunks, or made one batch first."""
    del directory, stack
    insert = prepared_insert(connection, SwappedStream())

    def merge_and_insert(merge: Callable[[list[pa.RecordBatch]], Any], parts: list[pa.RecordBatch]) -> object:
        return insert(merge(parts))

    variants: Variants = {}
    for count in GROUPS[1:]:
        batches = [rows(1)] * count
        ways: dict[str, Callable[[list[pa.RecordBatch]], Any]] = {
            "chunked table": pa.Table.from_batches,
            "table, combine_chunks": lambda parts: pa.Table.from_batches(parts).combine_chunks(),
            "concat_batches": pa.concat_batches,
        }
        for name, merge in ways.items():
            variants[f"{name}, {count} writes"] = timed(partial(merge_and_insert, merge, batches))
    return variants


def what_a_transaction_costs(connection: duckdb.DuckDBPyConnection, directory: Path, stack: ExitStack) -> Variants:
    """Autocommit against BEGIN and COMMIT, and a second table in the same transaction."""
    del directory, stack
    first = prepared_insert(connection, SwappedStream())
    second = prepared_insert(connection, SwappedStream(), "u")
    begin, commit = (connection.extract_statements(word)[0] for word in ("BEGIN", "COMMIT"))

    def between(*inserts: Callable[[Any], object]) -> Callable[[Any], None]:
        def step(data: Any) -> None:
            connection.execute(begin)
            for insert in inserts:
                insert(data)
            connection.execute(commit)

        return step

    def apart(data: Any) -> None:
        first(data)
        second(data)

    ways: dict[str, Callable[[Any], object]] = {
        "autocommit, one table": first,
        "BEGIN/COMMIT, one table": between(first),
        "BEGIN/COMMIT, two tables": between(first, second),
        "autocommit, two tables, two commits": apart,
    }
    return {
        f"{name}, {count} rows": timed(partial(way, rows(count))) for count in (1, 64) for name, way in ways.items()
    }


def how_many_committers(connection: duckdb.DuckDBPyConnection, directory: Path, stack: ExitStack) -> Variants:
    """One connection that commits, against two in parallel on threads of their own."""
    del directory
    cursors = [stack.enter_context(connection.cursor()) for _ in range(2)]
    inserts = [prepared_insert(cursor, SwappedStream()) for cursor in cursors]

    def measure(used: list[Callable[[Any], object]], batch: pa.RecordBatch) -> Callable[[float], float]:
        return partial(together, [partial(insert, batch) for insert in used])

    return {
        f"{count} committing, {size} rows": measure(inserts[:count], rows(size)) for size in (1, 64) for count in (1, 2)
    }


def together(steps: list[Step], seconds: float) -> float:
    """Return the summed rate of `steps`, each on a thread of its own, over the same seconds."""
    rates = [0.0] * len(steps)
    barrier = threading.Barrier(len(steps))

    def run(index: int) -> None:
        barrier.wait()
        rates[index] = rate(steps[index], seconds)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(steps))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(rates)


def call_all(calls: list[Callable[[], object]]) -> None:
    """Call each."""
    for call in calls:
        call()


class CommittingThread:
    """One thread commits whatever waits, then tells each: a waiter sleeps on a lock of its own."""

    def __init__(
        self, insert: Callable[[Any], object], tell: Callable[[list[Callable[[], object]]], object] = call_all
    ) -> None:
        self._insert = insert
        self._tell = tell
        self._lock = threading.Lock()  # guards the three below
        self._waiting: list[tuple[pa.RecordBatch, Callable[[], object]]] = []
        self._asleep = False
        self._stopping = False
        self._wake = threading.Lock()
        self._wake.acquire()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def write(self, batch: pa.RecordBatch) -> None:
        """Return when the batch is committed."""
        done = threading.Lock()
        done.acquire()
        self.submit(batch, done.release)
        done.acquire()

    def submit(self, batch: pa.RecordBatch, committed: Callable[[], object]) -> None:
        """Return at once; the committing thread calls `committed` later."""
        with self._lock:
            self._waiting.append((batch, committed))
            wake, self._asleep = self._asleep, False
        if wake:
            self._wake.release()

    def close(self) -> None:
        """End the thread; nobody may be waiting."""
        with self._lock:
            self._stopping = True
            wake, self._asleep = self._asleep, False
        if wake:
            self._wake.release()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._lock:
                group, self._waiting = self._waiting, []
                if not group and self._stopping:
                    return
                self._asleep = not group
            if not group:
                self._wake.acquire()
                continue
            self._insert(pa.concat_batches([batch for batch, _ in group]))
            self._tell([committed for _, committed in group])


class LeaderAndFollowers:
    """The first waiter commits for all who came meanwhile, then hands the lead on."""

    def __init__(self, insert: Callable[[Any], object]) -> None:
        self._insert = insert
        self._lock = threading.Lock()  # guards the two below
        self._waiting: deque[list[Any]] = deque()
        self._led = False

    def write(self, batch: pa.RecordBatch) -> None:
        """Return when the batch is committed."""
        gate = threading.Lock()
        gate.acquire()
        mine: list[Any] = [batch, gate, False]  # the last one: committed by somebody else
        with self._lock:
            lead, self._led = not self._led, True
            self._waiting.append(mine)
        if not lead:
            gate.acquire()
            if mine[2]:
                return
        with self._lock:
            group = list(self._waiting)
            self._waiting.clear()
        self._insert(pa.concat_batches([member[0] for member in group]))
        with self._lock:
            heir = self._waiting[0] if self._waiting else None
            self._led = heir is not None
        if heir is not None:
            heir[1].release()
        for member in group:
            if member is not mine:
                member[2] = True
                member[1].release()

    def close(self) -> None:
        """Do nothing: there is no thread."""


def who_commits(connection: duckdb.DuckDBPyConnection, directory: Path, stack: ExitStack) -> Variants:
    """A committing thread, two that share the clients, a leader among the waiters: writes a second."""
    del directory
    batch = rows(1)

    def writers(kind: type[CommittingThread | LeaderAndFollowers], queues: int, count: int) -> list[Step]:
        steps: list[Step] = []
        for _ in range(queues):
            cursor = stack.enter_context(connection.cursor())
            queue = kind(prepared_insert(cursor, SwappedStream()))
            stack.callback(queue.close)
            steps += [partial(queue.write, batch)] * (count // queues)
        return steps

    variants: Variants = {}
    for count in (1, 16, 64):
        variants[f"committing thread, {count} waiting"] = partial(together, writers(CommittingThread, 1, count))
        if count > 1:
            variants[f"two committing threads, {count} waiting"] = partial(
                together, writers(CommittingThread, 2, count)
            )
        variants[f"leader, {count} waiting"] = partial(together, writers(LeaderAndFollowers, 1, count))
    return variants


QUESTIONS = {
    "rows": how_rows_get_in,
    "merge": how_batches_merge,
    "transaction": what_a_transaction_costs,
    "committers": how_many_committers,
    "waiters": who_commits,
}


def answer(name: str, seconds: float, rounds: int, console: Console) -> None:
    """Measure the variants of one question in turns and print their medians."""
    question = QUESTIONS[name]
    with (
        tempfile.TemporaryDirectory(prefix="ducktower-explore-", dir=chosen_directory()) as place,
        ExitStack() as stack,
    ):
        connection = stack.enter_context(database(Path(place), name))
        variants = question(connection, Path(place), stack)
        measured: dict[str, list[float]] = {variant: [] for variant in variants}
        for _ in range(rounds):
            for variant, measure in variants.items():
                measured[variant].append(measure(seconds))
    table = Table(title=question.__doc__)
    table.add_column("variant")
    for heading in ("a second", "us each", "lowest", "highest"):
        table.add_column(heading, justify="right")
    for variant, rates in measured.items():
        middle = statistics.median(rates)
        figures = (middle, 1e6 / middle, min(rates), max(rates))
        table.add_row(variant, *(f"{figure:,.0f}" for figure in figures))
    console.print(table)


def main() -> None:
    """Ask the questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=0.5, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=QUESTIONS)
    chosen = parser.parse_args()
    console = Console(width=110)
    console.print(f"DuckDB {duckdb.__version__}, pyarrow {pa.__version__}; medians of {chosen.rounds} rounds")
    for name in [chosen.only] if chosen.only else QUESTIONS:
        answer(name, chosen.seconds, chosen.rounds, console)


if __name__ == "__main__":
    main()
