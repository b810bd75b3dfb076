"""500 clients at once, of four kinds: how fast each kind is answered, how many calls are refused, what stays behind.

Owns these figures. Must never count a round in which a row was lost or doubled, a call was refused without a hint when
to come back, or the server kept something of clients that are gone.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import psutil

import ducktower

from .figures import Bench, Figure, expect_rows
from .load import SCHEMA, TABLE, Kind, Load, Outcome, connected, one_row, stored_rows
from .processes import Server, serving

__all__ = ["overload"]

KINDS: dict[Kind, tuple[str, str]] = {
    "put": ("one-row DoPut", "rows/s"),
    "append_wait_apart": ("appenders, each row waits", "rows/s"),
    "insert_sql": ("one-row INSERT by the ADBC driver", "rows/s"),
    "query": ("count(*)", "queries/s"),
}
WRITING: tuple[Kind, ...] = ("put", "append_wait_apart", "insert_sql")
SETTLED_SECONDS = 60.0
THREADS_KEPT_MAX = 16
"""What DuckDB and gRPC keep for their next work, once they had some; the clients are many more."""


def overload(bench: Bench) -> list[Figure]:
    """A quarter of the clients of each kind, a process a kind, a connection a client; with room for all, for half."""
    clients = bench.scale.crowd_clients
    half = str(clients // 2)
    return [
        *_figures(bench, "roomy", f"{clients} clients", ()),
        *_figures(bench, "crowded", f"{clients} clients, {half} calls at once", ("--calls-in-flight-max", half)),
    ]


def _figures(bench: Bench, name: str, title: str, flags: tuple[str, ...]) -> list[Figure]:
    figures: dict[Kind, Figure] = {
        kind: Figure(
            name=f"{name}_{kind}", title=f"{title}: {bench.scale.crowd_clients // len(KINDS)} of {what}", unit=unit
        )
        for kind, (what, unit) in KINDS.items()
    }
    refused: dict[Kind, Counter[str]] = {kind: Counter() for kind in KINDS}
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        path = Path(place) / "overload.duckdb"
        with serving(path, *bench.flags, *flags) as server, ducktower.connect(server.url) as client:
            client.create_table(TABLE, SCHEMA)
            stored = client.ingest(TABLE, one_row(0)).rows
            client.query(f"SELECT count(*) FROM {TABLE}")
            before = _held(server, client)
            for _ in range(bench.scale.rounds):
                for kind, outcome in _at_once(bench, server).items():
                    figures[kind].record(outcome)
                    refused[kind] += outcome.refused
                    stored += outcome.count if kind in WRITING else 0
                expect_rows(title, stored, stored_rows(server.url))
                _expect_nothing_kept(server, client, before)
    for kind, told in refused.items():
        if unexpected := told.keys() - {"OVERLOADED"}:
            raise RuntimeError(f"{title}: {KINDS[kind][0]} was told {', '.join(sorted(unexpected))}")
        figures[kind].note = f"{told.total():,} refused"
    return list(figures.values())


def _at_once(bench: Bench, server: Server) -> dict[Kind, Outcome]:
    """Run all kinds beside each other, each in a process of its own."""
    of_each = Load(
        kind="query",
        url=server.url,
        clients=bench.scale.crowd_clients // len(KINDS),
        seconds=bench.scale.seconds,
        processes=1,
        query=f"SELECT count(*) AS n FROM {TABLE}",
        counts_refusals=True,
    )
    with ExitStack() as stack:
        ready = {kind: stack.enter_context(connected(replace(of_each, kind=kind))) for kind in KINDS}
        outcomes = {kind: begin() for kind, begin in ready.items()}
        return {kind: outcome() for kind, outcome in outcomes.items()}


def _held(server: Server, client: ducktower.FlightClient) -> Counter[str]:
    """Count what a server holds for its clients, or because of them."""
    process, told = psutil.Process(server.pid), client.statistics()
    return Counter(
        {
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
            "calls": len(client.sessions()),
            "leased cursors": told["cursors"],
            "queued writes": told["queue_writes"],
        }
    )


def _expect_nothing_kept(server: Server, client: ducktower.FlightClient, before: Counter[str]) -> None:
    """Wait until the server holds what it held before there were clients. Raises RuntimeError when it does not."""
    deadline = time.monotonic() + SETTLED_SECONDS
    allowed = before + Counter(threads=THREADS_KEPT_MAX)
    while True:
        kept = _held(server, client) - allowed
        wrong = {name: told for name, told in client.health()["checks"].items() if told != "ok"}
        if not wrong and not kept:
            return
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"the clients are gone, but the server keeps {dict(kept)} more, and is {wrong or 'well'}"
            )
        time.sleep(0.1)
