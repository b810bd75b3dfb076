"""The ceiling of the wire: pyarrow's own Flight server whose DoPut does nothing but answer.

Owns the no-op server. Must never do more than read the batches and answer one metadata message of the length
that Ducktower sends: whatever it did more would flatter Ducktower.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import pyarrow.flight as flight

from .processes import receive, started

__all__ = ["noop_serving"]

ANSWER = b'{"rows": 1, "commit": 100000}'


class NoopServer(flight.FlightServerBase):
    """Drains each DoPut and answers it; counts them, so that a lost one shows."""

    def __init__(self) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._count = itertools.count()  # its next() is one step of the interpreter: no lock is needed

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Read all, answer once."""
        del context, descriptor
        for _ in reader:
            pass
        next(self._count)
        writer.write(ANSWER)

    def answered(self) -> int:
        """Return how many calls were answered; to be asked once, when all is over."""
        return next(self._count)


@contextmanager
def noop_serving() -> Iterator[tuple[str, Callable[[], int]]]:
    """Run the no-op server in a process of its own; yield its URL, and what stops it and gives its count."""
    with started(_serve) as (pipe, result):
        address = receive(pipe)
        if not isinstance(address, str):
            raise RuntimeError(f"the no-op server did not start: {address[1]}")

        def stop() -> int:
            pipe.send("stop")
            return result()

        yield address, stop


def _serve(pipe: Connection) -> int:
    """Serve until a message comes or the parent is gone."""
    with NoopServer() as server:
        pipe.send(f"grpc://127.0.0.1:{server.port}")
        with suppress(EOFError):
            pipe.recv()
        answered: int = server.answered()
        return answered
