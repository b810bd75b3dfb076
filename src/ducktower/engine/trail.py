"""What one call did, for the audit log: never a value, never a text of SQL.

A call's result may still be on its way when its handler has returned: then it is the stream's end that knows how many
rows were sent, and whether something failed. A result may also be sent by another call than the one that ran it.

Owns what is written down, and which call it is written down for. Must never parse, nor know the wire.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Trail"]


@dataclass(slots=True, eq=False)
class Trail:
    """Written by the call's own thread, and once more by whichever thread ends its stream, when that has returned."""

    statements: list[str] = field(default_factory=list)
    """Kinds as DuckDB names them: SELECT, INSERT; "INGEST append" for rows."""
    tables: list[str] = field(default_factory=list)
    rows: int | None = None
    streams: bool = False
    """Whether a result is on its way whose end is still to be told."""
    complete: bool = True
    """Whether the stream was sent to its end."""
    failure: str | None = None
    """What the client was told when the stream failed, `[CODE]` first."""
    over: Callable[[], None] | None = None
    """Called at the end of the stream by any thread, which may hold any lock: it must not take one."""
    _sent_by: Trail | None = None

    def add(self, rows: int) -> None:
        """Add rows that were stored or returned; a count below 0 is none."""
        if rows >= 0:
            self.rows = (self.rows or 0) + rows

    def begins(self) -> None:
        """Say that a result begins to stream."""
        self.streams = True

    def sent_by(self, other: Trail | None) -> None:
        """Say that another call sends this one's result: it leaves the same, and its end is that one's."""
        if other is None:
            return
        other.statements += self.statements
        other.tables += self.tables
        if self.streams:
            other.begins()
        elif self.rows is not None:
            other.add(self.rows)
        self._sent_by = other

    def ended(self, rows: int, failure: str | None, complete: bool) -> None:  # noqa: FBT001 - as streams tell it
        """Say how a result that streamed ended, and how many rows of it were sent."""
        last = self._sent_by or self
        last.add(rows)
        last.failure = last.failure or failure
        last.complete = complete
        last.streams = self.streams = False
        if last.over is not None:
            last.over()
