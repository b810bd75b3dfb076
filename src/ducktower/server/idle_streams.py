"""Ends streams in which their client sends nothing: each holds a thread, which pyarrow cannot call back from a read.

A client of an open stream of writes is told first, and may end it in order. What goes on, and an upload, which can be
told nothing before its end, loses its connection; its thread comes back with that.

Owns which streams wait for their client, and the thread that looks. Must never touch a stream's data.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

from ..engine import Caller
from ..errors import TimedOut

__all__ = ["IdleStreams"]

log = logging.getLogger(__name__)

_LOOKS = 4
"""How often to look within the time that a client has."""
_LOOK_SECONDS_MAX = 5.0
_GRACE_SECONDS_MAX = 5.0
"""How long a client that was told may take to end its stream."""


class _Stream:
    """One open stream. Its thread sets `heard_at`, which is None while it does not wait for its client."""

    __slots__ = ("caller", "heard_at", "hung_up", "tell", "told_at")

    def __init__(self, caller: Caller, tell: Callable[[TimedOut], None] | None) -> None:
        self.caller = caller
        self.tell = tell
        self.heard_at: float | None = time.monotonic()
        self.told_at: float | None = None
        self.hung_up = False

    def heard(self) -> None:
        self.heard_at = time.monotonic()

    def taken(self) -> None:
        self.heard_at = None


class IdleStreams:
    """Safe from any thread. `seconds` None lets streams be idle for ever."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        # Guarded by _lock, also while a client is told or hung up on: a stream that ended must not be.
        self._lock = threading.Lock()
        self._open: set[_Stream] = set()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        if seconds is not None:
            self._thread = threading.Thread(target=self._run, args=(seconds,), name="ducktower-idle", daemon=True)
            self._thread.start()

    @contextlib.contextmanager
    def watch(self, caller: Caller, tell: Callable[[TimedOut], None] | None = None) -> Iterator[Caller]:
        """Watch a stream for the time of a block; the Caller given is to be told what is heard and taken.

        `tell` sends the client the reason and must not block; without it the connection is cut at once.
        """
        stream = _Stream(caller, tell)
        with self._lock:
            self._open.add(stream)
        try:
            yield replace(caller, heard=stream.heard, taken=stream.taken)
        finally:
            with self._lock:
                self._open.discard(stream)

    def close(self) -> None:
        """Stop looking."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, seconds: float) -> None:
        while not self._closing.wait(min(_LOOK_SECONDS_MAX, seconds / _LOOKS)):
            try:
                with self._lock:
                    for stream in self._open:
                        self._look(stream, seconds, time.monotonic())
            except Exception:
                log.exception("cannot look for idle streams")

    @staticmethod
    def _look(stream: _Stream, seconds: float, now: float) -> None:
        heard_at = stream.heard_at
        if heard_at is None or now - heard_at < seconds:
            stream.told_at = None
        elif stream.told_at is None:
            stream.told_at = now
            log.info("%s sent nothing in its stream for %g seconds", stream.caller.peer, seconds)
            if stream.tell is not None:
                stream.tell(TimedOut(f"nothing was sent in the stream for {seconds:g} seconds"))
                return
        if (
            stream.told_at is not None
            and not stream.hung_up
            and (stream.tell is None or now - stream.told_at > min(_GRACE_SECONDS_MAX, seconds))
        ):
            stream.hung_up = True
            stream.caller.hang_up()
