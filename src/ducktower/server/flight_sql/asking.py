"""What every handler of a command is given, and what a handle of ours says.

Owns the form of handles: they name their session, so that a client which keeps neither cookies nor tokens can use
them. Must never run anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import pyarrow.flight as flight
from google.protobuf.message import Message

from ...engine import Caller, Named, Session
from ...errors import InvalidArgument
from ...protocol.commands import NAMING_HEADERS, parse_naming
from ...protocol.flight_sql import messages as m
from ...protocol.flight_sql import pack
from ..visits import Visit

__all__ = ["Ask", "flight_info", "handle_of", "session_for", "ticket_of"]

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Ask(Generic[M]):
    """One call: its command, who makes it, and what its RPC brought along."""

    message: M
    visit: Visit
    caller: Caller
    descriptor: Any = None
    """The FlightDescriptor of GetFlightInfo."""
    reader: Any = None
    """The rows of DoPut."""

    def named(self) -> Named | None:
        """Return the writer and the sequence of a write, which its headers have. Raises InvalidArgument."""
        found = parse_naming(self.visit.naming)
        return None if found is None else Named(*found)

    def refuse_name(self) -> None:
        """Raise InvalidArgument for headers that name a write where what is asked returns rows."""
        if self.visit.naming:
            raise InvalidArgument(
                f"{NAMING_HEADERS[0]} goes with updates and ingests; this call asks for rows, which are not kept"
            )


def handle_of(session: Session, handle: bytes) -> bytes:
    """Return what a client is given for a handle or an id of the session's."""
    return session.id.encode() + b"." + handle


@contextlib.contextmanager
def session_for(visit: Visit, handle: bytes) -> Iterator[tuple[Session, bytes | None]]:
    """Give the session that a handle belongs to and the session's own handle; without one the caller's session."""
    if not handle:
        with visit.session() as session:
            yield session, None
        return
    session_id, dot, inner = handle.partition(b".")
    if not dot or not session_id.isascii():
        raise InvalidArgument("the handle is not one of this server's")
    with visit.session(session_id.decode("ascii")) as session:
        yield session, inner


def flight_info(schema: Any, descriptor: Any, ticket: bytes, rows: int = -1) -> Any:
    """Return a FlightInfo with one endpoint, here."""
    endpoint = flight.FlightEndpoint(flight.Ticket(ticket), [])
    return flight.FlightInfo(schema, descriptor, [endpoint], total_records=rows, total_bytes=-1)


def ticket_of(handle: bytes) -> bytes:
    """Return the ticket that fetches a waiting result."""
    return pack(m.TicketStatementQuery(statement_handle=handle))
