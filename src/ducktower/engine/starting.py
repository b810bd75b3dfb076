"""Turns at starting: as many reads as there are cores, and one more, begin at once, each for its first milliseconds.

A read enters and leaves DuckDB some twenty times before its first batch is there, and stands in line for Python's lock
each time. When sixteen do so at once they mostly wake each other: a small query then costs half as much again (docs/
decisions, reads start by turns). One that takes longer than that is DuckDB's work and no longer Python's: it goes on,
and its turn is somebody else's.

Owns who starts next. Must never hold a read up for longer than those before it may take for their start.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator

__all__ = ["Starting"]

_START_SECONDS = 0.010
"""What a turn is at most: several times what a small query takes."""


class _Turn:
    """A read that starts, or waits to. `woken` is released when its turn comes."""

    __slots__ = ("woken",)

    def __init__(self) -> None:
        self.woken = threading.Lock()
        self.woken.acquire()


class Starting:
    """Safe from any thread."""

    def __init__(self, at_once: int | None = None, start_seconds: float = _START_SECONDS) -> None:
        """Let so many start at once: by default one more than this process has cores, because
        one of them often stands in line for Python's lock."""
        self._at_once = _cores() + 1 if at_once is None else at_once
        self._start_seconds = start_seconds
        # Guarded by _lock: both below. Nobody waits while fewer than `_at_once` start.
        self._lock = threading.Lock()
        self._starting: dict[_Turn, float] = {}  # since when, the oldest first
        self._waiting: deque[_Turn] = deque()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for a turn, and have it until the block ends or the turn's time is over, whichever is first."""
        turn = _Turn()
        with self._lock:
            self._waiting.append(turn)
            self._admit()
            rounds = 1 + len(self._waiting) // self._at_once
        try:
            # Whoever leaves wakes the next one. The time runs out only when those before take theirs to the end.
            while not turn.woken.acquire(timeout=rounds * self._start_seconds):
                rounds = 1
                with self._lock:
                    self._admit()
            yield
        finally:
            with self._lock:
                if self._starting.pop(turn, None) is None:
                    with contextlib.suppress(ValueError):  # its time was over, unless it still waits
                        self._waiting.remove(turn)
                self._admit()

    def _admit(self) -> None:
        """With the lock: take their turns from those whose time is over, and give what is free to who is next."""
        if not self._waiting:
            return
        now = time.monotonic()
        while self._starting:
            oldest = next(iter(self._starting))
            if now - self._starting[oldest] < self._start_seconds:
                break
            del self._starting[oldest]
        while self._waiting and len(self._starting) < self._at_once:
            turn = self._waiting.popleft()
            self._starting[turn] = now
            turn.woken.release()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
