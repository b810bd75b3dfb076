"""A write that was begun, and what it is answered with.

Owns the one lock that its waiters sleep on. Must never send or read: the stream it went to does, and settles it.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import pyarrow as pa

from ..errors import DucktowerError

if TYPE_CHECKING:
    from .appender import Appender

__all__ = ["Message", "PendingWrite", "Receipt", "Stream", "WriterState"]


class Receipt(NamedTuple):
    """What a durable write is answered with: the rows it stored and the number of its commit."""

    rows: int
    commit: int


class WriterState(NamedTuple):
    """How far a writer came: the sequence of its last write, the rows of all of its writes, the last one's commit."""

    sequence: int
    rows: int
    commit: int


class Stream(Protocol):
    """What an appender gives its writes to, in the order in which they are to be stored."""

    @property
    def schema(self) -> pa.Schema:
        """The columns of every write."""

    @property
    def over(self) -> DucktowerError | None:
        """Why it takes no more writes: another stream is taken in its place then."""

    @property
    def stopped(self) -> DucktowerError | None:
        """Why nothing more of the appender can be stored, whatever stream it took."""

    def send(self, write: PendingWrite) -> None:
        """Have a write sent as soon as it may."""

    def wait(self, write: PendingWrite, timeout_seconds: float | None = None) -> None:
        """Return once the write has its outcome. Raises TimedOut."""

    def left_waiting(self) -> bool:
        """Whether writes wait to be sent and nobody reads the answer that they wait for."""

    def unheard(self) -> bool:
        """Whether nobody reads, although the server may say something."""

    def listen(self, now: float) -> None:
        """Have one answer read when nothing has been sent for a while."""

    def start_reading(self) -> None:
        """Have acknowledgements read although nobody waits for them."""

    def leave(self) -> None:
        """Be one user less."""


class Message:
    """A message in flight: how many of its writes have no outcome yet."""

    __slots__ = ("unanswered",)

    def __init__(self, writes: int) -> None:
        self.unanswered = writes


class PendingWrite:
    """A write that was begun. Rows that were sent together share one."""

    __slots__ = ("_appender", "_data", "_message", "_outcome", "_stream", "_wake", "_woken", "rows", "sequence")

    def __init__(self, appender: Appender | None, data: Any = None) -> None:
        self._appender = appender
        self._data = data  # list of rows or a record batch, until it is sent
        self._message: Message | None = None
        self._stream: Stream | None = None  # the one that it was given to
        self.rows = 0
        self.sequence = 0
        # Guarded by the stream's lock: the outcome, and whether _wake is free for a waiter to take. It is held
        # until the outcome is there, or until a waiter is to read for the others.
        self._outcome: Receipt | DucktowerError | None = None
        self._woken = False
        self._wake = threading.Lock()
        self._wake.acquire()

    def done(self) -> bool:
        """Whether the outcome is known here already."""
        return self._outcome is not None

    def result(self, timeout_seconds: float | None = None) -> Receipt:
        """Wait for the durable acknowledgement; what is still buffered is sent at once.

        Raises what the server refused the write with, Unavailable when the stream broke (when the write was sent
        before, its error is `outcome_unknown`), TimedOut when the time is over (it is `outcome_unknown`, too).
        """
        assert self._appender is not None  # noqa: S101 - users get writes of appenders only
        if self._outcome is None:
            self._appender._complete(self, timeout_seconds)
        if isinstance(self._outcome, DucktowerError):
            self._appender._reported(self)
            raise self._outcome
        assert self._outcome is not None  # noqa: S101 - _complete raised otherwise
        return self._outcome

    # -- for the stream, under its lock -----------------------------------------------------------------

    def _settle(self, outcome: Receipt | DucktowerError) -> None:
        self._outcome = outcome
        self._data = None
        self._wake_up()

    def _wake_up(self) -> None:
        if not self._woken:
            self._woken = True
            self._wake.release()
