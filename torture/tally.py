"""What a run has done and found so far.

Owns the counts. Must never decide what is right: see checker.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from .checker import Violation

__all__ = ["Tally"]


@dataclass
class Tally:
    """Counts of one database's servers and clients. One thread adds to it."""

    faults: Counter[str] = field(default_factory=Counter)
    """Injections by kind."""
    effects: Counter[str] = field(default_factory=Counter)
    """Those of them that were seen to take effect."""
    sent: Counter[str] = field(default_factory=Counter)
    acknowledged: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    checks: int = 0
    openings: int = 0
    """Openings after a kill."""
    replayed_commits: int = 0
    torn: int = 0
    """WALs whose end was torn."""
    slowest_opening_seconds: float = 0.0
    returned: int = 0
    """Rounds in which faults were taken back and the same server served on."""
    violations: list[Violation] = field(default_factory=list)

    @staticmethod
    def sum(tallies: Iterable[Tally]) -> Tally:
        """Return a tally of them all."""
        total = Tally()
        for one in tallies:
            total.faults.update(one.faults)
            total.effects.update(one.effects)
            total.sent.update(one.sent)
            total.acknowledged.update(one.acknowledged)
            total.codes.update(one.codes)
            total.checks += one.checks
            total.openings += one.openings
            total.replayed_commits += one.replayed_commits
            total.torn += one.torn
            total.slowest_opening_seconds = max(total.slowest_opening_seconds, one.slowest_opening_seconds)
            total.returned += one.returned
            total.violations += one.violations
        return total
