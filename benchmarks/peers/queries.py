"""Small queries beside the peers', alone and while others write.

Owns which are asked, and what is wanted. Must never ask a peer for less than us.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from ..clocked import Outcome
from ..figures import Bench, Figure, percentiles
from ..load import Load
from .contenders import Contender, started_all
from .driven import PeerFailed
from .versus import Taken, Turn, Versus, compare, expect_stored, figures_of

__all__ = ["COUNT", "peer_mixed", "peer_queries", "point"]

COUNT = "SELECT count(*) FROM lookup"
READERS_LATER = 3.0  # times their idle p99, at most
HALF_LOAD_SECONDS = 0.020  # p99.9, at most


def point(rows: int) -> str:
    """Return a question for one row of the table `lookup`; `{number}` in it grows."""
    return f"SELECT value FROM lookup WHERE id = {{number}} * 7919 % {rows}"


def peer_queries(bench: Bench) -> list[Figure]:
    """`count(*)` and point queries of a small table."""
    scale = bench.scale
    figures: list[Figure] = []
    for group, what, sql in (("count", "count(*)", COUNT), ("point", "point query", point(scale.lookup_rows))):
        lines = [
            Versus(
                Load(kind="query", clients=clients, seconds=scale.seconds, processes=scale.processes, query=sql),
                peer,
                1.5 if (peer, clients) == ("quack", 16) else None,
            )
            for clients in (1, 16, 64)
            for peer in ("quack", "postgres")
        ]
        figures += compare(
            bench, group, lines, title=f"{what} of {scale.lookup_rows:,} rows, ", lookup_rows=scale.lookup_rows
        )
    return figures


def peer_mixed(bench: Bench) -> list[Figure]:
    """Readers beside writers: against the peers, and against themselves alone."""
    scale = bench.scale
    write = Load(kind="put", clients=16, seconds=scale.seconds, processes=2)
    read = Load(kind="query", clients=64, seconds=scale.seconds, processes=2, query=COUNT)
    lines = [Versus(read, "quack", 3), Versus(read, "postgres")]
    taken: Taken = defaultdict(list)
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        names = ("ducktower", "quack", "postgres")
        with started_all(bench, Path(place), names, lookup_rows=scale.lookup_rows) as (contenders, failures):
            for _ in range(scale.rounds):
                for name, contender in contenders.items():
                    if name in failures:
                        continue
                    try:
                        both = _beside(contender, write, read)
                    except PeerFailed as error:
                        failures[name] = str(error)
                    else:
                        taken[Turn(name, write)].append(both[0])
                        taken[Turn(name, read)].append(both[1])
            own = _alone_and_beside(bench, contenders["ducktower"], taken)
            expect_stored("mixed", contenders, taken, failures)
    return [*figures_of(lines, taken, failures, "mixed", "count(*) while 16 clients write, "), *own]


def _beside(contender: Contender, write: Load, read: Load) -> tuple[Outcome, Outcome]:
    with contender.running(write) as written, contender.running(read) as was_read:
        found = was_read()
        return written(), found


def _alone_and_beside(bench: Bench, contender: Contender, taken: Taken) -> list[Figure]:
    """16 writers and 8 readers, each alone and both together; and the writers at half of what they can."""
    scale = bench.scale
    write = Load(kind="put", clients=16, seconds=scale.seconds, processes=2)
    read = Load(kind="query", clients=8, seconds=scale.seconds, processes=2, query=COUNT)
    alone: dict[str, list[Outcome]] = {"write": [], "read": [], "half": []}
    together: dict[str, list[Outcome]] = {"write": [], "read": []}
    for _ in range(scale.rounds):
        for name, load in (("write", write), ("read", read)):
            with contender.running(load) as outcome:
                alone[name].append(outcome())
        written, found = _beside(contender, write, read)
        together["write"].append(written)
        together["read"].append(found)
        # Each client has its turn at fixed times, so that one late answer does not slow the load down.
        with contender.running(replace(write, every=2 * 16 / alone["write"][-1].rate)) as outcome:
            alone["half"].append(outcome())
    taken[Turn("ducktower", write)] += [*alone["write"], *together["write"], *alone["half"]]
    of_half = [seconds for outcome in alone["half"] for seconds in outcome.latencies]
    late = [_p(beside, "p99") / _p(idle, "p99") for beside, idle in zip(together["read"], alone["read"], strict=True)]
    return [
        _of("mixed_readers", "8 readers count while 16 clients write", "queries/s", together["read"], alone["read"]),
        _of("mixed_writers", "16 clients write while 8 readers count", "rows/s", together["write"], alone["write"]),
        Figure(
            name="mixed_readers_p99",
            title="8 readers while 16 clients write: p99, in times of their p99 alone",
            unit="times",
            values=[sorted(late)[len(late) // 2]],
            target=READERS_LATER,
            at_most=True,
        ),
        Figure(
            name="half_load_p999",
            title="16 clients write at half of what they can: p99.9",
            unit="s",
            values=[percentiles(of_half)["p999"]],
            target=HALF_LOAD_SECONDS,
            at_most=True,
            latencies=of_half,
        ),
    ]


def _of(name: str, title: str, unit: str, beside: list[Outcome], alone: list[Outcome]) -> Figure:
    return Figure(
        name=name,
        title=title,
        unit=unit,
        values=[outcome.rate for outcome in beside],
        base_title="the same alone",
        base=[outcome.rate for outcome in alone],
        latencies=[seconds for outcome in beside for seconds in outcome.latencies],
    )


def _p(outcome: Outcome, which: str) -> float:
    return percentiles(outcome.latencies)[which]
