"""What Arrow asks of a Python file that it only reads from the front to the end.

Owns these answers. Must never read.
"""

from __future__ import annotations

__all__ = ["Readable"]


class Readable:
    """A file that can be read and nothing else. `close` leaves what is below alone: it belongs to whoever opened it."""

    closed = False

    def close(self) -> None:
        """Say that nothing more is read."""
        self.closed = True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return False."""
        return False

    def writable(self) -> bool:
        """Return False."""
        return False
