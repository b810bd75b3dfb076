"""Small queries: how many a second, alone, together, and while others write.

Owns figures without a target. Must never be mixed into the figures of writes: the load here is both.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import ducktower

from .figures import Bench, Figure, expect_rows
from .inprocess import make
from .load import SCHEMA, TABLE, Load, Outcome, running, stored_rows
from .processes import apart, serving

__all__ = ["queries"]

COUNT = "SELECT count(*) FROM lookup"
CLIENTS = (1, 16)


def queries(bench: Bench) -> list[Figure]:
    """Point queries and counts at 1 and 16 clients, and both sides of readers beside writers."""
    rows = bench.scale.lookup_rows
    point = f"SELECT value FROM lookup WHERE id = {{number}} * 7919 % {rows}"
    kinds = {"count": ("count(*)", COUNT), "point": ("point query", point)}
    figures = {
        (name, clients): Figure(
            name=f"{name}_{clients}", title=f"{title} of {rows:,} rows, {clients} clients", unit="queries/s"
        )
        for name, (title, _) in kinds.items()
        for clients in CLIENTS
    }
    readers = Figure(name="mixed_readers", title="8 readers count while 16 clients write", unit="queries/s")
    writers = Figure(name="mixed_writers", title="  those 16 clients, one-row DoPut", unit="rows/s")
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        path = Path(place) / "lookup.duckdb"
        apart(
            make,
            path,
            f"CREATE TABLE lookup AS SELECT i AS id, 'value ' || i AS value FROM range({rows}) AS numbers(i)",
        )
        with serving(path, *bench.flags) as server:
            for _ in range(bench.scale.rounds):
                for (name, clients), figure in figures.items():
                    load = Load(
                        kind="query",
                        url=server.url,
                        clients=clients,
                        seconds=bench.scale.seconds,
                        query=kinds[name][1],
                    )
                    with running(load) as outcome:
                        _record(figure, outcome())
            _mixed(bench, server.url, readers, writers)
    return [*figures.values(), readers, writers]


def _mixed(bench: Bench, url: str, readers: Figure, writers: Figure) -> None:
    """Read and write at the same time."""
    with ducktower.connect(url) as client:
        client.create_table(TABLE, SCHEMA)
    read = Load(kind="query", url=url, clients=8, processes=2, seconds=bench.scale.seconds, query=COUNT)
    write = Load(kind="put", url=url, clients=16, processes=2, seconds=bench.scale.seconds)
    acknowledged = 0
    for _ in range(bench.scale.rounds):
        with running(write) as written, running(read) as was_read:
            _record(readers, was_read())
            outcome = written()
            _record(writers, outcome)
            acknowledged += outcome.count
    expect_rows("writers beside readers", acknowledged, stored_rows(url))


def _record(figure: Figure, outcome: Outcome) -> None:
    figure.values.append(outcome.rate)
    figure.latencies += outcome.latencies
