"""Acknowledgements of open streams, written by one thread for all of them.

The committing thread must not write to a client: one that stopped reading would hold everybody's commits. A
thread for each stream would cost a thread switch for each write. So one worker writes for all streams, and a
supervisor starts another worker when that one is held up by a client; each stream's order is kept because only
one worker at a time serves it.

Owns the workers and the outboxes. Must never touch the engine.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Any

import pyarrow as pa

__all__ = ["AckPump", "Outbox"]

log = logging.getLogger(__name__)

_LOOK_EVERY_SECONDS = 0.05
_SPARE_WORKER_SECONDS = 60.0


class Outbox:
    """What one stream still has to be told. `post` may come from any thread and never blocks."""

    def __init__(self, pump: AckPump, writer: Any) -> None:
        self._pump = pump
        self._writer = writer
        # Guarded by _lock: everything below. Waited on by the stream's own thread alone.
        self._lock = threading.Lock()
        self._settled = threading.Condition(self._lock)
        self._messages: deque[tuple[bytes, int]] = deque()  # and how many writes each answers
        self._scheduled = False
        self._owed = 0
        self._broken = False
        self._closed = False

    def owe(self, writes: int, most: int) -> bool:
        """Count writes that will be answered, once fewer than `most` wait; False when the client is gone."""
        with self._lock:
            if self._owed >= most:
                self._settled.wait_for(lambda: self._owed < most or self._broken)
            self._owed += writes
            return not self._broken

    def tell(self, message: bytes) -> None:
        """Have a message sent that answers no write."""
        with self._lock:
            self._owed += 1
        self.post(message)

    def post(self, message: bytes, writes: int = 1) -> None:
        """Have the answer to so many writes sent; nothing once the stream's thread has left."""
        with self._lock:
            if self._closed:
                return
            self._messages.append((message, writes))
            if self._scheduled:
                return
            self._scheduled = True
        self._pump.schedule(self)

    def settle(self) -> bool:
        """Wait until every write was answered; False when the client is gone."""
        with self._lock:
            self._settled.wait_for(self._at_rest)
            return not self._broken

    def close(self) -> None:
        """Settle, and let nothing be written any more. The stream's thread must not leave without it.

        The writer is freed memory as soon as the handler of the RPC returns, however it returns.
        """
        with self._lock:
            self._settled.wait_for(self._at_rest)
            self._closed = True

    def _at_rest(self) -> bool:
        return not self._scheduled and (self._owed == 0 or self._broken)

    def drain(self) -> None:
        """Send what waits. Called by one worker at a time."""
        while True:
            with self._lock:
                messages = list(self._messages)
                self._messages.clear()
                if not messages:
                    self._scheduled = False
                    self._settled.notify()
                    return
            try:
                if not self._broken:
                    for message, _ in messages:
                        self._writer.write_metadata(message)
            except (pa.ArrowException, OSError):
                self._broken = True
            except Exception:  # whatever it is: the stream's thread waits for its end, and this one serves others too
                log.exception("cannot write an acknowledgement")
                self._broken = True
            with self._lock:
                self._owed -= sum(writes for _, writes in messages)
                self._settled.notify()


class AckPump:
    """The workers. One is enough while no client holds it up."""

    def __init__(self, workers_max: int) -> None:
        self._workers_max = workers_max
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._ready: deque[Outbox] = deque()
        self._idle = 0
        self._workers = 0
        self._taken = 0
        self._closed = False
        with self._lock:
            self._start_worker()
        self._supervisor = threading.Thread(target=self._supervise, name="ducktower-acks-look", daemon=True)
        self._closing = threading.Event()
        self._supervisor.start()

    def schedule(self, outbox: Outbox) -> None:
        """Have a worker drain the outbox. After `close` too: streams that end late are owed their answers."""
        with self._lock:
            self._ready.append(outbox)
            if self._idle:
                self._work.notify()
            elif self._closed and self._workers < self._workers_max:
                self._start_worker()  # the others have ended, or are held up and nobody looks after them any more

    def close(self) -> None:
        """End the workers once nothing waits."""
        self._closing.set()
        with self._lock:
            self._closed = True
            self._work.notify_all()
            if self._ready and not self._idle and self._workers < self._workers_max:
                self._start_worker()
        self._supervisor.join()

    def _start_worker(self) -> None:
        threading.Thread(target=self._run, name="ducktower-acks", daemon=True).start()
        self._workers += 1

    def _run(self) -> None:
        while True:
            with self._lock:
                while not self._ready:
                    if self._closed:
                        self._workers -= 1
                        return
                    self._idle += 1
                    woken = self._work.wait(_SPARE_WORKER_SECONDS if self._workers > 1 else None)
                    self._idle -= 1
                    if not woken and not self._ready and self._workers > 1:
                        self._workers -= 1
                        return
                outbox = self._ready.popleft()
                self._taken += 1
            outbox.drain()

    def _supervise(self) -> None:
        seen = -1
        while not self._closing.wait(_LOOK_EVERY_SECONDS):
            with self._lock:
                stuck = self._ready and not self._idle and self._taken == seen
                seen = self._taken
                if stuck and self._workers < self._workers_max:
                    log.info("a client does not read its acknowledgements; starting worker %d", self._workers + 1)
                    self._start_worker()
