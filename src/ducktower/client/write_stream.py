"""One DoExchange of small writes, shared by the appenders of a client that write the same columns of a table.

A lone write leaves at once. While messages are in flight further writes gather, and leave as one message that carries
them all when one of those was answered; it is answered by one message, too. So the writes that a message carries grow
with the load, as the server's groups do, and the cost of a message is shared. (A write that gathers would otherwise
wait in the server's queue: its group is the next one either way.)

Who does what:
- whoever has a write sends it, or leaves it to the thread that is sending, or to the one that reads the next answer;
- whoever waits for an outcome reads acknowledgements, its own and those of others, and hands the reading on when it
  has what it waited for. That saves two thread switches for each write that is waited for;
- a thread reads only when somebody waits with a limit, or nobody waits at all; and one answer, when nothing happens in
  the stream: the server may end it, and is then answered by its end.

Must never send a write twice: when the stream breaks, what was in flight has an unknown outcome, and says so. An
appender then takes another stream for what it sends from then on.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

import pyarrow as pa

from ..errors import DucktowerError, Overloaded, TimedOut, Unavailable
from ..protocol.commands import WRITES_PER_BATCH_MAX, error_from_body, parse_ack, writes_metadata
from ..protocol.status import from_flight, is_coded, never_sent
from .clock import clock
from .forming import BYTES_PER_MESSAGE_MAX, MISFITS, ROWS_PER_MESSAGE_MAX, counted, formed, misfit
from .pending import Message, PendingWrite, Receipt

__all__ = ["WriteStream", "WriteStreams"]

_TURNS_GIVEN = 2
_QUIET_SECONDS = 0.5
"""Without a message for so long a stream is listened to by a thread of its own."""


class WriteStream:
    """The stream; safe from any thread. Made and shared by `WriteStreams`."""

    stopped = None  # another stream can always be taken in this one's place

    def __init__(self, writer: Any, reader: Any, schema: pa.Schema, left: Callable[[WriteStream], bool]) -> None:
        self.schema = schema
        self._counted = counted(schema)
        self._writer = writer
        self._reader = reader
        self._left = left  # takes one user off; True for the last one
        self.lock = threading.Lock()
        # Told when a message leaves or a write is settled without one: the reading thread waits for that, because
        # an answer that nobody owes never comes.
        self._moved = threading.Condition(self.lock)
        # Guarded by lock: everything below, and the outcomes of all writes of the stream.
        self._queue: deque[PendingWrite] = deque()
        self._queued_rows = 0
        self._sending = False
        self._company = 1  # how many writes the last message carried
        self._in_flight: dict[int, PendingWrite] = {}
        self._messages = 0  # of those in flight
        self._sequence = 0
        self._reading = False
        self._heirs: deque[PendingWrite] = deque()  # waited for by threads that can take the reading over
        self._heir: PendingWrite | None = None  # the one whose thread was woken to read and does not know it yet
        self._thread: threading.Thread | None = None
        self._ending = False
        self._half_closed = False
        self._admitted = False  # whether the server has said anything in the stream
        self._parting: DucktowerError | None = None  # why the stream ends; nothing more is sent then
        self._quiet_since = time.monotonic()
        self.broken: DucktowerError | None = None
        self._over = PendingWrite(None)  # settled when the stream has ended
        self._writer.begin(schema)
        # The listening thread holds the reader alone: a stream that everybody has forgotten ends.
        weakref.finalize(self, self._reader.cancel).atexit = False

    # -- sending --------------------------------------------------------------------------------------

    def send(self, write: PendingWrite) -> None:
        """Have a write sent as soon as it may. Writes leave in order."""
        with self.lock:
            if self.over is not None or self._ending:
                self._settle(write, _unsent(self._parting or Unavailable("the stream has ended"), write.rows))
                return
            self._queue.append(write)
            self._queued_rows += write.rows
        self._send_queued()

    def _send_queued(self) -> None:
        """Send what is queued, unless somebody does or enough is in flight."""
        with self.lock:
            if self._sending or not self._may_send():
                return
            self._sending = True
        try:
            self._let_others_queue()
            while message := self._next_message():
                self._writer.write_with_metadata(*message)
        except (pa.ArrowException, OSError) as error:
            self._break(error, sending=False)
        except BaseException:
            self._break(Unavailable("sending was interrupted"), sending=False)
            raise
        if self._parting is not None:
            self._half_close()

    def _let_others_queue(self) -> None:
        """Give way to threads whose last writes went with this one's and were answered with it, if they can run now.

        That takes no time when they cannot, and never happens to a lone writer.
        """
        if self._company > 1:
            for _ in range(_TURNS_GIVEN):
                time.sleep(0)

    def _may_send(self) -> bool:
        """Whether a message may leave: the only one in flight, or a full one. The lock is held."""
        if not self._messages:
            return bool(self._queue)
        return len(self._queue) >= WRITES_PER_BATCH_MAX or self._queued_rows >= ROWS_PER_MESSAGE_MAX

    def _next_message(self) -> tuple[pa.RecordBatch, bytes] | None:
        """Take queued writes, form their message, put them in flight; None when nothing may be sent now."""
        while True:
            with self.lock:
                if not self._may_send():
                    self._sending = False
                    return None
                taken = self._taken()
            try:
                batch, writes = self._formed(taken)
            except BaseException:
                with self.lock:
                    self._queue.extendleft(reversed(taken))  # only to be told with the others that it was not sent
                raise
            if batch is None:
                continue  # all were refused
            batch, writes = self._fitting(batch, writes)
            with self.lock:
                if self.broken is not None:
                    for write in writes:
                        self._settle(write, self.broken)
                    continue
                first = self._sequence + 1
                message = Message(len(writes))
                self._messages += 1
                self._quiet_since = time.monotonic()
                self._moved.notify_all()
                for write in writes:
                    self._sequence += 1
                    write.sequence = self._sequence
                    write._message = message
                    self._in_flight[self._sequence] = write
            return batch, writes_metadata(first, [write.rows for write in writes])

    def _taken(self) -> list[PendingWrite]:
        """Take the next write, and those that can travel with it. The lock is held."""
        taken = [self._queue.popleft()]
        rows = taken[0].rows
        while self._queue and len(taken) < WRITES_PER_BATCH_MAX:
            if rows + self._queue[0].rows > ROWS_PER_MESSAGE_MAX:
                break
            taken.append(self._queue.popleft())
            rows += taken[-1].rows
        self._queued_rows -= rows
        self._company = len(taken)
        return taken

    def _formed(self, taken: list[PendingWrite]) -> tuple[pa.RecordBatch | None, list[PendingWrite]]:
        """Make one batch of the writes' rows. Writes whose rows do not fit are refused and left out."""
        if not any(isinstance(write._data, pa.RecordBatch) for write in taken):
            rows = taken[0]._data if len(taken) == 1 else [row for write in taken for row in write._data]
            with contextlib.suppress(*MISFITS):
                return formed(rows, self.schema, self._counted), taken
        batches, fitting = [], []
        for write in taken:
            try:
                batches.append(formed(write._data, self.schema, self._counted))
                fitting.append(write)
            except MISFITS as error:
                refusal = misfit(self.schema, write._data, error)
                with self.lock:
                    self._settle(write, refusal)
        if len(batches) > 1:
            return pa.concat_batches(batches), fitting
        return (batches[0] if batches else None), fitting

    def _fitting(self, batch: pa.RecordBatch, writes: list[PendingWrite]) -> tuple[pa.RecordBatch, list[PendingWrite]]:
        """Leave the last writes for the next message while this one has too many bytes."""
        while len(writes) > 1 and batch.nbytes > BYTES_PER_MESSAGE_MAX:
            middle = len(writes) // 2
            writes, later = writes[:middle], writes[middle:]
            batch = batch.slice(0, sum(write.rows for write in writes))
            with self.lock:
                self._queue.extendleft(reversed(later))
                self._queued_rows += sum(write.rows for write in later)
        return batch, writes

    # -- waiting and reading --------------------------------------------------------------------------

    def wait(self, write: PendingWrite, timeout_seconds: float | None = None) -> None:
        """Return once the write has its outcome. Raises TimedOut."""
        if timeout_seconds is not None:
            self._wait_at_most(write, timeout_seconds)
            return
        with self.lock:
            if write._outcome is not None:
                return
            reads = not self._reading
            self._reading = True
            if not reads and (self._thread is None or write is self._over):
                self._heirs.append(write)
        if not reads:
            try:
                write._wake.acquire()
            except BaseException:  # Ctrl-C: this thread will not read
                with self.lock:
                    self._no_heir(write)
                    given = self._given_to(write)
                if given:
                    self._hand_on()
                raise
            reads = self._woken(write)
        if reads:
            try:
                while write._outcome is None:
                    self._send_queued()
                    if self._is_owed(write):
                        self._read_one()
            finally:
                self._hand_on()

    def _is_owed(self, write: PendingWrite) -> bool:
        """Wait until an answer is on its way, for the reading thread; False when `write` has its outcome by then."""
        with self.lock:
            while write._outcome is None:
                if self._messages or write is self._over:
                    return True
                self._moved.wait()
        return False

    def _wait_at_most(self, write: PendingWrite, timeout_seconds: float) -> None:
        """Wait with a limit. A read cannot be given up, so the thread reads."""
        self.start_reading()
        deadline = time.monotonic() + timeout_seconds
        while write._wake.acquire(timeout=max(0.0, deadline - time.monotonic())):
            if self._woken(write):
                self._hand_on()  # another who waits for the same write was meant to read
            if write._outcome is not None:
                return
        raise TimedOut(f"no acknowledgement within {timeout_seconds:g} seconds; the write may still be stored")

    def _woken(self, write: PendingWrite) -> bool:
        """Find out why a thread that waited for `write` was woken; True when it is to read for the others."""
        with self.lock:
            given = self._given_to(write)
            if write._outcome is None:
                write._woken = False
                return given
            write._wake.release()  # for the next who waits for the same write
            self._no_heir(write)
        if given:  # its outcome came from elsewhere in the meantime: a sender refused it
            self._hand_on()
        return False

    def _given_to(self, write: PendingWrite) -> bool:
        """Whether the reading was given to who waits for `write`; it is taken then. The lock is held."""
        given = self._heir is write
        if given:
            self._heir = None
        return given

    def _no_heir(self, write: PendingWrite) -> None:
        with contextlib.suppress(ValueError):
            self._heirs.remove(write)

    @property
    def over(self) -> DucktowerError | None:
        """Why it takes no more writes, or None while it does."""
        return self.broken or self._parting

    def left_waiting(self) -> bool:
        """Whether writes wait to be sent and nobody reads the answer that they wait for."""
        return bool(self._queue) and self.unheard()

    def unheard(self) -> bool:
        """Whether nobody reads, although the server may say something."""
        return not self._reading and self._thread is None and self.broken is None and not self._ending

    def listen(self, now: float) -> None:
        """Have one answer read when nothing has been sent for a while: the server's word that it ends the stream."""
        if now - self._quiet_since < _QUIET_SECONDS:
            return
        with self.lock:
            if not self.unheard():
                return
            listening = threading.Thread(
                target=_listen, args=(weakref.ref(self), self._reader), name="ducktower-appender-listen", daemon=True
            )
            self._reading = True
            try:
                listening.start()
            except BaseException:
                self._reading = False  # there is no thread: the next look tries again
                raise

    def start_reading(self) -> None:
        """Have acknowledgements read although nobody waits for them."""
        with self.lock:
            if self._thread is not None or self.broken is not None:
                return
            thread = threading.Thread(target=self.wait, args=(self._over,), name="ducktower-appender-read", daemon=True)
            thread.start()
            self._thread = thread  # not before: who cannot start one now may try again

    def _hand_on(self) -> None:
        """Let a thread that still waits read on."""
        with self.lock:
            while self._heirs:
                heir = self._heirs.popleft()
                if heir._outcome is None:
                    self._heir = heir
                    heir._wake_up()
                    return
            self._reading = False
            left = bool(self._queue)
        if left or clock.resting:
            clock.wake()  # nobody waits for what is queued, or listens: it has that done

    def _read_one(self) -> None:
        """Read one message and settle what it answers. Called by the one thread that reads."""
        try:
            self._read()
        except BaseException:
            self._break(Unavailable("reading was interrupted"))  # the answer that was read then is lost
            raise

    def _read(self) -> None:
        self._take(_answer_of(self._reader))

    def _take(self, answer: bytes | BaseException | None) -> None:
        """Settle what an answer answers: None is the end of the stream, an exception its failure."""
        if answer is None:
            self._ended()
            return
        if isinstance(answer, BaseException):
            self._break(answer)
            return
        self._admitted = True
        acknowledged = parse_ack(answer)
        if acknowledged is not None:
            first, last, commit = acknowledged
            with self.lock:
                for sequence in range(first, last + 1):
                    write = self._in_flight.pop(sequence, None)
                    if write is not None:
                        self._settle(write, Receipt(write.rows, commit))
            return
        message = json.loads(answer)
        refusal = error_from_body(message.get("error"))
        if message.get("sequence") is None:
            self._part(refusal)
            return
        with self.lock:
            write = self._in_flight.pop(message["sequence"], None)
            if write is not None:
                self._settle(write, refusal)

    def _settle(self, write: PendingWrite, outcome: Receipt | DucktowerError) -> None:
        """Give a write its outcome. The lock is held."""
        message = write._message
        if message is None:
            self._moved.notify_all()
        else:
            message.unanswered -= 1
            self._messages -= not message.unanswered
        if write._appender is not None:
            write._appender._settled(write, outcome)  # takes the lock of its own outcomes, under which it takes none
        write._settle(outcome)

    # -- ending ---------------------------------------------------------------------------------------

    def leave(self) -> None:
        """Be one user less. The last one ends the stream, once all of its own writes have their outcome."""
        if not self._left(self):
            return
        with self.lock:
            self._ending = True
        try:
            self._half_close()
            self.wait(self._over)
            self._writer.close()
        except (pa.ArrowException, OSError) as error:
            self._break(error)

    def _ended(self) -> None:
        with self.lock:
            in_order = self._ending and not self._in_flight
            if in_order:
                self._over._settle(Receipt(0, 0))
        if not in_order:
            self._break(Unavailable("the server ended the stream"))

    def _half_close(self) -> None:
        """Say that nothing more will be sent. Called by the one who sends, or while nobody does."""
        with self.lock:
            if self._half_closed:
                return
            self._half_closed = True
        with contextlib.suppress(pa.ArrowException, OSError):  # of a broken stream, which whoever reads learns
            self._writer.done_writing()

    def _part(self, why: DucktowerError) -> None:
        """End the stream because the server asks for it, for a reason: so nothing that is in flight is in doubt.

        Called by the one thread that reads. The server answers what it has, and ends its side then.
        """
        with self.lock:
            if self._parting is not None:
                return
            self._parting = why
            self._quiet_since = time.monotonic()
            while self._queue:
                write = self._queue.popleft()
                self._settle(write, _unsent(why, write.rows))
            self._queued_rows = 0
            sending = self._sending  # then that thread half-closes the stream once it has sent what it took
        if not sending:
            self._half_close()
        while self.broken is None and self._over._outcome is None:
            self._read()

    def _break(self, cause: BaseException, *, sending: bool | None = None) -> None:
        """Give the stream up: what was sent and not answered has an unknown outcome.

        The thread that sends says with `sending` that it does no more.
        """
        found = cause if isinstance(cause, DucktowerError) else from_flight(cause)
        with self.lock:
            self._sending = self._sending if sending is None else sending
            if self.broken is not None or self._over._outcome is not None:
                return
            self._parting = found = self._parting or found
            in_flight, unsent = list(self._in_flight.values()), list(self._queue)
            self._in_flight.clear()
            self._queue.clear()
            self._queued_rows = 0
            rows = sum(write.rows for write in in_flight)
            refused = isinstance(found, Overloaded) and is_coded(cause) and not self._admitted
            lost = bool(in_flight) and not refused and not never_sent(cause)
            note = f"; whether the {rows} rows in flight were stored is not known" if lost else ""
            self.broken = type(found)(found.message + note, retry_after_seconds=found.retry_after_seconds)
            self.broken.outcome_unknown = lost
            for write in in_flight:
                self._settle(write, self.broken)
            for write in unsent:
                self._settle(write, _unsent(found, write.rows))
            self._over._settle(self.broken)
            self._moved.notify_all()


def _answer_of(reader: Any) -> bytes | BaseException | None:
    """Wait for one answer of the server's: None is the end of the stream, an exception its failure."""
    try:
        raw = reader.read_chunk().app_metadata
    except StopIteration:
        return None
    except (pa.ArrowException, OSError) as error:
        return error
    return raw.to_pybytes() if raw is not None else b"{}"


def _listen(stream: weakref.ref[WriteStream], reader: Any) -> None:
    """Read one answer for the stream, if there still is one by then. It has a thread of its own."""
    answer = _answer_of(reader)
    heard = stream()
    if heard is None:
        return
    try:
        heard._take(answer)
    finally:
        heard._hand_on()


def _unsent(why: DucktowerError, rows: int) -> DucktowerError:
    return type(why)(f"{why.message}; {rows} rows were not sent", retry_after_seconds=why.retry_after_seconds)


class WriteStreams:
    """The open streams of one client, by what they write; safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Guarded by _lock: the streams, and how many appenders use each.
        self._open: dict[Hashable, WriteStream] = {}
        self._users: dict[WriteStream, int] = {}

    def join(self, key: Hashable, schema: pa.Schema, start: Callable[[], tuple[Any, Any]]) -> WriteStream:
        """Return the stream for `key` and `schema`, opened by `start` when there is none that works."""
        with self._lock:
            stream = self._open.get((key, schema))
            if stream is None or stream.over is not None:
                stream = self._open[key, schema] = WriteStream(*start(), schema, self._leave)
                self._users[stream] = 0
            self._users[stream] += 1
            return stream

    def _leave(self, stream: WriteStream) -> bool:
        with self._lock:
            self._users[stream] -= 1
            if self._users[stream]:
                return False
            del self._users[stream]
            self._open = {key: other for key, other in self._open.items() if other is not stream}
            return True
