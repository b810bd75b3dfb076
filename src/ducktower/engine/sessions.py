"""All sessions: opened, found, closed when idle, bounded in number.

Owns the registry and the one thread that looks for idle sessions and transactions. Must never hold its lock while a
session is closed: that waits for what runs in it.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from typing import Any

from ..errors import Overloaded, Unavailable
from .access import LOCAL, Principal
from .calls import Caller
from .guard import who
from .session import Session
from .session_parts import Parts

__all__ = ["Session", "Sessions"]

log = logging.getLogger(__name__)

_LOOK_SECONDS_MAX = 5.0
_END_SECONDS = 5.0
"""When one session too many is worth trying again: others end by themselves, or make room when they were idle."""


class Sessions:
    """Safe from any thread."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._config = parts.config
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._closed = threading.Event()
        parts.cursors.database.before_reopen(self._drop_cursors)
        self._thread = threading.Thread(target=self._look, name="ducktower-sessions", daemon=True)
        self._thread.start()

    def open(self, principal: Principal = LOCAL, *, session_id: str | None = None) -> Session:
        """Open a session, or return the one that has the id `session_id`; without it one that cannot be guessed.

        Raises Overloaded when there are `sessions_max`, Unavailable while the server stops.
        """
        with self._lock:
            if self._closed.is_set():
                raise Unavailable("the server is stopping")
            session = self._sessions.get(session_id) if session_id else None
            if session is None:
                if len(self._sessions) >= self._config.sessions_max:
                    raise Overloaded(
                        f"there are {self._config.sessions_max} sessions already", retry_after_seconds=_END_SECONDS
                    )
                self._check_share(principal)
                session = Session(self._parts, session_id or secrets.token_urlsafe(24), principal)
                self._sessions[session.id] = session
        session.touch()
        return session

    def _check_share(self, principal: Principal) -> None:
        """Raise Overloaded when the principal, if it has a name, has all of its sessions. Called with the lock."""
        name, most = principal.name, self._config.principal_sessions_max
        if name and sum(session.principal.name == name for session in self._sessions.values()) >= most:
            raise Overloaded(f'"{name}" has {most} sessions already', retry_after_seconds=_END_SECONDS)

    def find(self, session_id: str) -> Session | None:
        """Return the session of that id, or None when it is unknown, expired or closed."""
        with self._lock:
            session = self._sessions.get(session_id)
        if session is None:
            return None
        if session.idle_seconds() > self._config.session_idle_seconds:
            self.close(session_id)
            return None
        session.touch()
        return session

    def close(self, session_id: str) -> bool:
        """Close a session: cancel what runs in it, roll back. False when there is none (any more)."""
        with self._lock:
            session = self._sessions.pop(session_id, None)
        if session is None:
            return False
        session.close()
        return True

    def describe(self, caller: Caller | None = None) -> list[dict[str, Any]]:
        """Describe the sessions that the caller may know of, oldest first: an owner of all tables all.

        Everybody else knows of its own. Ids only by their beginning, since an id is a key.
        """
        principal = who(caller)
        now = time.monotonic()
        return [
            {
                "session": session.id[:6],
                "principal": session.principal.name,
                "seconds": round(now - session.started, 3),
                "idle_seconds": round(session.idle_seconds(), 3),
                "in_transaction": session.in_transaction,
            }
            for session in self._all()
            if principal.oversees(session.principal)
        ]

    def close_idle(self) -> None:
        """Take no new sessions and close those in which nothing runs: the engine is about to close."""
        self._closed.set()
        self._thread.join()
        for session in self._all():
            if session.idle_seconds() > 0:
                self.close(session.id)

    def close_all(self) -> None:
        """Close every session, without waiting for what still runs."""
        self.close_idle()
        for session in self._all():
            session.close(wait_seconds=0)

    def _all(self) -> list[Session]:
        with self._lock:
            return list(self._sessions.values())

    def _drop_cursors(self) -> None:
        for session in self._all():
            session.drop_cursor()

    def _look(self) -> None:
        config = self._config
        pause = min(_LOOK_SECONDS_MAX, config.session_idle_seconds / 4, config.transaction_idle_seconds / 4)
        while not self._closed.wait(pause):
            for session in self._all():
                try:
                    if session.idle_seconds() > config.session_idle_seconds:
                        self.close(session.id)
                    else:
                        session.give_up_transaction(config.transaction_idle_seconds)
                except Exception:
                    log.exception("cannot look after a session")
