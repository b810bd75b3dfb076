"""A principal's share of what all use: so that one greedy client does not starve the rest.

Owns who has one, and what of it waits for its commit. Must never hold anybody up who has no name: where nobody is asked
who they are, all are one.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

from .access import Principal

if TYPE_CHECKING:
    from .words import Write

__all__ = ["Lane", "Share", "Shares"]


class Lane:
    """The small writes of one principal, in the order of their arrival. Guarded by the commit queue's lock."""

    __slots__ = ("answered", "count", "nbytes", "queued", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Write] = deque()
        self.count = 0  # of those; a message that carries several counts for so many
        self.nbytes = 0
        self.queued = 0  # messages since the start, as `answered`
        self.answered = 0


class Share:
    """One principal, where use is counted."""

    __slots__ = ("lane", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.lane = Lane()


class Shares:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards additions to _shares; tokens have few names
        self._shares: dict[str, Share] = {}

    def of(self, principal: Principal) -> Share | None:
        """Return a principal's share, None for one without a name."""
        name = principal.name
        if not name:
            return None
        share = self._shares.get(name)
        if share is None:
            with self._lock:
                share = self._shares.setdefault(name, Share(name))
        return share
