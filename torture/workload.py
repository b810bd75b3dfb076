"""The clients: `python -m torture.workload KIND URL DIRECTORY`, one process for each kind, until it is killed.

Owns how each kind writes. A write is journalled before it is sent and again when its outcome is told; an error that
does not say that nothing was stored leaves the outcome unknown. Must never retry by itself: a write that was sent again
under a name (`writer=`) would be one more kind here, not a rule of these.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

import ducktower

from .checker import LATEST_KEYS, Checker
from .journal import Journal, Ledger

__all__ = ["FOUND", "READER"]

READER = "read"
FOUND = "found.jsonl"
"""Where readers note violations."""
CALL_SECONDS = 8.0
PAUSE_SECONDS = 0.004
SCHEMA = pa.schema([("kind", pa.string()), ("id", pa.int64()), ("part", pa.int32()), ("parts", pa.int32())])
NOTHING_STORED = (ducktower.Conflict, ducktower.Overloaded, ducktower.Cancelled)
TABLES_KEPT = 5


def rows_of(kind: str, write: int, rows: int) -> pa.Table:
    """Return a write: every row names it, and how many there must be."""
    columns = [
        pa.array([kind] * rows),
        pa.array([write] * rows, pa.int64()),
        pa.array(range(rows), pa.int32()),
        pa.array([rows] * rows, pa.int32()),
    ]
    return pa.table(columns, schema=SCHEMA)


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
            self._journal.not_stored(self._write, error.code)
        elif isinstance(error, ducktower.DucktowerError):
            self._journal.unknown(self._write, error.code)


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
    rows = pa.table({"k": pa.array(range(LATEST_KEYS), pa.int32()), "v": pa.array([write] * LATEST_KEYS, pa.int64())})
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
                    journal.unknown(number, error.code)
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


STEPS: dict[str, Step] = {"put": put, "append": append, "bulk": bulk, "pair": pair, "upsert": upsert, "ddl": ddl}


def write_until_killed(kind: str, url: str, directory: Path) -> None:
    """Write; after an error go on with the next write, over a new connection."""
    path = directory / f"{kind}.journal"
    journal = Journal(path)
    ledger = Ledger(path)
    while True:
        write = ledger.next_write()
        try:
            with ducktower.connect(url, timeout_seconds=CALL_SECONDS, retry_seconds=0.0) as client:
                client.health()  # a server that is not there costs no id
                while True:
                    write = STEPS[kind](client, journal, write)
                    time.sleep(PAUSE_SECONDS)
        except ducktower.DucktowerError:
            time.sleep(0.05)


def read_until_killed(url: str, directory: Path) -> None:
    """Check snapshots while everybody writes."""
    checker = Checker(directory)
    while True:
        try:
            with ducktower.connect(url, timeout_seconds=CALL_SECONDS, retry_seconds=0.0) as client:
                while True:
                    for violation in checker.check(client):
                        with (directory / FOUND).open("a") as file:
                            file.write(json.dumps(violation._asdict()) + "\n")
                    time.sleep(0.15)
        except ducktower.DucktowerError:
            time.sleep(0.05)


if __name__ == "__main__":
    chosen, address, place = sys.argv[1:]
    if chosen == READER:
        read_until_killed(address, Path(place))
    else:
        write_until_killed(chosen, address, Path(place))
