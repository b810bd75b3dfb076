"""The vignette's two loops: one that writes rows at a pace, one that asks a question at a pace.

Owns what they count and how they go on after a server's restart. Must never print: what is worth telling goes
to `tell`, for the commands and the demo to show in their own ways.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import DucktowerError
from ..monitor import Histogram
from .scenarios import Row, quoted
from .terminal import counted, error_line

if TYPE_CHECKING:
    import pyarrow as pa

    from ..client import Appender, FlightClient, PendingWrite

__all__ = ["CLIENT_RETRY_SECONDS", "Reader", "Writer"]

CLIENT_RETRY_SECONDS = 0.2
"""How long the client of a loop tries again by itself: the loops do so too, and tell of it."""

Tell = Callable[[str], None]

_UNACKNOWLEDGED_ROWS_MAX = 8192
_ROWS_PER_TURN_MAX = 256
_PAUSE_SECONDS = 0.001
_SETTLE_SECONDS = 0.004
"""A younger row is not waited for: the appender may still be forming the write that it belongs to."""
_ACKNOWLEDGED_SECONDS_MAX = 60.0
_BACKOFF_SECONDS = (0.1, 2.0)


class _Pace:
    """How many of something are due now, at so many a second; None is as many as possible."""

    def __init__(self, per_second: float | None) -> None:
        self._per_second = per_second
        self._started = time.monotonic()
        self._done = 0

    def due(self) -> int:
        """Return how many are due, at most as many as one turn may do."""
        if self._per_second is None:
            return _ROWS_PER_TURN_MAX
        behind = math.floor((time.monotonic() - self._started) * self._per_second) + 1 - self._done
        if behind > self._per_second and behind > _ROWS_PER_TURN_MAX:  # over a second late: do not catch up
            self._started = time.monotonic() - self._done / self._per_second
            return 1
        return min(behind, _ROWS_PER_TURN_MAX)

    def did(self, number: int) -> None:
        """Count `number` as done."""
        self._done += number

    def wait(self, stop: threading.Event) -> None:
        """Wait until the next is due, or `stop` is set."""
        if self._per_second is not None:
            ahead = self._started + self._done / self._per_second - time.monotonic()
            stop.wait(max(_PAUSE_SECONDS, ahead))


class _Patience:
    """Waits longer after each failure in a row; gives up after `seconds` of nothing but failures."""

    def __init__(self, seconds: float, stop: threading.Event) -> None:
        self._seconds = seconds
        self._stop = stop
        self._failing_since: float | None = None
        self._pause = _BACKOFF_SECONDS[0]

    def worked(self) -> bool:
        """Note a success; return whether it ended a row of failures."""
        ended = self._failing_since is not None
        self._failing_since = None
        self._pause = _BACKOFF_SECONDS[0]
        return ended

    def failed(self, error: DucktowerError) -> bool:
        """Wait after a failure; return whether it was the first in a row.

        Raises:
            DucktowerError: `error`, when it cannot be retried or has been for too long.
        """
        first = self._failing_since is None
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        if not error.retryable or time.monotonic() - self._failing_since > self._seconds:
            raise error
        self._stop.wait(self._pause)
        self._pause = min(_BACKOFF_SECONDS[1], self._pause * 2)
        return first


@dataclass(slots=True)
class _Sent:
    row: Row
    pending: PendingWrite
    at: float


class Writer:
    """Writes rows over one appender, at a pace, and counts those that were acknowledged.

    The thread in `run` appends; a second one waits for the acknowledgements. The counts may be read from any.
    """

    def __init__(
        self,
        client: FlightClient,
        table: str,
        rows: Iterator[Row],
        *,
        per_second: float | None,
        count: int | None,
        stop: threading.Event,
        tell: Tell,
        retry_seconds: float,
    ) -> None:
        self._client = client
        self._table = table
        self._rows = rows
        self._count = count
        self._stop = stop
        self._tell = tell
        self._pace = _Pace(per_second)
        self._patience = _Patience(retry_seconds, stop)
        self.latency = Histogram()
        """From appending a row to its durable acknowledgement."""
        self.last_row: Row | None = None
        self.errors = 0
        # Written by the collecting thread while one runs, by `run` between two of them.
        self.acknowledged = 0
        self.found = 0
        """Rows whose acknowledgement was lost, and that were found in the table afterwards."""
        self.lost = 0
        """Rows that were not stored: refused, or in doubt and then not found."""
        self._doubtful: list[Row] = []
        self._failure: DucktowerError | None = None

    def run(self) -> None:
        """Write until `count` rows are stored or `stop` is set, and wait for what is under way.

        Raises:
            DucktowerError: it cannot be retried, or has been for longer than `retry_seconds`.
        """
        try:
            while not self._stop.is_set() and self._missing() != 0:
                try:
                    if self._doubtful:
                        self._settle_doubts()
                    self._stream()
                except DucktowerError as error:
                    self.errors += 1
                    if self._patience.failed(error):
                        self._tell(f"{error_line(error)}; trying again")
        finally:
            if self._doubtful:
                self._tell(f"in doubt: {counted(len(self._doubtful), 'row')} that may or may not be stored")

    def _missing(self) -> int | None:
        return None if self._count is None else max(0, self._count - self.acknowledged - self.found)

    def _stream(self) -> None:
        """Append until it is enough or a row fails; then raise that row's error."""
        sent: queue.Queue[_Sent | None] = queue.Queue(_UNACKNOWLEDGED_ROWS_MAX)
        left = self._missing()
        self._failure = None
        collector = threading.Thread(target=self._collect, args=(sent,), name="acknowledgements", daemon=True)
        with self._client.appender(self._table) as appender:
            collector.start()
            try:
                while self._failure is None and not self._stop.is_set() and left != 0:
                    left = self._append_due(appender, sent, left)
            finally:
                sent.put(None)
                collector.join()
        if self._failure is not None:
            raise self._failure

    def _append_due(self, appender: Appender, sent: queue.Queue[_Sent | None], left: int | None) -> int | None:
        due = self._pace.due()
        if left is not None:
            due = min(due, left)
        for _ in range(due):
            row = next(self._rows)
            at = time.monotonic()
            sent.put(_Sent(row, appender.append(row), at))
            self.last_row = row
        self._pace.did(due)
        self._pace.wait(self._stop)
        return None if left is None else left - due

    def _collect(self, sent: queue.Queue[_Sent | None]) -> None:
        while (item := sent.get()) is not None:
            young = item.at + _SETTLE_SECONDS - time.monotonic()
            if young > 0:
                time.sleep(young)
            try:
                item.pending.result(_ACKNOWLEDGED_SECONDS_MAX)
            except DucktowerError as error:
                self._failure = self._failure or error
                if error.outcome_unknown:
                    self._doubtful.append(item.row)
                else:
                    self.lost += 1
            else:
                self.latency.record(time.monotonic() - item.at)
                self.acknowledged += 1
                if self._patience.worked():
                    self._tell("writing again")

    def _settle_doubts(self) -> None:
        """Ask the table which of the rows in doubt it holds: `value` is random enough to know them by.

        Sending them again instead would store some of them twice.
        """
        values = ", ".join(f"'{row['value']}'" for row in self._doubtful)
        sql = f"SELECT count(*) FROM {quoted(self._table)} WHERE value IN ({values})"
        found = self._client.query(sql).column(0)[0].as_py()
        missing = len(self._doubtful) - found
        self._tell(f"in doubt: {counted(len(self._doubtful), 'row')}, of which {found:,} stored and {missing:,} not")
        self.found += found
        self.lost += missing
        self._doubtful = []


class Reader:
    """Asks one question again and again, at a pace. The counts may be read from any thread."""

    def __init__(
        self,
        client: FlightClient,
        sql: str,
        *,
        per_second: float | None,
        count: int | None,
        stop: threading.Event,
        tell: Tell,
        on_answer: Callable[[pa.Table, float], None],
        retry_seconds: float,
    ) -> None:
        self._client = client
        self._sql = sql
        self._count = count
        self._stop = stop
        self._tell = tell
        self._on_answer = on_answer
        self._pace = _Pace(per_second)
        self._patience = _Patience(retry_seconds, stop)
        self.latency = Histogram()
        """From asking to having the whole answer."""
        self.reads = 0
        self.errors = 0

    def run(self) -> None:
        """Ask until `count` answers came or `stop` is set.

        Raises:
            DucktowerError: it cannot be retried, or has been for longer than `retry_seconds`.
        """
        while not self._stop.is_set() and self.reads != self._count:
            try:
                self.read()
            except DucktowerError as error:
                self.errors += 1
                if self._patience.failed(error):
                    self._tell(f"{error_line(error)}; trying again")
                continue
            if self._patience.worked():
                self._tell("reading again")
            self._pace.did(1)
            self._pace.wait(self._stop)

    def read(self) -> None:
        """Ask once."""
        started = time.monotonic()
        answer = self._client.query(self._sql)
        seconds = time.monotonic() - started
        self.latency.record(seconds)
        self.reads += 1
        self._on_answer(answer, seconds)
