"""Clients at work for a while: threads that begin together, call until the time is over, and count.

Owns the clock that every client is measured with, Ducktower's and the peers'. Must never import anything but the
standard library: it also runs in the peers' own environments.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field

__all__ = ["STARTING_SECONDS", "Maker", "Outcome", "Refused", "Work", "once", "summed", "together"]

STARTING_SECONDS = 60.0


@dataclass(slots=True)
class Outcome:
    """What the clients were answered: rows acknowledged, or queries answered."""

    count: int
    seconds: float
    latencies: list[float]
    """Seconds of each call, where calls were timed."""
    refused: Counter[str] = field(default_factory=Counter)
    """How many calls were refused, by what they were told."""

    @property
    def rate(self) -> float:
        return self.count / self.seconds


class Refused(Exception):
    """A call that was refused by name, and that its client makes again after a while."""

    def __init__(self, told: str, wait_seconds: float) -> None:
        super().__init__(told)
        self.told = told
        self.wait_seconds = wait_seconds


@dataclass(frozen=True, slots=True)
class Work:
    """One client at work: a call, what it counts, and what is counted at the end."""

    call: Callable[[], int]
    finish: Callable[[], int] = lambda: 0
    timed: bool = True
    every: float = 0.0
    """Seconds from one call's turn to the next; 0 calls again at once."""


def once(do: Callable[[], int]) -> Work:
    """Do something the first time, and nothing at further calls: the clock calls until its time is over."""
    left = [do]
    return Work(lambda: left.pop()() if left else 0)


Maker = Callable[[ExitStack, int], Work]
"""Connects one client, given what closes it at the end and a number of its own."""


def together(make: Maker, clients: int, seconds: float, first: int, ready: Callable[[], None]) -> Outcome:
    """Connect all clients, then call `ready`, which returns when they shall begin; run them and sum up."""
    connected, go = threading.Barrier(clients + 1), threading.Event()
    outcomes: list[Outcome] = []
    failures: list[BaseException] = []

    def client(number: int) -> None:
        try:
            with ExitStack() as stack:
                work = make(stack, number)
                connected.wait(STARTING_SECONDS)
                go.wait(STARTING_SECONDS)
                outcomes.append(_run(work, seconds))
        except BaseException as error:
            failures.append(error)
            connected.abort()

    threads = [threading.Thread(target=client, args=(first + index,), daemon=True) for index in range(clients)]
    for thread in threads:
        thread.start()
    try:
        connected.wait(STARTING_SECONDS)
        ready()
    except threading.BrokenBarrierError:
        pass
    go.set()
    for thread in threads:
        thread.join(seconds + 2 * STARTING_SECONDS)
    if failures:
        raise failures[0]
    if len(outcomes) < clients:
        raise TimeoutError("a client did not end in time")
    return summed(outcomes)


def _run(work: Work, seconds: float) -> Outcome:
    """Call until the time is over; what is in flight then is waited for, and its time counts.

    A call that has its turn at a certain time is timed from then on, also when the call before it was late. One that is
    refused is counted, but not timed.
    """
    latencies: list[float] = []
    refused: Counter[str] = Counter()
    count = 0
    start = before = time.perf_counter()
    while before - start < seconds:
        try:
            count += work.call()
        except Refused as refusal:
            refused[refusal.told] += 1
            time.sleep(refusal.wait_seconds)
            before = time.perf_counter()
            continue
        after = time.perf_counter()
        if work.timed:
            latencies.append(after - before)
        before = after
        if work.every:
            before = start + len(latencies) * work.every
            time.sleep(max(0.0, before - after))
    count += work.finish()
    return Outcome(count, time.perf_counter() - start, latencies, refused)


def summed(outcomes: list[Outcome]) -> Outcome:
    """Join clients that ran at the same time."""
    refused: Counter[str] = Counter()
    for outcome in outcomes:
        refused.update(outcome.refused)
    return Outcome(
        sum(outcome.count for outcome in outcomes),
        max(outcome.seconds for outcome in outcomes),
        list(itertools.chain.from_iterable(outcome.latencies for outcome in outcomes)),
        refused,
    )
