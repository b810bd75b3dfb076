"""How large one row may be. Rows are never cut: each is made, held and sent whole, whatever the size of a batch.

DuckDB makes a value of up to 4 GB before anybody can look at it. What is refused here is all that would follow: copies
of it in Arrow and on the wire, and messages that no client takes. Owns the look and its error. Must never copy rows.
"""

from __future__ import annotations

from typing import Any

from ..errors import LimitExceeded

__all__ = ["RowLimit"]


class RowLimit:
    """The limit; `whose` begins its error: "a row of the result"."""

    __slots__ = ("_whose", "bytes_max")

    def __init__(self, bytes_max: int, whose: str) -> None:
        self.bytes_max = bytes_max
        self._whose = whose

    def check(self, batch: Any) -> None:
        """Raise LimitExceeded when a row of a record batch or table has more than `bytes_max` bytes."""
        if batch.nbytes > self.bytes_max:
            self._halves(batch)

    def _halves(self, batch: Any) -> None:
        rows = batch.num_rows
        if rows <= 1:
            raise LimitExceeded(f"{self._whose} has {batch.nbytes} bytes, the limit is {self.bytes_max}")
        for half in (batch.slice(0, rows // 2), batch.slice(rows // 2)):
            self.check(half)
