"""One clock for the appenders of a process: rows left to themselves are sent, and servers listened to.

Owns one thread, which rests while no appender has rows and each has somebody who listens. Must never send: a server
that does not listen would stop it for all.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .appender import Appender

__all__ = ["clock"]

log = logging.getLogger(__name__)


class Clock:
    """One thread for the process that wakes appenders whose rows waited long enough. It never sends."""

    _TICK_SECONDS = 0.002
    _REST_AFTER_SECONDS = 1.0
    _COMPLAIN_EVERY_SECONDS = 10.0

    def __init__(self) -> None:
        # Guarded by _lock. `resting` is read without it: at worst a row waits one tick longer.
        self._lock = threading.Condition()
        self._watched: weakref.WeakSet[Appender] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self.resting = True
        self._complained_at = float("-inf")  # the thread's own

    def join(self, appender: Appender) -> None:
        """Look at this appender from now on, for as long as it lives."""
        with self._lock:
            self._watched.add(appender)

    def wake(self) -> None:
        """Go on looking: an appender has rows."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="ducktower-clock", daemon=True)
                self._thread.start()
            self.resting = False  # not before: who cannot start the thread now may try again
            self._lock.notify()

    def _run(self) -> None:
        busy_at = time.monotonic()
        while True:
            time.sleep(self._TICK_SECONDS)
            now = time.monotonic()
            if self._looked_at_all(now):
                busy_at = now
            if now - busy_at > self._REST_AFTER_SECONDS:
                with self._lock:
                    # An append may have come since the look, and told nobody because `resting` was unset: so it is set
                    # first, and looked again.
                    self.resting = True
                    if not all(appender._attended() for appender in self._watched):
                        self.resting = False
                        continue
                    self._lock.wait()
                busy_at = time.monotonic()

    def _looked_at_all(self, now: float) -> bool:
        """Look at each appender; True when one has anything to watch. Holds none of them afterwards."""
        with self._lock:
            watched = list(self._watched)
        return sum(self._looked(appender, now) for appender in watched) > 0

    def _looked(self, appender: Appender, now: float) -> bool:
        """Look at one appender; what fails there must not end the clock of the others."""
        try:
            return appender._look(now)
        except Exception:  # no thread can be started now, say: the next look tries again
            if now - self._complained_at > self._COMPLAIN_EVERY_SECONDS:
                self._complained_at = now
                log.exception("cannot have an appender's rows sent; it is tried again")
            return True


clock = Clock()
