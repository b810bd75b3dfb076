"""Checkpoints: a thread writes the WAL into the database file when it has grown, beside those who write.

Left to itself, DuckDB does so within the COMMIT of whoever makes the WAL too large: that group waits, and all behind
it. Beside them, commits go on meanwhile, into a second log, but for a moment under DuckDB's lock.

DuckDB refuses one while an open transaction changed rows or definitions, or still needs rows that others changed or
deleted since it began. Then it is tried a few times in the gaps between groups, and again when the WAL is looked at
next.

Owns the thread and what it counts. Must never wait for a transaction's end: FORCE CHECKPOINT holds up everybody who
begins one.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import duckdb

from .. import cores
from ..errors import Conflict, DucktowerError
from ..monitor import Histogram
from .database import Database
from .failures import first_line, translate

__all__ = ["Checkpoints"]

log = logging.getLogger(__name__)

_TRIES = 20
_TRY_PAUSE_SECONDS = 0.002
_FAILED_PAUSE_SECONDS = 60.0
"""After one that failed, as on a full disk: that is fatal, the database is opened again, and whoever reads is ended."""


class Checkpoints:
    """Safe from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.seconds = Histogram()
        # Guarded by _changed's lock: everything below. The thread waits on it until a checkpoint is due.
        self._changed = threading.Condition()
        self._due = False
        self._closed = False
        self._refused_since: float | None = None  # since when one has been due that DuckDB does not allow
        self._thread = threading.Thread(target=self._run, name="ducktower-checkpoints", daemon=True)
        self._thread.start()

    def due(self) -> None:
        """Have one written soon; nothing more when one is being written. Never waits."""
        with self._changed:
            self._due = True
            self._changed.notify()

    def health(self) -> dict[str, Any]:
        """Return `checkpoint_refused_seconds` while open transactions do not allow one that is due."""
        with self._changed:
            since = self._refused_since
        return {} if since is None else {"checkpoint_refused_seconds": round(time.monotonic() - since, 3)}

    def close(self) -> None:
        """Wait for the one that is being written, and write no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        cores.roam()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._due or self._closed)
                if self._closed:
                    return
            refused = failed = False
            try:
                refused = self._write()
            except DucktowerError as error:  # the database is being opened again, or closed
                log.info("no checkpoint now: %s", error)
            except duckdb.Error as error:
                failed = True
                log.warning("cannot write a checkpoint: %s", first_line(str(error)))
            with self._changed:
                if failed:
                    self._changed.wait_for(lambda: self._closed, _FAILED_PAUSE_SECONDS)
                self._due = False  # who saw the WAL before this one was written saw the old one
                self._refused_since = (self._refused_since or time.monotonic()) if refused else None

    def _write(self) -> bool:
        """Write one; True when open transactions did not allow it."""
        for _ in range(_TRIES):
            started = time.monotonic()
            try:
                self._database.checkpoint()
            except duckdb.Error as error:
                if not isinstance(translate(error), Conflict):
                    raise
            else:
                self.seconds.record(time.monotonic() - started)
                return False
            time.sleep(_TRY_PAUSE_SECONDS)
        return True
