"""Backups by the clock: made every so often, in one directory, the oldest of them taken away.

When the next is due is told by the names of those that are there, so one that was missed while no server ran is made at
the start. A failure is a warning in the log and in health, and is tried again within a minute.

Owns the thread, those names and what is kept. Must never touch a file in the directory whose name is not of its own
series: the series is the database's, by its path.
"""

from __future__ import annotations

import calendar
import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import EngineConfig
from ..errors import DucktowerError
from .backup import SCHEDULED, Backups
from .file_copies import put_in_place, timestamp

__all__ = ["BackupSchedule"]

log = logging.getLogger(__name__)

_AGAIN_SECONDS = 60.0
_CLOSE_WAIT_SECONDS = 5.0
_ASK_SECONDS = 0.05


class BackupSchedule:
    """`start` begins when `backup_every_seconds` is set. `stop_one` asks the backup that is being made to end."""

    def __init__(self, config: EngineConfig, backups: Backups, stop_one: Callable[[str], None]) -> None:
        self._every_seconds = config.backup_every_seconds
        self._kept_max = config.backups_kept_max
        self._backups = backups
        self._stop_one = stop_one
        stem = re.sub(r"[^A-Za-z0-9_.-]", "_", Path(config.database).name)
        path = hashlib.sha256(os.fsencode(os.path.realpath(config.database))).hexdigest()[:8]
        self._series = f"{stem}-{path}-"
        self._own = re.compile(re.escape(self._series) + r"(\d{8}T\d{6}Z)\.duckdb")
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        # Written by the thread (the first time by `start`) alone; each is read as one value.
        self._last = 0.0  # seconds since 1970; 0 when there is none
        self._error = ""

    def start(self) -> None:
        """Begin, if it was asked for."""
        if self._every_seconds is not None:
            self._last = max((when for when, _ in self._made()), default=0.0)
            self._thread = threading.Thread(target=self._run, name="ducktower-backups", daemon=True)
            self._thread.start()

    def health(self) -> dict[str, Any]:
        """Return when the last one was made (UTC), and why the next one failed, if it did."""
        said = {} if not self._last else {"last_backup": timestamp(self._last)}
        return said | ({"last_backup_error": self._error} if self._error else {})

    def close(self) -> None:
        """Make no more; one that is being made is given up."""
        self._closed.set()
        deadline = time.monotonic() + _CLOSE_WAIT_SECONDS
        while self._thread is not None and self._thread.is_alive() and time.monotonic() < deadline:
            self._stop_one(SCHEDULED)
            self._thread.join(_ASK_SECONDS)

    # -- within ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closed.wait(self._wait_seconds()):
            try:
                self._make()
            except Exception as error:
                if self._closed.is_set():
                    return
                code = error.code if isinstance(error, DucktowerError) else type(error).__name__
                self._error = f"{timestamp()} {code}: {error}"
                log.warning("the scheduled backup failed: %s: %s", code, error)

    def _wait_seconds(self) -> float:
        every = self._every_seconds or 0.0
        if self._error:
            return min(every, _AGAIN_SECONDS)
        return max(0.0, min(every, self._last + every - time.time()))  # a clock that was set back delays by one at most

    def _make(self) -> None:
        now = time.time()
        target = self._backups.place / f"{self._series}{timestamp(now)}.duckdb"
        with self._backups.made(SCHEDULED) as (made, path, _):
            put_in_place(path, target)
        self._last, self._error = now, ""
        log.info("made backup %s: %d rows, %d bytes, %g s", target.name, made.rows, made.bytes, made.seconds)
        for _, path in sorted(self._made())[: -self._kept_max]:
            try:
                path.unlink()
            except OSError as error:
                log.warning("cannot take away the old backup %s: %s", path.name, error.strerror)

    def _made(self) -> list[tuple[float, Path]]:
        """Return those of the series, with their times."""
        try:
            found = [(self._own.fullmatch(path.name), path) for path in self._backups.place.iterdir()]
        except OSError:  # not made yet, or not mounted now: then `_make` says so
            return []
        return [(_seconds(name[1]), path) for name, path in found if name is not None]


def _seconds(stamp: str) -> float:
    try:
        return float(calendar.timegm(time.strptime(stamp, "%Y%m%dT%H%M%SZ")))
    except ValueError:
        return 0.0
