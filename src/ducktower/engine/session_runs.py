"""Where a session's statements run.

A statement of a session without state runs as everybody's does: a query on a fresh cursor in a read-only
transaction, what writes as a script that tries conflicts again. Once there is state (an open transaction, temporary
tables, settings) statements run on the session's own cursor, one at a time.

Owns that choice and what BEGIN, COMMIT and ROLLBACK mean. Must never run a statement that `statements` refuses.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import duckdb

from ..errors import Conflict, DucktowerError, Forbidden, InvalidSQL
from . import statements
from .calls import Call, Caller
from .failures import translate
from .guard import BEGIN_READ_ONLY
from .parameters import Parameters, Rows
from .reading import stream
from .session_activity import Activity
from .session_cursor import SessionCursor, Transaction
from .session_parts import Parts
from .session_turns import OwnCall, Turns
from .streams import in_pieces
from .words import Claim

__all__ = ["Ran", "Runs"]

_PAUSE_SECONDS = 0.01
_BEGIN_VERBS = ("BEGIN", "START")
_COMMIT_VERBS = ("COMMIT", "END")
_ROLLBACK_VERBS = ("ROLLBACK", "ABORT")


class Ran(NamedTuple):
    """What a script's last statement did.

    Its result is a pyarrow.RecordBatchReader, one without columns when it gives nothing. `rows` are those it
    changed, or those of a result that is there in whole; -1 when not counted. `nbytes` are those of the result that
    are in memory now. With `holds_place` the reader keeps one of the places for reads until it is released.
    """

    rows: int
    reader: Any
    nbytes: int = 0
    holds_place: bool = False


class Runs:
    """Safe from any thread; the own cursor is used by the call that has the turn."""

    def __init__(self, parts: Parts, activity: Activity, own: SessionCursor, turns: Turns) -> None:
        self._parts = parts
        self._activity = activity
        self._own = own
        self._turns = turns

    def run(
        self,
        script: list[Any],
        text: str,
        parameters: Parameters | Rows,
        caller: Caller,
        *,
        read_only: bool,
        claim: Claim | None = None,
    ) -> Ran:
        """Run parsed statements, where they belong; with `read_only` in transactions that only read.

        With a claim they run once, in a transaction of their own that sees nothing of the session.
        """
        if claim is not None or not (self._own.in_use or any(map(statements.keeps_state, script))):
            return self._beside(script, text, parameters, caller, read_only=read_only, claim=claim)
        with self._turns.call("statement", text, caller) as own_call:
            open_one = self._own.transaction
            if read_only and open_one is not None and not open_one.read_only:
                raise Forbidden("the transaction was begun by a role that may write; a reader may not use it")
            return self._on_own(own_call, script, parameters, read_only=read_only)

    # -- on cursors of the engine's -------------------------------------------------------------------

    def _beside(
        self,
        script: list[Any],
        text: str,
        parameters: Parameters | Rows,
        caller: Caller,
        *,
        read_only: bool,
        claim: Claim | None,
    ) -> Ran:
        if claim is None and len(script) == 1 and statements.is_query(script[0]) and not isinstance(parameters, Rows):
            # A query that the read-only transaction refuses (nextval, EXPLAIN ANALYZE INSERT) runs as what writes,
            # for those who may write.
            with contextlib.nullcontext() if read_only else contextlib.suppress(Forbidden):
                ran = self.read(lambda _: script[0], text, parameters, caller)
                assert ran is not None  # noqa: S101 - there is a statement
                return ran
        with (
            self._activity.busy(),
            self._parts.cursors.open("execute", "statement", text, caller) as (lease, call),
            self._activity.running(call),
        ):
            if claim is not None:
                return self._ran(self._parts.scripts.once(lease.cursor, script, parameters, call, claim).rows, None)
            return self._autocommitted(lease.cursor, script, parameters, call, read_only=read_only)

    def read(self, find: Callable[[Any], Any], text: str, parameters: Parameters, caller: Caller) -> Ran | None:
        """Run a query without state; `find` gets the cursor and gives the statement, or None: then nothing was run."""
        parts = self._parts
        self._activity.enter()
        try:
            with parts.cursors.open("read", "query", text, caller, leave=True) as (lease, call):
                self._activity.add(call)

                def release() -> None:
                    parts.cursors.calls.finish(call)
                    lease.close()
                    self._activity.discard(call)
                    self._activity.leave()

                try:
                    statement = find(lease.cursor)
                    if statement is None:
                        release()
                        return None
                    lease.cursor.execute(BEGIN_READ_ONLY)
                    cache = parts.cursors.cache
                    streamed = stream(lease.cursor, statement, parameters, call, parts.config, release, cache)
                except BaseException:
                    self._activity.discard(call)
                    raise
                parts.was_read()
                return Ran(streamed.rows, streamed.reader, streamed.nbytes, streamed.rows < 0)
        except BaseException:
            self._activity.leave()
            raise

    def _autocommitted(
        self, cursor: Any, script: list[Any], parameters: Parameters | Rows, call: Call, *, read_only: bool
    ) -> Ran:
        rows, table = self._parts.scripts.run(cursor, script, parameters, call, read_only=read_only)
        if not read_only:
            self._parts.committed()
        return self._ran(rows, table)

    def _ran(self, rows: int, table: Any) -> Ran:
        nbytes = 0 if table is None else table.nbytes
        return Ran(rows, in_pieces(table, self._parts.config.batch_bytes_max), nbytes)

    # -- on the session's own cursor ------------------------------------------------------------------

    def _on_own(self, own_call: OwnCall, script: list[Any], parameters: Parameters | Rows, *, read_only: bool) -> Ran:
        in_steps = self._own.transaction is not None or any(map(_is_transaction, script))
        if not in_steps and not (len(script) == 1 and statements.is_query(script[0])):
            self._keep(*script)
            return self._autocommitted(own_call.cursor, script, parameters, own_call.call, read_only=read_only)
        for statement in script[:-1]:
            self._step(own_call, statement, None, read_only=read_only)
        last = script[-1]
        if statements.is_query(last) and not isinstance(parameters, Rows):
            return self._streamed(own_call, last, parameters, read_only=read_only)
        return self._step(own_call, last, parameters, read_only=read_only)

    def _step(self, own_call: OwnCall, statement: Any, parameters: Parameters | Rows, *, read_only: bool) -> Ran:
        """Run one statement of a script to its end."""
        if _is_transaction(statement):
            self._transact(statement, read_only=read_only)
            return self._ran(-1, None)
        self._keep(statement)
        transaction = self._own.transaction
        if transaction is None:
            return self._autocommitted(own_call.cursor, [statement], parameters, own_call.call, read_only=read_only)
        self._enter(own_call.cursor, statement, parameters)
        if not read_only:
            transaction.wrote(statements.changes_tables(statement))
        if isinstance(parameters, Rows):
            return self._ran(*self._parts.scripts.for_each(own_call.cursor, statement, parameters))
        return self._ran(*self._parts.scripts.last(own_call.cursor, statement, parameters))

    def _streamed(self, own_call: OwnCall, statement: Any, parameters: Parameters, *, read_only: bool) -> Ran:
        transaction = self._own.transaction
        changes_tables = statements.changes_tables(statement)  # EXPLAIN ANALYZE runs what it explains
        if transaction is not None:
            self._enter(own_call.cursor, statement, parameters)
            if changes_tables:
                transaction.wrote(changes_tables)
        elif read_only:
            self._own.begin_reading()
        config = self._parts.config
        call = own_call.call
        streamed = stream(
            own_call.cursor,
            statement,
            parameters,
            call,
            config,
            # Taken whole it ended well; later on nobody tells how it ends.
            lambda: self._turns.ended_reading(call) if own_call.keep else self._turns.ended(call),
            self._parts.cursors.cache,
            whole_bytes_max=config.session_result_bytes_max,
        )
        own_call.keep = True
        if changes_tables and transaction is None:
            self._parts.tables_changed()
        self._parts.was_read()
        return Ran(streamed.rows, streamed.reader, streamed.nbytes)

    def _enter(self, cursor: Any, statement: Any, parameters: Parameters | Rows) -> None:
        """See to it that the transaction is begun, and that the statement can be bound: else it would be aborted."""
        transaction = self._own.transaction
        assert transaction is not None  # noqa: S101 - the caller looked
        transaction.usable()
        self._own.begin()
        values = next(iter(parameters), None) if isinstance(parameters, Rows) else parameters
        cursor._bind(statement, values=values)

    def _keep(self, *script: Any) -> None:
        if any(statements.keeps_state(statement) and not _is_transaction(statement) for statement in script):
            self._own.kept = True

    # -- transactions ---------------------------------------------------------------------------------

    def _transact(self, statement: Any, *, read_only: bool) -> None:
        """Run BEGIN, COMMIT or ROLLBACK that came as SQL.

        A transaction with an id is a mode of the client's: after COMMIT or ROLLBACK in SQL it goes on, empty.
        """
        verb = statements.verb(statement)
        transaction = self._own.transaction
        if verb not in (*_BEGIN_VERBS, *_COMMIT_VERBS, *_ROLLBACK_VERBS):
            raise InvalidSQL(f'"{verb}" is no way to begin or to end a transaction here')
        if verb in _BEGIN_VERBS:
            self._begin(transaction, statement.query, read_only=read_only)
        elif transaction is None:
            raise InvalidSQL(f"{verb} needs a transaction, and none is open")
        else:
            try:
                if verb in _COMMIT_VERBS:
                    self.commit()
                else:
                    self._own.rollback()
            finally:
                self._over(transaction)

    def _begin(self, transaction: Transaction | None, begin_sql: str, *, read_only: bool) -> None:
        if transaction is not None and transaction.started:
            raise InvalidSQL("a transaction is open already; COMMIT or ROLLBACK it first")
        self._own.transaction = transaction = transaction or Transaction(named=False, read_only=read_only)
        if not transaction.read_only:  # else it only reads, whatever the SQL says
            transaction.begin_sql = begin_sql
        try:
            self._own.begin()
        except BaseException:
            self._over(transaction)
            raise

    def _over(self, transaction: Transaction) -> None:
        transaction.restart()
        if transaction.id is None:
            self._own.transaction = None

    def commit(self) -> None:
        """Commit the open transaction, if something happened in it. Called with the turn."""
        transaction = self._own.transaction
        with self._parts.cursors.translated("commit"):
            if transaction is not None and self._own.commit() and transaction.writes:
                self._parts.committed()
                if transaction.changes_tables:
                    self._parts.tables_changed()

    def stored(
        self,
        store: Callable[[], int],
        call: Call,
        *,
        in_steps: bool = False,
        makes_table: bool = False,
        may_try_again: Callable[[], bool] = lambda: True,
    ) -> int:
        """Run `store` on the own cursor, in the open transaction or else in one of its own. Called with the turn.

        When it takes several steps a failure fails the open transaction: they cannot be taken back alone. In one of
        its own a conflict is tried again for `conflict_retry_seconds`.
        """
        transaction = self._own.transaction
        if transaction is None:
            deadline = time.monotonic() + self._parts.config.conflict_retry_seconds
            while True:
                try:
                    return self._stored_alone(store, makes_table=makes_table)
                except (duckdb.Error, DucktowerError) as error:
                    conflict = isinstance(translate(error, call), Conflict)
                    if not (conflict and may_try_again() and time.monotonic() < deadline):
                        raise
                call.check()
                time.sleep(_PAUSE_SECONDS)
        transaction.usable()
        self._own.begin()
        transaction.wrote(makes_table)
        try:
            return store()
        except BaseException as error:
            if in_steps:
                self._own.fail(error)
            raise

    def _stored_alone(self, store: Callable[[], int], *, makes_table: bool) -> int:
        self._own.transaction = transaction = Transaction(named=False)
        try:
            self._own.begin()
            transaction.wrote(makes_table)
            rows = store()
            self.commit()
        except BaseException:
            self._own.rollback()
            raise
        finally:
            self._own.transaction = None
        return rows


def _is_transaction(statement: Any) -> bool:
    return statements.kind_of(statement) == "TRANSACTION"
