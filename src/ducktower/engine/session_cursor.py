"""The cursor that a session keeps while it has state, and the transaction that is open on it.

Owns BEGIN, COMMIT and ROLLBACK of sessions and knows whether a transaction can still be used: DuckDB answers
COMMIT of an aborted one as if it had been stored. Must never be used by two threads at once: its session sees
to that.
"""

from __future__ import annotations

import contextlib
import secrets

import duckdb

from .. import cores
from ..errors import Conflict, DucktowerError, InvalidSQL, Unavailable
from .database import Database, Lease
from .failures import translate
from .guard import BEGIN_READ_ONLY
from .rollback import rolled_back
from .shares import Share

__all__ = ["SessionCursor", "Transaction"]


class Transaction:
    """What a session knows of its open transaction. It begins in DuckDB with its first statement.

    A client that turned autocommit off has one open at all times: an idle one costs no cursor and no snapshot.
    """

    def __init__(self, *, named: bool, read_only: bool = False) -> None:
        self.read_only = read_only
        self.id = secrets.token_bytes(16) if named else None  # None: begun and ended by SQL alone
        self.restart()

    def restart(self) -> None:
        """Be as new: after COMMIT or ROLLBACK in SQL a named transaction goes on with an empty one."""
        self.begin_sql = BEGIN_READ_ONLY if self.read_only else "BEGIN TRANSACTION"
        self.started = False
        self.writes = False
        self.changes_tables = False
        self.failure: DucktowerError | None = None

    def wrote(self, changes_tables: bool) -> None:  # noqa: FBT001 - it is the one thing there is to tell
        """Remember that there is something to commit, and whether tables are other ones then."""
        self.writes = True
        self.changes_tables = self.changes_tables or changes_tables

    def usable(self) -> None:
        """Raise what a statement in an aborted transaction is answered with."""
        if self.failure is not None:
            raise InvalidSQL(f"the transaction failed earlier, roll it back first: {self.failure.message}")


class SessionCursor:
    """A cursor leased when it is needed and given back when nothing is kept on it."""

    def __init__(self, database: Database, share: Share | None = None) -> None:
        self._database = database
        self._share = share
        # Used by the thread that has its session's turn.
        self._lease: Lease | None = None
        self._generation = 0
        self.transaction: Transaction | None = None
        self.kept = False  # temporary tables, settings or the like are on it
        self._reading = False  # a transaction of ours is open that only reads, until the turn is given back

    @property
    def in_use(self) -> bool:
        """Whether statements must run on it: there is a transaction, or something kept."""
        return self.transaction is not None or self.kept

    @property
    def leased(self) -> Lease | None:
        """The lease, if there is one now."""
        return self._lease

    def lease(self) -> Lease:
        """Return the cursor, leasing one when there is none."""
        cores.roam()  # what follows computes
        if self._lease is None:
            self._lease = self._database.lease("session", self._share)
            self._generation = self._database.generation
        return self._lease

    def begin(self) -> None:
        """Begin the open transaction in DuckDB, unless it began already."""
        transaction = self.transaction
        if transaction is None or transaction.started:
            return
        self.lease().cursor.execute(transaction.begin_sql)
        transaction.started = True

    def begin_reading(self) -> None:
        """Begin a transaction that only reads, for the time of one turn; within an open one do nothing."""
        if self.transaction is None and not self._reading:
            self.lease().cursor.execute(BEGIN_READ_ONLY)
            self._reading = True

    def commit(self) -> bool:
        """Commit; return whether there was something to. The transaction is over, whatever happens."""
        transaction = self.transaction
        if transaction is None or not transaction.started:
            return False
        if transaction.failure is not None:
            self.rollback()
            kind = Conflict if isinstance(transaction.failure, Conflict) else InvalidSQL
            raise kind(f"nothing was stored, the transaction had failed: {transaction.failure.message}")
        try:
            with self._database.headroom.taken() if transaction.writes else contextlib.nullcontext():
                self.lease().cursor.execute("COMMIT")
        except BaseException:
            self.rollback()
            raise
        transaction.started = False
        return True

    def rollback(self) -> None:
        """Roll back what is open; harmless when nothing is."""
        if self.transaction is not None:
            self.transaction.started = False
        self._reading = False
        if self._lease is None:
            return
        if rolled_back(self._lease.cursor):
            return
        self._lease.close()  # which rolls back, and costs what was kept
        self._lease = None
        self.kept = False

    def fail(self, error: BaseException) -> None:
        """Roll back now; every further statement of the transaction is told why, until its client ends it."""
        if self.transaction is not None:
            self.rollback()
            self.transaction.started = True
            self.transaction.failure = translate(error)

    def look_after(self, error: BaseException) -> None:
        """After a failure, find out whether the transaction survived it; without one, see to it that none is left.

        An interrupt can have hit the ROLLBACK of whatever failed.
        """
        transaction = self.transaction
        if transaction is None or not transaction.started:
            self.rollback()
        elif transaction.failure is not None:
            self.fail(transaction.failure)
        elif self._lease is not None:
            try:
                self._lease.cursor.execute("SELECT 1").fetchall()
            except duckdb.Error:
                self.fail(error)

    def settle(self) -> None:
        """Give the cursor back when nothing is kept on it, or when its database is gone."""
        if self._lease is None:
            return
        if self._reading:
            self.rollback()
            if self._lease is None:
                return
        lost = self._database.state == "reopening" or self._generation != self._database.generation
        if lost and self.transaction is not None and self.transaction.started:
            self.transaction.failure = Unavailable("the database was reopened after a fatal error")
        if lost:
            self.kept = False
        transaction = self.transaction
        needed = transaction is not None and transaction.started and transaction.failure is None
        if lost or not (self.kept or needed):
            self._lease.close()
            self._lease = None

    def close(self) -> None:
        """Roll back and give the cursor back, whatever is kept on it. Twice is harmless."""
        self.transaction = None
        self.kept = self._reading = False
        if self._lease is not None:
            self._lease.close()  # closing a cursor rolls back
            self._lease = None
