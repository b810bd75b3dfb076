"""What is tried again, and when: with growing pauses and jitter, not before a server's hint, for so long in all.

A call is safe to be sent again when it only reads, when it was refused before it did anything, or when it is a write
with a writer and a sequence, which takes effect once. Nothing else is: whether it was stored may not be known.

Owns these decisions, and the translation of statuses back into `ducktower.errors`. Must never look at what a call asks
for: who makes it says which of the three it is.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pyarrow as pa
import pyarrow.flight as flight

from ..errors import Conflict, DucktowerError, Overloaded, Unavailable
from ..protocol.status import from_flight, from_flight_write, is_coded
from .handshake import Server

__all__ = ["hinted", "if_named", "if_reading", "if_refused", "retried", "translated", "waits"]

T = TypeVar("T")

_PAUSE_SECONDS_FIRST = 0.02
_PAUSE_SECONDS_MAX = 1.0


def if_reading(error: DucktowerError) -> bool:
    """Whether a call that only reads is tried again."""
    return isinstance(error, (Unavailable, Overloaded))


def if_refused(error: DucktowerError) -> bool:
    """Whether a write is tried again: what refused it says that nothing was stored."""
    return error.retryable and not error.outcome_unknown


def if_named(error: DucktowerError) -> bool:
    """Whether a write with a writer and a sequence is tried again."""
    return isinstance(error, (Unavailable, Overloaded, Conflict))


def waits() -> Iterator[float]:
    """Yield how many seconds to wait before each next try, for ever."""
    pause = _PAUSE_SECONDS_FIRST
    while True:
        yield pause * random.uniform(0.5, 1.5)  # noqa: S311 - jitter is no secret
        pause = min(pause * 2, _PAUSE_SECONDS_MAX)


def hinted(error: DucktowerError, wait: float) -> float:
    """Return the wait, or the server's hint when that is longer; not all who heard the same hint come at once."""
    return max(wait, (error.retry_after_seconds or 0.0) * random.uniform(1.0, 1.25))  # noqa: S311


def retried(call: Callable[[], T], safe: Callable[[DucktowerError], bool], seconds: float) -> T:
    """Run `call`, again and again while it fails in a way that is `safe` and `seconds` are not over."""
    deadline = time.monotonic() + seconds
    for pause in waits():
        try:
            return call()
        except DucktowerError as error:
            wait = hinted(error, pause)
            if not safe(error) or time.monotonic() + wait > deadline:
                raise
        time.sleep(wait)
    raise AssertionError  # it waits for ever


@contextlib.contextmanager
def translated(server: Server, *, writes: bool = False) -> Iterator[None]:
    """Raise the errors of `ducktower` for what Arrow and gRPC raise; of one that `writes`, say if it may be stored."""
    try:
        yield
    except (pa.ArrowException, flight.FlightError, OSError) as error:
        found = from_flight_write(error) if writes else from_flight(error)
        if type(found) is Unavailable and not is_coded(error):
            # gRPC's own words: no server of ours said anything, and the address is the first thing to look at.
            why = server.refusal()
            told = Unavailable(
                f"no answer from {server.url}; `ducktower serve` may not be running there ({found.message})"
                if why is None
                else f"no connection to {server.url}: {why}"
            )
            told.outcome_unknown = found.outcome_unknown
            found = told
        raise found from error
