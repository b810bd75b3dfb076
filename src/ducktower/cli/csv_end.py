"""Where a CSV file ends: between two rows, and not inside a quoted value.

Arrow takes whatever follows an open quote for the value, to the end of the file: a file that was cut off there would
be stored as if it were whole. So a row that no table can have is put behind the file. It comes out as a row of its own,
which is left out, or the file's last value swallowed it. Owns that row. Must never look at the others.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CsvEnd"]


class CsvEnd:
    """The end of one file, to be put behind it, and whether it came out again."""

    def __init__(self, names: Sequence[str]) -> None:
        """Make a row of another width than the file's, whose columns have these names."""
        self._row = secrets.token_hex() + ("," if len(names) == 1 else "")
        # Without a name there is no row: Arrow is to say that the file is empty.
        self.text = f"\n{self._row}\n".encode() if names else b""
        self._is_found = not names

    def on_row_of_other_width(self, row: Any) -> str:
        """Say what Arrow shall do with a pyarrow.csv.InvalidRow."""
        if row.text != self._row:
            return "error"
        self._is_found = True
        return "skip"

    def checked(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass the file's batches on. Raises ValueError instead of the last one when the end is in a value of it."""
        last = next(batches, None)
        for batch in batches:
            yield last
            last = batch
        if not self._is_found:
            raise ValueError(self._row)
        if last is not None:
            yield last

    def swallowed(self, message: str) -> bool:
        """Return whether an error, of Arrow's or of `checked`, is that the end is in a value."""
        return self._row in message
