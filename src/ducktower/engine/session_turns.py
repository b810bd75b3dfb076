"""Turns on a session's own cursor: one call at a time, a result that is still read included.

Owns the lock, and when the cursor goes back. Must never know what a statement is.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import InvalidSQL, Overloaded
from .calls import Call, Caller
from .leasing import Cursors
from .session_activity import Activity
from .session_cursor import SessionCursor

__all__ = ["OwnCall", "Turns"]


@dataclass(slots=True)
class OwnCall:
    """A call that has the own cursor. With `keep` its result has the turn until it is released."""

    cursor: Any
    call: Call
    keep: bool = False


class Turns:
    """Safe from any thread."""

    def __init__(self, cursors: Cursors, activity: Activity, own: SessionCursor, wait_seconds: float) -> None:
        self._cursors = cursors
        self._activity = activity
        self._own = own
        self._wait_seconds = wait_seconds
        # Who holds it may use `own`. Any thread may give it back: results are released by the thread that read them.
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Have the own cursor for a moment, without a call on it."""
        self._take()
        try:
            self._activity.check()
            yield
        finally:
            self._let_go()

    @contextlib.contextmanager
    def call(self, kind: str, text: str, caller: Caller | None) -> Iterator[OwnCall]:
        """Have the own cursor for one call; what fails on it is translated, and the transaction looked after."""
        self._activity.enter()
        try:
            self._take()
        except BaseException:
            self._activity.leave()
            raise
        try:
            lease = self._own.lease()
            call = self._cursors.start(kind, text, caller, lease.interrupt)
        except BaseException:
            self._let_go()
            self._activity.leave()
            raise
        own_call = OwnCall(lease.cursor, call)
        self._activity.add(call)
        try:
            with self._cursors.translated(kind, call):
                yield own_call
        except BaseException as error:
            self.ended(call, error)
            raise
        if not own_call.keep:
            self.ended(call)

    def ended(self, call: Call, error: BaseException | None = None) -> None:
        """End a call: look after the transaction when it may have failed, give the turn back. Twice is harmless."""
        if not self._activity.discard(call):
            return
        error = error or call.error()  # an interrupt can have come too late for the statement, not for its transaction
        self._cursors.calls.finish(call)  # before the look: nothing must interrupt it
        try:
            if error is not None:
                self._own.look_after(error)
        finally:
            self._let_go()
            self._activity.leave()

    def ended_reading(self, call: Call) -> None:
        """End a call whose result was read to its end, dropped, or failed meanwhile: nobody told which."""
        self.ended(call, call.error() or InvalidSQL("a result failed while it was being read"))

    @contextlib.contextmanager
    def at_once(self) -> Iterator[bool]:
        """Have the own cursor for a moment if it is free now; tell whether it was."""
        if not self._turn.acquire(blocking=False):
            yield False
            return
        try:
            yield True
        finally:
            self._let_go()

    def close(self, wait_seconds: float) -> None:
        """Roll back and give the cursor back, waiting for what runs on it, which does it itself when it is later."""
        if self._turn.acquire(timeout=wait_seconds):
            self._let_go()

    def _take(self) -> None:
        if not self._turn.acquire(timeout=self._wait_seconds):
            raise Overloaded(
                "another statement of this session runs, or a result of it is still being read; "
                f"waited {self._wait_seconds:g} seconds",
                retry_after_seconds=1.0,
            )

    def _let_go(self) -> None:
        try:
            if self._activity.closed:
                self._own.close()
            else:
                self._own.settle()
        finally:
            self._turn.release()
