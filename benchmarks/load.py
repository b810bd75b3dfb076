"""The load: client processes of several threads that call a server for a while and count its answers.

Owns what a client of each kind does; the same program loads Ducktower and the no-op server. Must never use DuckDB
but to make the rows of a bulk write.
"""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any, Literal

import pyarrow as pa
import pyarrow.flight as flight

import ducktower
from ducktower.errors import from_coded_text

from .clocked import Outcome, Refused, Work, once, summed, together
from .driver import driver
from .lineitem import columns
from .processes import receive, started
from .rows import lineitem_table

__all__ = ["LINEITEM_TABLE", "SCHEMA", "TABLE", "Load", "Outcome", "connected", "one_row", "running", "stored_rows"]

TABLE = "measured"
LINEITEM_TABLE = "measured_lineitem"
SCHEMA = pa.schema([("id", pa.int64()), ("value", pa.string())])
APPENDS_PER_LOOK = 32  # at the clock

Kind = Literal[
    "put",
    "put_named",
    "ingest",
    "insert_sql",
    "append_wait",
    "append_wait_apart",
    "append_flow",
    "query",
    "read",
    "write",
]
Shape = Literal["pair", "lineitem"]
"""Of the rows of small writes: `(id, value)`, or 16 columns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of the client processes together."""

    kind: Kind
    url: str = ""
    clients: int
    seconds: float
    processes: int = 4
    table: str = TABLE
    shape: Shape = "pair"
    rows: int = 1
    """Of each write."""
    every: float = 0.0
    """Seconds from one call of a client to its next; 0: at once."""
    query: str = ""
    token: str = ""
    connect_first: bool = False
    """Whether each connection of a `put` is made before the clock starts: else the first calls of a round are slow, and
    in a short one they are what p99.9 tells of."""
    tls_certificate: str = ""
    """What a server of its own certificate is trusted by, as PEM."""
    counts_refusals: bool = False
    """Whether a call that is refused is counted, and made again when the server says; else it ends the measurement."""


def stored_rows(url: str, table: str = TABLE, **connection: Any) -> int:
    """Ask Ducktower how many rows a table holds."""
    with ducktower.connect(url, **connection) as client:
        count: int = client.query(f'SELECT count(*) AS rows FROM "{table}"')["rows"][0].as_py()
        return count


@contextmanager
def running(load: Load) -> Iterator[Callable[[], Outcome]]:
    """Start the load when all its clients are connected; yield what waits for the outcome."""
    with connected(load) as begin:
        yield begin()


@contextmanager
def connected(load: Load) -> Iterator[Callable[[], Callable[[], Outcome]]]:
    """Connect all clients of a load; yield what starts it, and returns what waits for the outcome."""
    processes = min(load.processes, load.clients)
    shares = [len(range(index, load.clients, processes)) for index in range(processes)]
    with ExitStack() as stack:
        parts = [
            stack.enter_context(started(_process, replace(load, clients=share), index))
            for index, share in enumerate(shares)
        ]
        for pipe, result in parts:
            message = receive(pipe)
            if message != "connected":
                raise RuntimeError(str(message[1]))
            del result

        def begin() -> Callable[[], Outcome]:
            for pipe, _ in parts:
                pipe.send("go")
            return lambda: summed([result() for _, result in parts])

        yield begin


def _process(pipe: Connection, load: Load, number: int) -> Outcome:
    """Be one client process: connect all threads, say so, wait for the word, run."""
    one_row(number)  # Arrow looks for pandas when it makes its first array: that takes most of a second

    def ready() -> None:
        pipe.send("connected")
        receive(pipe)

    def make(stack: ExitStack, index: int) -> Work:
        work = WORKS[load.kind](load, stack, index)
        return replace(work, call=_counting_refusals(work.call)) if load.counts_refusals else work

    return together(make, load.clients, load.seconds, number * 1000, ready)


def _counting_refusals(call: Callable[[], int]) -> Callable[[], int]:
    def counting() -> int:
        try:
            return call()
        except Exception as error:  # each kind of client has its own; our code is in the text of all of them
            told = error if isinstance(error, ducktower.DucktowerError) else from_coded_text(str(error))
            if told is None:
                raise
            hint = told.retry_after_seconds
            raise Refused(told.code if hint is not None else f"{told.code} without a hint", hint or 0.0) from error

    return counting


def _connected(load: Load) -> ducktower.FlightClient:
    """Return a client that tries again as usual, or leaves that to whoever counts refusals."""
    return ducktower.connect(load.url, retry_seconds=0.001 if load.counts_refusals else 10.0)


def one_row(number: int) -> pa.RecordBatch:
    """Make what a one-row write sends."""
    return pa.record_batch([pa.array([number], pa.int64()), pa.array(["abc"])], schema=SCHEMA)


def _rows(load: Load, number: int) -> pa.RecordBatch:
    """Make what one write sends."""
    if load.shape == "lineitem":
        (row,) = lineitem_table(1).to_batches()
        return row
    ids = pa.array([number] * load.rows, pa.int64())
    return pa.record_batch([ids, pa.array(["abc"] * load.rows)], schema=SCHEMA)


def _put(load: Load, stack: ExitStack, number: int) -> Work:
    """Writes with pyarrow's own client: one DoPut each, acknowledged by one metadata message."""
    descriptor = flight.FlightDescriptor.for_path(load.table)
    return _putting(load, stack, number, lambda: descriptor)


def _put_named(load: Load, stack: ExitStack, number: int) -> Work:
    """The same by a writer of a name of its own: each write has its sequence."""
    sequences = itertools.count(1)

    def described() -> flight.FlightDescriptor:
        command = {"table": load.table, "writer": f"writer {number}", "sequence": next(sequences)}
        return flight.FlightDescriptor.for_command(json.dumps(command).encode())

    return _putting(load, stack, number, described)


def _putting(load: Load, stack: ExitStack, number: int, described: Callable[[], flight.FlightDescriptor]) -> Work:
    client = stack.enter_context(flight.FlightClient(load.url, tls_root_certs=load.tls_certificate or None))
    batch = _rows(load, number)
    schema = batch.schema
    headers = [(b"authorization", b"Bearer " + load.token.encode())] if load.token else []
    options = flight.FlightCallOptions(headers=headers)
    if load.connect_first:
        list(client.do_action("health", options))

    def call() -> int:
        writer, reader = client.do_put(described(), schema, options)
        with writer:
            writer.write_batch(batch)
            writer.done_writing()
            rows: int = json.loads(reader.read().to_pybytes())["rows"]
        return rows

    return Work(call, every=load.every)


def _insert_sql(load: Load, stack: ExitStack, number: int) -> Work:
    """One-row INSERT statements by the ADBC driver, each its own transaction."""
    connection = stack.enter_context(driver(load.url))
    cursor = stack.enter_context(connection.cursor())
    sql = f"INSERT INTO {load.table} VALUES ({number}, 'abc')"

    def call() -> int:
        cursor.execute(sql)
        return int(cursor.rowcount)

    return Work(call)


def _ingest(load: Load, stack: ExitStack, number: int) -> Work:
    """One-row writes with `FlightClient.ingest`."""
    client = stack.enter_context(ducktower.connect(load.url))
    batch = one_row(number)
    return Work(lambda: int(client.ingest(TABLE, batch).rows))


_sharing = threading.Lock()  # guards _clients: a cache alone would let each thread make its own
_clients: dict[str, ducktower.FlightClient] = {}


def _shared(url: str) -> ducktower.FlightClient:
    """Return this process's one client, as a program of several threads has it."""
    with _sharing:
        return _clients.setdefault(url, _clients.get(url) or ducktower.connect(url))


def _append_wait(load: Load, stack: ExitStack, number: int) -> Work:
    """One-row writes by appenders of one client; each waits for its acknowledgement."""
    return _waiting(_shared(load.url), stack, number)


def _append_wait_apart(load: Load, stack: ExitStack, number: int) -> Work:
    """The same, but each appender has a client, and so a connection and a stream, of its own."""
    return _waiting(stack.enter_context(_connected(load)), stack, number)


def _waiting(client: ducktower.FlightClient, stack: ExitStack, number: int) -> Work:
    appender = stack.enter_context(client.appender(TABLE))
    row = {"id": number, "value": "abc"}
    return Work(lambda: int(appender.append(row).result().rows))


def _append_flow(load: Load, stack: ExitStack, number: int) -> Work:
    """Rows appended one at a time; the appender forms the writes, and only acknowledged rows count."""
    appender = stack.enter_context(_shared(load.url).appender(TABLE))

    def call() -> int:
        for _ in range(APPENDS_PER_LOOK):
            appender.append({"id": number, "value": "abc"})
        return 0

    def finish() -> int:
        appender.flush()
        return int(appender.acknowledged_rows)

    return Work(call, finish, timed=False)


def _query(load: Load, stack: ExitStack, number: int) -> Work:
    """One query after the other; `{number}` in its text grows, so that no two look up the same."""
    client = stack.enter_context(_connected(load))
    numbers = itertools.count(number)

    def call() -> int:
        result = client.query(load.query.format(number=next(numbers)))
        if result.num_rows != 1:
            raise RuntimeError(f"{load.query} gave {result.num_rows} rows")
        return 1

    return Work(call)


def _read(load: Load, stack: ExitStack, _number: int) -> Work:
    """Read a whole table into an Arrow table."""
    client = stack.enter_context(ducktower.connect(load.url))
    return Work(lambda: int(client.query(f'SELECT * FROM "{load.table}"').num_rows))


def _write(load: Load, stack: ExitStack, _number: int) -> Work:
    """Store lineitem-shaped rows that are in memory in a new table, once."""
    client = stack.enter_context(ducktower.connect(load.url))
    rows = lineitem_table(load.rows)
    client.execute(f'CREATE OR REPLACE TABLE "{load.table}" ({columns()})')
    return once(lambda: int(client.ingest(load.table, rows).rows))


WORKS: dict[Kind, Callable[[Load, ExitStack, int], Work]] = {
    "put": _put,
    "put_named": _put_named,
    "ingest": _ingest,
    "insert_sql": _insert_sql,
    "append_wait": _append_wait,
    "append_wait_apart": _append_wait_apart,
    "append_flow": _append_flow,
    "query": _query,
    "read": _read,
    "write": _write,
}
