"""Room in DuckDB's memory for COMMIT and CHECKPOINT, which must not find that queries have all of it.

COMMIT copies the rows of a small transaction into their table. When DuckDB 2.0 finds no memory for that, it leaves them
in some of the columns, and what is appended next is stored with values of other rows. A CHECKPOINT without memory is
fatal (docs/decisions, memory for commits).

So queries have a part less than the limit. As long as memory is plentiful, COMMIT and CHECKPOINT only look at it. When
it is short they come one at a time, and for as long as one runs the limit is raised to the whole. Each begins with all
the room that it needs: before it is raised, the limit is lowered until queries leave as much free. DuckDB refuses a
limit below what is held, so it is tried in steps, whenever some of them let go.

Owns DuckDB's memory limit while it is open. Must never run anything of a client's, nor raise the limit above its own.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import duckdb

from ..config import KIB, MIB
from ..errors import LimitExceeded, Overloaded
from .failures import is_fatal

__all__ = ["Headroom", "Held"]

_PLENTY = 0.4
"""Part of the limit below which what is held leaves room for everything: a COMMIT takes at most as much as its
transaction holds, and queries do not fill the rest before the next look."""
_LOOK_SECONDS = 0.05
_CALM_LOOK_SECONDS = 0.5
"""How old a look may be when a small write asks, while clients' statements run or none does: it takes half a
millisecond."""
_KEPT_PART = 8
"""One part in so many of the limit is kept from queries: a COMMIT that takes less finds it, whatever they hold."""
_KEPT_BYTES_MAX = 256 * MIB
_WAIT_SECONDS = 2.0
_PAUSE_SECONDS = 0.001

_HELD = "SELECT tag, memory_usage_bytes FROM duckdb_memory()"
_CACHED = ("BASE_TABLE", "METADATA", "EXTERNAL_FILE_CACHE")
_UNITS = {"bytes": 1, "KiB": KIB, "MiB": MIB, "GiB": 1024 * MIB, "TiB": 1024 * 1024 * MIB}
_SIZE = re.compile(r"([\d.]+) (\w+)")


class Held(NamedTuple):
    """What DuckDB's buffers hold, in bytes."""

    total: int
    cached: int
    """Blocks of files among them, which are dropped when their room is needed."""
    tables: int
    """Rows that are in no file yet: of transactions, and of committed ones until the next checkpoint."""


def held(cursor: Any) -> Held:
    """Look what DuckDB's buffers hold."""
    nbytes = dict(cursor.execute(_HELD).fetchall())  # not summed up in SQL, which takes three times as long
    return Held(sum(nbytes.values()), sum(nbytes[tag] for tag in _CACHED), nbytes["IN_MEMORY_TABLE"])


class Headroom:
    """Safe from any thread."""

    def __init__(
        self,
        cursor: Callable[[], contextlib.AbstractContextManager[Any]],
        is_busy: Callable[[], bool],
        note: Callable[[BaseException], None],
        configured: str | None,
    ) -> None:
        """`is_busy` tells whether statements of clients run, `note` hears of what fails before others may commit.

        `configured` is the limit, None DuckDB's own.
        """
        self._cursor = cursor
        self._is_busy = is_busy
        self._note = note
        self._most_sql = "RESET memory_limit" if configured is None else f"SET memory_limit = '{configured}'"
        # Guarded by _turn, which is held while the limit is another one, and by who commits while memory is short.
        self._turn = threading.Lock()
        self._most = self._kept = 0
        self._limit = 0  # what DuckDB has now
        # By any thread, without a lock: a look more or less does no harm.
        self._looked = 0.0
        self._last: Held | None = None

    def opened(self, root: Any) -> None:
        """Take over the limit of a database that was just opened; nobody else uses it yet."""
        self._most = _bytes_of(root.execute("SELECT current_setting('memory_limit')").fetchall()[0][0])
        self._kept = min(self._most // _KEPT_PART, _KEPT_BYTES_MAX)
        self._limit = self._most
        self._set(root, self._rest)

    @contextlib.contextmanager
    def taken(self, nbytes: int | None = None) -> Iterator[None]:
        """Have room until the block ends, for a COMMIT of so many bytes; None finds out how many they can be at most.

        Raises Overloaded when others do not leave it within two seconds, LimitExceeded when there can be none. Nothing
        was committed then.
        """
        now = self._look(always=nbytes is None)
        need = max(now.tables if nbytes is None else nbytes, 0) if now else self._kept
        if now is not None and self._is_plenty(now, need):
            if self._limit != self._rest:
                self._settle()
            with self._noted():
                yield
            return
        if not self._turn.acquire(timeout=_WAIT_SECONDS):
            raise _no_room()
        try:
            with self._cursor() as cursor:
                self._make(cursor, need)
                try:
                    with self._noted():
                        yield
                finally:
                    with contextlib.suppress(duckdb.Error):  # the database may be gone
                        self._set(cursor, self._rest)
        finally:
            self._turn.release()

    def for_checkpoint(self) -> contextlib.AbstractContextManager[None]:
        """Have room for a checkpoint, which takes little, and frees the rows that it writes."""
        return self.taken(self._kept)

    def squeeze(self, cursor: Any, limit_bytes: int) -> None:
        """Lower the limit to so many bytes for a moment: DuckDB drops cached blocks. Does nothing while it is lowered.

        Raises duckdb.OutOfMemoryException, with the limit as it was, for less than is held otherwise.
        """
        if self._turn.acquire(blocking=False):
            try:
                cursor.execute(f"SET memory_limit = '{limit_bytes}B'")
            finally:
                cursor.execute(self._sql(self._limit))
                self._turn.release()

    # -- within ---------------------------------------------------------------------------------------

    @property
    def _rest(self) -> int:
        return self._most - self._kept

    def _look(self, *, always: bool) -> Held | None:
        """Return what is held, by a look that is not old; None when there is no memory even for a look."""
        at = time.monotonic()
        if always or at - self._looked > (_LOOK_SECONDS if self._is_busy() else _CALM_LOOK_SECONDS):
            try:
                with self._cursor() as cursor:
                    self._last = held(cursor)
            except duckdb.OutOfMemoryException:
                self._last = None
            self._looked = at
        return self._last

    def _is_plenty(self, now: Held, need: int) -> bool:
        return now.total - now.cached + need <= self._most * _PLENTY

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            if is_fatal(error):
                self._note(error)  # now: nobody may append to what this COMMIT left
            raise

    def _settle(self) -> None:
        """Have the limit as it is at rest: it could not be lowered when the last COMMIT was over."""
        if self._turn.acquire(blocking=False):
            try:
                with self._cursor() as cursor:
                    self._set(cursor, self._rest)
            finally:
                self._turn.release()

    # -- with _turn -----------------------------------------------------------------------------------

    def _make(self, cursor: Any, need: int) -> None:
        """See to it that so many bytes are free, and raise the limit."""
        floor = self._most - max(need, self._kept)
        deadline = time.monotonic() + _WAIT_SECONDS
        while not (floor > 0 and self._lowered(cursor, floor) and self._set(cursor, self._most)):
            if 2 * need > self._most:  # the rows are held already, and COMMIT needs as much again
                raise LimitExceeded(
                    f"nothing was stored: COMMIT can take {need} bytes of memory more, and DuckDB has {self._most} "
                    "in all; store fewer rows at once"
                )
            if time.monotonic() > deadline:
                raise _no_room()
            time.sleep(_PAUSE_SECONDS)

    def _lowered(self, cursor: Any, floor: int) -> bool:
        if self._limit <= floor or self._set(cursor, floor):
            return True
        self._set(cursor, (self._limit + floor) // 2)
        return False

    def _set(self, cursor: Any, limit_bytes: int) -> bool:
        try:
            cursor.execute(self._sql(limit_bytes))
        except duckdb.OutOfMemoryException:  # more is held, or there is no memory for the statement itself
            return False
        self._limit = limit_bytes
        return True

    def _sql(self, limit_bytes: int) -> str:
        return self._most_sql if limit_bytes == self._most else f"SET memory_limit = '{limit_bytes}B'"


def _no_room() -> Overloaded:
    return Overloaded(
        "nothing was stored: DuckDB's memory is in use, and none became free for COMMIT", retry_after_seconds=1.0
    )


def _bytes_of(shown: str) -> int:
    """Return the bytes of a size as DuckDB tells it: it cuts off what follows the first decimal."""
    found = _SIZE.fullmatch(shown)
    assert found is not None, shown  # noqa: S101 - it is DuckDB that wrote it
    return int(float(found[1]) * _UNITS[found[2]])
