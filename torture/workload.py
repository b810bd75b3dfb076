"""The clients: `python -m torture.workload KIND URL PORT DIRECTORY`, one process for each kind, until it is killed.

Owns how each kind writes. A write is journalled before it is sent and again when its outcome is told; an error that
does not say that nothing was stored leaves the outcome unknown. Must never send a write again, but for the kinds of
`NAMED`: those are sent until their outcome is known.
"""

from __future__ import annotations

import contextlib
import json
import socket
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

import ducktower

from .checker import LATEST_KEYS, NAMED, Checker, Violation
from .journal import Journal, Ledger

__all__ = ["FOUND", "READER", "settle"]

READER = "read"
FOUND = "found.jsonl"
"""Where clients note violations."""
CALL_SECONDS = 8.0
PAUSE_SECONDS = 0.004
SCHEMA = pa.schema([("kind", pa.string()), ("id", pa.int64()), ("part", pa.int32()), ("parts", pa.int32())])
NOTHING_STORED = (ducktower.Conflict, ducktower.Overloaded, ducktower.Cancelled)
TABLES_KEPT = 5


def rows_of(kind: str, write: int, rows: int) -> pa.Table:
    """Return a write: every row names it, and how many there must be."""
    ends = pa.py_buffer(array("i", range(0, (rows + 1) * len(kind), len(kind))))
    columns = [
        pa.Array.from_buffers(pa.string(), rows, [None, ends, pa.py_buffer(kind.encode() * rows)]),
        numbers(pa.int64(), [write] * rows),
        numbers(pa.int32(), range(rows)),
        numbers(pa.int32(), [rows] * rows),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def numbers(kind: pa.DataType, values: Sequence[int]) -> pa.Array:
    """Return an array. `pa.array` imports pandas, where there is one: that took most of a client's start."""
    packed = array("i" if kind == pa.int32() else "q", values)
    return pa.Array.from_buffers(kind, len(values), [None, pa.py_buffer(packed)])


class Told:
    """A block that sends one write: its end becomes the journal's line. Errors pass."""

    def __init__(self, journal: Journal, write: int) -> None:
        self._journal = journal
        self._write = write

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._journal.acknowledged(self._write)
        elif isinstance(error, NOTHING_STORED):
            self._journal.not_stored(self._write, error.code, error.message)
        elif isinstance(error, ducktower.DucktowerError):
            self._journal.unknown(self._write, error.code, error.message)


Step = Callable[[Any, Journal, int], int]
"""Writes with a client from a first id on, and returns the next."""


def put(client: Any, journal: Journal, write: int) -> int:
    """One DoPut of one to seven rows."""
    rows = 1 + write % 7
    journal.sending(write, rows)
    with Told(journal, write):
        client.ingest("writes", rows_of("put", write, rows))
    return write + 1


def bulk(client: Any, journal: Journal, write: int) -> int:
    """One stream of many batches: DoExchange, one transaction of its own."""
    rows = 5_000 + write % 3 * 20_000
    journal.sending(write, rows)
    reader = pa.RecordBatchReader.from_batches(
        SCHEMA, iter(rows_of("bulk", write, rows).to_batches(max_chunksize=2_000))
    )
    with Told(journal, write):
        client.ingest("writes", reader)
    time.sleep(0.2)
    return write + 1


def pair(client: Any, journal: Journal, write: int) -> int:
    """A script that writes to two tables: a reader sees both halves or neither."""
    journal.sending(write, 4)
    with Told(journal, write):
        client.execute(
            f"INSERT INTO writes VALUES ('pair', {write}, 0, 4), ('pair', {write}, 1, 4);"
            f"INSERT INTO writes_too VALUES ('pair', {write}, 2, 4), ('pair', {write}, 3, 4)"
        )
    return write + 1


def upsert(client: Any, journal: Journal, write: int) -> int:
    """Several keys set to one value together."""
    journal.sending(write, LATEST_KEYS)
    keys = numbers(pa.int32(), range(LATEST_KEYS))
    rows = pa.Table.from_arrays([keys, numbers(pa.int64(), [write] * LATEST_KEYS)], names=["k", "v"])
    with Told(journal, write):
        client.ingest("latest", rows, mode="upsert", key=["k"])
    return write + 1


def ddl(client: Any, journal: Journal, write: int) -> int:
    """Make a table, and drop the one made some writes ago. See Checker for the ids."""
    number = (write + 1) // 2
    journal.sending(2 * number, 1)
    with Told(journal, 2 * number):
        client.create_table(f"made_{number}", SCHEMA)
    old = number - TABLES_KEPT
    if old >= 0:
        journal.sending(2 * old + 1, 1)
        with Told(journal, 2 * old + 1):
            client.execute(f"DROP TABLE IF EXISTS made_{old}")
    time.sleep(0.05)
    return 2 * number + 2


def append(client: Any, journal: Journal, write: int) -> int:
    """An open stream of writes, eight of them under way together."""
    appender = client.appender("writes")
    try:
        while True:
            batches = []
            for number in range(write, write + 8):
                rows = 1 + number % 3
                journal.sending(number, rows)
                batches.append((number, rows_of("append", number, rows).to_batches()[0]))
            write += 8
            pending = []
            broken: ducktower.DucktowerError | None = None
            for number, batch in batches:
                try:
                    pending.append((number, appender.write(batch)))
                except ducktower.DucktowerError as error:
                    journal.unknown(number, error.code, error.message)
                    broken = error
            for number, waiting in pending:
                try:
                    with Told(journal, number):
                        waiting.result(CALL_SECONDS)
                except ducktower.DucktowerError as error:
                    broken = error
            if broken is not None:
                raise broken
            time.sleep(PAUSE_SECONDS)
    finally:
        with contextlib.suppress(ducktower.DucktowerError):
            appender.close()


def named(client: Any, journal: Journal, write: int) -> int:
    """A write with a writer and a sequence, small or large; some are sent twice although they were acknowledged."""
    rows = 1 + write % 5 if write % 10 else 40_000
    data = rows_of("named", write, rows)
    journal.sending(write, rows)
    with Told(journal, write):
        receipt = client.ingest("writes", data, writer="named", sequence=write)
    if receipt.rows != rows:
        note(journal.directory, Violation("receipt", f"named {write}: {rows} rows were sent, {receipt}"))
    if write % 4 == 0:
        again = client.ingest("writes", data, writer="named", sequence=write)
        if again != receipt:
            note(journal.directory, Violation("receipt", f"named {write}: first {receipt}, then {again}"))
    return write + 1


def resumed(client: Any, journal: Journal, write: int, last: int | None = None) -> int:
    """An appender of a named writer, eight writes under way together, up to the last one if there is a last one.

    It goes on by itself after whatever ends. A new one begins behind what the server has stored: writes before that,
    from `write` on, were stored and their sender died before it was told.
    """
    appender = client.appender("writes", writer="resumed")
    try:
        for number in range(write, appender.resumed.sequence + 1):
            journal.acknowledged(number)
        write = appender.resumed.sequence + 1
        while last is None or write <= last:
            pending = []
            for number in range(write, write + 8 if last is None else last + 1):
                rows = 1 + number % 3
                journal.sending(number, rows)
                pending.append((number, appender.write(rows_of("resumed", number, rows).to_batches()[0])))
            for number, waiting in pending:
                with Told(journal, number):
                    waiting.result()
            write += len(pending)
            time.sleep(PAUSE_SECONDS)
        return write
    finally:
        with contextlib.suppress(ducktower.DucktowerError):
            appender.close()


STEPS: dict[str, Step] = {
    "put": put,
    "append": append,
    "bulk": bulk,
    "pair": pair,
    "named": named,
    "resumed": resumed,
    "upsert": upsert,
    "ddl": ddl,
}


def next_write(kind: str, ledger: Ledger) -> int:
    """Return the id to go on with: a new one, or of a named writer the first one whose outcome is not known."""
    number = ledger.next_write()
    if kind not in NAMED:
        return number
    return min(ledger.rows.keys() - ledger.acknowledged, default=max(1, number))


def ask_state(kind: str, client: Any, ledger: Ledger, directory: Path) -> None:
    """Compare what the server says of a writer with what its journal says."""
    state = client.writer(kind)
    told = max(ledger.acknowledged, default=0)
    sent = max(ledger.rows, default=0)
    rows = sum(ledger.rows[write] for write in range(1, state.sequence + 1) if write in ledger.rows)
    if not told <= state.sequence <= sent or state.rows != rows:
        note(directory, Violation("receipt", f"{kind}: acknowledged {told}, sent {sent} of {rows} rows, {state}"))


def settle(kind: str, url: str, directory: Path) -> None:
    """Send a named writer's open writes, if there are any, until they are acknowledged. Its client must have ended."""
    path = directory / f"{kind}.journal"
    ledger = Ledger(path)
    ledger.follow()
    write = next_write(kind, ledger)
    with ducktower.connect(url, timeout_seconds=CALL_SECONDS) as client:
        ask_state(kind, client, ledger, directory)
        if write not in ledger.rows:
            return
        if kind == "resumed":
            resumed(client, Journal(path), write, last=max(ledger.rows))
        else:
            STEPS[kind](client, Journal(path), write)


def note(directory: Path, violation: Violation) -> None:
    """Write down a violation for the harness."""
    with (directory / FOUND).open("a") as file:
        file.write(json.dumps(violation._asdict()) + "\n")


def wait_for(port: int) -> None:
    """Wait until a server listens there: gRPC would wait longer and longer, and most kills would meet idle servers."""
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return


def write_until_killed(kind: str, url: str, port: int, directory: Path) -> None:
    """Write; after an error go on, over a new connection, with the next write or, as a named writer, the same."""
    path = directory / f"{kind}.journal"
    journal = Journal(path)
    ledger = Ledger(path)
    retry_seconds = 0.2 if kind in NAMED else 0.0
    while True:
        write = next_write(kind, ledger)
        wait_for(port)
        try:
            with ducktower.connect(url, timeout_seconds=CALL_SECONDS, retry_seconds=retry_seconds) as client:
                client.health()  # a server that is not there costs no id
                if kind in NAMED:
                    ask_state(kind, client, ledger, directory)
                while True:
                    write = STEPS[kind](client, journal, write)
                    time.sleep(PAUSE_SECONDS)
        except ducktower.DucktowerError:
            time.sleep(0.02)


def read_until_killed(url: str, port: int, directory: Path) -> None:
    """Check snapshots while everybody writes."""
    checker = Checker(directory)
    while True:
        wait_for(port)
        try:
            with ducktower.connect(url, timeout_seconds=CALL_SECONDS, retry_seconds=0.0) as client:
                while True:
                    for violation in checker.check(client):
                        note(directory, violation)
                    time.sleep(0.15)
        except ducktower.DucktowerError:
            time.sleep(0.02)


if __name__ == "__main__":
    chosen, address, listening, place = sys.argv[1:]
    if chosen == READER:
        read_until_killed(address, int(listening), Path(place))
    else:
        write_until_killed(chosen, address, int(listening), Path(place))
