"""Keeps DuckDB's cache of table blocks from growing without bound while rows stream.

DuckDB caches every block that it reads or writes until its memory limit, 80 % of the machine by default. What a
server's queries use again should stay; what passes through once, in a long result or a large upload, should not
take the memory of everybody else on the machine. DuckDB has no setting for that. But lowering its memory limit
makes it drop the blocks that were not used for the longest time, at once, so for a moment the limit is lowered to what
is in use less what is too much, and put back.

Owns the count of such streams and the trimming thread. Must never lower the limit by more than half of what the
cache holds: statements that allocate in that moment then find room by dropping further blocks, and do not fail.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

import duckdb

from ..config import EngineConfig
from ..errors import DucktowerError
from .database import Database
from .headroom import held

__all__ = ["BlockCache"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.05


class BlockCache:
    """Told by whoever streams; safe from any thread."""

    def __init__(self, database: Database, config: EngineConfig) -> None:
        self._database = database
        self._growth_bytes_max = config.stream_cache_bytes_max
        # Without a file the blocks are the data: there is nothing to drop.
        self._off = self._growth_bytes_max is None or config.database == ":memory:"
        # Guarded by _changed's lock: everything below. The thread waits on it while nothing streams.
        self._changed = threading.Condition()
        self._streams = 0
        self._floor: int | None = None  # what the cache held when streaming began; None until that is known
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="ducktower-cache", daemon=True)
        self._thread.start()

    def begin(self) -> None:
        """Say that rows begin to stream, on whatever cursor."""
        if self._off:
            return
        with self._changed:
            first = not self._streams
            self._streams += 1
            if first:
                self._floor = None
        if first:
            floor = self._cached_now()
            with self._changed:
                self._floor = floor
                self._changed.notify()

    def end(self) -> None:
        """Say that one of them is over."""
        if not self._off:
            with self._changed:
                self._streams -= 1

    @contextlib.contextmanager
    def streaming(self) -> Iterator[None]:
        """Say that rows stream until the block ends."""
        self.begin()
        try:
            yield
        finally:
            self.end()

    def close(self) -> None:
        """Stop trimming."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._closed:
                    self._changed.wait(_LOOK_SECONDS if self._streams else None)
                if self._closed:
                    return
                floor = self._floor
                if not self._streams or floor is None:
                    continue
            with contextlib.suppress(duckdb.Error, DucktowerError), self._cursor() as cursor:
                now = held(cursor)
                surplus = now.cached - floor
                if surplus > (self._growth_bytes_max or 0):
                    self._trim(cursor, now.total - min(surplus, now.cached // 2))

    def _cached_now(self) -> int:
        with contextlib.suppress(duckdb.Error, DucktowerError), self._cursor() as cursor:
            return held(cursor).cached
        return 0

    @contextlib.contextmanager
    def _cursor(self) -> Iterator[Any]:
        lease = self._database.lease("internal")
        try:
            yield lease.cursor
        except duckdb.Error as error:
            self._database.note(error)
            log.info("cannot look at the cache: %s", error)
            raise
        finally:
            lease.close()

    def _trim(self, cursor: Any, limit_bytes: int) -> None:
        try:
            self._database.headroom.squeeze(cursor, limit_bytes)
        except duckdb.OutOfMemoryException:
            log.debug("blocks in use cannot be dropped")  # DuckDB kept its limit then, and dropped what it could
