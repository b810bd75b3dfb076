"""The listener: a Flight RPC arrives, its handler runs, the answer or one clean error goes back.

Owns the translation of failures at the seam and the admission of calls. Must never know what a handler does.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow.flight as flight

from ..config import ServerConfig
from ..engine import Caller
from ..errors import (
    Cancelled,
    DucktowerError,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    Unauthenticated,
    Unavailable,
)
from ..protocol.commands import NAMING_HEADERS
from ..protocol.status import to_flight
from .admission import Admission
from .audit import AuditLog, Entry
from .connections import cut
from .flight_sql import FlightSql
from .plain_flight import ALWAYS_ADMITTED, STREAMED, PlainFlight
from .visits import MIDDLEWARE, NoHandshake, Visit, Visits

if TYPE_CHECKING:
    from .tls import Tls

__all__ = ["Listener"]

log = logging.getLogger(__name__)

_HEALTH = "DoAction health"
"""What is answered to the very end: it tells why nothing else is."""


class Listener(flight.FlightServerBase):
    """gRPC calls each of these from a thread of its own, one thread for each call in flight."""

    def __init__(
        self,
        location: str,
        config: ServerConfig,
        plain: PlainFlight,
        flight_sql: FlightSql,
        visits: Visits,
        tls: Tls | None = None,
        audit: AuditLog | None = None,
    ) -> None:
        self._config = config
        self._plain = plain
        self._sql = flight_sql
        self._visits = visits
        self._audit = audit
        self._admission = Admission(config)
        self._stopping = False  # set once, by the thread that stops the server
        secured: dict[str, Any] = {}
        if tls is not None:
            secured["tls_certificates"] = [(tls.certificate, tls.key)]
            if tls.client_ca is not None:
                secured |= {"verify_client": True, "root_certificates": tls.client_ca}
        super().__init__(location, auth_handler=NoHandshake(), middleware={MIDDLEWARE: visits}, **secured)

    def stop_accepting(self) -> None:
        """Answer every further call with UNAVAILABLE; those in flight go on."""
        self._stopping = True

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Stream a query's result natively."""
        with self._call(context, "DoGet") as (caller, visit):
            raw = ticket.ticket
            self._bound("ticket", len(raw))
            reader = self._sql.get(raw, visit, caller) if self._sql.claims(raw) else self._plain.get(raw, caller)
            return flight.RecordBatchStream(reader)

    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """Run a statement of Flight SQL, or describe a query or a table."""
        with self._call(context, "GetFlightInfo") as (caller, visit):
            if self._is_sql(descriptor):
                return self._sql.info(descriptor, visit, caller)
            return self._plain.info(descriptor, caller)

    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """Describe a query's or a table's columns."""
        with self._call(context, "GetSchema") as (caller, visit):
            if self._is_sql(descriptor):
                return flight.SchemaResult(self._sql.schema(descriptor, visit, caller))
            return flight.SchemaResult(self._plain.schema(descriptor, caller))

    def list_flights(self, context: Any, criteria: bytes) -> Any:
        """List all tables; no criteria are defined."""
        with self._call(context, "ListFlights") as (caller, _):
            self._bound("criteria", len(criteria))
            return iter(list(self._plain.infos(caller)))

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Store a stream and answer once it is durable."""
        with self._call(context, "DoPut") as (admitted, visit), self._plain.idle.watch(admitted) as caller:
            if self._is_sql(descriptor):
                writer.write(self._sql.put(descriptor, reader, visit, caller))
            else:
                _refuse_name(visit)
                writer.write(self._plain.put(descriptor, reader, caller))

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Serve an open stream of writes."""
        with self._call(context, "DoExchange") as (caller, visit):
            if self._is_sql(descriptor):
                self._sql.exchange(descriptor)
            _refuse_name(visit)
            self._plain.exchange(descriptor, reader, writer, caller)

    def list_actions(self, context: Any) -> Any:
        """Name the actions."""
        with self._call(context, "ListActions"):
            return self._plain.actions() + self._sql.actions()

    def do_action(self, context: Any, action: Any) -> Any:
        """Run an action."""
        always = action.type in ALWAYS_ADMITTED or action.type in self._sql.always_admitted
        closing = action.type in self._sql.closing
        with self._call(context, f"DoAction {action.type}", always=always, closing=closing) as (caller, visit):
            if visit.late:
                return iter(())
            body = action.body.to_pybytes() if action.body is not None else b""
            if self._sql.has_action(action.type):
                parts = self._sql.act(action.type, body, visit, caller)
            elif self._plain.has_action(action.type):
                _refuse_name(visit)
                parts = self._plain.act(action.type, body, caller)
            else:
                names = [name for name, _ in self._plain.actions() + self._sql.actions()]
                raise InvalidArgument(f'action "{action.type}" is none of {", ".join(names)}')
            if action.type in STREAMED:
                return itertools.chain([flight.Result(next(parts))], self._rest(parts, context))
            return iter([flight.Result(part) for part in parts])

    def _rest(self, parts: Iterator[bytes], context: Any) -> Iterator[Any]:
        """Yield the further answers of an action. Arrow drops this, and so ends the call, when its client leaves."""
        try:
            for part in parts:
                yield flight.Result(part)
        except Exception as error:
            raise to_flight(self._told(error, context, None), self._config.error_bytes_max) from None

    def _is_sql(self, descriptor: Any) -> bool:
        """Whether a command is one of Flight SQL. Raises LimitExceeded for what is too large to be looked at."""
        if descriptor.descriptor_type != flight.DescriptorType.CMD:
            self._bound("path", sum(map(len, descriptor.path)))
            return False
        command = descriptor.command
        self._bound("command", len(command))
        return self._sql.claims(command)

    def _bound(self, what: str, nbytes: int) -> None:
        most = self._config.command_bytes_max
        if nbytes > most:
            raise LimitExceeded(f"the {what} has {nbytes} bytes, the limit is {most}")

    def hang_up_on_over(self, grace_seconds: float) -> None:
        """End the connections of calls whose token has been over for so long, and that go on all the same."""
        for peer in {visit.peer for visit in self._admission.over(grace_seconds)}:
            self._hang_up(peer)

    def _hang_up(self, peer: str) -> None:
        found = cut(self.port, peer)
        log.warning("cut %d connections of %s, which does not read what it asked for", found, peer)

    @contextlib.contextmanager
    def _call(
        self, context: Any, rpc: str, *, always: bool = False, closing: bool = False
    ) -> Iterator[tuple[Caller, Visit]]:
        """Admit a call, and let nothing out of it but an error of ours. What is `always` admitted takes no place."""
        entered: Visit | None = None
        entry = None if self._audit is None else Entry(rpc)
        try:
            if self._stopping and rpc != _HEALTH:
                raise Unavailable("the server is stopping")
            peer = context.peer()
            visit = self._visits.take()
            if entry is not None:
                entry.visit, entry.peer = visit, peer
            visit.arrive(context, peer, closing=closing)
            if not always:
                self._admission.enter(visit)
                entered = visit
            trail = None if entry is None else entry.trail
            caller = Caller(peer, context.is_cancelled, lambda: self._hang_up(peer), visit.principal, trail, visit.over)
            yield caller, visit
        except Exception as error:
            told = self._told(error, context, entered)
            if entry is not None:
                entry.outcome = told.code
            raise to_flight(told, self._config.error_bytes_max, of_get_schema=rpc == "GetSchema") from None
        finally:
            if entered is not None:
                self._admission.leave(entered)
            if self._audit is not None and entry is not None:
                self._audit.answered(entry)

    @staticmethod
    def _told(error: Exception, context: Any, visit: Visit | None) -> DucktowerError:
        """Return what the client is told of a failure."""
        if visit is not None and visit.login.over:
            return Unauthenticated("the token was revoked or has expired")
        if isinstance(error, DucktowerError):
            return error
        if context.is_cancelled():
            log.info("the client left before its answer: %s", type(error).__name__)
            return Cancelled("the client went away")
        log.error("a call failed in a way that it must not", exc_info=error)
        return InternalError(f"the server failed ({type(error).__name__}); its log has the details")


def _refuse_name(visit: Visit) -> None:
    """Refuse the headers that name a write of Flight SQL: here they would go unheard."""
    if visit.naming:
        raise InvalidArgument(
            f"{NAMING_HEADERS[0]} is for Flight SQL; writer and sequence are fields of the command here"
        )
