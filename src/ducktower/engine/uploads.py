"""How large one upload may be, and one row of it, and how much may arrive at once. Owns the counts of bytes as they
come. Must never hold a batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from ..config import EngineConfig
from ..errors import LimitExceeded, Overloaded, coded_text
from .row_limit import RowLimit
from .streams import chained

__all__ = ["Arriving", "Came", "UploadLimit", "counted_bytes"]


def counted_bytes(batch: Any) -> int:
    """Return what a batch of a small write counts for where bytes are bounded: columns of nulls have none."""
    return max(int(batch.nbytes), int(batch.num_rows))


class UploadLimit:
    """One upload's limits. Used by the threads that read it, one at a time."""

    def __init__(self, config: EngineConfig) -> None:
        self._bytes_max = config.upload_bytes_max
        self._rows = RowLimit(config.row_bytes_max, "a row of the upload")
        self._error: LimitExceeded | None = None

    def bounded(self, reader: Any) -> Any:
        """Return what `reader` gives as a native reader that fails past the limit of the whole."""
        if self._bytes_max is None:
            return reader
        return chained((), reader, total_bytes_max=self._bytes_max, on_limit=self._passed)

    def rows(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches; raise LimitExceeded at one with a row past the limit of a row."""
        for batch in batches:
            try:
                self._rows.check(batch)
            except LimitExceeded as error:
                self._error = error  # who pulls may lose its class
                raise
            yield batch

    def _passed(self) -> str:
        self._error = LimitExceeded(f"the upload has more than {self._bytes_max} bytes, the limit of one call")
        return coded_text(self._error)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Raise the limits' own error for whatever their passing made fail within the block."""
        try:
            yield
        except Exception as error:
            if self._error is not None and error is not self._error:
                raise self._error from error
            raise


class Arriving:
    """The bytes of writes that are in memory and go nowhere yet. Safe from any thread.

    They are being collected, each in a thread of its own, or wait for room in the queue, or, of a large one, for its
    place. Where nobody is asked who they are, all are one, and only the limit of all applies.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._max = config.arriving_bytes_max
        self._of_one_max = config.principal_arriving_bytes_max
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._all = 0
        self._of_one: dict[str, int] = {}  # by name; only those of whom something arrives

    def add(self, name: str, nbytes: int) -> None:
        """Count bytes that came in for the principal of that name. Raises Overloaded when there are too many."""
        with self._lock:
            everything, own = self._all + nbytes, self._of_one.get(name, 0) + nbytes
            # What comes alone is let in, however large: it was received as a whole.
            if everything > self._max and self._all:
                raise Overloaded(
                    f"writes of {self._all} bytes arrive already, the limit is {self._max}", retry_after_seconds=1.0
                )
            # Whoever has a name leaves as much free for others as it has.
            limit = min(self._of_one_max, self._max - self._all)
            if name and own > limit and own > nbytes:
                raise Overloaded(
                    f'writes of "{name}" of {own - nbytes} bytes arrive already, the limit is {limit} now',
                    retry_after_seconds=1.0,
                )
            self._all = everything
            self._of_one[name] = own

    def take_away(self, name: str, nbytes: int) -> None:
        """Say that they are somewhere else now, or gone."""
        with self._lock:
            self._all -= nbytes
            left = self._of_one.get(name, 0) - nbytes
            if left:
                self._of_one[name] = left
            else:
                self._of_one.pop(name, None)


class Came:
    """What came of one write, counted until the block ends at the latest. Used by the thread that serves it."""

    __slots__ = ("_arriving", "_counted", "_name", "nbytes")

    def __init__(self, arriving: Arriving, name: str) -> None:
        """`name` is the principal's whose write it is."""
        self._arriving = arriving
        self._name = name
        self._counted = 0
        self.nbytes = 0

    def __enter__(self) -> Came:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def add(self, nbytes: int) -> None:
        """Count bytes that came in. Raises Overloaded when too many arrive at once."""
        self._arriving.add(self._name, nbytes)
        self._counted += nbytes
        self.nbytes += nbytes

    def end(self) -> None:
        """Say that all of it is somewhere else now, or gone. Twice is harmless."""
        if self._counted:
            self._arriving.take_away(self._name, self._counted)
            self._counted = 0
