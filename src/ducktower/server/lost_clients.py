"""Closes the sessions of clients that died: what they hold would be in everybody's way until it is idle for too long.

A client that is killed ends no session. Its connection ends, but a session may outlive a connection, so there is
time to come back. Sessions that hold nothing (no transaction, no temporary tables, no settings, no prepared
statements) are in nobody's way and left alone; so are those in which something runs, a result that waits to be fetched
included: that has an end of its own.

Owns which connection a session was last used on, and the thread that looks. Must never touch a session otherwise.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from ..engine import Session
from .connections import connected, endpoint

__all__ = ["LostClients"]

log = logging.getLogger(__name__)

_LOOKS = 6
"""How often to look within the time that a client has to come back."""


@dataclass(slots=True)
class _Seen:
    peer: str
    gone_since: float | None = None


class LostClients:
    """Safe from any thread. `close` is called with the id of a session whose client died."""

    def __init__(self, seconds: float | None, close: Callable[[str], object]) -> None:
        self._seconds = seconds
        self._close = close
        self._port: int | None = None  # set once, when it is known
        # Guarded by _lock.
        self._lock = threading.Lock()
        self._seen: WeakKeyDictionary[Session, _Seen] = WeakKeyDictionary()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if seconds is not None:
            self._thread = threading.Thread(target=self._run, args=(seconds,), name="ducktower-lost", daemon=True)
            self._thread.start()

    def listening_on(self, port: int) -> None:
        """Say where calls come in."""
        self._port = port

    def seen(self, session: Session, peer: str) -> None:
        """Say that a session is used on the connection to `peer`."""
        if self._seconds is not None:
            with self._lock:
                self._seen[session] = _Seen(peer)

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, seconds: float) -> None:
        while not self._closing.wait(seconds / _LOOKS):
            try:
                self._look(seconds)
            except Exception:
                log.exception("cannot look for lost clients")

    def _look(self, seconds: float) -> None:
        with self._lock:
            holding = [(session, seen) for session, seen in self._seen.items() if session.holds()]
        peers = connected(self._port) if holding and self._port is not None else None
        if peers is None:
            return
        now = time.monotonic()
        for session, seen in holding:
            other = endpoint(seen.peer)
            if other is None or other in peers or session.idle_seconds() == 0:
                seen.gone_since = None
            elif seen.gone_since is None:
                seen.gone_since = now
            elif now - seen.gone_since >= seconds:
                log.info("closing a session whose client %s is gone", seen.peer)
                self._close(session.id)
