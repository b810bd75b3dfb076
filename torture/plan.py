"""Which faults come when: all of it follows from the seed, nothing from the run.

Owns the faults' words and the order in which they come. Must never touch a process.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

from .checker import KINDS

__all__ = ["FAULTS", "OF_FSYNC", "Fault", "Kind", "Round", "rounds"]


class Kind(NamedTuple):
    """A kind of fault: what is done, what counts as its effect, and which codes clients may be told for it.

    UNAVAILABLE they may always be told: each round ends with a kill of the server.
    """

    does: str
    effect: str
    codes: frozenset[str] = frozenset()


_LATE = frozenset({"TIMEOUT"})

FAULTS = {
    "kill server": Kind("SIGKILL, then a new one on the same file", "it died with writes under way"),
    "kill client": Kind("SIGKILL, then a new one with the same journal", "it died, the new one writes"),
    "stop server": Kind("SIGSTOP, SIGCONT", "it stood still, a call went unanswered", _LATE),
    "stop client": Kind("SIGSTOP, SIGCONT", "it stood still, its journal did", _LATE),
    "cut": Kind("every connection through the proxy is reset", "clients failed or connected anew"),
    "delay": Kind("each piece through the proxy is held back", "answers came late", _LATE),
    "half-close": Kind("the server is told that nothing more comes", "it hung up; clients failed or connected anew"),
    "disk full": Kind("RLIMIT_FSIZE a little above the file and its WAL", "a write failed for it"),
    "memory full": Kind(
        "queries take all that DuckDB may have, again and again",
        "queries were refused for it, writes went on",
        frozenset({"OVERLOADED", "LIMIT_EXCEEDED", "TIMEOUT"}),
    ),
    "slow fsync": Kind("each waits 20 to 200 ms", "fsyncs took that long", _LATE),
    "failing fsync": Kind("each fails with EIO", "DuckDB gave up, the database was opened again", _LATE),
}
OF_FSYNC = frozenset({"slow fsync", "failing fsync"})
"""Those that need the preloaded library."""

_OF_SERVER = ("stop server", "disk full", "memory full", "slow fsync", "failing fsync")
_OF_CLIENTS = ("kill client", "stop client", "cut", "delay", "half-close")
_ROUNDS_WITHOUT = 6
"""Rounds without a fault in each deck: kills alone are what most rounds are for."""


class Fault(NamedTuple):
    """One fault: its kind, its client if it has one, and a number between 0 and 1 for what there is to choose."""

    kind: str
    client: str
    size: float


class Round(NamedTuple):
    """The life of one server: seconds until the faults, the faults, seconds from their effect on, and the end.

    The end is that the faults are taken back and service must return, or, without `heals`, the kill in their middle.
    """

    before_seconds: float
    faults: list[Fault]
    after_seconds: float
    heals: bool


def rounds(seed: int) -> Iterator[Round]:
    """Yield rounds without end, the same for the same seed.

    The faults of the server and those of clients are two decks of cards, of which each round takes one each: so a dozen
    rounds have them all, in an order and in combinations that change.
    """
    dice = random.Random(seed)  # noqa: S311 - to be repeated, not to be secret
    decks = _dealt(dice, _OF_SERVER), _dealt(dice, _OF_CLIENTS)
    while True:
        kinds = [kind for kind in (next(deck) for deck in decks) if kind is not None]
        faults = [Fault(kind, dice.choice(KINDS), dice.random()) for kind in kinds]
        yield Round(dice.uniform(0.02, 0.6), faults, dice.uniform(0.0, 0.3) if faults else 0.0, dice.random() < 0.6)


def _dealt(dice: random.Random, kinds: tuple[str, ...]) -> Iterator[str | None]:
    while True:
        deck = [*kinds, *[None] * _ROUNDS_WITHOUT]
        dice.shuffle(deck)
        yield from deck
