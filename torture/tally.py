"""What a run has done and found so far.

Owns the counts. Must never decide what is right: see checker.py.
"""

from __future__ import annotations

from collections import Counter

from .checker import Violation

__all__ = ["Tally"]


class Tally:
    """Counts of a run. One thread uses it."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        """Injections by kind."""
        self.effects: Counter[str] = Counter()
        """Those of them that were seen to take effect."""
        self.sent: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.checks = 0
        self.openings = 0
        """Openings after a kill."""
        self.replayed_commits = 0
        self.torn = 0
        """WALs whose end was torn."""
        self.slowest_opening_seconds = 0.0
        self.returned = 0
        """Rounds in which faults were taken back and the same server served on."""
        self.violations: list[Violation] = []
