"""Ducktower beside the peers: the same work, in turns, in one run.

Owns which work is compared with whom, and what is wanted. Must never compare writes that are not durable, nor accept a
count that a server does not confirm.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torture.fsync import Fsync, fsync_library

from ..clocked import Outcome
from ..figures import Bench, Figure, expect_rows
from .contenders import PEERS, Contender, started_all
from .driven import PeerFailed

__all__ = ["peer_mixed", "peer_queries", "peer_slow_disk", "peer_writes"]

FSYNC_MILLISECONDS = 3  # longer: as on a cloud disk

_COUNT = "SELECT count(*) FROM lookup"
_TITLES = {"noop": "pyarrow no-op DoPut"} | {name: peer.title for name, peer in PEERS.items()}
_WORK = {
    "insert": "one-row DoPut",
    "append_wait": "appenders, each row waits",
    "append_flow": "appenders, rows flow",
    "query": "",
}


class Turn(NamedTuple):
    """A piece of work that is done once a round."""

    kind: str
    name: str
    clients: int


Taken = defaultdict[Turn, list[Outcome]]


class Versus(NamedTuple):
    """One line of the table: our work beside a peer's, and the ratio that is wanted."""

    kind: str
    clients: int
    peer: str
    target: float | None = None

    @property
    def ours(self) -> Turn:
        return Turn(self.kind, "ducktower", self.clients)

    @property
    def theirs(self) -> Turn:
        """The peers know no appenders: their one-row writes are what those are compared with."""
        return Turn("query" if self.kind == "query" else "insert", self.peer, self.clients)


_WRITES = (
    Versus("insert", 1, "quack", 2),
    Versus("insert", 1, "xorq"),
    Versus("insert", 1, "postgres"),
    Versus("insert", 16, "quack", 5),
    Versus("insert", 16, "xorq", 45),
    Versus("insert", 16, "postgres"),
    Versus("insert", 64, "quack"),
    Versus("insert", 64, "noop", 0.6),
    Versus("append_wait", 16, "quack", 10),
    Versus("append_wait", 64, "postgres", 0.8),
    Versus("append_flow", 16, "quack", 100),
)
_SLOW = (
    Versus("insert", 1, "quack"),
    Versus("insert", 64, "quack", 15),
    Versus("insert", 64, "postgres"),
    Versus("append_wait", 64, "postgres", 0.6),
)


def peer_writes(bench: Bench) -> list[Figure]:
    """One-row durable writes."""
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        return _compare(bench, Path(place), "writes", "", _WRITES)


def peer_slow_disk(bench: Bench) -> list[Figure]:
    """The same with every fsync made slower."""
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        directory = Path(place)
        library = fsync_library(directory)
        if library is None:
            return [Figure(name="slow_disk", title="writes with a slow fsync", unit="", note="there is no C compiler")]
        fsync = Fsync(library, directory / "fsync")
        (directory / "fsync").chmod(0o666)  # PostgreSQL's server runs as its own user
        library.chmod(0o755)
        fsync.order(FSYNC_MILLISECONDS)
        try:
            title = f"{FSYNC_MILLISECONDS} ms more for each fsync: "
            return _compare(bench, directory, "slow_disk", title, _SLOW, fsync)
        finally:
            fsync.close()


def peer_queries(bench: Bench) -> list[Figure]:
    """`count(*)` and point queries of a small table."""
    rows = bench.scale.lookup_rows
    questions = {
        "count": ("count(*)", _COUNT),
        "point": ("point query", f"SELECT value FROM lookup WHERE id = {{number}} * 7919 % {rows}"),
    }
    lines = tuple(
        Versus("query", clients, peer, 1.5 if (peer, clients) == ("quack", 16) else None)
        for clients in (1, 16, 64)
        for peer in ("quack", "postgres")
    )
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        names = ("ducktower", "quack", "postgres")
        with started_all(bench, Path(place), names, lookup=True) as (contenders, failures):
            for group, (what, sql) in questions.items():
                taken = _in_turns(bench, contenders, failures, lines, sql)
                figures += _figures(lines, taken, failures, group, f"{what} of {rows:,} rows, ")
    return figures


def peer_mixed(bench: Bench) -> list[Figure]:
    """64 readers ask the same count while 16 clients write."""
    lines = (Versus("query", 64, "quack", 3), Versus("query", 64, "postgres"))
    of_both: dict[str, Any] = {"seconds": bench.scale.seconds, "processes": 2}
    taken: Taken = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        names = ("ducktower", "quack", "postgres")
        with started_all(bench, Path(place), names, lookup=True) as (contenders, failures):
            for _ in range(bench.scale.rounds):
                for name, contender in contenders.items():
                    if name in failures:
                        continue
                    try:
                        with (
                            contender.running("insert", clients=16, **of_both) as written,
                            contender.running("query", clients=64, sql=_COUNT, **of_both) as was_read,
                        ):
                            taken[Turn("query", name, 64)].append(was_read())
                            taken[Turn("insert", name, 16)].append(written())
                    except PeerFailed as error:
                        failures[name] = str(error)
            _expect_stored("mixed", contenders, taken, failures)
    return _figures(lines, taken, failures, "mixed", "count(*) while 16 clients write, ")


def _compare(
    bench: Bench, place: Path, group: str, title: str, lines: Sequence[Versus], fsync: Fsync | None = None
) -> list[Figure]:
    names = ["ducktower", *dict.fromkeys(line.peer for line in lines)]
    environment = None if fsync is None else fsync.environment
    with started_all(bench, place, names, environment) as (contenders, failures):
        taken = _in_turns(bench, contenders, failures, lines)
        _expect_stored(group, contenders, taken, failures)
    return _figures(lines, taken, failures, group, title)


def _expect_stored(what: str, contenders: dict[str, Contender], taken: Taken, failures: dict[str, str]) -> None:
    """Raise WrongCount unless everybody has the rows that it acknowledged; of one that failed that is not known."""
    for name, contender in contenders.items():
        if name in failures:
            continue
        outcomes = [found for turn, found in taken.items() if turn.name == name and turn.kind != "query"]
        acknowledged = sum(outcome.count for found in outcomes for outcome in found)
        expect_rows(f"{what}: {name}", acknowledged, contender.stored())


def _in_turns(
    bench: Bench, contenders: dict[str, Contender], failures: dict[str, str], lines: Iterable[Versus], sql: str = ""
) -> Taken:
    """Do each piece of work once a round, ours beside the peers'. A peer that fails is left out from then on."""
    work = dict.fromkeys(turn for line in lines for turn in (line.ours, line.theirs))
    taken: Taken = defaultdict(list)
    of_each: dict[str, Any] = {"seconds": bench.scale.seconds, "processes": bench.scale.processes, "sql": sql}
    for _ in range(bench.scale.rounds):
        for turn in work:
            if turn.name in failures:
                continue
            try:
                with contenders[turn.name].running(turn.kind, clients=turn.clients, **of_each) as outcome:
                    taken[turn].append(outcome())
            except PeerFailed as error:
                failures[turn.name] = str(error)
    return taken


def _figures(
    lines: Iterable[Versus],
    taken: Taken,
    failures: dict[str, str],
    group: str,
    title: str,
) -> list[Figure]:
    figures = []
    for line in lines:
        kind, clients, peer, target = line
        ours, theirs = taken[line.ours], taken[line.theirs]
        figures.append(
            Figure(
                name=f"{group}_{kind}_{clients}_{peer}",
                title=f"{title}{clients} {_WORK[kind] or 'clients'}",
                unit="queries/s" if kind == "query" else "rows/s",
                values=[outcome.rate for outcome in ours],
                base_title=_TITLES[peer],
                base=[] if peer in failures else [outcome.rate for outcome in theirs],
                target=None if peer in failures else target,
                latencies=[seconds for outcome in ours for seconds in outcome.latencies],
                note=f"not compared: {failures[peer]}" if peer in failures else None,
            )
        )
    return figures
