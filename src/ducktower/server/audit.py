"""The audit log: who called, from where, what kind of statement on which tables, how many rows, with which outcome.

One JSON object a line, for each call that reached a handler, refused logins among them. A call is written down before
it is answered, a stream of rows at its end: then it is known how many were sent, and whether something failed.

Owns the file, and the thread that writes down what streamed. Must never be given a value, a text of SQL or a secret.
"""

from __future__ import annotations

import datetime
import json
import logging
import os
import threading
import time
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from ..engine import Trail
from ..errors import Cancelled, InternalError, InvalidArgument, from_coded_text
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
        self.ended: float | None = None

    @property
    def streams(self) -> bool:
        """Whether rows are still on their way, whose end is written down."""
        return self.outcome == "OK" and self.call == "DoGet" and self.trail.streams

    def end(self) -> None:
        """Say that the call is over, and with which outcome, when it had a result that streamed."""
        self.ended = time.monotonic()
        if self.trail.failure is not None:
            failure = from_coded_text(self.trail.failure)
            self.outcome = InternalError.code if failure is None else failure.code
        elif not self.trail.complete or self.trail.streams:
            self.outcome = Cancelled.code  # its client left, or the server did


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
        # Entries whose stream is under way, and those whose stream has ended. A stream is released by any thread at any
        # moment, one that collects garbage included, which may hold any lock: so it puts its entry into a queue, and a
        # thread writes it. None ends that.
        self._streaming: set[Entry] = set()  # changed by one set operation at a time
        self._over: SimpleQueue[Entry | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="ducktower-audit", daemon=True)
        self._thread.start()

    def answered(self, entry: Entry) -> None:
        """Write down a call that is answered now; one that streams, at the end of its stream."""
        if not entry.streams:
            self._write(entry)
            return
        self._streaming.add(entry)
        entry.trail.over = partial(self._over.put, entry)
        if not entry.trail.streams:  # it ended meanwhile
            self._over.put(entry)

    def _run(self) -> None:
        while (entry := self._over.get()) is not None:
            if entry in self._streaming:  # else it was told twice
                self._streaming.discard(entry)
                entry.end()
                self._write(entry)

    def _write(self, entry: Entry) -> None:
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
            "seconds": round((entry.ended or time.monotonic()) - entry.started, 6),
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
        """Write down the streams that go on, and close the file; a call that is still stuck leaves no line."""
        self._over.put(None)
        self._thread.join()
        for entry in list(self._streaming):
            entry.end()
            self._write(entry)
        with self._lock:
            if self._open:
                self._open = False
                os.close(self._descriptor)
