"""An appender: rows are appended one at a time, writes are kept in flight, each durably acknowledged.

Rows gather in a buffer. It is sent as one write when it is full, when its first row waited for `linger_seconds`, or
at once when somebody waits for its acknowledgement. Up to `writes_in_flight` writes are on their way; past that
`append` waits, and so feels the back-pressure.

Owns the buffer and what its user was told. Must never touch the wire: its stream does, which it may share with
other appenders of the client.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import pyarrow as pa

from ..arrow_types import plain_type
from ..errors import DucktowerError, InvalidArgument, SchemaMismatch, TimedOut, Unavailable, unknown
from .clock import clock
from .pending import PendingWrite, Receipt, Stream, WriterState

__all__ = ["Appender"]


class Appender:
    """Made by `FlightClient.appender`. A context manager; safe from any thread."""

    def __init__(
        self,
        join: Callable[[pa.Schema], Stream],
        schema: pa.Schema,
        columns: list[str] | None,
        *,
        label: str,
        linger_seconds: float,
        rows_per_write: int,
        writes_in_flight: int,
        resumed: WriterState | None = None,
    ) -> None:
        if rows_per_write < 1 or writes_in_flight < 1 or linger_seconds < 0:
            raise InvalidArgument("rows_per_write and writes_in_flight must be above 0, linger_seconds not below 0")
        self.resumed = resumed
        """How far the writer was when this appender was opened; None without a writer."""
        self._join = join
        self._table_schema = schema
        self._label = label
        self._linger_seconds = linger_seconds
        self._rows_per_write = rows_per_write
        self._writes_in_flight = writes_in_flight
        # Held while a write is taken from the buffer and given to the stream, so that writes leave in the order of
        # appending. Order of locks: _send_lock, _lock, the stream's, _outcomes.
        self._send_lock = threading.Lock()
        # Guarded by _lock: what is appended, down to _closed. The stream is set with the columns, and by the holder of
        # _send_lock when it has broken.
        self._lock = threading.Lock()
        self._stream: Stream | None = None
        self._names: frozenset[str] = frozenset()
        self._rows: list[Mapping[str, Any]] = []
        self._open: PendingWrite | None = None
        self._open_since = 0.0
        self._overdue: threading.Event | None = None  # set once there is a thread that sends what is overdue
        self._closed = False
        # Guarded by _outcomes: what came of it.
        self._outcomes = threading.Lock()
        self._unanswered: dict[int, PendingWrite] = {}  # by id(write), in the order of sending
        self._acknowledged_rows = 0
        self._failed: list[PendingWrite] = []  # refused writes that nobody was told of
        if columns is not None:
            self._choose(columns)
        clock.join(self)

    @property
    def acknowledged_rows(self) -> int:
        """Rows whose durable acknowledgement was read."""
        return self._acknowledged_rows

    def append(self, row: Mapping[str, Any]) -> PendingWrite:
        """Add a row; it is sent within `linger_seconds` and a tick of 2 ms.

        The first row's keys choose the columns, unless `columns` did; columns that are not chosen get their
        default, a key that a later row lacks is NULL. Raises SchemaMismatch for another key, and, once, the
        error of an earlier write that was refused, or lost with its connection, and that nobody waited for. After a
        broken connection the next write opens another one.
        """
        with self._lock:
            self._check()
            if self._stream is None:
                self._choose(list(row))
            if not row.keys() <= self._names:
                unknown = next(name for name in row if name not in self._names)
                raise SchemaMismatch(
                    f'column "{unknown}" is none of this appender\'s: {", ".join(sorted(self._names))}'
                )
            write = self._open
            if write is None:
                write = self._open = PendingWrite(self)
                self._open_since = time.monotonic()
            self._rows.append(dict(row))  # the caller may use its own again
            write.rows += 1
            full = write.rows >= self._rows_per_write
        if full:
            self._send()
        elif clock.resting:
            clock.wake()
        return write

    def write(self, batch: pa.RecordBatch) -> PendingWrite:
        """Send a record batch as one write, now; rows appended before it are sent before it.

        All batches and rows of one appender must have the same columns.
        """
        with self._lock:
            self._check()
            schema = batch.schema.remove_metadata()
            if self._stream is None:
                self._begin(schema)
            elif schema != self._stream.schema:
                raise SchemaMismatch(f"the batch's columns are not this appender's: {self._stream.schema.names}")
        write = PendingWrite(self, batch.replace_schema_metadata(None))
        write.rows = batch.num_rows
        with self._send_lock:
            self._send_open()
            self._wait_for_room()
            self._give(write)
        return write

    def flush(self) -> None:
        """Send what is buffered and wait until everything is acknowledged.

        Raises the error of a write that was refused and that nobody waited for.
        """
        self._send()
        with self._outcomes:
            waiting = list(self._unanswered.values())
        for write in waiting:
            _stream_of(write).wait(write)
        self._raise_failure()

    def close(self) -> None:
        """Flush and leave the stream. Twice is harmless. Raises as `flush` does."""
        with self._lock:
            if self._closed:
                return
            self._closed = True  # first: what is appended from now on is refused, not left behind
            overdue = self._overdue
        try:
            self.flush()
        finally:
            if overdue is not None:
                overdue.set()
            if self._stream is not None:
                self._stream.leave()

    def __enter__(self) -> Appender:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DucktowerError:
            if kind is None:
                raise

    # -- the columns ----------------------------------------------------------------------------------

    def _choose(self, columns: list[str]) -> None:
        """Fix the columns. The stream's schema cannot change later."""
        by_name = {name.lower(): self._table_schema.field(i) for i, name in enumerate(self._table_schema.names)}
        fields = []
        for name in columns:
            field = by_name.get(name.lower())
            if field is None:
                known = ", ".join(f'"{known}"' for known in self._table_schema.names[:20])
                raise SchemaMismatch(f'column "{name}" is not in table "{self._label}", which has {known}')
            fields.append(pa.field(name, plain_type(field.type)))
        if not fields:
            raise SchemaMismatch(f'no column was given for table "{self._label}"')
        self._begin(pa.schema(fields))

    def _begin(self, schema: pa.Schema) -> None:
        self._stream = self._join(schema)
        self._names = frozenset(schema.names)
        if clock.resting:
            clock.wake()  # it has the stream listened to

    # -- sending --------------------------------------------------------------------------------------

    def _send(self, deadline: float | None = None) -> None:
        """Send the buffer, if there is anything in it. Raises TimedOut when there is no room for it by `deadline`."""
        if not self._send_lock.acquire(timeout=-1 if deadline is None else _until(deadline)):
            raise TimedOut("other rows of this appender wait to be sent")
        try:
            self._send_open(deadline)
        finally:
            self._send_lock.release()

    def _send_open(self, deadline: float | None = None) -> None:
        """Do so with _send_lock held."""
        self._wait_for_room(deadline)  # first: who is interrupted while waiting must not have taken the rows
        with self._lock:
            write, rows = self._open, self._rows
            self._open, self._rows = None, []
        if write is not None:
            write._data = rows
            self._give(write)

    def _give(self, write: PendingWrite) -> None:
        """Give one write to the stream, for which there is room. _send_lock is held."""
        stream = self._stream
        assert stream is not None  # noqa: S101 - there are columns, so there is a stream
        if stream.over is not None:
            try:
                stream = self._another(stream)
            except DucktowerError as error:
                self._settled(write, error)
                write._settle(error)
                return
        write._stream = stream
        with self._outcomes:
            self._unanswered[id(write)] = write
        stream.send(write)
        if clock.resting:
            clock.wake()

    def _another(self, over: Stream) -> Stream:
        """Take another stream in the place of one that is over, once what is in flight in that one has its outcome."""
        self._stream = stream = self._join(over.schema)
        over.leave()
        if self._overdue is not None:
            stream.start_reading()
        return stream

    def _wait_for_room(self, deadline: float | None = None) -> None:
        """Wait until another write may be on its way. Only the holder of _send_lock adds any."""
        while True:
            with self._outcomes:
                if len(self._unanswered) < self._writes_in_flight:
                    return
                oldest = next(iter(self._unanswered.values()))
            _stream_of(oldest).wait(oldest, None if deadline is None else _until(deadline))

    def _complete(self, write: PendingWrite, timeout_seconds: float | None) -> None:
        """Return once the write has its outcome. Raises TimedOut; the time until it is sent counts too."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        try:
            if write._stream is None:  # in the buffer, or in the hands of another thread that holds _send_lock
                self._send(deadline)
            if write._outcome is None:
                _stream_of(write).wait(write, None if deadline is None else _until(deadline))
        except TimedOut:
            text = f"no acknowledgement within {timeout_seconds:g} seconds; the write may still be stored"
            raise unknown(TimedOut(text)) from None

    # -- outcomes -------------------------------------------------------------------------------------

    def _settled(self, write: PendingWrite, outcome: Receipt | DucktowerError) -> None:
        """Learn what came of a write. Called with its stream's lock; takes no other than its own."""
        with self._outcomes:
            self._unanswered.pop(id(write), None)
            if isinstance(outcome, Receipt):
                self._acknowledged_rows += outcome.rows
            else:
                self._failed.append(write)

    def _reported(self, write: PendingWrite) -> None:
        with self._outcomes:
            if write in self._failed:
                self._failed.remove(write)

    def _check(self) -> None:
        """Raise what nobody was told of yet, or that the appender is closed."""
        if self._failed:
            self._raise_failure()
        if self._closed:
            raise InvalidArgument("the appender is closed")
        if self._stream is not None and self._stream.stopped is not None:
            raise self._stream.stopped

    def _raise_failure(self) -> None:
        with self._outcomes:
            failed, self._failed = self._failed, []
        if failed:
            error = failed[0]._outcome
            assert isinstance(error, DucktowerError)  # noqa: S101 - that is why it is in the list
            rest = f" ({len(failed) - 1} further writes were refused)" if len(failed) > 1 else ""
            told = type(error)(error.message + rest, retry_after_seconds=error.retry_after_seconds)
            told.outcome_unknown = any(_is_unknown(write) for write in failed)
            raise told

    # -- rows that are left to themselves -------------------------------------------------------------

    def _attended(self) -> bool:
        """Whether nothing is buffered here, and somebody listens to the server."""
        return self._open is None and (self._stream is None or not self._stream.unheard())

    def _look(self, now: float) -> bool:
        """Have the sender send rows that waited long enough; True when there is anything to watch."""
        stream = self._stream
        if stream is not None and stream.left_waiting():
            stream.start_reading()
            return True
        if self._open is not None and now - self._open_since >= self._linger_seconds:
            self._start_sender()
            if self._overdue is not None:
                self._overdue.set()
        elif stream is not None:
            stream.listen(now)
        return not self._attended()

    def _start_sender(self) -> None:
        with self._lock:
            if self._overdue is not None or self._closed or self._stream is None:
                return
            self._overdue = threading.Event()
        try:
            self._stream.start_reading()
            threading.Thread(target=self._send_overdue, name="ducktower-appender-send", daemon=True).start()
        except BaseException:
            with self._lock:
                self._overdue = None  # there is no thread: the next look tries again
            raise

    def _send_overdue(self) -> None:
        overdue = self._overdue
        assert overdue is not None  # noqa: S101 - this thread is started after it is set
        while not self._closed:
            overdue.wait()
            overdue.clear()
            if self._open is not None and time.monotonic() - self._open_since >= self._linger_seconds:
                self._send()


def _stream_of(write: PendingWrite) -> Stream:
    stream = write._stream
    if stream is None:
        raise Unavailable("sending was interrupted; the rows were not sent")
    return stream


def _is_unknown(write: PendingWrite) -> bool:
    return isinstance(write._outcome, DucktowerError) and write._outcome.outcome_unknown


def _until(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
