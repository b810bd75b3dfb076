"""Which faults come when: all of it follows from the seed, nothing from the run.

Owns the odds. Must never touch a process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from .checker import KINDS

__all__ = ["FAULTS", "Fault", "Round", "rounds"]

FAULTS = {
    "kill server": "SIGKILL, then a new one on the same file",
    "kill client": "SIGKILL, then a new one with the same journal",
    "stop server": "SIGSTOP, SIGCONT",
    "stop client": "SIGSTOP, SIGCONT",
    "cut": "every connection through the proxy is reset",
    "delay": "each piece through the proxy is held back",
    "half-close": "the server is told that nothing more comes",
    "disk full": "RLIMIT_FSIZE a little above the file and its WAL",
    "slow fsync": "each waits 20 to 200 ms",
    "failing fsync": "each fails with EIO",
}
_ODDS = {
    "kill client": 0.06,
    "stop server": 0.08,
    "stop client": 0.05,
    "cut": 0.15,
    "delay": 0.1,
    "half-close": 0.08,
    "disk full": 0.05,
    "slow fsync": 0.08,
    "failing fsync": 0.05,
}


class Fault(NamedTuple):
    """One fault: its kind, its client if it has one, and a number between 0 and 1 for what there is to choose."""

    kind: str
    client: str
    size: float


class Round(NamedTuple):
    """The life of one server: seconds until the faults, the faults, and seconds from there until it is killed."""

    before_seconds: float
    faults: list[Fault]
    after_seconds: float


def rounds(seed: int) -> Iterator[Round]:
    """Yield rounds without end, the same for the same seed."""
    dice = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    while True:
        faults = [
            Fault(kind, dice.choice(KINDS), dice.random()) for kind, odds in _ODDS.items() if dice.random() < odds
        ]
        after = dice.uniform(0.2, 0.6) if faults else 0.0
        yield Round(dice.uniform(0.02, 0.6), faults, after)
