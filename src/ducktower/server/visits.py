"""Which session a call belongs to: its headers are read before its handler runs, and a new session hands out a token.

A session is found by, in this order: `authorization: Bearer` with a token of this server's, the cookie, the handle
that the call carries (see `flight_sql`). A client that shows none gets a token with the answer to the first call that
needs a session, as a cookie and as `authorization`, of which drivers adopt one.

Flight calls the factory of a middleware and then the handler in one thread, so what was read waits for its handler
under the thread's identity. (Not in a `threading.local`: that ends with each callback of a thread that Python did not
start.) A middleware object for each call would do the same, and take Python's lock three times more: a quarter of what
a small write costs.

A caller who is refused is told so by the handler of its call, which knows where the call comes from, and not here.

Owns how a session is shown and handed out. Must never look at what a call asks for.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import pyarrow.flight as flight

from .. import cores
from ..config import ServerConfig
from ..engine import Engine, Principal, Session
from ..errors import DucktowerError, InternalError, InvalidArgument, Unauthenticated
from ..protocol.commands import NAMING_HEADERS
from ..protocol.status import to_flight
from .auth import Authenticator
from .connections import endpoint
from .failed_logins import FailedLogins
from .logins import NOBODY, Login
from .lost_clients import LostClients
from .session_desk import SessionDesk
from .strangers import Strangers
from .tokens import Token, Tokens

__all__ = ["MIDDLEWARE", "NoHandshake", "Visit", "Visits"]

log = logging.getLogger(__name__)

_WRITES = (flight.FlightMethod.DO_PUT, flight.FlightMethod.DO_EXCHANGE)
"""Calls that mostly wait, for Python's lock and for the next commit, until they turn out to be larger."""

MIDDLEWARE = "visit"
_COOKIE = "arrow_flight_session_id"
_HANDSHAKE = "handshake"
"""Where failed Handshakes come from: no address is known then, so all of them count as one."""


class NoHandshake(flight.ServerAuthHandler):
    """Lets Handshake succeed: without a handler it answers UNIMPLEMENTED. The middleware does the work."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:  # noqa: ARG002 - what comes in is nothing
        """Accept: the middleware has refused what is to be refused. Some clients wait for a message, whatever it is."""
        outgoing.write(b"")

    def is_valid(self, token: bytes) -> str:  # noqa: ARG002 - this is not where callers are told apart
        """Accept."""
        return ""


class _HandshakeAnswer(flight.ServerMiddleware):
    """The headers of a Handshake's answer: no handler runs that could add them."""

    def __init__(self, answer: dict[str, str]) -> None:
        self._answer = answer

    def sending_headers(self) -> dict[str, str]:
        """Hand the token out."""
        return self._answer


class Visit:
    """One call's caller and session. Used by the thread of its call."""

    def __init__(
        self,
        visits: Visits,
        login: Login,
        token: Token | None,
        *,
        answer: dict[str, str] | None = None,
        refusal: DucktowerError | None = None,
        failed: bool = False,
        late: bool = False,
    ) -> None:
        self.login = login
        self.peer = ""
        self.naming: dict[str, list[Any]] = {}
        """The headers that name a write, as they came."""
        self._context: Any = None  # the call's, when it has arrived
        self._visits = visits
        self._token = token
        self._answer = answer or {}
        self._refusal = refusal
        self._failed = failed
        self.late = late
        """Refused for nothing but that the session is over."""

    @property
    def principal(self) -> Principal:
        """Who calls."""
        return self.login.principal

    def over(self) -> bool:
        """Whether the caller's token was revoked or has expired since."""
        return self.login.over

    def arrive(self, context: Any, peer: str, *, closing: bool = False) -> None:
        """Go on in the handler. Raises Unauthenticated for a caller who is refused, late when it failed to log in.

        Arguments:
            closing: the call ends something, which a session that is over has ended already: that is no failure.
        """
        self._context, self.peer = context, peer
        if self._answer:
            self._add_headers(self._answer)
        if self._refusal is not None and not (closing and self.late):
            if self._failed and not self._visits.strangers.flooded:  # a refusal that waits holds its request in memory
                self._visits.failed_logins.pause((endpoint(peer) or (peer, 0))[0])
            raise self._refusal
        if self.login.over:
            raise Unauthenticated("the token was revoked or has expired")
        self._visits.strangers.is_known(peer, self.login.tenure)

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
        elif self._token is not None:
            session = self._visits.desk.begin(self._token, self.principal)
        else:
            self._token, text = self._visits.tokens.issue(self.login.tenure.grant_id, self.principal.name)
            session = self._visits.desk.begin(self._token, self.principal, unclaimed=True)
            self._add_headers(_handed_out(text))
        self._visits.lost_clients.seen(session, self.peer)
        try:
            yield session
        finally:
            self._visits.desk.left(session)

    def close(self) -> bool:
        """End the call's session; False when there was none to end."""
        return self._token is not None and self._visits.desk.close(self._token.session_id)

    def _add_headers(self, headers: dict[str, str]) -> None:
        for name, value in headers.items():
            self._context.add_header(name, value)


class Visits(flight.ServerMiddlewareFactory):
    """Reads headers. Safe from any thread."""

    def __init__(self, engine: Engine, authenticator: Authenticator, config: ServerConfig) -> None:
        self.desk = SessionDesk(engine, config)
        self.failed_logins = FailedLogins(config)
        self.lost_clients = LostClients(config.client_lost_seconds, self.desk.close)
        self.strangers = Strangers(config, authenticator.asks)
        self.tokens = Tokens()
        self._authenticator = authenticator
        self._error_bytes_max = config.error_bytes_max
        # By thread: the call whose handler has not begun. Changed by one dict operation at a time. A call that ends
        # before its handler leaves one behind, which the thread's next call replaces.
        self._here: dict[int, Visit] = {}

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> _HandshakeAnswer | None:
        """Say who calls. Refuses a Handshake, for which no handler of ours runs, with UNAUTHENTICATED."""
        if info.method in _WRITES:
            cores.stay()
        else:
            cores.roam()
        authorization = _first(headers, "authorization")
        if info.method == flight.FlightMethod.HANDSHAKE:
            return self._shake_hands(authorization)
        try:
            visit = self._visit(authorization, _cookie(headers))
        except DucktowerError as error:
            visit = Visit(self, NOBODY, None, refusal=error, failed=True)
        except Exception:
            log.exception("cannot read the headers of a call")
            visit = Visit(self, NOBODY, None, refusal=InternalError("the server failed; its log has the details"))
        if not headers.keys().isdisjoint(NAMING_HEADERS):
            visit.naming = {name: headers[name] for name in NAMING_HEADERS if name in headers}
        self._here[threading.get_ident()] = visit
        return None

    def take(self) -> Visit:
        """Return the visit of the call that this thread serves; once."""
        return self._here.pop(threading.get_ident())

    def listening_on(self, port: int) -> None:
        """Say where calls come in: what looks at connections begins to look."""
        self.lost_clients.listening_on(port)
        self.strangers.listening_on(port)

    def stop(self) -> None:
        """End the threads that end sessions and cut connections, and refusals that wait."""
        self.failed_logins.close()
        self.strangers.close()
        self.lost_clients.close()
        self.desk.stop()

    def _visit(self, authorization: str | None, cookie: str | None) -> Visit:
        scheme, _, credentials = (authorization or "").partition(" ")
        if scheme.lower() == "bearer" and self.tokens.ours(credentials.strip()):
            return self._with_token(credentials.strip(), {})
        login = self._authenticator.login(authorization)
        if cookie is not None and self.tokens.ours(cookie):
            # A cookie that is over is taken away, so that the next call begins anew.
            visit = self._with_token(cookie, {"set-cookie": f"{_COOKIE}=; Max-Age=0; Path=/"})
            if visit.principal != login.principal and authorization and visit._refusal is None:
                raise Unauthenticated("the session belongs to somebody else")
            return visit
        return Visit(self, login, None)

    def _shake_hands(self, authorization: str | None) -> _HandshakeAnswer:
        try:
            login = self._authenticator.login(authorization)
            token, text = self.tokens.issue(login.tenure.grant_id, login.principal.name)
            # The session begins at once, so that one too many is refused while connecting.
            self.desk.begin(token, login.principal)
        except DucktowerError as error:
            if isinstance(error, Unauthenticated):
                self.failed_logins.pause(_HANDSHAKE)
            raise to_flight(error, self._error_bytes_max) from None
        return _HandshakeAnswer(_handed_out(text))

    def _with_token(self, text: str, farewell: dict[str, str]) -> Visit:
        token = self.tokens.read(text)
        if token is None:
            why = Unauthenticated("the session is unknown here: the server was started anew; connect again")
            return Visit(self, NOBODY, None, answer=farewell, refusal=why, failed=True)
        login = self._authenticator.granted(token.grant_id, token.name)
        over = self.desk.over(token) if login is not None else "the token was revoked or has expired"
        if over is None and login is not None:
            return Visit(self, login, token)
        why = Unauthenticated(f"{over}; connect again")
        if login is None:
            return Visit(self, NOBODY, None, answer=farewell, refusal=why, failed=True)
        return Visit(self, login, None, answer=farewell, refusal=why, late=True)


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
