"""Which session a call belongs to: a middleware reads its headers, and hands out the token of a new session.

A session is found by, in this order: `authorization: Bearer` with a token of this server's, the cookie, the handle
that the call carries (see `flight_sql`). A client that shows none gets a token with its first answer, as a cookie
and as `authorization`, of which drivers adopt one; its session begins with the first call that needs it.

Owns how a session is shown and handed out. Must never look at what a call asks for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow.flight as flight

from ..config import ServerConfig
from ..engine import Engine, Session
from ..errors import DucktowerError, InvalidArgument, Unauthenticated
from ..protocol.status import to_flight
from .auth import Authenticator
from .lost_clients import LostClients
from .session_desk import SessionDesk
from .tokens import Token, Tokens

__all__ = ["MIDDLEWARE", "NoHandshake", "Visit", "Visits"]

MIDDLEWARE = "visit"
_COOKIE = "arrow_flight_session_id"

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
        return None if self._token is None else self._visits.desk.find(self._token.session_id, self.principal)

    @contextlib.contextmanager
    def session(self, session_id: str | None = None) -> Iterator[Session]:
        """Give the session that a handle names, else the call's own, which begins when it has not.

        Raises InvalidArgument when the handle's session is over, or another caller's.
        """
        if session_id is not None:
            found = self._visits.desk.find(session_id, self.principal)
            if found is None:
                raise InvalidArgument("the handle is unknown: its session has ended")
            session = found
        elif self._token is None:
            raise Unauthenticated("this call needs a session, and its client showed none")
        else:
            session = self._visits.desk.begin(self._token, unclaimed=self._fresh)
        self._visits.lost_clients.seen(session, self.peer)
        try:
            yield session
        finally:
            self._visits.desk.left(session)

    def close(self) -> bool:
        """End the call's session; False when there was none to end."""
        return self._token is not None and self._visits.desk.close(self._token.session_id)


class Visits(flight.ServerMiddlewareFactory):
    """Reads headers. Safe from any thread."""

    def __init__(self, engine: Engine, authenticator: Authenticator, config: ServerConfig) -> None:
        self.desk = SessionDesk(engine, config)
        self.lost_clients = LostClients(config.client_lost_seconds, self.desk.close)
        self._authenticator = authenticator
        self._error_bytes_max = config.error_bytes_max
        self._tokens = Tokens()

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> Visit:
        """Say who calls. Refuses with UNAUTHENTICATED."""
        try:
            return self._visit(info.method, _first(headers, "authorization"), _cookie(headers))
        except DucktowerError as error:
            raise to_flight(error, self._error_bytes_max) from None

    def stop(self) -> None:
        """End the threads that end sessions."""
        self.lost_clients.close()
        self.desk.stop()

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
            if visit.principal != principal and authorization and visit._refusal is None:
                raise Unauthenticated("the session belongs to somebody else")
            return visit
        if method not in _FIRST_CALLS:
            return Visit(self, principal, None)
        token, text = self._tokens.issue(principal)
        return Visit(self, principal, token, answer=_handed_out(text), fresh=True)

    def _shake_hands(self, authorization: str | None) -> Visit:
        principal = self._authenticator.principal(authorization)
        token, text = self._tokens.issue(principal)
        # The session begins at once, so that one too many is refused while connecting.
        self.desk.begin(token)
        return Visit(self, principal, token, answer=_handed_out(text))

    def _with_token(self, text: str, farewell: dict[str, str]) -> Visit:
        token = self._tokens.read(text)
        why = "the session is unknown here: the server was started anew" if token is None else self.desk.over(token)
        if token is None or why is not None:
            return Visit(self, "", None, answer=farewell, refusal=Unauthenticated(f"{why}; connect again"))
        return Visit(self, token.principal, token)


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
