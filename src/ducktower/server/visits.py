"""Which session a call belongs to: a middleware reads its headers, and hands out the token of a new session.

A session is found by, in this order: `authorization: Bearer` with a token of this server's, the cookie, the handle
that the call carries (see `flight_sql`). A client that shows none gets a token with its first answer, as a cookie
and as `authorization`, of which drivers adopt one; its session begins with the first call that needs it.

Owns which sessions were closed lately, so that their tokens are refused, and which one makes room for another. Must
never look at what a call asks for.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any
from weakref import WeakValueDictionary

import pyarrow.flight as flight

from ..config import ServerConfig
from ..engine import Engine, Session
from ..errors import DucktowerError, InvalidArgument, Overloaded, Unauthenticated
from ..protocol.status import to_flight
from .auth import Authenticator
from .connections import connected
from .lost_clients import LostClients
from .tokens import Token, Tokens

__all__ = ["MIDDLEWARE", "NoHandshake", "Visit", "Visits"]

MIDDLEWARE = "visit"
_COOKIE = "arrow_flight_session_id"
_CLOSED_MAX = 16_384
"""Closed sessions that are remembered; each for `session_idle_seconds`, after which its token is too old."""

_UNCLAIMED_MAX = 16_384
"""Sessions that may be unclaimed before those which are over are looked for."""

_FIRST_CALLS = frozenset(
    {
        flight.FlightMethod.GET_FLIGHT_INFO,
        flight.FlightMethod.GET_SCHEMA,
        flight.FlightMethod.DO_PUT,
        flight.FlightMethod.DO_ACTION,
    }
)
"""Calls that a client of Flight SQL may begin with. A DoGet is never the first, so plain reads pay for no token."""


class NoHandshake(flight.ServerAuthHandler):
    """Lets Handshake succeed: without a handler it answers UNIMPLEMENTED. The middleware does the work."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Accept: the middleware has refused what is to be refused."""

    def is_valid(self, token: bytes) -> str:  # noqa: ARG002 - this is not where callers are told apart
        """Accept."""
        return ""


class Visit(flight.ServerMiddleware):
    """One call's caller and session. Used by the thread of its call."""

    def __init__(
        self,
        visits: Visits,
        principal: str,
        token: Token | None,
        *,
        answer: dict[str, str] | None = None,
        fresh: bool = False,
        refusal: DucktowerError | None = None,
    ) -> None:
        self.principal = principal
        self.peer = ""  # set when the call is admitted
        self._visits = visits
        self._token = token
        self._answer = answer
        self._fresh = fresh
        self._refusal = refusal

    def sending_headers(self) -> dict[str, str]:
        """Hand the token out; once, because GetFlightInfo asks twice."""
        answer, self._answer = self._answer, None
        return answer or {}

    def check(self) -> None:
        """Raise Unauthenticated when the call's session is over."""
        if self._refusal is not None:
            raise self._refusal

    def find(self) -> Session | None:
        """Return the call's session when it has begun."""
        return None if self._token is None else self._visits.find(self._token.session_id, self.principal)

    @contextlib.contextmanager
    def session(self, session_id: str | None = None) -> Iterator[Session]:
        """Give the session that a handle names, else the call's own, which begins when it has not.

        Raises InvalidArgument when the handle's session is over, or another caller's.
        """
        if session_id is not None:
            found = self._visits.find(session_id, self.principal)
            if found is None:
                raise InvalidArgument("the handle is unknown: its session has ended")
            session = found
        elif self._token is None:
            raise Unauthenticated("this call needs a session, and its client showed none")
        else:
            session = self._visits.begin(self._token, unclaimed=self._fresh)
        self._visits.lost_clients.seen(session, self.peer)
        try:
            yield session
        finally:
            self._visits.left(session)

    def close(self) -> bool:
        """End the call's session; False when there was none to end."""
        return self._token is not None and self._visits.close(self._token.session_id)


class Visits(flight.ServerMiddlewareFactory):
    """Reads headers. Safe from any thread."""

    def __init__(self, engine: Engine, authenticator: Authenticator, config: ServerConfig) -> None:
        self._sessions = engine.sessions
        self._idle_seconds = engine.config.session_idle_seconds
        self._spared_seconds = config.session_spared_seconds
        self._authenticator = authenticator
        self._error_bytes_max = config.error_bytes_max
        self._port: int | None = None
        self._tokens = Tokens()
        self._nobody = Visit(self, "", None)
        # Guarded by _lock: everything below, and the beginning of sessions.
        self._lock = threading.Lock()
        self._closed: OrderedDict[str, float] = OrderedDict()  # ids, and when
        self._unclaimed: set[str] = set()  # ids of sessions whose token nobody has shown yet
        self._begun: WeakValueDictionary[str, Session] = WeakValueDictionary()
        self._spared: OrderedDict[str, None] = OrderedDict()  # ids of sessions that made room; they may begin again
        self.lost_clients = LostClients(config.client_lost_seconds, self._connected, self.close)

    def listening_on(self, port: int) -> None:
        """Say where calls come in, once it is known."""
        self._port = port

    def stop(self) -> None:
        """End the thread that looks for lost clients."""
        self.lost_clients.close()

    def _connected(self) -> set[tuple[str, int]] | None:
        return None if self._port is None else connected(self._port)

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> Visit:
        """Say who calls. Refuses with UNAUTHENTICATED."""
        try:
            return self._visit(info.method, _first(headers, "authorization"), _cookie(headers))
        except DucktowerError as error:
            raise to_flight(error, self._error_bytes_max) from None

    def find(self, session_id: str, principal: str) -> Session | None:
        """Return the session of that id when it has begun, is not over, and is this principal's."""
        session = self._sessions.find(session_id)
        return session if session is not None and session.principal == principal else None

    def begin(self, token: Token, *, unclaimed: bool = False) -> Session:
        """Return the token's session, which begins when it has not. Raises Overloaded when there are too many."""
        session = self._sessions.find(token.session_id)
        if session is None:
            with self._lock:
                session = self._sessions.find(token.session_id)
                if session is None:
                    if token.session_id in self._closed:
                        raise Unauthenticated("the session was closed; connect again")
                    session = self._open(token)
                    if unclaimed:
                        self._remember_unclaimed(session.id)
        return session

    def left(self, session: Session) -> None:
        """End a session that holds nothing when its client may never show its token: a call has left it."""
        with self._lock:
            if session.id not in self._unclaimed or session.has_state():
                return
            self._unclaimed.discard(session.id)
        self._sessions.close(session.id)

    def close(self, session_id: str) -> bool:
        """End a session for good: its token is refused from now on."""
        now = time.monotonic()
        with self._lock:
            self._closed[session_id] = now
            while len(self._closed) > _CLOSED_MAX or now - next(iter(self._closed.values())) > self._idle_seconds:
                self._closed.popitem(last=False)
        return bool(self._sessions.close(session_id))

    def _open(self, token: Token) -> Session:
        try:
            session = self._sessions.open(token.principal, session_id=token.session_id)
        except Overloaded:
            if not self._make_room():
                raise
            session = self._sessions.open(token.principal, session_id=token.session_id)
        self._begun[session.id] = session
        return session

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
        if len(self._spared) > _CLOSED_MAX:
            self._spared.popitem(last=False)
        return bool(self._sessions.close(longest.id))

    def _remember_unclaimed(self, session_id: str) -> None:
        if len(self._unclaimed) >= _UNCLAIMED_MAX:
            self._unclaimed = {one for one in self._unclaimed if self._sessions.find(one) is not None}
        self._unclaimed.add(session_id)

    def _visit(self, method: Any, authorization: str | None, cookie: str | None) -> Visit:
        if method == flight.FlightMethod.HANDSHAKE:
            return self._shake_hands(authorization)
        scheme, _, credentials = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self._tokens.ours(credentials.strip()):
            return self._with_token(credentials.strip(), {})
        principal = self._authenticator.principal(authorization)
        if cookie is not None and self._tokens.ours(cookie):
            # A cookie that is over is taken away, so that the next call begins anew.
            visit = self._with_token(cookie, {"set-cookie": f"{_COOKIE}=; Max-Age=0; Path=/"})
            if visit.principal != principal and authorization:
                raise Unauthenticated("the session belongs to somebody else")
            return visit
        if method not in _FIRST_CALLS:
            return self._nobody if not principal else Visit(self, principal, None)
        token, text = self._tokens.issue(principal)
        return Visit(self, principal, token, answer=_handed_out(text), fresh=True)

    def _shake_hands(self, authorization: str | None) -> Visit:
        principal = self._authenticator.principal(authorization)
        token, text = self._tokens.issue(principal)
        # The session begins at once, so that one too many is refused while connecting.
        self.begin(token)
        return Visit(self, principal, token, answer=_handed_out(text))

    def _with_token(self, text: str, farewell: dict[str, str]) -> Visit:
        token = self._tokens.read(text)
        if token is None:
            return self._over("the session is unknown here: the server was started anew", farewell)
        with self._lock:
            closed = token.session_id in self._closed
            old = time.time() - token.issued > self._idle_seconds and token.session_id not in self._spared
            self._unclaimed.discard(token.session_id)
        if closed:
            return self._over("the session was closed", farewell)
        if self._sessions.find(token.session_id) is None and old:
            return self._over(f"the session was idle for more than {self._idle_seconds:g} seconds", farewell)
        return Visit(self, token.principal, token)

    def _over(self, why: str, farewell: dict[str, str]) -> Visit:
        refusal = Unauthenticated(f"{why}; connect again")
        return Visit(self, "", None, answer=farewell, refusal=refusal)


def _handed_out(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}", "set-cookie": f"{_COOKIE}={text}; Path=/; HttpOnly"}


def _first(headers: dict[str, list[Any]], name: str) -> str | None:
    values = headers.get(name)
    return None if not values else _as_text(values[0])


def _cookie(headers: dict[str, list[Any]]) -> str | None:
    for header in headers.get("cookie", ()):
        for part in _as_text(header).split(";"):
            name, _, value = part.strip().partition("=")
            if name == _COOKIE:
                return value.strip('"')
    return None


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else bytes(value).decode(errors="replace")
