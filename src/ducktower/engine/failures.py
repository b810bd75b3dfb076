"""DuckDB's exceptions -> our error tree. The one place that reads what DuckDB says of a failure.

Owns two tables: by exception class, for what Python raises, and by the name that DuckDB writes before its
text, for what a native stream raises where Python sees the text alone. The few decisions that hang on a text, because
DuckDB has one class for them, stand in functions of their own; each is provoked by a test.
"""

from __future__ import annotations

import re

import duckdb
import pyarrow as pa

from ..errors import (
    Conflict,
    ConstraintViolation,
    DucktowerError,
    Forbidden,
    InternalError,
    InvalidArgument,
    InvalidSQL,
    LimitExceeded,
    SchemaMismatch,
    TableExists,
    TableNotFound,
    TimedOut,
    Unavailable,
    unknown,
)
from .calls import Call

__all__ = ["does_not_fit", "first_line", "is_fatal", "translate", "translate_text", "without_paths"]

_BY_CLASS: tuple[tuple[type[Exception], type[DucktowerError]], ...] = (
    # The first match wins: subclasses before their bases.
    (duckdb.FatalException, Unavailable),
    (duckdb.InterruptException, TimedOut),
    (duckdb.ConstraintException, ConstraintViolation),
    (duckdb.OutOfMemoryException, LimitExceeded),
    (duckdb.PermissionException, Forbidden),
    (duckdb.InternalException, InternalError),
    (duckdb.IOException, Unavailable),
    (duckdb.Error, InvalidSQL),
)

_BY_NAME: dict[str, type[DucktowerError]] = {
    # As `Exception::ExceptionTypeToString` of DuckDB 2.0 spells them.
    "FATAL Error": Unavailable,
    "INTERRUPT Error": TimedOut,
    "Constraint Error": ConstraintViolation,
    "Out of Memory Error": LimitExceeded,
    "Permission Error": Forbidden,
    "INTERNAL Error": InternalError,
    "IO Error": Unavailable,
}

_TELLS_PATHS = (
    *(duckdb.FatalException, duckdb.OutOfMemoryException, duckdb.PermissionException, duckdb.InternalException),
    *(duckdb.IOException, duckdb.TransactionException, duckdb.HTTPException),
    duckdb.ResourceInUseException,
)
_PATH = re.compile(r"""(?:file )?["'](?:/|[A-Za-z]:[\\/])[^"']*["']|(?<![\w.<>/])/(?:[^\s/"']+/)+[^\s"',;]+""")

_FILE_CLOSED = re.compile(
    r'file system operations are disabled by configuration|Unique file handle conflict: Cannot attach "__duckdb_reader_'
)
"""How DuckDB refuses to read a file that SQL names as a table: one that is closed, and, in other words, the one that is
served. Told alike, or the difference would tell where that is."""

_SOME_FILE = "a file of the server"
_NO_FILE = re.compile(r"No files found that match the pattern|Cannot open file .*No such file or directory")
"""What DuckDB says of a file that SQL names and that is not there, or whose folder is not."""

_HINT = re.compile(
    r"""\n\s*(?:Did you mean|Candidate extensions:).*|\s*Use "SET max_expression_depth[^"]*"[^.]*\.""", re.DOTALL
)
"""What DuckDB proposes. It looks through all names that there are: also those of tables that other transactions have
not committed, that this caller may not see, and settings that are the operator's."""

_DISK_REFUSED = re.compile("Could not (?:write|sync)")
"""How DuckDB says that a disk is full, or fails. Unless that is fatal, the transaction is rolled back."""

_NO_MEMORY = re.compile("(?:failed to|could not) (?:allocate|pin)")
"""How a COMMIT says that it found no memory; elsewhere that has a class of its own. DuckDB 2.0 leaves the table wrong
then, in memory: what is appended next would be stored with values of other rows."""

_NAMED = re.compile(r"([A-Z][A-Za-z]*(?: [A-Za-z]+)* Error): ")


def is_fatal(error: BaseException) -> bool:
    """Whether the database must be opened again: DuckDB gave it up, or left a table wrong in memory."""
    return isinstance(error, duckdb.FatalException) or _leaves_wrong(error)


def _leaves_wrong(error: BaseException) -> bool:
    return isinstance(error, duckdb.TransactionException) and _NO_MEMORY.search(str(error)) is not None


def first_line(text: str) -> str:
    """Return DuckDB's text as one line, without its class name, its proposals and the quoted SQL."""
    paragraph = _HINT.sub("", text.strip()).split("\n\n", 1)[0]
    line = " ".join(part.strip() for part in paragraph.splitlines() if part.strip())
    name, colon, rest = line.partition(": ")
    return rest if colon and name.endswith("Error") else line


def translate(error: BaseException, call: Call | None = None) -> DucktowerError:
    """Return the error of ours for anything raised by DuckDB or by ourselves.

    A call that was asked to end is answered with the reason, whatever DuckDB raised when it ended. After a fatal error
    nobody can tell what became of a COMMIT, until the file is open again.
    """
    found = _translated(error, call)
    return unknown(found) if isinstance(error, duckdb.FatalException) else found


def _translated(error: BaseException, call: Call | None) -> DucktowerError:
    if isinstance(error, DucktowerError):
        return error
    if _leaves_wrong(error):  # which ends all calls, this one too
        return Unavailable(
            "nothing was stored, COMMIT found no memory and the database is being reopened: "
            + without_paths(first_line(str(error)))
        )
    asked = call.error() if call is not None else None
    if asked is not None:
        return asked
    text = first_line(str(error))
    if isinstance(error, duckdb.Error) and _FILE_CLOSED.search(text):
        return Forbidden("the file is not open to SQL on this server")
    if isinstance(error, _TELLS_PATHS):
        text = without_paths(text, "" if call is None else call.text)
    if isinstance(error, duckdb.IOException) and _is_missing(text):
        return InvalidArgument(text)
    if isinstance(error, duckdb.TransactionException):
        return _transaction_failure(text)
    if isinstance(error, duckdb.CatalogException):
        return _catalog_failure(text)
    if isinstance(error, duckdb.IOException) and _DISK_REFUSED.search(text):
        return Unavailable(f"nothing was stored: {text}")
    for kind, ours in _BY_CLASS:
        if isinstance(error, kind):
            return ours(_reopening(text) if ours is Unavailable and is_fatal(error) else text)
    if isinstance(error, (pa.ArrowException, OSError)) and " Error: " in str(error):
        return translate_text(str(error))  # DuckDB's failure, met while Arrow pulled at its stream
    if isinstance(error, pa.ArrowException):
        return InvalidArgument(text)
    if isinstance(error, UnicodeError):
        return SchemaMismatch("a text is not valid UTF-8")
    if isinstance(error, RecursionError):
        return LimitExceeded("a value is nested too deeply")
    if isinstance(error, MemoryError):
        return LimitExceeded("the server ran out of memory for this call")
    return InternalError(f"{type(error).__name__}: {without_paths(text)}")


def translate_text(raw: str, call: Call | None = None) -> DucktowerError:
    """Return the error of ours for the text with which a native stream of DuckDB's ended."""
    asked = call.error() if call is not None else None
    if asked is not None:
        return asked
    # Only the first name is DuckDB's own: what follows may quote a client's values.
    named = _NAMED.search(raw)
    if named is None:
        return InvalidSQL(first_line(raw))
    kind = _BY_NAME.get(named[1], InvalidSQL)
    text = first_line(raw[named.start() :])
    if kind not in (InvalidSQL, ConstraintViolation):
        text = without_paths(text, call.text if call else "")
    return InvalidArgument(text) if kind is Unavailable and _is_missing(text) else kind(text)


def without_paths(text: str, sent: str = "") -> str:
    """Return a text without paths of the server's machine; those that the client `sent` itself stay."""

    def told(found: re.Match[str]) -> str:
        return found[0] if found[0].removeprefix("file ").strip("\"'") in sent else _SOME_FILE

    return _PATH.sub(told, text)


def _is_missing(text: str) -> bool:
    """Whether the client named a file that is not there; one of the server's own has no name here any more."""
    return _NO_FILE.search(text) is not None and _SOME_FILE not in text


def _reopening(text: str) -> str:
    return f"the database met a fatal error and is being reopened: {text}"


def _transaction_failure(text: str) -> DucktowerError:
    """TransactionException: a conflict (retry), a refused write, or a COMMIT without disk."""
    if "read-only mode" in text:
        return Forbidden(f"this call only reads: {text}")
    if _DISK_REFUSED.search(text):
        return Unavailable(f"nothing was stored: {text}")
    if (
        "onflict" in text
        or text.startswith("Failed to commit")
        or "other write transactions" in text
        or "is aborted" in text
    ):
        return Conflict(text)
    return InvalidSQL(text)


def _catalog_failure(text: str) -> DucktowerError:
    """CatalogException: a table or view that is missing or in the way; else an unknown function or type."""
    if text.startswith(("Table with name", "View with name", "Schema with name")) and "does not exist" in text:
        return TableNotFound(text)
    if "already exists" in text:
        return TableExists(text)
    if "rite-write conflict" in text:
        return Conflict(text)
    return InvalidSQL(text)


def does_not_fit(column: str, found: str, wanted: str, why: str = "") -> SchemaMismatch:
    """Return the one error for a value that a column cannot hold."""
    reason = f": {why}" if why else ""
    return SchemaMismatch(f'column "{column}": found {found}, wanted {wanted}{reason}')
