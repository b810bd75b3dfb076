"""A principal's share of what all use: so that one greedy client does not starve the rest.

Owns the shares and their places. The counts of what waits for its commit belong to the commit queue, which guards them
with its own lock. Must never hold anybody up who has no name: where nobody is asked who they are, all are one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..config import EngineConfig
from ..errors import Overloaded
from .access import Principal

__all__ = ["Share", "Shares"]


class Share:
    """What one principal uses now."""

    __slots__ = ("_places", "_wait_seconds", "name", "waiting", "waiting_bytes")

    def __init__(self, name: str, config: EngineConfig) -> None:
        self.name = name
        self._wait_seconds = config.lease_wait_seconds
        self._places = {
            "read": threading.BoundedSemaphore(config.principal_reads_in_flight_max),
            "execute": threading.BoundedSemaphore(config.principal_executes_in_flight_max),
            "large write": threading.BoundedSemaphore(config.principal_large_writes_in_flight_max),
        }
        # Guarded by the commit queue's lock.
        self.waiting = 0
        self.waiting_bytes = 0

    def take(self, pool: str) -> Callable[[], None] | None:
        """Take one of the principal's places in a pool; return how to give it back, None where there is no bound.

        Raises Overloaded when none became free within `lease_wait_seconds`.
        """
        places = self._places.get(pool)
        if places is None:
            return None
        if not places.acquire(timeout=self._wait_seconds):
            raise Overloaded(
                f'"{self.name}" has all of its places for a {pool} in use; waited {self._wait_seconds:g} seconds'
            )
        return places.release


class Shares:
    """Safe from any thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
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
                share = self._shares.setdefault(name, Share(name, self._config))
        return share
