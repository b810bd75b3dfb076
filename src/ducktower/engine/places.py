"""Places of one kind, such as queries at once: taken, waited for, given back, and shared between principals.

Nobody who has a name takes more than are left free for others: one greedy principal gets half of them, a second one a
third, and whoever comes next still finds some. Where calls wait all the same, places that come back go to principals by
turns, however many calls of one of them wait.

Owns the count of places and the order of those who wait. Must never know what a place is for.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from ..errors import Overloaded
from .shares import Share

__all__ = ["Places"]

_MAKE_ROOM_EVERY_SECONDS = 0.1


class _Waiter:
    """A call that waits. `granted` is guarded by the lock of its places."""

    __slots__ = ("granted", "woken")

    def __init__(self) -> None:
        self.granted = False
        self.woken = threading.Lock()
        self.woken.acquire()


class Places:
    """Safe from any thread. Where nobody is asked who they are, all are one, and take what there is."""

    def __init__(self, kind: str, places: int, of_one_max: int | None, wait_seconds: float) -> None:
        """`of_one_max` bounds what one principal may have, where that is less than its fair share."""
        self._kind = kind
        self._of_one_max = places if of_one_max is None else of_one_max
        self._wait_seconds = wait_seconds
        self.make_room: Callable[[], None] | None = None
        """Called again and again by a call that waits while none is free; set before there are calls."""
        # Guarded by _lock: everything below. Nobody in _waiting may take a place now, or it would have been given one.
        # A thread that collects garbage may give a place back wherever it is, also within here.
        self._lock = threading.RLock()
        self._free = places
        self._taken: dict[Share, int] = {}  # by those who have a name, and some
        self._waiting: dict[Share | None, deque[_Waiter]] = {}  # whose turn is next comes first

    def take(self, share: Share | None) -> None:
        """Take a place, waiting for it at most `wait_seconds`. Raises Overloaded."""
        with self._lock:
            if self._may(share):
                self._give(share)
                return
            waiter = _Waiter()
            self._waiting.setdefault(share, deque()).append(waiter)
        try:
            self._wait(waiter)
        except BaseException:
            with self._lock:
                if waiter.granted:
                    self.give_back(share)
            raise
        finally:
            with self._lock:
                if not waiter.granted:
                    self._leave(share, waiter)
                free = self._free
        if not waiter.granted:
            raise Overloaded(
                f'"{share.name}" has all of its places for a {self._kind} in use; waited {self._wait_seconds:g} seconds'
                if share is not None and free
                else f"no place for another {self._kind} became free within {self._wait_seconds:g} seconds",
                retry_after_seconds=1.0,  # who waited in vain will have to again
            )

    def give_back(self, share: Share | None) -> None:
        """Give a place back, to whoever waits and has its turn."""
        with self._lock:
            self._free += 1
            if share is not None:
                self._taken[share] -= 1
                if not self._taken[share]:
                    del self._taken[share]
            while turns := [one for one in self._waiting if self._may(one)]:
                self._hand_on(turns[0])

    def _wait(self, waiter: _Waiter) -> None:
        deadline = time.monotonic() + self._wait_seconds
        while (remaining := deadline - time.monotonic()) > 0:
            if self.make_room is not None:
                if not self._free:
                    self.make_room()
                remaining = min(remaining, _MAKE_ROOM_EVERY_SECONDS)
            if waiter.woken.acquire(timeout=remaining):
                return

    # -- with the lock ----------------------------------------------------------------------------------

    def _may(self, share: Share | None) -> bool:
        if share is None:
            return self._free > 0
        taken = self._taken.get(share, 0)
        return taken < self._of_one_max and taken < self._free

    def _give(self, share: Share | None) -> None:
        self._free -= 1
        if share is not None:
            self._taken[share] = self._taken.get(share, 0) + 1

    def _hand_on(self, share: Share | None) -> None:
        self._give(share)
        lane = self._waiting.pop(share)
        waiter = lane.popleft()
        if lane:
            self._waiting[share] = lane  # behind all others
        waiter.granted = True
        waiter.woken.release()

    def _leave(self, share: Share | None, waiter: _Waiter) -> None:
        lane = self._waiting[share]
        lane.remove(waiter)
        if not lane:
            del self._waiting[share]
