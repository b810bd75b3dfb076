"""The disk below the database: how much of it is free, and how large the WAL is. Refuses writes before it is full.

A write that meets a full disk fails in the middle, in a checkpoint even fatally: then every statement of everybody
fails until the database is opened again. So writes are refused while less than `free_bytes_min` is free, and large
ones that are under way are stopped; reads, and what frees space, go on. Service returns by itself when space does.

Owns the thread that looks and what it saw. Must never look at the disk for a write: that reads a flag.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any

from ..config import EngineConfig
from ..errors import Overloaded
from .wal import wal_bytes

__all__ = ["Disk"]

log = logging.getLogger(__name__)

_CHECKPOINT_ROOM = 2
"""How many times the WAL's size must be free on the disk for a checkpoint."""
_SPACE_SECONDS = 1.0
"""When a write that was refused is worth trying again: space comes back when somebody makes some."""


class Disk:
    """Safe from any thread. A database in memory has no disk: then nothing is looked at, nothing refused.

    Each time when the thread that looks sees that the disk is nearly full it calls `stop_loads`, and `checkpoint_due`
    when the WAL has `wal_checkpoint_bytes`. Neither may wait.
    """

    def __init__(
        self, config: EngineConfig, stop_loads: Callable[[], None], checkpoint_due: Callable[[], None]
    ) -> None:
        self._config = config
        self._stop_loads = stop_loads
        self._checkpoint_due = checkpoint_due
        self._closed = threading.Event()
        # Written by the looking thread (the first time by the constructor) alone; each is read as one value.
        self._free_bytes: int | None = None
        self._wal_bytes = 0
        self._full = ""  # why writes are refused; empty while they are not
        self._wal_warning = ""
        self._thread: threading.Thread | None = None
        if config.database != ":memory:":
            self._look()
            self._thread = threading.Thread(target=self._run, name="ducktower-disk", daemon=True)
            self._thread.start()

    def admit(self) -> None:
        """Let a write begin. Raises Overloaded while the disk is nearly full: nothing of it was stored."""
        if self._full:
            raise Overloaded(f"{self._full}; nothing was stored", retry_after_seconds=_SPACE_SECONDS)

    @property
    def full(self) -> bool:
        """Whether writes are refused now."""
        return bool(self._full)

    def health(self) -> dict[str, Any]:
        """Return `free_bytes`, `wal_bytes` as they were last seen, and `warnings` when there is something to say."""
        if self._free_bytes is None:
            return {}
        warnings = [warning for warning in (self._full, self._wal_warning) if warning]
        seen: dict[str, Any] = {"free_bytes": self._free_bytes, "wal_bytes": self._wal_bytes}
        return seen | ({"warnings": warnings} if warnings else {})

    def close(self) -> None:
        """Stop looking."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self._config.disk_look_seconds):
            try:
                self._look()
                if self._full:
                    self._stop_loads()
                if self._is_checkpoint_due():
                    self._checkpoint_due()
            except Exception:  # a disk that cannot be looked at now, may be later
                log.exception("cannot look at the disk")

    def _is_checkpoint_due(self) -> bool:
        """Whether the WAL is large, and the disk has room for what is in it: a checkpoint that finds none is fatal."""
        due_at, free = self._config.wal_checkpoint_bytes, self._free_bytes
        if due_at is None or free is None or self._wal_bytes < due_at:
            return False
        return free > _CHECKPOINT_ROOM * self._wal_bytes

    def _look(self) -> None:
        config = self._config
        self._wal_bytes = wal_bytes(config.database)
        most = config.wal_warn_bytes
        self._wal_warning = _told(
            self._wal_warning,
            f"the WAL has {self._wal_bytes} bytes, more than {most}: open transactions, or a full disk, keep "
            "it from being written into the database file"
            if most is not None and self._wal_bytes > most
            else "",
            "the WAL is small again",
        )
        self._free_bytes = free = min(map(_free_bytes, _directories(config.database)))
        self._full = _told(
            self._full,
            f"the disk is nearly full: {free} bytes are free, and {config.free_bytes_min} are kept so"
            if free < config.free_bytes_min
            else "",
            "the disk has space again, writes are taken",
        )


def _told(before: str, now: str, over: str) -> str:
    """Return `now`; log that it began, or is over."""
    if now and not before:
        log.warning("%s", now)
    elif before and not now:
        log.warning("%s", over)
    return now


def _directories(database: str) -> list[str]:
    """Return where DuckDB writes: beside the database, and in its temporary directory, which may be a mount."""
    spill = f"{database}.tmp"
    beside = os.path.dirname(os.path.abspath(database))
    return [beside, spill] if os.path.isdir(spill) else [beside]


def _free_bytes(directory: str) -> int:
    try:
        found = os.statvfs(directory)
    except FileNotFoundError:  # the temporary directory, gone meanwhile
        return _free_bytes(os.path.dirname(directory))
    return found.f_bavail * found.f_frsize
