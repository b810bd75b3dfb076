"""How each figure grows: with the clients, with the rows of a table, with the rows of a write.

Owns the points of the plots. Must never give one of them more time than the others.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ..figures import Bench, Figure
from ..load import Kind, Load
from .contenders import Contender, started_all
from .queries import COUNT, point
from .versus import Taken, Versus, expect_stored, in_turns, points_of

__all__ = ["peer_clients", "peer_table_rows", "peer_write_rows"]

_PEERS = ("quack", "xorq", "postgres")
_SQL_PEERS = ("quack", "postgres")
_LARGEST_OF_POSTGRES = 10_000_000  # rows; more take it minutes to load and to index


def peer_clients(bench: Bench) -> list[Figure]:
    """One-row durable writes and counts, from one client to many."""
    scale = bench.scale
    kinds: Sequence[Kind] = ("put", "append_wait", "insert_sql")
    with _curves(bench, ("ducktower", *_PEERS), lookup_rows=scale.lookup_rows) as curves:
        for clients in scale.client_counts:
            base = replace(_load(bench, "put"), clients=clients)
            writes = [(replace(base, kind=kind), _PEERS, "one-row durable writes: clients") for kind in kinds]
            count = (replace(base, kind="query", query=COUNT), _SQL_PEERS, "count(*) of a small table: clients")
            curves.measure([*writes, count], clients)
    return curves.figures


def peer_table_rows(bench: Bench) -> list[Figure]:
    """Small queries of tables of many sizes, and one-row writes beside them."""
    figures: list[Figure] = []
    for rows in bench.scale.table_rows:
        peers = _SQL_PEERS if rows <= _LARGEST_OF_POSTGRES else _SQL_PEERS[:1]
        with _curves(bench, ("ducktower", *peers), lookup_rows=rows) as curves:
            ask = replace(_load(bench, "query"), clients=16)
            plan = [
                (replace(ask, query=COUNT), peers, "count(*), 16 clients: rows in the table"),
                (replace(ask, query=point(rows)), peers, "point query, 16 clients: rows in the table"),
                (replace(ask, kind="put"), peers, "one-row durable writes, 16 clients: rows in the database"),
            ]
            curves.measure(plan, rows)
        figures += curves.figures
    return figures


def peer_write_rows(bench: Bench) -> list[Figure]:
    """Durable writes of more and more rows."""
    with _curves(bench, ("ducktower", *_PEERS)) as curves:
        for rows in bench.scale.write_rows:
            load = replace(_load(bench, "put"), clients=4, rows=rows)
            plan = [(load, _PEERS, "rows of durable writes, 4 clients: rows of a write")]
            curves.measure(plan, rows)
    return curves.figures


Plan = Sequence[tuple[Load, Sequence[str], str]]
"""Our work, the peers that do the same, and the plot that shows it."""


class _Curves:
    """Takes the points, one place along the plots after the other."""

    def __init__(self, rounds: int, contenders: dict[str, Contender], failures: dict[str, str]) -> None:
        self.figures: list[Figure] = []
        self._rounds = rounds
        self._contenders = contenders
        self._failures = failures
        self._taken: Taken = defaultdict(list)

    def measure(self, plan: Plan, x: float) -> None:
        """Do the work of one point of each plot in turns."""
        lines = [Versus(load, peer) for load, peers, _ in plan for peer in peers]
        in_turns(self._contenders, self._failures, lines, self._rounds, self._taken)
        plots = {load.kind + load.query: plot for load, _, plot in plan}
        self.figures += points_of(lines, self._taken, self._failures, lambda load: (plots[load.kind + load.query], x))

    def check(self) -> None:
        """Raise WrongCount unless everybody stored what it acknowledged."""
        expect_stored("growth", self._contenders, self._taken, self._failures)


def _load(bench: Bench, kind: Kind) -> Load:
    return Load(kind=kind, clients=1, seconds=bench.scale.curve_seconds, processes=bench.scale.processes)


@contextmanager
def _curves(bench: Bench, names: Sequence[str], *, lookup_rows: int = 0) -> Iterator[_Curves]:
    """Start all that are named, and count what they stored at the end."""
    with (
        tempfile.TemporaryDirectory(dir=bench.directory) as place,
        started_all(bench, Path(place), names, lookup_rows=lookup_rows) as (contenders, failures),
    ):
        curves = _Curves(bench.scale.curve_rounds, contenders, failures)
        yield curves
        curves.check()
