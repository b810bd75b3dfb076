"""The sessions as the wire hands them out: begun when first needed, found by id, ended, making room.

Owns which ones were closed lately, so that their tokens are refused; which were begun by a client that may never
come back, so that they end when they hold nothing; and which one makes room for another. Must never see a header.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from weakref import WeakValueDictionary

from ..config import ServerConfig
from ..engine import Engine, Principal, Session
from ..errors import Overloaded, Unauthenticated
from .tokens import Token

__all__ = ["SessionDesk"]

log = logging.getLogger(__name__)

_REMEMBERED_MAX = 16_384
"""Ids of sessions that are remembered, of each kind; closed ones for `session_idle_seconds` at most, after which
their tokens are too old anyway."""


class SessionDesk:
    """Safe from any thread."""

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self._sessions = engine.sessions
        self._idle_seconds = engine.config.session_idle_seconds
        self._spared_seconds = config.session_spared_seconds
        # Guarded by _lock: everything below, and the beginning of sessions.
        self._lock = threading.Lock()
        self._closed: OrderedDict[str, float] = OrderedDict()  # ids, and when
        self._unclaimed: set[str] = set()  # ids of sessions whose token nobody has shown yet
        self._begun: WeakValueDictionary[str, Session] = WeakValueDictionary()
        self._spared: OrderedDict[str, None] = OrderedDict()  # ids of sessions that made room; they may begin again
        # A result is released by any thread at any moment, one that collects garbage included, which may hold any lock:
        # so what is to be done then is put here, and done by a thread of its own. None ends it.
        self._quiet: SimpleQueue[Session | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._see_out, name="ducktower-desk", daemon=True)
        self._thread.start()

    def find(self, session_id: str, principal: Principal) -> Session | None:
        """Return the session of that id when it has begun, is not over, and is this principal's."""
        session = self._sessions.find(session_id)
        return session if session is not None and session.principal == principal else None

    def over(self, token: Token) -> str | None:
        """Return why the session of a token that is shown is over; None when it is there or may begin."""
        with self._lock:
            closed = token.session_id in self._closed
            old = time.time() - token.issued > self._idle_seconds and token.session_id not in self._spared
            self._unclaimed.discard(token.session_id)
        if closed:
            return "the session was closed"
        if self._sessions.find(token.session_id) is None and old:
            return f"the session was idle for more than {self._idle_seconds:g} seconds"
        return None

    def begin(self, token: Token, principal: Principal, *, unclaimed: bool = False) -> Session:
        """Return the token's session, which begins when it has not. Raises Overloaded when there are too many."""
        session = self._sessions.find(token.session_id)
        if session is not None:
            return session
        with self._lock:
            if token.session_id in self._closed:
                raise Unauthenticated("the session was closed; connect again")
            session = self._open(token, principal)
            if unclaimed:
                self._remember_unclaimed(session.id)
        return session

    def left(self, session: Session) -> None:
        """End a session that holds nothing when its client may never show its token: a call has left it.

        One whose result is still to be read ends when that is over.
        """
        with self._lock:
            if session.id not in self._unclaimed or session.holds():
                return
            running = session.has_state()
            if not running:
                self._unclaimed.discard(session.id)
        if running:
            session.when_quiet(partial(self._quiet.put, session))
        else:
            self._sessions.close(session.id)

    def stop(self) -> None:
        """End the thread."""
        self._quiet.put(None)
        self._thread.join()

    def _see_out(self) -> None:
        while (session := self._quiet.get()) is not None:
            try:
                self.left(session)
            except Exception:
                log.exception("cannot end a session that was left")
            del session

    def close(self, session_id: str) -> bool:
        """End a session for good: its token is refused from now on. False when there was none."""
        now = time.monotonic()
        with self._lock:
            self._closed[session_id] = now
            # The one just added is never too old, so there is always a first one.
            while len(self._closed) > _REMEMBERED_MAX or now - next(iter(self._closed.values())) > self._idle_seconds:
                self._closed.popitem(last=False)
        return bool(self._sessions.close(session_id))

    def _open(self, token: Token, principal: Principal) -> Session:
        try:
            session = self._sessions.open(principal, session_id=token.session_id)
        except Overloaded:
            if not self._make_room():
                raise
            session = self._sessions.open(principal, session_id=token.session_id)
        self._begun[session.id] = session
        return session

    def close_all_of(self, whose: Callable[[Principal], bool]) -> list[str]:
        """End the sessions of the principals that `whose` names; return their ids."""
        with self._lock:
            theirs = [session.id for session in list(self._begun.values()) if whose(session.principal)]
        for session_id in theirs:
            self.close(session_id)
        return theirs

    def _make_room(self) -> bool:
        """End the session that was idle for longest, of those that hold nothing; False when there is none.

        Clients that begin sessions and never end them would keep everybody out otherwise.
        """
        spare = [
            session
            for session in list(self._begun.values())
            if session.idle_seconds() >= self._spared_seconds and not session.has_state()
        ]
        if not spare:
            return False
        longest = max(spare, key=lambda session: session.idle_seconds())
        self._spared[longest.id] = None
        if len(self._spared) > _REMEMBERED_MAX:
            self._spared.popitem(last=False)
        return bool(self._sessions.close(longest.id))

    def _remember_unclaimed(self, session_id: str) -> None:
        if len(self._unclaimed) >= _REMEMBERED_MAX:
            self._unclaimed = {one for one in self._unclaimed if one in self._begun}
        self._unclaimed.add(session_id)
