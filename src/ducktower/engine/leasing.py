"""One call's cursor: leased, registered as running, given back; what fails on it is translated and noted.

Owns that order, for every part that runs statements. Must never know what runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any

from .. import cores
from ..config import EngineConfig
from ..errors import InternalError
from .block_cache import BlockCache
from .calls import Call, Caller, Calls
from .database import Database, Lease
from .failures import translate
from .shares import Shares
from .starting import Starting

__all__ = ["Cursors"]

log = logging.getLogger(__name__)


class Cursors:
    """Safe from any thread."""

    def __init__(self, database: Database, calls: Calls, cache: BlockCache, config: EngineConfig) -> None:
        self.database = database
        self.calls = calls
        self.cache = cache
        self.shares = Shares()
        self._starting = Starting()
        self._timeout = config.query_timeout_seconds
        self._timeout_of_one = _shorter(config.query_timeout_seconds, config.principal_query_timeout_seconds)
        self._timeouts = {
            "upload": config.upload_timeout_seconds,
            "backup": config.backup_timeout_seconds,
            "scheduled backup": config.backup_timeout_seconds,
        }

    @contextlib.contextmanager
    def open(
        self, pool: Any, kind: str, text: str, caller: Caller | None, *, leave: bool = False
    ) -> Iterator[tuple[Lease, Call]]:
        """Lease a cursor and register the call on it; translate and note what fails.

        With `leave` the block takes both over when it succeeds.
        """
        cores.roam()  # what leases a cursor computes
        lease = self.database.lease(pool, None if caller is None else self.shares.of(caller.principal))
        call = self.start(kind, text, caller, lease.interrupt)
        done = False
        try:
            with self._starting.turn() if pool == "read" else contextlib.nullcontext(), self.translated(kind, call):
                yield lease, call
            done = True
        finally:
            if not (leave and done):
                self.calls.finish(call)
                lease.close()

    def start(self, kind: str, text: str, caller: Caller | None, interrupt: Callable[[], None]) -> Call:
        """Register a call with the time limit of its kind."""
        caller = caller or Caller()
        timeout = self._timeouts.get(kind, self._timeout_of_one if caller.principal.name else self._timeout)
        return self.calls.start(kind, text, caller, timeout_seconds=timeout, interrupt=interrupt)

    @contextlib.contextmanager
    def translated(self, kind: str, call: Call | None = None) -> Iterator[None]:
        """Let nothing out of the block but errors of ours; begin to reopen the database when one is fatal."""
        try:
            yield
        except Exception as error:
            self.database.note(error)
            ours = translate(error, call)
            if isinstance(ours, InternalError):
                log.exception("%s failed", kind)
            if ours is error:
                raise
            raise ours from error


def _shorter(one: float | None, other: float | None) -> float | None:
    return min((limit for limit in (one, other) if limit is not None), default=None)
