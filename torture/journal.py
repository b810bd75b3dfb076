"""What a client was told: one file for each, which outlives the client's own death by SIGKILL.

Owns the lines: `S id rows` before a write is sent, then at most one of `A id` (acknowledged), `N id code` (the error
says that nothing was stored) and `U id code` (the outcome is unknown). Each is one write(2): the kernel has it before
the client goes on. Must never know what a write was.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

__all__ = ["Journal", "Ledger"]


class Journal:
    """The writing side, one client process."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def sending(self, write: int, rows: int) -> None:
        """Note a write that is about to be sent."""
        self._line(f"S {write} {rows}")

    def acknowledged(self, write: int) -> None:
        """Note a write that the server said it has stored."""
        self._line(f"A {write}")

    def not_stored(self, write: int, code: str) -> None:
        """Note a write of which the server said that nothing was stored."""
        self._line(f"N {write} {code}")

    def unknown(self, write: int, code: str) -> None:
        """Note a write whose fate nobody told."""
        self._line(f"U {write} {code}")

    def _line(self, text: str) -> None:
        os.write(self._file, f"{text}\n".encode())


class Ledger:
    """The reading side: follows a journal that is still being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0
        self.rows: dict[int, int] = {}
        """Rows of each write that was sent."""
        self.acknowledged: set[int] = set()
        self.not_stored: set[int] = set()
        self.codes: Counter[str] = Counter()
        """Errors by code."""

    def follow(self) -> None:
        """Take in what was written since the last time; half a line waits for its other half."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            text = file.read()
        whole = text.rfind(b"\n") + 1
        self._offset += whole
        for line in text[:whole].decode().splitlines():
            kind, write, *rest = line.split()
            if kind == "S":
                self.rows[int(write)] = int(rest[0])
            elif kind == "A":
                self.acknowledged.add(int(write))
            else:
                self.codes[rest[0]] += 1
                if kind == "N":
                    self.not_stored.add(int(write))

    def next_write(self) -> int:
        """Return the first id that was not used."""
        self.follow()
        return max(self.rows, default=-1) + 1
