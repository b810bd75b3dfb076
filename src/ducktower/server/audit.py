"""The audit log: who called, from where, what kind of statement on which tables, how many rows, with which outcome.

One JSON object a line, for each call that reached a handler, refused logins among them. A stream of rows is written
down when it begins: how many of its rows are read is not known to anybody but the client.

Owns the file. Must never be given a value, a text of SQL or a secret.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import threading
import time
from pathlib import Path

from ..engine import Trail
from ..errors import InvalidArgument
from .logins import NOBODY
from .visits import Visit

__all__ = ["AuditLog", "Entry"]

log = logging.getLogger(__name__)

_MODE = 0o600
_NAMES_MAX = 100
"""Statements and tables of one call that are named; a script may have thousands."""
_CALL_MAX = 64
"""Longest name of a call: that of an action is the client's."""


class Entry:
    """One call, while it runs. Used by its own thread."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.started = time.monotonic()
        self.visit: Visit | None = None
        self.peer = ""
        self.trail = Trail()
        self.outcome = "OK"


class AuditLog:
    """Safe from any thread: each line is one write to a file that is only appended to."""

    def __init__(self, path: Path | str) -> None:
        """Open the file, or make it. Raises InvalidArgument."""
        try:
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)
        except OSError as error:
            raise InvalidArgument(f'audit log "{path}" cannot be written: {error.strerror}') from error
        # Guarded by _lock: a number that was closed may be another file's.
        self._lock = threading.Lock()
        self._open = True
        self._failing = False

    def write(self, entry: Entry) -> None:
        """Add a line. A call does not fail because its line cannot be written: that goes to the server's own log."""
        known = None if entry.visit is None or entry.visit.login is NOBODY else entry.visit.principal
        line = {
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
            "principal": None if known is None else known.name,
            "role": None if known is None else known.role,
            "peer": entry.peer,
            "call": entry.call[:_CALL_MAX],
            "statements": entry.trail.statements[:_NAMES_MAX],
            "tables": entry.trail.tables[:_NAMES_MAX],
            "rows": entry.trail.rows,
            "outcome": entry.outcome,
            "seconds": round(time.monotonic() - entry.started, 6),
        }
        raw = json.dumps(line).encode() + b"\n"
        with self._lock:
            if not self._open:
                return
            try:
                os.write(self._descriptor, raw)
                self._failing = False
            except OSError as error:
                if not self._failing:
                    log.error("the audit log cannot be written: %s", error.strerror)  # noqa: TRY400 - that says all
                self._failing = True

    def close(self) -> None:
        """Close the file; a call that is still stuck leaves no line."""
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._descriptor)
