"""What a client was told: one file for each, which outlives the client's own death by SIGKILL.

Owns the lines: `S id rows` before a write is sent, then at most one of `A id` (acknowledged), `N id code text` (the
error says that nothing was stored) and `U id code text` (the outcome is unknown). A write that is sent again begins
anew with its `S`. Each is one write(2): the kernel has it before the client goes on. Must never know what a write was.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import NamedTuple

__all__ = ["Journal", "Ledger", "Told"]


class Told(NamedTuple):
    """An error that a client was told of a write."""

    write: int
    code: str
    text: str


class Journal:
    """The writing side, one client process."""

    def __init__(self, path: Path) -> None:
        self.directory = path.parent
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def sending(self, write: int, rows: int) -> None:
        """Note a write that is about to be sent."""
        self._line(f"S {write} {rows}")

    def acknowledged(self, write: int) -> None:
        """Note a write that the server said it has stored."""
        self._line(f"A {write}")

    def not_stored(self, write: int, code: str, text: str = "") -> None:
        """Note a write of which the server said that nothing was stored."""
        self._line(f"N {write} {code} {text}")

    def unknown(self, write: int, code: str, text: str = "") -> None:
        """Note a write whose fate nobody told."""
        self._line(f"U {write} {code} {text}")

    def _line(self, text: str) -> None:
        os.write(self._file, f"{' '.join(text.split())}\n".encode())


class Ledger:
    """The reading side: follows a journal that is still being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.rows: dict[int, int] = {}
        """Rows of each write that was sent."""
        self.acknowledged: set[int] = set()
        self.not_stored: set[int] = set()
        self.told: list[Told] = []
        """Errors, in the order in which they came."""
        self.changed_at = time.monotonic()
        """When a line was met last."""

    def follow(self) -> None:
        """Take in what was written since the last time; half a line waits for its other half."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._offset += whole
        if whole:
            self.changed_at = time.monotonic()
        for line in text[:whole].decode().splitlines():
            kind, number, *rest = line.split(maxsplit=3)
            write = int(number)
            if kind == "S":
                self.rows[write] = int(rest[0])
                self.not_stored.discard(write)
            elif kind == "A":
                self.acknowledged.add(write)
            else:
                self.told.append(Told(write, rest[0], " ".join(rest[1:])))
                if kind == "N":
                    self.not_stored.add(write)

    def next_write(self) -> int:
        """Return the first id that was not used."""
        self.follow()
        return max(self.rows, default=-1) + 1

    @property
    def open(self) -> bool:
        """Whether the outcome of a write was not told yet."""
        last = max(self.rows, default=-1)
        return last >= 0 and last not in self.acknowledged and (not self.told or self.told[-1].write != last)
