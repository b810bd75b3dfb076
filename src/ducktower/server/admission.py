"""Which calls are in flight, and whose: bounded in all, and for each token, which takes no more than are left free.

Owns the count and the list. Must never know what a call does.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from ..config import ServerConfig
from ..errors import Overloaded

if TYPE_CHECKING:
    from .visits import Visit

__all__ = ["Admission"]

_AGAIN_SECONDS = 0.25
"""When to come back to a server whose places were all taken at once: most calls are far shorter."""


class Admission:
    """Safe from any thread."""

    def __init__(self, config: ServerConfig) -> None:
        self._max = config.calls_in_flight_max
        self._of_one_max = config.principal_calls_in_flight_max
        # Guarded by _lock: everything below, and the `calls` of each tenure.
        self._lock = threading.Lock()
        self._visits: set[Visit] = set()

    def enter(self, visit: Visit) -> None:
        """Take a place for a call. Raises Overloaded when there is none, in all or for this token."""
        tenure = visit.login.tenure
        with self._lock:
            if len(self._visits) >= self._max:
                raise Overloaded(f"{self._max} calls are in flight already", retry_after_seconds=_AGAIN_SECONDS)
            # Where nobody is asked, all callers are one: then only the bound of all applies.
            if tenure.grant_id and tenure.calls >= min(self._of_one_max, self._max - len(self._visits)):
                raise Overloaded(
                    f'{tenure.calls} calls of "{visit.principal.name}" are in flight already',
                    retry_after_seconds=_AGAIN_SECONDS,
                )
            tenure.calls += 1
            self._visits.add(visit)

    def leave(self, visit: Visit) -> None:
        """Give the place back."""
        with self._lock:
            visit.login.tenure.calls -= 1
            self._visits.discard(visit)

    def in_flight(self) -> int:
        """Return how many calls have a place."""
        with self._lock:
            return len(self._visits)

    def over(self, seconds: float) -> list[Visit]:
        """Return the calls in flight whose token has been over for so long."""
        since = time.monotonic() - seconds
        with self._lock:
            visits = list(self._visits)
        return [visit for visit in visits if (visit.login.tenure.over_since or since) < since]
