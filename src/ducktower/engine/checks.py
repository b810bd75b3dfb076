"""What may be wrong with a running engine, one named check for each: told to whoever watches over the server.

Owns the names and what each means. Must never wait: every check reads values that others keep.
"""

from __future__ import annotations

from typing import NamedTuple

from .commit_queue import CommitQueue
from .database import Database
from .disk import Disk

__all__ = ["Check", "checks_of"]


class Check(NamedTuple):
    """One thing that was looked at. `problem` is empty when it is well; with `restart` only a new process helps."""

    name: str
    problem: str = ""
    restart: bool = False


def checks_of(queue: CommitQueue, database: Database, disk: Disk, stuck_seconds: float) -> list[Check]:
    """Look at everything; what takes longer than `stuck_seconds` is stuck."""
    return [
        _commit(queue, stuck_seconds),
        _database(database, stuck_seconds),
        Check("disk", "writes are refused: the disk is nearly full" if disk.full else ""),
    ]


def _commit(queue: CommitQueue, stuck_seconds: float) -> Check:
    if not queue.running:
        return Check("commit", "the committing thread has ended", restart=True)
    seconds = queue.committing_seconds()
    if seconds > stuck_seconds:
        return Check("commit", f"a group has been in commit for {seconds:.0f} seconds", restart=True)
    return Check("commit")


def _database(database: Database, stuck_seconds: float) -> Check:
    seconds = database.reopening_seconds()
    if database.state == "serving":
        return Check("database")
    if seconds > stuck_seconds:
        return Check("database", f"it has not opened again for {seconds:.0f} seconds", restart=True)
    return Check("database", f"it is {database.state}")
