"""The error tree: every failure that Ducktower reports, on either side of the wire.

    DucktowerError                    code                   retryable
     +-- InvalidArgument              INVALID_ARGUMENT
     +-- InvalidSQL                   INVALID_SQL
     +-- TableNotFound                TABLE_NOT_FOUND
     +-- TableExists                  TABLE_EXISTS
     +-- SchemaMismatch               SCHEMA_MISMATCH
     +-- ConstraintViolation          CONSTRAINT_VIOLATION
     +-- Unauthenticated              UNAUTHENTICATED
     +-- Forbidden                    FORBIDDEN
     +-- Conflict                     CONFLICT               yes
     +-- Overloaded                   OVERLOADED             yes
     +-- Unavailable                  UNAVAILABLE            yes
     +-- TimedOut                     TIMEOUT
     +-- Cancelled                    CANCELLED
     +-- LimitExceeded                LIMIT_EXCEEDED
     +-- InternalError                INTERNAL

Owns the codes and whether each may be retried. Must never import anything: every layer raises these.
"""

from __future__ import annotations

import re
from typing import ClassVar, TypeVar

__all__ = [
    "CODES",
    "Cancelled",
    "Conflict",
    "ConstraintViolation",
    "DucktowerError",
    "Forbidden",
    "InternalError",
    "InvalidArgument",
    "InvalidSQL",
    "LimitExceeded",
    "Overloaded",
    "SchemaMismatch",
    "TableExists",
    "TableNotFound",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "coded_text",
    "from_coded_text",
    "unknown",
]


E = TypeVar("E", bound="DucktowerError")


class DucktowerError(Exception):
    """Base of the tree. `code` is stable; the text is for people and may change.

    `retryable` says that the same call may succeed later *and* that sending it again is the right answer.
    It does not say that a write was not stored: see `outcome_unknown`. `retry_after_seconds` is when that is worth
    trying, as far as whoever refused the call could tell; None when it could not.
    """

    code: ClassVar[str] = "INTERNAL"
    retryable: ClassVar[bool] = False
    outcome_unknown: bool = False
    """Whether this was a write of which nobody can tell whether it was stored. It may be sent again when it has a
    writer and a sequence, or when doing it twice does no harm. Where it is False, nothing was stored."""

    def __init__(self, *args: object, retry_after_seconds: float | None = None) -> None:
        super().__init__(*args)
        self.retry_after_seconds = retry_after_seconds

    def __init_subclass__(cls) -> None:
        # Users meet these as ducktower.X; a traceback should show that name.
        cls.__module__ = "ducktower"

    @property
    def message(self) -> str:
        """The text alone, without the code."""
        return str(self.args[0]) if self.args else self.code


class InvalidArgument(DucktowerError):
    """A command, option, ticket or file is not what it should be."""

    code = "INVALID_ARGUMENT"


class InvalidSQL(DucktowerError):
    """DuckDB could not parse, bind or evaluate the statement."""

    code = "INVALID_SQL"


class TableNotFound(DucktowerError):
    """The named table or view does not exist."""

    code = "TABLE_NOT_FOUND"


class TableExists(DucktowerError):
    """The table to be created is there already."""

    code = "TABLE_EXISTS"


class SchemaMismatch(DucktowerError):
    """A column is unknown, missing, given twice, or holds a value that does not fit its type."""

    code = "SCHEMA_MISMATCH"


class ConstraintViolation(DucktowerError):
    """A NOT NULL, CHECK, UNIQUE, PRIMARY KEY or FOREIGN KEY constraint refused the rows."""

    code = "CONSTRAINT_VIOLATION"


class Unauthenticated(DucktowerError):
    """The caller did not say who it is, or could not prove it."""

    code = "UNAUTHENTICATED"


class Forbidden(DucktowerError):
    """The caller, or this kind of call, may not do that."""

    code = "FORBIDDEN"


class Conflict(DucktowerError):
    """Another transaction changed the same rows or the same table; nothing was stored."""

    code = "CONFLICT"
    retryable = True


class Overloaded(DucktowerError):
    """A bounded queue or pool is full; nothing was stored."""

    code = "OVERLOADED"
    retryable = True


class Unavailable(DucktowerError):
    """The server cannot be reached, is stopping, or is reopening its database.

    A write that was under way may or may not have been stored: then it is `outcome_unknown`.
    """

    code = "UNAVAILABLE"
    retryable = True


class TimedOut(DucktowerError):
    """A statement or a wait ran past its limit."""

    code = "TIMEOUT"


class Cancelled(DucktowerError):
    """The call was cancelled, by its client or by an operator; nothing was stored."""

    code = "CANCELLED"


class LimitExceeded(DucktowerError):
    """One request is larger than a named limit allows."""

    code = "LIMIT_EXCEEDED"


class InternalError(DucktowerError):
    """A defect of Ducktower or DuckDB, or a failure of the machine below them."""

    code = "INTERNAL"


CODES: dict[str, type[DucktowerError]] = {
    kind.code: kind
    for kind in (
        InvalidArgument,
        InvalidSQL,
        TableNotFound,
        TableExists,
        SchemaMismatch,
        ConstraintViolation,
        Unauthenticated,
        Forbidden,
        Conflict,
        Overloaded,
        Unavailable,
        TimedOut,
        Cancelled,
        LimitExceeded,
        InternalError,
    )
}
"""Every stable code and its class: the one table that both sides of the wire use."""

_HINT_SECONDS_MAX = 3_600.0
_CODED = re.compile(
    # The text ends where gRPC and Arrow C++ begin to append their own notes.
    r"\[(?P<code>[A-Z_]+)\] (?P<unknown>outcome_unknown; )?"
    r"(?P<hint>retry_after_seconds=(?P<seconds>\d{1,6}(?:\.\d{1,3})?); )?"
    r"(?P<text>.*?)(?:\. Detail: |\. gRPC client debug context: |\. Client context: |\Z)",
    re.DOTALL,
)


def coded_text(error: DucktowerError, bytes_max: int | None = None) -> str:
    """Return `[CODE] text`, the form in which an error crosses the wire, cut to `bytes_max` of UTF-8.

    With a hint when to come back it is `[CODE] retry_after_seconds=0.5; text`; of a write of which nobody can tell
    whether it was stored, `[CODE] outcome_unknown; text`.
    """
    hint = ""
    if error.retryable and error.retry_after_seconds is not None:
        seconds = min(max(error.retry_after_seconds, 0.001), _HINT_SECONDS_MAX)
        hint = f"retry_after_seconds={seconds:.3f}".rstrip("0").rstrip(".") + "; "
    text = f"[{error.code}] {'outcome_unknown; ' if error.outcome_unknown else ''}{hint}{error.message}"
    if bytes_max is not None and len(text.encode()) > bytes_max:
        text = text.encode()[: bytes_max - 3].decode(errors="ignore") + "..."
    return text


def from_coded_text(text: str) -> DucktowerError | None:
    """Return the error that `coded_text` wrote somewhere in `text`, or None when there is none."""
    for match in _CODED.finditer(text):
        kind = CODES.get(match["code"])
        if kind is None:
            continue
        if match["seconds"] is not None and kind.retryable:
            found = kind(match["text"], retry_after_seconds=float(match["seconds"]))
        else:
            found = kind((match["hint"] or "") + match["text"])
        return found if match["unknown"] is None else unknown(found)
    return None


def unknown(error: E) -> E:
    """Return the error, of a write of which nobody can tell whether it was stored."""
    error.outcome_unknown = True
    return error
