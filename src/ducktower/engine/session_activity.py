"""What runs in a session now, and since when nothing does.

Owns the registry of the session's running calls. Must never touch a cursor.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from ..errors import InvalidArgument
from .calls import Call

__all__ = ["Activity"]


class Activity:
    """Safe from any thread."""

    def __init__(self) -> None:
        # Guarded by _lock: everything below. `_active` counts results that are still read, too.
        self._lock = threading.Lock()
        self._running: set[Call] = set()
        self._active = 0
        self._touched = time.monotonic()
        self._closed = False
        self._when_quiet: Callable[[], None] | None = None

    @property
    def closed(self) -> bool:
        """Whether the session takes no more statements."""
        return self._closed

    def check(self) -> None:
        """Raise InvalidArgument when the session is closed."""
        if self._closed:
            raise InvalidArgument("the session is closed")

    def enter(self) -> None:
        """Say that something begins. Raises InvalidArgument when the session is closed."""
        with self._lock:
            self.check()
            self._active += 1
            self._touched = time.monotonic()

    def leave(self) -> None:
        """Say that it ended."""
        quiet = None
        with self._lock:
            self._active -= 1
            self._touched = time.monotonic()
            if not self._active:
                quiet, self._when_quiet = self._when_quiet, None
        if quiet is not None:
            quiet()

    def when_quiet(self, tell: Callable[[], None]) -> None:
        """Have `tell` called once, when nothing runs; by the thread that ends it, so that it must not block."""
        with self._lock:
            if self._active:
                self._when_quiet = tell
                return
        tell()

    @contextlib.contextmanager
    def busy(self) -> Iterator[None]:
        """Be active for the time of a block."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    def add(self, call: Call) -> None:
        """Let `cancel` reach a call."""
        with self._lock:
            self._running.add(call)

    def discard(self, call: Call) -> bool:
        """Forget a call; return whether it was known."""
        with self._lock:
            known = call in self._running
            self._running.discard(call)
            return known

    @contextlib.contextmanager
    def running(self, call: Call) -> Iterator[None]:
        """Let `cancel` reach a call for the time of a block."""
        self.add(call)
        try:
            yield
        finally:
            self.discard(call)

    def cancel(self) -> bool:
        """End what runs; return whether anything did."""
        with self._lock:
            running = list(self._running)
        for call in running:
            call.end("cancelled")
        return bool(running)

    def touch(self) -> None:
        """Say that the client is there."""
        with self._lock:
            self._touched = time.monotonic()

    def idle_seconds(self) -> float:
        """Return for how long nothing was asked; 0 while something runs."""
        with self._lock:
            return 0.0 if self._active else time.monotonic() - self._touched

    def close(self) -> None:
        """Let nothing begin any more."""
        with self._lock:
            self._closed = True
