"""One piece of work beside a peer's, in turns, in one run.

Owns the turns and how they become figures. Must never accept a count that a server does not confirm.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..clocked import Outcome
from ..figures import Bench, Figure, Point, expect_rows
from ..load import TABLE, Load
from .contenders import PEERS, Contender, started_all
from .driven import PeerFailed

__all__ = ["Taken", "Turn", "Versus", "compare", "expect_stored", "figures_of", "in_turns", "points_of"]

_TITLES = {"ducktower": "Ducktower", "noop": "pyarrow no-op DoPut"} | {name: peer.title for name, peer in PEERS.items()}
_WORK = {
    "put": "DoPut",
    "append_wait": "appenders, each row waits",
    "append_flow": "appenders, rows flow",
    "insert_sql": "INSERT by ADBC",
}
_BULK = {"read": "bulk read", "write": "bulk write"}


class Turn(NamedTuple):
    """A piece of work that is done once a round."""

    name: str
    load: Load


Taken = defaultdict[Turn, list[Outcome]]


class Versus(NamedTuple):
    """One line of the table: our work beside a peer's, and the ratio that is wanted."""

    load: Load
    peer: str
    target: float | None = None

    @property
    def ours(self) -> Turn:
        return Turn("ducktower", self.load)

    @property
    def theirs(self) -> Turn:
        """The peers know no appenders: their one-row writes are what those are compared with."""
        return Turn(self.peer, replace(self.load, kind="put") if self.load.kind in _WORK else self.load)

    @property
    def turns(self) -> tuple[Turn, Turn]:
        return self.ours, self.theirs


def compare(
    bench: Bench,
    group: str,
    lines: Sequence[Versus],
    *,
    title: str = "",
    place: Path | None = None,
    environment: dict[str, str] | None = None,
    lookup_rows: int = 0,
    plot: Callable[[Load], tuple[str, float]] | None = None,
) -> list[Figure]:
    """Start everybody that is named, with a database each, and do all of the work in turns.

    With `plot`, which says where a piece of work stands in which plot, there is also a point for each contender.
    """
    with tempfile.TemporaryDirectory(dir=place or bench.directory) as own:
        names = ["ducktower", *dict.fromkeys(line.peer for line in lines)]
        with started_all(bench, Path(own), names, environment, lookup_rows) as (contenders, failures):
            taken: Taken = defaultdict(list)
            in_turns(contenders, failures, lines, bench.scale.rounds, taken)
            expect_stored(group, contenders, taken, failures)
    figures = figures_of(lines, taken, failures, group, title)
    if plot is not None:
        figures += points_of(lines, taken, failures, plot)
    return figures


def in_turns(
    contenders: dict[str, Contender], failures: dict[str, str], lines: Iterable[Versus], rounds: int, taken: Taken
) -> None:
    """Do each piece of work once a round, ours beside the peers'. A peer that fails is left out from then on."""
    work = dict.fromkeys(turn for line in lines for turn in line.turns)
    for _ in range(rounds):
        for turn in work:
            if turn.name in failures:
                continue
            try:
                with contenders[turn.name].running(turn.load) as outcome:
                    taken[turn].append(outcome())
            except PeerFailed as error:
                failures[turn.name] = str(error)


def expect_stored(what: str, contenders: dict[str, Contender], taken: Taken, failures: dict[str, str]) -> None:
    """Raise WrongCount unless everybody has the rows that it acknowledged; of one that failed that is not known."""
    for name, contender in contenders.items():
        if name in failures:
            continue
        acknowledged = defaultdict(int, {TABLE: contender.warm_rows})
        for turn, outcomes in taken.items():
            if turn.name == name and turn.load.kind in _WORK:
                acknowledged[turn.load.table] += sum(outcome.count for outcome in outcomes)
        for table, rows in acknowledged.items():
            expect_rows(f"{what}: {name}, {table}", rows, contender.stored(table))


def figures_of(lines: Iterable[Versus], taken: Taken, failures: dict[str, str], group: str, title: str) -> list[Figure]:
    """Return a figure for each line."""
    figures = []
    for line in lines:
        load, peer, target = line
        ours, theirs = taken[line.ours], taken[line.theirs]
        shape = "lineitem_" if load.shape == "lineitem" else ""
        figures.append(
            Figure(
                name=f"{group}_{shape}{load.kind}_{load.clients}_{peer}",
                title=f"{title}{_what(load)}",
                unit="queries/s" if load.kind == "query" else "rows/s",
                values=[outcome.rate for outcome in ours],
                base_title=_TITLES[peer],
                base=[] if peer in failures else [outcome.rate for outcome in theirs],
                target=None if peer in failures else target,
                latencies=[seconds for outcome in ours for seconds in outcome.latencies],
                note=f"not compared: {failures[peer]}" if peer in failures else None,
            )
        )
    return figures


def points_of(
    lines: Iterable[Versus], taken: Taken, failures: dict[str, str], plot: Callable[[Load], tuple[str, float]]
) -> list[Figure]:
    """Return a point for each piece of work, ours and theirs, where `plot` says."""
    figures = []
    for turn in dict.fromkeys(turn for line in lines for turn in line.turns):
        if turn.name in failures:
            continue
        (name, load), outcomes = turn, taken[turn]
        where, x = plot(load)
        shown = f"Ducktower, {_WORK[load.kind]}" if name == "ducktower" and load.kind in _WORK else _TITLES[name]
        figures.append(
            Figure(
                name=f"{where} {name} {load.kind} {x:g}".replace(" ", "_"),
                title=f"{x:,.0f} {where.rpartition(': ')[2]}, {shown}",
                unit="queries/s" if load.kind == "query" else "rows/s",
                values=[outcome.rate for outcome in outcomes],
                latencies=[seconds for outcome in outcomes for seconds in outcome.latencies],
                point=Point(where, shown, x),
            )
        )
    return figures


def _what(load: Load) -> str:
    if load.kind in _BULK:
        return _BULK[load.kind]
    if load.kind not in _WORK:
        return f"{load.clients} clients" if load.clients > 1 else "1 client"
    rows = "lineitem row" if load.shape == "lineitem" else "row"
    what = f"one-{rows} {_WORK[load.kind]}" if load.kind in ("put", "insert_sql") else _WORK[load.kind]
    return f"{what}, {load.clients} clients" if load.clients > 1 else f"{what}, 1 client"
