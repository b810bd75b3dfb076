"""A database that was served with tokens is not served without them again by accident.

A token file may get lost: a restore that forgot it, an option left out of the unit, a name misspelt. A server on
loopback without one serves openly, so what was closed would be open after a restart. The mark is an empty file beside
the database, named by its real path, whatever name it is served under. Only a person takes it away.

Owns that file. Must never decide who may call.
"""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import Forbidden, InvalidArgument

__all__ = ["ClosedMark"]

_SUFFIX = ".closed"
_MODE = 0o600


class ClosedMark:
    """Safe from any thread: it holds nothing but a path, which is None for a database in memory."""

    def __init__(self, database: str) -> None:
        in_memory = database == ":memory:"
        self.path = None if in_memory else Path(f"{os.path.realpath(database)}{_SUFFIX}")

    def put(self) -> None:
        """Note that callers are asked from now on. Raises InvalidArgument when the file cannot be made."""
        if self.path is None:
            return
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _MODE))
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(folder)  # else a loss of power could open what was closed
            finally:
                os.close(folder)
        except OSError as error:
            raise InvalidArgument(f'"{self.path}" cannot be written: {error.strerror}') from error

    def check(self, token_file: Path | None) -> None:
        """Refuse to serve openly what was closed once. Raises Forbidden, which says what may be done about it."""
        if self.path is None or not os.path.lexists(self.path):
            return
        raise Forbidden(
            f'this database was served with tokens, and there is no token file "{token_file}" now: bring that back, '
            f'name another one (--token-file) or make a token (ducktower token create); remove "{self.path}" if '
            "whoever reaches the server shall be its owner"
        )
