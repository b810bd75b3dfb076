"""Small writes: one row, one durable transaction as its client sees it.

Owns the figures of DoPut, with and without a writer's name, and of appenders, each beside its base in the same
round. Must never count a row that was not acknowledged, nor accept a count that the table does not confirm.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import ducktower

from .figures import Bench, Figure, expect_rows
from .inprocess import one_row_insert_rate
from .load import SCHEMA, TABLE, Kind, Load, Outcome, one_row, running, stored_rows
from .noop import noop_serving
from .processes import apart, serving

__all__ = ["appenders", "ledger", "puts"]

NOOP, INSERT = "pyarrow no-op DoPut", "in-process one-row INSERT, 1 thread"
MANY = 64
APPENDERS = 16


def puts(bench: Bench) -> list[Figure]:
    """One-row writes by DoPut, against the no-op server and against in-process INSERT."""
    base = Figure(name="base_insert", title=INSERT, unit="rows/s")
    noop = {n: Figure(name=f"base_noop_{n}", title=f"{NOOP}, {n} clients", unit="calls/s") for n in (MANY, 1)}
    put = {
        MANY: _figure("put_64", "one-row DoPut, 64 clients", noop[MANY], 0.45),
        1: _figure("put_1", "one-row DoPut, 1 client", base, 0.45),
    }
    wire = _figure("put_1_wire", "one-row DoPut, 1 client", noop[1], None)
    ingest = {
        MANY: _figure("ingest_64", "one-row client.ingest, 64 clients", noop[MANY], None),
        1: _figure("ingest_1", "one-row client.ingest, 1 client", base, None),
    }
    for _ in range(bench.scale.rounds):
        _insert(bench, base)
        for clients in (MANY, 1):
            noop[clients].record(_on_noop(bench, clients))
            put[clients].record(_on_ducktower(bench, "put", clients))
            ingest[clients].record(_on_ducktower(bench, "ingest", clients))
    wire.values = put[1].values
    return [base, noop[MANY], noop[1], put[MANY], put[1], wire, ingest[MANY], ingest[1]]


def ledger(bench: Bench) -> list[Figure]:
    """One-row writes that have a writer and a sequence, against the same without, and against in-process INSERT."""
    insert = Figure(name="base_insert", title=INSERT, unit="rows/s")
    plain = {
        MANY: Figure(name="plain_64", title="one-row DoPut, 64 clients", unit="rows/s"),
        1: Figure(name="plain_1", title="one-row DoPut, 1 client", unit="rows/s"),
    }
    named = {
        MANY: _figure("named_64", "one-row DoPut with a writer, 64 clients", plain[MANY], 0.8),
        1: _figure("named_1_plain", "one-row DoPut with a writer, 1 client", plain[1], 0.45),
    }
    alone = _figure("named_1", "one-row DoPut with a writer, 1 client", insert, None)
    for _ in range(bench.scale.rounds):
        _insert(bench, insert)
        for clients in (MANY, 1):
            plain[clients].record(_on_ducktower(bench, "put", clients))
            named[clients].record(_on_ducktower(bench, "put_named", clients))
    alone.values = named[1].values
    return [insert, plain[MANY], named[MANY], plain[1], named[1], alone]


def appenders(bench: Bench) -> list[Figure]:
    """One row a write over open streams, waiting for each or letting the appender form the writes."""
    base = Figure(name="base_insert", title=INSERT, unit="rows/s")
    wait = _figure("appenders_wait", f"{APPENDERS} appenders, each row waits", base, 4.0)
    separate = _figure("appenders_wait_apart", f"{APPENDERS} appenders, a client each, each row waits", base, None)
    flow = _figure("appenders_flow", f"{APPENDERS} appenders, rows flow", base, 30.0)
    for _ in range(bench.scale.rounds):
        _insert(bench, base)
        wait.record(_on_ducktower(bench, "append_wait", APPENDERS))
        separate.record(_on_ducktower(bench, "append_wait_apart", APPENDERS))
        flow.record(_on_ducktower(bench, "append_flow", APPENDERS))
    return [base, wait, separate, flow]


def _figure(name: str, title: str, base: Figure, target: float | None) -> Figure:
    """Make a figure that shares the base's values, which grow with the rounds."""
    return Figure(name=name, title=title, unit="rows/s", base_title=base.title, base=base.values, target=target)


def _insert(bench: Bench, base: Figure) -> None:
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        rate, latencies = apart(one_row_insert_rate, Path(place) / "base.duckdb", bench.scale.seconds)
    base.values.append(rate)
    base.latencies += latencies


def _on_noop(bench: Bench, clients: int) -> Outcome:
    with noop_serving() as (url, stop):
        outcome = _run(bench, url, "put", clients)
        expect_rows("no-op DoPut", outcome.count, stop())
    return outcome


def _on_ducktower(bench: Bench, kind: Kind, clients: int) -> Outcome:
    """Load a fresh server with a fresh file, and count what it stored."""
    with (
        tempfile.TemporaryDirectory(dir=bench.directory) as place,
        serving(Path(place) / "small.duckdb", *bench.flags) as server,
    ):
        with ducktower.connect(server.url) as client:
            client.create_table(TABLE, SCHEMA)
            name: dict[str, Any] = {"writer": "warm", "sequence": 1} if kind == "put_named" else {}
            client.ingest(TABLE, one_row(0), **name)  # the first write of a server makes its plan; the base is warm too
        outcome = _run(bench, server.url, kind, clients)
        expect_rows(f"{kind}, {clients} clients", outcome.count + 1, stored_rows(server.url))
    return outcome


def _run(bench: Bench, url: str, kind: Kind, clients: int) -> Outcome:
    load = Load(kind=kind, url=url, clients=clients, seconds=bench.scale.seconds, processes=bench.scale.processes)
    with running(load) as outcome:
        return outcome()
