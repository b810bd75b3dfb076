"""Results that wait to be fetched: GetFlightInfo runs a query, DoGet takes what it made, once.

Owns the waiting readers, their number, size and time, which of them gives way to a read that waits for a place or to a
result that there is no room for, and the thread that drops those which nobody fetches, so that none holds a cursor for
ever. Must never run anything.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from ...config import ServerConfig
from ...engine import Caller, Principal
from ...errors import InvalidArgument, Overloaded, Unavailable

__all__ = ["Listening", "Results"]

log = logging.getLogger(__name__)

_HANDLE_BYTES = 16
_REMEMBERED_MAX = 1_024
"""Handles of results that gave way, so that their tickets say so."""


class Listening:
    """Whether somebody still waits for a result: first the call that asked for it, later the one that fetches it.

    Between the two there is no call, and the context of an ended call is freed memory: it must be let go of.
    """

    def __init__(self, caller: Caller) -> None:
        self.peer = caller.peer
        self.principal = caller.principal
        self._trail = caller.trail
        self._lock = threading.Lock()  # guards everything below, also while the caller is asked
        self._caller: Caller | None = caller
        self._cancelled = False

    def gone(self) -> bool:
        """Whether the client of the call that runs now left, or the result was cancelled."""
        with self._lock:
            return self._cancelled or (self._caller is not None and self._caller.gone())

    def hang_up(self) -> None:
        """End the connection of the call that runs now."""
        with self._lock:
            if self._caller is not None:
                self._caller.hang_up()

    def move(self, caller: Caller | None) -> None:
        """Listen to another call from now on, or to none."""
        with self._lock:
            self._caller = caller
        if self._trail is not None and caller is not None:
            self._trail.sent_by(caller.trail)

    def cancel(self) -> None:
        """Have whatever runs for this result ended."""
        with self._lock:
            self._cancelled = True

    def caller(self) -> Caller:
        """Return the caller that the engine is given."""
        return Caller(self.peer, self.gone, self.hang_up, self.principal, self._trail)


@dataclass(slots=True)
class _Waiting:
    reader: Any
    listening: Listening
    session_id: str
    nbytes: int
    holds_place: bool
    since: float


@dataclass(slots=True)
class _Share:
    """What waits of one principal."""

    results: int = 0
    nbytes: int = 0


class Results:
    """The waiting results; safe from any thread."""

    def __init__(self, config: ServerConfig) -> None:
        self._seconds = config.results_waiting_seconds
        self._spared_seconds = config.results_spared_seconds
        self._max = config.results_waiting_max
        self._bytes_max = config.results_waiting_bytes_max
        self._share = _Share(config.principal_results_waiting_max, config.principal_results_waiting_bytes_max)
        # Guarded by _lock: everything below. The dropping thread waits on _changed. Readers are closed outside it.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[bytes, _Waiting] = {}  # the oldest first
        self._gave_way: OrderedDict[bytes, Principal] = OrderedDict()  # handles, and whose they were
        self._nbytes = 0
        self._shares: dict[str, _Share] = {}  # of principals that have a name and results waiting
        self._listening: WeakValueDictionary[bytes, Listening] = WeakValueDictionary()
        self._closed = False
        self._thread = threading.Thread(target=self._drop_late, name="ducktower-results", daemon=True)
        self._thread.start()

    def check_room(self, principal: Principal) -> None:
        """Raise Overloaded when too many results wait already, in all or of the principal: before a query is run.

        When there are too many in all, the oldest that were spared long enough give way.
        """
        dropped = []
        with self._lock:
            share = self._shares.get(principal.name)
            if share is not None and share.results >= self._share.results:
                raise Overloaded(
                    f'{share.results} results of "{principal.name}" wait to be fetched already', retry_after_seconds=1.0
                )
            if share is not None and share.nbytes >= self._share.nbytes:
                raise Overloaded(
                    f'results of "{principal.name}" with {share.nbytes} bytes wait to be fetched already',
                    retry_after_seconds=1.0,
                )
            while self._full():
                oldest = next(iter(self._waiting))
                if not self._was_spared(oldest):
                    break
                dropped.append(self._pop_for_others(oldest))
            full = self._full()
        for waiting in dropped:
            log.info("a result of %s was not fetched and gave way to another", waiting.listening.peer)
            _close(waiting)
        if full is not None:
            raise Overloaded(f"{full} wait to be fetched already", retry_after_seconds=1.0)

    def hold(
        self, reader: Any, listening: Listening, session_id: str, nbytes: int, *, holds_place: bool = False
    ) -> bytes:
        """Keep a reader until it is taken, for `results_waiting_seconds` at most; return its handle.

        `nbytes` is what it holds in memory. One that holds a place for reads may have to give way to them. Raises
        Unavailable when the server stops.
        """
        handle = secrets.token_bytes(_HANDLE_BYTES)
        listening.move(None)
        with self._lock:
            if self._closed:
                raise Unavailable("the server is stopping")
            first = not self._waiting
            self._waiting[handle] = _Waiting(reader, listening, session_id, nbytes, holds_place, time.monotonic())
            self._count(listening.principal, 1, nbytes)
            self._listening[handle] = listening
            if first:
                self._changed.notify()
        return handle

    def take(self, handle: bytes, principal: Principal, caller: Caller) -> Any:
        """Return the reader of that handle; only once. Raises InvalidArgument when it is not waiting."""
        with self._lock:
            waiting = self._waiting.get(handle)
            if self._gave_way.get(handle) == principal:
                raise Overloaded(
                    f"the result was not fetched within {self._spared_seconds:g} seconds and gave way, because all "
                    "places for reads, or for results that wait, were taken; run the query again",
                    retry_after_seconds=1.0,
                )
            if waiting is None or waiting.listening.principal != principal:
                raise InvalidArgument(
                    f"the ticket was used already, was never given, waited for more than {self._seconds:g} seconds, "
                    "or its session was closed"
                )
            self._pop(handle)
        waiting.listening.move(caller)
        return waiting.reader

    def cancel(self, handle: bytes, principal: Principal) -> bool:
        """End the result of that handle, whether it waits or is being fetched.

        False when it is over, or another caller's.
        """
        with self._lock:
            listening = self._listening.get(handle)
            if listening is None or listening.principal != principal:
                return False
            del self._listening[handle]
            waiting = self._pop(handle) if handle in self._waiting else None
        listening.cancel()
        if waiting is not None:
            _close(waiting)
        return True

    def give_way(self) -> None:
        """Drop the oldest result that holds a place for reads and was spared long enough, if there is one."""
        with self._lock:
            found = next((handle for handle, waiting in self._waiting.items() if waiting.holds_place), None)
            if found is None or not self._was_spared(found):
                return
            waiting = self._pop_for_others(found)
        log.info("a result of %s was not fetched and gave way to a read", waiting.listening.peer)
        _close(waiting)

    def drop_session(self, session_id: str) -> None:
        """Let go of what waits for a session that ends."""
        with self._lock:
            found = [handle for handle, waiting in self._waiting.items() if waiting.session_id == session_id]
            dropped = [self._pop(handle) for handle in found]
        for waiting in dropped:
            _close(waiting)

    def waiting(self) -> int:
        """Return how many results wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Drop everything and end the thread."""
        with self._lock:
            self._closed = True
            dropped = [self._pop(handle) for handle in list(self._waiting)]
            self._changed.notify()
        for waiting in dropped:
            _close(waiting)
        self._thread.join()

    # -- with the lock ----------------------------------------------------------------------------------

    def _full(self) -> str | None:
        """Return what there is too much of, None when there is room for another result."""
        if len(self._waiting) >= self._max:
            return f"{self._max} results"
        return f"results of {self._nbytes} bytes" if self._nbytes >= self._bytes_max else None

    def _was_spared(self, handle: bytes) -> bool:
        return time.monotonic() - self._waiting[handle].since >= self._spared_seconds

    def _pop_for_others(self, handle: bytes) -> _Waiting:
        waiting = self._pop(handle)
        self._gave_way[handle] = waiting.listening.principal
        if len(self._gave_way) > _REMEMBERED_MAX:
            self._gave_way.popitem(last=False)
        return waiting

    def _pop(self, handle: bytes) -> _Waiting:
        waiting = self._waiting.pop(handle)
        self._count(waiting.listening.principal, -1, -waiting.nbytes)
        return waiting

    def _count(self, principal: Principal, results: int, nbytes: int) -> None:
        self._nbytes += nbytes
        if principal.name:
            share = self._shares.setdefault(principal.name, _Share())
            share.results += results
            share.nbytes += nbytes
            if not share.results:
                del self._shares[principal.name]

    # -- the thread -------------------------------------------------------------------------------------

    def _drop_late(self) -> None:
        while True:
            with self._lock:
                if self._closed:
                    return
                now = time.monotonic()
                late = [handle for handle, waiting in self._waiting.items() if now - waiting.since >= self._seconds]
                dropped = [self._pop(handle) for handle in late]
                if not dropped:
                    first = next(iter(self._waiting.values()), None)
                    self._changed.wait(None if first is None else first.since + self._seconds - now)
            for waiting in dropped:
                log.info("a result of %s was not fetched within %g seconds", waiting.listening.peer, self._seconds)
                _close(waiting)
            dropped.clear()


def _close(waiting: _Waiting) -> None:
    with contextlib.suppress(Exception):
        waiting.reader.close()
