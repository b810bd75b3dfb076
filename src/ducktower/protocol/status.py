"""Our errors <-> Flight's statuses: one table for both directions.

The code travels in the text as `[CODE] message`, because several codes share a gRPC status; the status is for
clients that know no codes. Owns that table. Must never decide on any other part of a text, with one exception that can
only err on the safe side: `never_sent`.
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

from ..errors import (
    Cancelled,
    Conflict,
    ConstraintViolation,
    DucktowerError,
    Forbidden,
    InternalError,
    InvalidArgument,
    InvalidSQL,
    LimitExceeded,
    Overloaded,
    SchemaMismatch,
    TableExists,
    TableNotFound,
    TimedOut,
    Unauthenticated,
    Unavailable,
    coded_text,
    from_coded_text,
    unknown,
)

__all__ = ["Unimplemented", "from_flight", "from_flight_write", "is_coded", "never_sent", "to_flight"]


class Unimplemented(InvalidArgument):
    """A command or action of the protocol that this server does not offer. Its status is its own, its code not."""


class _Muted(type):
    """Metaclass of exceptions whose traceback must not reach the client.

    Arrow appends a formatted traceback to the status of every Python exception that is no FlightError. It asks
    the `traceback` module for it, which needs the class's `__qualname__`; without one only the name is sent.
    """

    def __getattribute__(cls, name: str) -> Any:
        if name == "__qualname__":
            raise AttributeError(name)
        return super().__getattribute__(name)


class DucktowerStatusInvalid(pa.ArrowInvalid, metaclass=_Muted):
    """Sent as INVALID_ARGUMENT."""


class DucktowerStatusUnimplemented(NotImplementedError, metaclass=_Muted):
    """Sent as UNIMPLEMENTED."""


class DucktowerStatusNotFound(pa.ArrowKeyError, metaclass=_Muted):
    """Sent as NOT_FOUND."""


class DucktowerStatusUnknown(Exception, metaclass=_Muted):
    """Sent as UNKNOWN."""


_STATUS: dict[type[DucktowerError], type[Exception]] = {
    Unimplemented: DucktowerStatusUnimplemented,
    InvalidArgument: DucktowerStatusInvalid,
    InvalidSQL: DucktowerStatusInvalid,
    TableNotFound: DucktowerStatusNotFound,
    TableExists: DucktowerStatusInvalid,
    SchemaMismatch: DucktowerStatusInvalid,
    ConstraintViolation: DucktowerStatusInvalid,
    LimitExceeded: DucktowerStatusInvalid,
    Unauthenticated: flight.FlightUnauthenticatedError,
    Forbidden: flight.FlightUnauthorizedError,
    # pyarrow can send neither ABORTED nor RESOURCE_EXHAUSTED; UNAVAILABLE tells every client to try again.
    Conflict: flight.FlightUnavailableError,
    Overloaded: flight.FlightUnavailableError,
    Unavailable: flight.FlightUnavailableError,
    TimedOut: flight.FlightTimedOutError,
    # Not FlightCancelledError: within DoGet it makes pyarrow's client raise KeyboardInterrupt.
    Cancelled: flight.FlightServerError,
    InternalError: flight.FlightInternalError,
}

_LEAD = re.compile(r"Flight (?:returned unavailable error|cancelled call), with message: ")
_NEVER_SENT = "failed to connect to all addresses"
"""What gRPC says of a call that found no connection: nothing of it left this machine. If it says so in other words one
day, such a call is taken for one whose outcome is not known."""
_BROKEN = (Unavailable, TimedOut, Cancelled, InternalError)
"""What a connection that fails half way looks like; the others are refusals, on this side of it or on the other."""
_UNCODED: tuple[tuple[type[BaseException], type[DucktowerError]], ...] = (
    # What gRPC and foreign servers send without a code of ours.
    (flight.FlightUnavailableError, Unavailable),
    (flight.FlightTimedOutError, TimedOut),
    # A call that reached a server in the moment in which it stopped listening: gRPC answers CANCELLED, of which
    # nothing may be concluded, while a call that was cancelled at a server of ours comes with our code.
    (flight.FlightCancelledError, Unavailable),
    (flight.FlightUnauthenticatedError, Unauthenticated),
    (flight.FlightUnauthorizedError, Forbidden),
    (pa.ArrowCancelled, Cancelled),
    (pa.ArrowKeyError, TableNotFound),
    (pa.ArrowInvalid, InvalidArgument),
    (OSError, Unavailable),  # what pyarrow's GetSchema makes of an unavailable server
)


def to_flight(error: DucktowerError, bytes_max: int, *, of_get_schema: bool = False) -> Exception:
    """Return the exception that makes pyarrow's server answer with this error and nothing more.

    pyarrow's GetSchema knows none of Flight's own errors, and sends their traceback: there they are UNKNOWN.
    """
    kind = _STATUS[next(base for base in type(error).__mro__ if base in _STATUS)]
    if of_get_schema and issubclass(kind, flight.FlightError):
        kind = DucktowerStatusUnknown
    return kind(coded_text(error, bytes_max))


def from_flight(error: BaseException) -> DucktowerError:
    """Return the error of ours that a call on the client's side failed with."""
    coded = from_coded_text(str(error))
    if coded is not None:
        return coded
    line = str(error).strip().split("\n", 1)[0]
    line = line.split(". gRPC client debug context", 1)[0].split(". Detail: ", 1)[0]
    for theirs, ours in _UNCODED:
        if isinstance(error, theirs):
            return ours(_LEAD.sub("", line))
    return InternalError(f"{type(error).__name__}: {line}")


def from_flight_write(error: BaseException) -> DucktowerError:
    """Return the same for a call that writes: its outcome is unknown unless a server of ours tells it.

    What never left this machine is known, too.
    """
    found = from_flight(error)
    if is_coded(error) or not isinstance(found, _BROKEN) or never_sent(error):
        return found
    return unknown(found)


def never_sent(error: BaseException) -> bool:
    """Return whether nothing of the call that failed so left this machine."""
    return _NEVER_SENT in str(error)


def is_coded(error: BaseException) -> bool:
    """Return whether a server of ours sent this: else it is gRPC's, Arrow's or a foreign server's."""
    return from_coded_text(str(error)) is not None
