"""An open stream of small writes: rows are appended one at a time, writes are kept in flight, each acknowledged.

Rows gather in a buffer. It is sent as one write when it is full, when its first row waited for
`linger_seconds`, or at once when somebody waits for its acknowledgement. Up to `writes_in_flight` writes are
on their way; past that `append` waits.

Who does what:
- the appending thread sends full buffers, so that it feels the back-pressure;
- whoever waits in `result` or `flush` sends what is buffered and reads acknowledgements itself, which saves
  two thread switches for each write that is waited for;
- only when rows are left to themselves, two threads of the appender's are started: one sends what is overdue
  (one clock for all appenders of the process tells it), one reads acknowledgements.

Must never send a write twice: when the stream breaks, what was in flight has an unknown outcome, and says so.
"""

from __future__ import annotations

import json
import threading
import time
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa

from ..arrow_types import plain_type
from ..errors import DucktowerError, InvalidArgument, SchemaMismatch, TimedOut, Unavailable
from ..protocol.commands import error_from_body, parse_ack
from ..protocol.status import from_flight

__all__ = ["Appender", "PendingWrite", "Receipt"]


class Receipt(NamedTuple):
    """What a durable write is answered with: the rows it stored and the number of its commit."""

    rows: int
    commit: int


class PendingWrite:
    """A write that was begun. Rows that were sent together share one."""

    __slots__ = ("_appender", "_outcome", "_settled", "rows", "sequence")

    def __init__(self, appender: Appender) -> None:
        self._appender = appender
        self._outcome: Receipt | DucktowerError | None = None
        self._settled = threading.Lock()  # held until the outcome is there
        self._settled.acquire()
        self.rows = 0
        self.sequence = 0

    def done(self) -> bool:
        """Whether the outcome is known here already."""
        return self._outcome is not None

    def result(self, timeout_seconds: float | None = None) -> Receipt:
        """Wait for the durable acknowledgement; what is still buffered is sent at once.

        Raises what the server refused the write with, Unavailable when the stream broke (then it is not known
        whether the write was stored), TimedOut when the time is over (then it may still be stored).
        """
        if self._outcome is None:
            self._appender._complete(self, timeout_seconds)
        if isinstance(self._outcome, DucktowerError):
            self._appender._reported(self)
            raise self._outcome
        assert self._outcome is not None  # noqa: S101 - _complete raised otherwise
        return self._outcome

    def _settle(self, outcome: Receipt | DucktowerError) -> None:
        self._outcome = outcome
        self._settled.release()

    def _wait(self, timeout_seconds: float | None) -> bool:
        if self._settled.acquire(timeout=-1 if timeout_seconds is None else max(0.0, timeout_seconds)):
            self._settled.release()
            return True
        return False


class _Clock:
    """One thread for the process that wakes appenders whose rows waited long enough. It never sends."""

    _TICK_SECONDS = 0.002
    _REST_AFTER_SECONDS = 1.0

    def __init__(self) -> None:
        # Guarded by _lock. `resting` is read without it: at worst a row waits one tick longer.
        self._lock = threading.Condition()
        self._watched: weakref.WeakSet[Appender] = weakref.WeakSet()
        self._thread: threading.Thread | None = None
        self.resting = True

    def join(self, appender: Appender) -> None:
        """Look at this appender from now on, for as long as it lives."""
        with self._lock:
            self._watched.add(appender)

    def wake(self) -> None:
        """Go on looking: an appender has rows."""
        with self._lock:
            self.resting = False
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="ducktower-clock", daemon=True)
                self._thread.start()
            self._lock.notify()

    def _run(self) -> None:
        busy_at = time.monotonic()
        while True:
            time.sleep(self._TICK_SECONDS)
            now = time.monotonic()
            with self._lock:
                watched = list(self._watched)
            for appender in watched:
                if appender._look(now):
                    busy_at = now
            del watched
            if now - busy_at > self._REST_AFTER_SECONDS:
                with self._lock:
                    # An append may have come since the look: it saw `resting` unset and told nobody.
                    if any(appender._buffered() for appender in self._watched):
                        continue
                    self.resting = True
                    self._lock.wait()
                busy_at = time.monotonic()


_clock = _Clock()


class Appender:
    """Made by `FlightClient.appender`. A context manager; safe from any thread."""

    def __init__(
        self,
        writer: Any,
        reader: Any,
        schema: pa.Schema,
        columns: list[str] | None,
        *,
        label: str,
        linger_seconds: float,
        rows_per_write: int,
        writes_in_flight: int,
    ) -> None:
        if rows_per_write < 1 or writes_in_flight < 1 or linger_seconds < 0:
            raise InvalidArgument("rows_per_write and writes_in_flight must be above 0, linger_seconds not below 0")
        self._writer = writer
        self._reader = reader
        self._table_schema = schema
        self._label = label
        self._linger_seconds = linger_seconds
        self._rows_per_write = rows_per_write
        self._writes_in_flight = writes_in_flight
        # _send_lock: held while a write is formed and sent, so that writes leave in the order of appending.
        # _read_lock: held while one acknowledgement is read. Order: _send_lock, _read_lock, _lock.
        self._send_lock = threading.Lock()
        self._read_lock = threading.Lock()
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._schema: pa.Schema | None = None
        self._names: frozenset[str] = frozenset()
        self._rows: list[Mapping[str, Any]] = []
        self._open: PendingWrite | None = None
        self._open_since = 0.0
        self._in_flight: dict[int, PendingWrite] = {}
        self._sequence = 0
        self._acknowledged_rows = 0
        self._failed: list[PendingWrite] = []  # refused writes that nobody was told of
        self._broken: DucktowerError | None = None
        self._closed = False
        self._wake_sender: threading.Event | None = None  # set once the two threads are started
        self._room = threading.Condition(self._lock)  # the sending thread waits here for the reading thread
        if columns is not None:
            self._choose(columns)
        _clock.join(self)

    @property
    def acknowledged_rows(self) -> int:
        """Rows whose durable acknowledgement was read."""
        return self._acknowledged_rows

    def append(self, row: Mapping[str, Any]) -> PendingWrite:
        """Add a row; it is sent within `linger_seconds` and a tick of 2 ms.

        The first row's keys choose the columns, unless `columns` did; columns that are not chosen get their
        default, a key that a later row lacks is NULL. Raises SchemaMismatch for another key, and, once, the
        error of an earlier write that was refused and that nobody waited for.
        """
        with self._lock:
            if self._failed or self._broken is not None or self._closed:
                self._raise_failure()
            if self._schema is None:
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
        elif _clock.resting:
            _clock.wake()
        return write

    def write(self, batch: pa.RecordBatch) -> PendingWrite:
        """Send a record batch as one write, now; rows appended before it are sent before it.

        All batches and rows of one appender must have the same columns.
        """
        with self._lock:
            if self._failed or self._broken is not None or self._closed:
                self._raise_failure()
            if self._schema is None:
                self._schema = batch.schema.remove_metadata()
                self._names = frozenset(batch.schema.names)
                self._begin()
            elif batch.schema.remove_metadata() != self._schema:
                raise SchemaMismatch(f"the batch's columns are not this appender's: {self._schema.names}")
        self._send()
        write = PendingWrite(self)
        write.rows = batch.num_rows
        with self._send_lock:
            self._transmit(write, batch.replace_schema_metadata(None))
        return write

    def flush(self) -> None:
        """Send what is buffered and wait until everything is acknowledged.

        Raises the error of a write that was refused and that nobody waited for.
        """
        self._send()
        with self._lock:
            waiting = list(self._in_flight.values())
        for write in waiting:
            self._complete(write, None)
        with self._lock:
            if self._failed or self._broken is not None:
                self._raise_failure()

    def close(self) -> None:
        """Flush and end the stream. Twice is harmless. Raises as `flush` does."""
        with self._lock:
            if self._closed:
                return
        try:
            self.flush()
        finally:
            with self._lock:
                self._closed = True
                wake = self._wake_sender
            if wake is not None:
                wake.set()
            self._end()

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

    # -- forming and sending --------------------------------------------------------------------------

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
        self._schema = pa.schema(fields)
        self._names = frozenset(columns)
        self._begin()

    def _begin(self) -> None:
        try:
            self._writer.begin(self._schema)
        except (pa.ArrowException, OSError) as error:
            raise from_flight(error) from error

    def _send(self) -> None:
        """Send the buffer, if there is anything in it."""
        with self._send_lock:
            with self._lock:
                write, rows = self._open, self._rows
                self._open, self._rows = None, []
            if write is None:
                return
            try:
                batch = pa.RecordBatch.from_pylist(rows, schema=self._schema)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                self._refuse(write, self._misfit(rows, error))
                return
            self._transmit(write, batch)

    def _transmit(self, write: PendingWrite, batch: pa.RecordBatch) -> None:
        """Put one write on the wire. Called with _send_lock held."""
        self._wait_for_room()
        with self._lock:
            if self._broken is not None:
                write._settle(self._broken)
                return
            self._sequence += 1
            write.sequence = self._sequence
            self._in_flight[write.sequence] = write
        try:
            self._writer.write_with_metadata(batch, b"%d" % write.sequence)
        except (pa.ArrowException, OSError) as error:
            self._break(error)

    def _wait_for_room(self) -> None:
        with self._lock:
            if self._wake_sender is not None:
                self._room.wait_for(lambda: len(self._in_flight) < self._writes_in_flight or self._broken is not None)
                return
        while len(self._in_flight) >= self._writes_in_flight and self._broken is None:
            with self._read_lock:
                if len(self._in_flight) >= self._writes_in_flight:
                    self._read_one()

    def _misfit(self, rows: list[Mapping[str, Any]], error: Exception) -> SchemaMismatch:
        """Name the column and the value that the write was refused for."""
        for field in self._schema or ():
            for row in rows:
                try:
                    pa.array([row.get(field.name)], type=field.type)
                except (pa.ArrowException, TypeError, ValueError, OverflowError):
                    value = row.get(field.name)
                    shown = repr(value) if len(repr(value)) < 100 else repr(value)[:100] + "..."
                    return SchemaMismatch(
                        f'column "{field.name}": found {type(value).__name__} {shown}, wanted {field.type}'
                    )
        return SchemaMismatch(f"the rows do not fit the table's columns: {error}")

    # -- waiting and reading --------------------------------------------------------------------------

    def _complete(self, write: PendingWrite, timeout_seconds: float | None) -> None:
        """Return once the write has its outcome. Raises TimedOut."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        if write is self._open:
            self._send()
        with self._lock:
            threads = self._wake_sender is not None
        if not threads and deadline is None:
            while write._outcome is None:
                with self._read_lock:
                    if write._outcome is None:
                        self._read_one()
            return
        # A read cannot be given up, so who waits with a limit leaves the reading to the thread.
        self._start_threads()
        if not write._wait(None if deadline is None else deadline - time.monotonic()):
            raise TimedOut(f"no acknowledgement within {timeout_seconds:g} seconds; the write may still be stored")

    def _read_one(self) -> bool:
        """Read one message and settle what it answers; False when the stream ended. _read_lock is held."""
        if self._broken is not None:
            return False
        try:
            raw = self._reader.read_chunk().app_metadata
        except StopIteration:
            with self._lock:
                over = self._closed and not self._in_flight
            if not over:
                self._break(Unavailable("the server ended the stream"))
            return False
        except (pa.ArrowException, OSError) as error:
            self._break(error)
            return False
        answer = raw.to_pybytes() if raw is not None else b"{}"
        acknowledged = parse_ack(answer)
        outcome: Receipt | DucktowerError
        if acknowledged is not None:
            sequence, rows, commit = acknowledged
            outcome = Receipt(rows, commit)
        else:
            message = json.loads(answer)
            outcome = error_from_body(message.get("error"))
            if message.get("sequence") is None:
                self._break(outcome)
                return False
            sequence = message["sequence"]
        with self._lock:
            write = self._in_flight.pop(sequence, None)
            if write is None:
                return True
            if isinstance(outcome, Receipt):
                self._acknowledged_rows += outcome.rows
            else:
                self._failed.append(write)
            self._room.notify()
        write._settle(outcome)
        return True

    def _refuse(self, write: PendingWrite, error: DucktowerError) -> None:
        with self._lock:
            self._failed.append(write)
        write._settle(error)

    def _reported(self, write: PendingWrite) -> None:
        with self._lock:
            if write in self._failed:
                self._failed.remove(write)

    def _raise_failure(self) -> None:
        """Raise what nobody was told of yet. _lock is held."""
        if self._failed:
            write = self._failed.pop(0)
            rest = f" ({len(self._failed)} further writes were refused)" if self._failed else ""
            error = write._outcome
            self._failed.clear()
            assert isinstance(error, DucktowerError)  # noqa: S101 - that is why it is in the list
            raise type(error)(error.message + rest)
        if self._broken is not None:
            raise self._broken
        raise InvalidArgument("the appender is closed")

    def _break(self, cause: BaseException) -> None:
        """Give the stream up: what was sent and not answered has an unknown outcome."""
        found = cause if isinstance(cause, DucktowerError) else from_flight(cause)
        with self._lock:
            if self._broken is not None:
                return
            waiting = list(self._in_flight.values())
            unsent = self._open
            self._in_flight.clear()
            self._open, self._rows = None, []
            rows = sum(write.rows for write in waiting)
            note = f"; whether the {rows} rows in flight were stored is not known" if rows else ""
            if unsent is not None:
                note += f"; {unsent.rows} rows were not sent"
            self._broken = type(found)(found.message + note)
            self._room.notify_all()
        for write in waiting:
            write._settle(self._broken)
        if unsent is not None:
            unsent._settle(self._broken)

    def _end(self) -> None:
        try:
            self._writer.done_writing()
            with self._read_lock:
                while self._broken is None and self._read_one():
                    pass
            self._writer.close()
        except (pa.ArrowException, OSError) as error:
            if self._broken is None:
                self._break(error)

    # -- rows that are left to themselves -------------------------------------------------------------

    def _buffered(self) -> bool:
        return self._open is not None

    def _look(self, now: float) -> bool:
        """Have the sender send rows that waited long enough; True when there is anything to watch."""
        if self._open is None:
            return False
        if now - self._open_since >= self._linger_seconds:
            self._start_threads()
            if self._wake_sender is not None:
                self._wake_sender.set()
        return True

    def _start_threads(self) -> None:
        with self._lock:
            if self._wake_sender is not None or self._closed:
                return
            self._wake_sender = threading.Event()
        for name, run in (("send", self._send_overdue), ("read", self._read_all)):
            threading.Thread(target=run, name=f"ducktower-appender-{name}", daemon=True).start()

    def _send_overdue(self) -> None:
        wake = self._wake_sender
        assert wake is not None  # noqa: S101 - this thread is started after it is set
        while not self._closed:
            wake.wait()
            wake.clear()
            if self._open is not None and time.monotonic() - self._open_since >= self._linger_seconds:
                self._send()

    def _read_all(self) -> None:
        more = True
        while more:
            with self._read_lock:
                more = self._read_one()
