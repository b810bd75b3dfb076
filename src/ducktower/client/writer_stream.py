"""The writes of one named writer, in their order, over one connection after another.

A write keeps its sequence and its batch until it has an outcome. When the connection breaks, or a write is refused in a
way that passes, all that have none are sent again over another connection; those that were stored are answered with
their first receipts. A refusal that does not pass is the end: what is stored are the first writes, without a hole.

Whoever has a write sends it, or leaves it to the thread that is sending; so writes that come meanwhile travel together.
One thread reads the answers, and opens the next connection.

Owns the connections and the sequences. Must never send other rows under a sequence that was sent.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from ..errors import Cancelled, DucktowerError, TimedOut, Unavailable, unknown
from ..protocol.commands import WRITES_PER_BATCH_MAX, error_from_body, parse_ack, writes_metadata
from ..protocol.status import from_flight, is_coded
from .forming import BYTES_PER_MESSAGE_MAX, MISFITS, ROWS_PER_MESSAGE_MAX, counted, formed, misfit
from .pending import PendingWrite, Receipt
from .retrying import hinted, waits

__all__ = ["WriterStream"]

_ENDS_THAT_PASS = (TimedOut, Cancelled)
"""How a server ends a stream that was idle, or whose client seemed to be gone; what is retryable passes as well."""


class _Link:
    """One connection: a DoExchange that has begun. One thread at a time sends, one reads."""

    def __init__(self, writer: Any, reader: Any) -> None:
        self._writer = writer
        self._reader = reader
        self._lock = threading.Lock()  # held while the writer is used

    def send(self, batch: pa.RecordBatch, metadata: bytes) -> bool:
        """Send a message; False when the connection is broken, of which the reader has the reason."""
        with self._lock:
            try:
                self._writer.write_with_metadata(batch, metadata)
            except (pa.ArrowException, OSError):
                return False
            return True

    def read(self) -> bytes | DucktowerError | None:
        """Return the next message, why there is none, or None at an end in order."""
        try:
            raw = self._reader.read_chunk().app_metadata
        except StopIteration:
            return None
        except (pa.ArrowException, OSError) as error:
            found = from_flight(error)
            return found if is_coded(error) else Unavailable(found.message)
        return b"{}" if raw is None else bytes(raw.to_pybytes())

    def finish(self) -> None:
        """Say that nothing more will be sent; the answers still come."""
        with self._lock, contextlib.suppress(pa.ArrowException, OSError):
            self._writer.done_writing()

    def cut(self) -> None:
        """End it at once: whoever sends or reads returns."""
        self._reader.cancel()

    def close(self) -> None:
        """Let go of it, once its reader is at its end."""
        with self._lock, contextlib.suppress(pa.ArrowException, OSError):
            self._writer.close()


class WriterStream:
    """The stream; safe from any thread. `start` opens a DoExchange, `sequence` is the last one that was stored."""

    over = None  # an appender need not look for another one

    def __init__(
        self,
        name: str,
        schema: pa.Schema,
        start: Callable[[pa.Schema], tuple[Any, Any]],
        sequence: int,
        resume_seconds: float,
    ) -> None:
        self.schema = schema
        self._integers = counted(schema)
        self._name = name
        self._start = start
        self._resume_seconds = resume_seconds
        # Guarded by _lock: everything below. Waited on by the reading thread, while there is no connection.
        self._lock = threading.Lock()
        self._moved = threading.Condition(self._lock)
        self.stopped: DucktowerError | None = None
        self._queue: deque[PendingWrite] = deque()
        self._in_flight: dict[int, PendingWrite] = {}  # by sequence, in order; what is queued comes behind
        self._refusals: dict[int, DucktowerError] = {}
        self._last = sequence  # given to a write
        self._sent = sequence  # the last one that ever left
        self._sending = False
        self._ending = False
        self._pauses = waits()
        self._give_up_at: float | None = None  # since something could not be sent, until something is stored
        self._link: _Link | None = self._open()
        self._thread = threading.Thread(target=self._run, args=(self._link,), name="ducktower-writer", daemon=True)
        self._thread.start()

    # -- sending --------------------------------------------------------------------------------------

    def send(self, write: PendingWrite) -> None:
        """Give a write the next sequence and have it sent as soon as it may."""
        try:
            batch = formed(write._data, self.schema, self._integers)
        except MISFITS as error:
            with self._lock:
                self._refuse([write], misfit(self.schema, write._data, error))
            return
        with self._lock:
            if self.stopped is not None or self._ending:
                self._settle(write, self.stopped or Unavailable("the stream has ended; the rows were not sent"))
                return
            self._last += 1
            write.sequence, write._data = self._last, batch
            self._queue.append(write)
            self._moved.notify()
        self._send_queued()

    def _send_queued(self) -> None:
        with self._lock:
            if self._sending:
                return
            self._sending = True
        link = None
        try:
            while message := self._next_message():
                link, batches, metadata = message
                if not link.send(batches[0] if len(batches) == 1 else pa.concat_batches(batches), metadata):
                    self._drop(link)
        except BaseException:  # Ctrl-C: what was taken is sent again
            if link is not None:
                self._drop(link)
            with self._lock:
                self._sending = False
            raise

    def _next_message(self) -> tuple[_Link, list[pa.RecordBatch], bytes] | None:
        """Take what travels in the next message and put it in flight; None when nothing can be sent now."""
        with self._lock:
            if self._link is None or not self._queue:
                self._sending = False
                return None
            taken: list[PendingWrite] = []
            rows = nbytes = 0
            while self._queue and len(taken) < WRITES_PER_BATCH_MAX:
                batch = self._queue[0]._data
                rows, nbytes = rows + batch.num_rows, nbytes + batch.nbytes
                if taken and (rows > ROWS_PER_MESSAGE_MAX or nbytes > BYTES_PER_MESSAGE_MAX):
                    break
                taken.append(self._queue.popleft())
            for write in taken:
                self._in_flight[write.sequence] = write
            self._sent = max(self._sent, taken[-1].sequence)
            return (
                self._link,
                [write._data for write in taken],
                writes_metadata(taken[0].sequence, [write.rows for write in taken]),
            )

    def _drop(self, link: _Link) -> None:
        with self._lock:
            if self._link is link:
                self._link = None
        link.cut()

    # -- waiting --------------------------------------------------------------------------------------

    def wait(self, write: PendingWrite, timeout_seconds: float | None = None) -> None:
        """Return once the write has its outcome. Raises TimedOut."""
        if write._outcome is not None:
            return
        if not write._wake.acquire(timeout=-1 if timeout_seconds is None else timeout_seconds):
            raise TimedOut(f"no acknowledgement within {timeout_seconds:g} seconds; the write may still be stored")
        write._wake.release()  # for the next who waits for the same write

    def left_waiting(self) -> bool:
        """Whether nobody reads: there is always a thread that does."""
        return False

    def unheard(self) -> bool:
        """Whether nobody reads: there is always a thread that does."""
        return False

    def listen(self, now: float) -> None:
        """Do nothing: it is read."""

    def start_reading(self) -> None:
        """Do nothing: it is read."""

    def leave(self) -> None:
        """End the stream, once what was sent has its outcome; what could not be sent by then is given up."""
        with self._lock:
            self._ending = True
            link = self._link
            self._moved.notify()
        if link is not None:
            link.finish()
        self._thread.join()

    # -- the reading thread ---------------------------------------------------------------------------

    def _run(self, first: _Link) -> None:
        link: _Link | None = first
        while link is not None:
            why = self._read(link)
            link.cut()
            link.close()
            with self._lock:
                self._link = None
                if why is None:
                    return
                if not (why.retryable or isinstance(why, _ENDS_THAT_PASS)):
                    self._give_up(why)
                    return
                self._queue.extendleft(reversed(self._in_flight.values()))
                self._in_flight.clear()
                self._refusals.clear()
            link = self._another(why)

    def _read(self, link: _Link) -> DucktowerError | None:
        """Settle what is answered until the connection is at its end; return why it is, None when it was in order."""
        while True:
            answer = link.read()
            with self._lock:
                if answer is None:
                    in_order = self._ending and not self._in_flight and not self._queue
                    return None if in_order else Unavailable("the server ended the stream")
                if isinstance(answer, DucktowerError):
                    return answer
                end = self._answered(answer)
            if end is not None:
                return end

    def _answered(self, answer: bytes) -> DucktowerError | None:
        """Settle what one message answers; return why no more of them is to be read. The lock is held."""
        acknowledged = parse_ack(answer)
        if acknowledged is not None:
            first, last, commit = acknowledged
            for sequence in range(first, last + 1):
                write = self._in_flight.pop(sequence, None)
                if write is not None:
                    self._settle(write, Receipt(write.rows, commit))
            self._pauses, self._give_up_at = waits(), None
        else:
            message = json.loads(answer)
            refusal = error_from_body(message.get("error"))
            if message.get("sequence") is None:
                return refusal
            self._refusals[message["sequence"]] = refusal
        # Refusals may overtake the receipts of what was sent before: the first write without an outcome decides.
        first_open = next(iter(self._in_flight), None)
        refused = None if first_open is None else self._refusals.get(first_open)
        if refused is not None and not refused.retryable:
            self._refuse([*self._in_flight.values(), *self._queue], refused)
        return refused

    def _another(self, why: DucktowerError) -> _Link | None:
        """Open the next connection, once there is something to send; None when that was given up."""
        while True:
            with self._lock:
                self._moved.wait_for(lambda: self._queue or self._ending)
                if self._give_up_at is None:
                    self._give_up_at = time.monotonic() + self._resume_seconds
                wait = hinted(why, next(self._pauses))
                if self._ending or time.monotonic() + wait > self._give_up_at:
                    self._give_up(why)
                    return None
                self._moved.wait_for(lambda: self._ending, wait)
            try:
                link = self._open()
            except DucktowerError as error:
                why = error
                if why.retryable:
                    continue
                with self._lock:
                    self._give_up(why)
                return None
            with self._lock:
                self._link = link
            # Not by this thread: it must read while a full connection takes nothing more.
            threading.Thread(target=self._send_queued, name="ducktower-writer-send", daemon=True).start()
            return link

    def _open(self) -> _Link:
        return _Link(*self._start(self.schema))

    # -- outcomes, with the lock held -----------------------------------------------------------------

    def _settle(self, write: PendingWrite, outcome: Receipt | DucktowerError) -> None:
        if write._appender is not None:
            write._appender._settled(write, outcome)  # takes the lock of its own outcomes, under which it takes none
        write._settle(outcome)

    def _refuse(self, writes: list[PendingWrite], refusal: DucktowerError) -> None:
        """Settle a refused write, and those behind it, which cannot be stored without it."""
        stopped = type(refusal)(f'writer "{self._name}" stopped at a write that was refused: {refusal.message}')
        self.stopped = self.stopped or stopped
        for write in writes:
            self._in_flight.pop(write.sequence, None)
            self._settle(write, refusal if write is writes[0] else stopped)
        if len(writes) > 1:
            self._queue.clear()

    def _give_up(self, why: DucktowerError) -> None:
        """Settle what cannot be sent any more. What ever left may be stored."""
        lost = [*self._in_flight.values(), *self._queue]
        self._in_flight.clear()
        self._queue.clear()
        self.stopped = self.stopped or type(why)(f'writer "{self._name}" stopped: {why.message}')
        for write in lost:
            if write.sequence <= self._sent:
                note = "whether the rows were stored is not known, resume the writer to find out"
                self._settle(write, unknown(type(why)(f"{why.message}; {note}")))
            else:
                self._settle(write, type(why)(f"{why.message}; the rows were not sent"))
