"""One client's session: its transaction, prepared statements, options and rows.

Owns the prepared statements, and what a session offers to the wire; `session_runs` decides where statements run.
Must never keep a cursor that it does not need.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from ..errors import Forbidden, InvalidArgument, InvalidSQL, LimitExceeded
from . import session_options, value_inserts
from .access import Principal
from .calls import Caller
from .describing import Description
from .guard import BEGIN_READ_ONLY, trail_of, who
from .ledger import claimed, fingerprint_of_sql
from .parameters import Parameters, Rows
from .prepared import Prepared
from .session_activity import Activity
from .session_cursor import SessionCursor, Transaction
from .session_loads import Ingest, Loading, columns_of, insert_rows
from .session_parts import Parts
from .session_runs import Ran, Runs
from .session_turns import Turns
from .statements import is_query, keeps_state
from .trails import add_rows, note_rows
from .words import Claim, Named, Target

__all__ = ["Session"]

_CLOSE_WAIT_SECONDS = 5.0


class Session:
    """Safe from any thread. Statements without state run beside each other, those on the own cursor take turns."""

    def __init__(self, parts: Parts, session_id: str, principal: Principal) -> None:
        self.id = session_id
        self.principal = principal
        self.started = time.monotonic()
        self._parts = parts
        self._activity = Activity()
        self._own = SessionCursor(parts.cursors.database, parts.cursors.shares.of(principal))
        self._turns = Turns(parts.cursors, self._activity, self._own, parts.config.session_wait_seconds)
        self._runs = Runs(parts, self._activity, self._own, self._turns)
        self.config = parts.config
        self._lock = threading.Lock()  # guards _prepared
        self._prepared: dict[bytes, Prepared] = {}

    # -- transactions ---------------------------------------------------------------------------------

    def begin(self, caller: Caller | None = None) -> bytes:
        """Open a transaction and return its id. It begins in DuckDB with its first statement.

        One that was opened before and in which nothing happened is replaced, its id is dead. Raises
        InvalidArgument when something did.
        """
        with self._turns.alone():
            open_one = self._own.transaction
            if open_one is not None and (open_one.id is None or open_one.started):
                raise InvalidArgument("a transaction is open in this session already; end it first")
            read_only = who(caller, self.principal).only_reads
            self._own.transaction = transaction = Transaction(named=True, read_only=read_only)
            assert transaction.id is not None  # noqa: S101 - named ones have an id
            return transaction.id

    def end(self, transaction_id: bytes, *, commit: bool, caller: Caller | None = None) -> None:  # noqa: ARG002
        """Commit the transaction or roll it back. It is over afterwards, also when COMMIT fails.

        Raises InvalidArgument for an id that is not the open transaction's, Conflict when others were faster, and
        InvalidSQL when a statement of it had failed.
        """
        self._check(transaction_id)
        if not commit:
            self.cancel()  # a result that nobody reads on would keep the turn
        with self._turns.alone():
            self._check(transaction_id)
            try:
                if commit:
                    self._runs.commit()
                else:
                    self._own.rollback()
            finally:
                self._own.transaction = None

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open and something happened in it."""
        transaction = self._own.transaction
        return transaction is not None and transaction.started

    # -- statements -----------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        parameters: Parameters = None,
        transaction_id: bytes | None = None,
        caller: Caller | None = None,
    ) -> Ran:
        """Run SQL and return its result; what writes ran to its end when this returns."""
        self._check(transaction_id)
        asks = self._asks(caller)
        if self._own.in_use or asks.trail is not None or asks.principal.limited:
            return self._run(self._parsed(sql, caller), sql, parameters, caller)
        script: list[Any] = []

        def one_query(cursor: Any) -> Any:
            """Parse on the cursor that runs it: a lease less, for what most texts are."""
            script[:] = self._parts.guard.parsed(cursor, sql, asks.principal)
            alone = len(script) == 1 and is_query(script[0]) and not keeps_state(script[0])
            return script[0] if alone else None

        with contextlib.suppress(Forbidden):  # what may be so in the way below, or is said there
            ran = self._runs.read(one_query, sql, parameters, asks)
            if ran is not None:
                return ran
        return self._run(script or self._parsed(sql, caller), sql, parameters, caller)

    def update(
        self,
        sql: str,
        parameters: Parameters = None,
        transaction_id: bytes | None = None,
        caller: Caller | None = None,
        named: Named | None = None,
    ) -> int:
        """Run SQL, one statement or a script; return the rows that the last one changed, -1 when not counted.

        Outside a transaction a script is all or nothing, unless it has BEGIN, COMMIT or ROLLBACK itself. What is
        `named` takes effect once.
        """
        self._check(transaction_id)
        claim = self.claim(named, caller, sql, parameters)
        principal = who(caller, self.principal)
        script = self._parsed(sql, caller) if principal.limited else None  # before rows go anywhere
        plain = parameters is None and principal.may("writer")
        insert = value_inserts.literals(sql) if plain else None
        stored = None if insert is None else self.insert(*insert, caller, claim)
        if stored is not None:
            return stored
        ran = self._run(script or self._parsed(sql, caller), sql, parameters, caller, claim)
        ran.reader.close()
        return ran.rows

    def describe(self, sql: str, caller: Caller | None = None) -> Description:
        """Return what the last statement of `sql` returns and takes, without running it."""
        return self._described(sql, caller)[1]

    def prepare(
        self,
        sql: str,
        transaction_id: bytes | None = None,
        caller: Caller | None = None,
        named: Named | None = None,
    ) -> Prepared:
        """Prepare a statement or script. It outlives transactions. Raises LimitExceeded past `prepared_max`.

        What is `named` may have taken effect already: that what it needs is gone is then told where it is run.
        """
        self._check(transaction_id)
        script, description = self._described(sql, caller, may_be_over=named is not None)
        prepared = Prepared(self, sql, script, description, self._parts.config.bound_bytes_max)
        with self._lock:
            if len(self._prepared) >= self._parts.config.prepared_max:
                raise LimitExceeded(f"the session has {len(self._prepared)} prepared statements; close some")
            self._prepared[prepared.handle] = prepared
        return prepared

    def prepared(self, handle: bytes) -> Prepared:
        """Return a prepared statement. Raises InvalidArgument when the handle is unknown or closed."""
        with self._lock:
            prepared = self._prepared.get(handle)
        if prepared is None:
            raise InvalidArgument("the prepared statement is unknown or closed")
        return prepared

    def close_prepared(self, handle: bytes) -> None:
        """Forget a prepared statement; twice is harmless."""
        with self._lock:
            self._prepared.pop(handle, None)

    # -- for prepared statements ----------------------------------------------------------------------

    def claim(
        self, named: Named | None, caller: Caller | None, sql: str, parameters: Parameters | Rows
    ) -> Claim | None:
        """Return the claim of a statement that is `named`, whichever way its effect is stored.

        Raises InvalidArgument where the session has state.
        """
        if named is None:
            return None
        self._refuse_state()
        return claimed(self.config, who(caller, self.principal), named, fingerprint_of_sql(sql, parameters))

    def run(
        self,
        script: list[Any],
        text: str,
        parameters: Parameters | Rows,
        caller: Caller | None,
        claim: Claim | None = None,
    ) -> Ran:
        """Run statements that were parsed earlier, where they belong."""
        self._check(None)
        principal, trail = who(caller, self.principal), trail_of(caller)
        if principal.role != "owner" or trail is not None:
            with self._judging("", caller) as (cursor, in_transaction):
                if trail is not None:
                    self._parts.guard.note(cursor, script, trail, in_transaction=in_transaction)
                self._parts.guard.admit(cursor, script, principal, in_transaction=in_transaction)
        return self._run(script, text, parameters, caller, claim)

    def insert(
        self, insert: value_inserts.PlainInsert, table: Any, caller: Caller | None, claim: Claim | None
    ) -> int | None:
        """Store rows by one plain INSERT ... VALUES; None when it is to run as it is written.

        Without state they go where all small writes go, the commit queue.
        """
        trail = trail_of(caller)
        if caller is None or trail is None:
            return self._insert(insert, table, caller, claim)
        stored = self._insert(insert, table, replace(caller, trail=None), claim)
        if stored is not None:
            if not trail.statements:  # else it was parsed, and written down then
                trail.statements.append("INSERT")
                trail.tables.append(".".join(insert.path))
            add_rows(trail, stored)
        return stored

    def _insert(
        self, insert: value_inserts.PlainInsert, table: Any, caller: Caller | None, claim: Claim | None
    ) -> int | None:
        self._check(None)
        caller = self._asks(caller)
        who(caller, self.principal).require("writer", "run INSERT")
        if not self._own.in_use:
            with self._activity.busy():
                target = insert.target(self._parts, table)
                if target is not None:
                    return int(self._parts.put(*target, caller, claim).rows)
        if claim is not None:
            return None
        if table.num_rows == 1 and not any(map(pa.types.is_nested, table.schema.types)):
            return None
        with self._turns.call("statement", insert.into_sql, caller) as own_call:
            columns = columns_of(own_call.cursor, insert)
            if value_inserts.keeps_types([column.type for column in columns], table):
                return None
            return self._runs.stored(lambda: insert_rows(own_call.cursor, insert, table, columns), own_call.call)

    def check_room_for_bound(self, prepared: Prepared, nbytes: int) -> None:
        """Raise LimitExceeded when the session's statements would have too many bytes of parameters bound."""
        with self._lock:
            others = [one for one in self._prepared.values() if one is not prepared]
        bound = sum(one.bound_bytes for one in others)
        if bound + nbytes > self.config.bound_bytes_max:
            raise LimitExceeded(
                f"the session's statements have {bound} bytes of parameters bound, {nbytes} more are beyond the limit "
                f"of {self.config.bound_bytes_max}; close some"
            )

    def redescribe(self, script: list[Any], values: Parameters) -> Description:
        """Describe a script again, now that its parameters' values are known."""
        with self.looking("description") as cursor:
            return self._parts.describer.describe(cursor, script, values)

    # -- rows -----------------------------------------------------------------------------------------

    def ingest(self, ingest: Ingest, reader: Any, caller: Caller | None = None, named: Named | None = None) -> int:
        """Store what `reader` (pyarrow.RecordBatchReader) gives, all or nothing; return the rows.

        It runs in the open transaction when there is one; a client that goes away half way fails it. What is `named` is
        stored once.
        """
        self._check(ingest.transaction_id)
        caller = self._asks(caller)
        principal = who(caller, self.principal)
        claim = None
        if named is not None:
            if ingest.temporary:
                raise InvalidArgument("rows of a temporary table cannot have a writer: they end with the session")
            self._refuse_state()
            claim = claimed(self.config, principal, named)
        trail = caller.trail
        if trail is not None:
            note_rows(trail, Target(ingest.table, ingest.schema or "main", ingest.mode))
            caller = replace(caller, trail=None)
        if ingest.temporary:
            principal.require("owner", "make temporary tables")
        guard, target = self._parts.guard, Target(ingest.table, ingest.schema or "main", ingest.mode)
        guard.admit_rows(principal, target.schema, target.table, target.mode)
        if principal.limited:
            with self.looking("look at keys", target.label, caller) as cursor:
                guard.admit_ties(cursor, principal, target)
        rows = self._ingest(ingest, reader, caller, claim)
        add_rows(trail, rows)
        return rows

    def _ingest(self, ingest: Ingest, reader: Any, caller: Caller, claim: Claim | None) -> int:
        if claim is not None or not (ingest.temporary or self._own.in_use):
            with self._activity.busy():
                return int(self._parts.put(ingest.target(self._parts), reader, caller, claim).rows)
        if caller is not None:
            caller.taken()  # the call that reads has a limit
        with self._turns.call("upload", ingest.table, caller) as own_call:
            loading = Loading(ingest, self._parts, reader, own_call.call)
            with self._parts.cursors.cache.streaming():
                rows = self._runs.stored(
                    lambda: loading.store(own_call.cursor),
                    own_call.call,
                    in_steps=True,
                    makes_table=ingest.may_make_table,
                    may_try_again=loading.may_try_again,
                )
            self._own.kept = self._own.kept or ingest.temporary
            return rows

    # -- options --------------------------------------------------------------------------------------

    def options(self, caller: Caller | None = None) -> dict[str, session_options.Value]:
        """Return the session's options: catalog, schema, and DuckDB's settings that it may change."""
        with self.looking("options", caller=caller) as cursor:
            return session_options.read(cursor)

    def set_options(
        self, options: dict[str, session_options.Value], caller: Caller | None = None
    ) -> dict[str, session_options.Refusal]:
        """Set options, None meaning the default; return why those that were not set were refused."""
        refused: dict[str, session_options.Refusal] = {}
        caller = self._asks(caller)
        limited = who(caller, self.principal).limited
        as_they_are = self.options(caller)
        for name, value in options.items():
            if limited and name == "schema" and value not in (None, "main"):
                refused[name] = "unfit value"  # names without a schema mean main, for those who see some tables
                continue
            with self._parts.cursors.open("internal", "options", name, caller) as (lease, _):
                sql, refusal = session_options.setting_sql(lease.cursor, self._parts.catalog, name, value)
            if refusal is not None:
                refused[name] = refusal
                continue
            if not self._own.kept and session_options.is_so(as_they_are, name, value):
                continue  # a cursor would be kept for nothing
            with self._turns.call("options", name, caller) as own_call:
                self._own.kept = True
                own_call.cursor.execute(sql).fetchall()
        return refused

    def holds(self) -> bool:
        """Whether closing the session would lose something: a transaction, what is kept, prepared statements."""
        with self._lock:
            return bool(self._prepared) or self._own.in_use

    def has_state(self) -> bool:
        """Whether the session holds something, or something runs in it."""
        return self.holds() or self.idle_seconds() == 0

    def when_quiet(self, tell: Callable[[], None]) -> None:
        """Have `tell` called once, when nothing runs in the session, results that are read included.

        Whoever ends the last of them calls it: it must neither block nor take a lock.
        """
        self._activity.when_quiet(tell)

    # -- for the registry -----------------------------------------------------------------------------

    def cancel(self) -> bool:
        """End what runs in this session, results that are being read included; return whether something did."""
        return self._activity.cancel()

    def touch(self) -> None:
        """Say that the client is there."""
        self._activity.touch()

    def idle_seconds(self) -> float:
        """Return for how long nothing was asked of the session; 0 while something runs."""
        return self._activity.idle_seconds()

    def give_up_transaction(self, idle_seconds: float) -> None:
        """Roll back a transaction in which nothing happened for `idle_seconds`; its next statement says so."""
        if not self.in_transaction or self.idle_seconds() < idle_seconds:
            return
        with self._turns.at_once() as free:
            if free and self.in_transaction and self.idle_seconds() >= idle_seconds:
                self._own.fail(InvalidSQL(f"it was rolled back after {idle_seconds:g} seconds without a statement"))

    def drop_cursor(self) -> None:
        """Give the own cursor back because the database is to be reopened, now or when its call ends."""
        with self._turns.at_once():
            pass

    def close(self, *, wait_seconds: float = _CLOSE_WAIT_SECONDS) -> None:
        """Cancel what runs, roll back, forget everything. Twice is harmless.

        What takes longer to end than `wait_seconds` gives the cursor back at its end.
        """
        self._activity.close()
        with self._lock:
            self._prepared.clear()
        self.cancel()
        self._turns.close(wait_seconds)

    # -- within ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def looking(self, kind: str, text: str = "", caller: Caller | None = None) -> Iterator[Any]:
        """Give a cursor for a look that changes nothing: it sees what the session's statements see."""
        caller = self._asks(caller)
        only_reads = who(caller, self.principal).only_reads
        transaction = self._own.transaction
        failed = transaction is not None and transaction.failure is not None
        if not failed and (self._own.kept or self.in_transaction):
            with self._turns.call(kind, text, caller) as own_call:
                if only_reads:
                    self._own.begin_reading()
                yield own_call.cursor
        else:
            with self._activity.busy(), self._parts.cursors.open("read", kind, text, caller) as (lease, _):
                if only_reads:  # looking at a PIVOT runs a part of it
                    lease.cursor.execute(BEGIN_READ_ONLY)
                yield lease.cursor

    @contextlib.contextmanager
    def _judging(self, sql: str, caller: Caller | None) -> Iterator[tuple[Any, bool]]:
        """Give a cursor to judge statements with, and whether it is in the session's transaction.

        What a token with patterns touches there is what the transaction sees, not what is there now.
        """
        if self._sees_the_past(caller):
            with self._turns.call("statement", sql, self._asks(caller)) as own_call:
                yield own_call.cursor, self._sees_the_past(caller)
        else:
            with self._parts.cursors.open("internal", "statement", sql, self._asks(caller)) as (lease, _):
                yield lease.cursor, False

    def _sees_the_past(self, caller: Caller | None) -> bool:
        transaction = self._own.transaction
        goes_on = transaction is not None and transaction.started and transaction.failure is None
        return goes_on and who(caller, self.principal).limited

    def _described(
        self, sql: str, caller: Caller | None, *, may_be_over: bool = False
    ) -> tuple[list[Any], Description]:
        with self.looking("description", sql, caller) as cursor:
            principal, in_transaction = who(caller, self.principal), self._sees_the_past(caller)
            script = self._parts.guard.parsed(cursor, sql, principal, trail_of(caller), in_transaction=in_transaction)
            return script, self._parts.describer.describe(cursor, script, may_be_over=may_be_over)

    def _parsed(self, sql: str, caller: Caller | None) -> list[Any]:
        principal = who(caller, self.principal)
        with self._judging(sql, caller) as (cursor, in_transaction):
            return self._parts.guard.parsed(cursor, sql, principal, trail_of(caller), in_transaction=in_transaction)

    def _run(
        self,
        script: list[Any],
        text: str,
        parameters: Parameters | Rows,
        caller: Caller | None,
        claim: Claim | None = None,
    ) -> Ran:
        read_only = who(caller, self.principal).only_reads
        ran = self._runs.run(script, text, parameters, self._asks(caller), read_only=read_only, claim=claim)
        add_rows(trail_of(caller), ran.rows)
        return ran

    def _asks(self, caller: Caller | None) -> Caller:
        """Return who calls, with the rights that it has in this session."""
        if caller is None:
            return Caller(principal=self.principal)
        principal = who(caller, self.principal)
        return caller if principal is caller.principal else replace(caller, principal=principal)

    def _refuse_state(self) -> None:
        """Raise InvalidArgument for a write with a writer in a session with state, where it has no place."""
        if self._own.transaction is not None:
            raise InvalidArgument(
                "a write with a writer is a transaction of its own; end the session's open one, and turn autocommit on"
            )
        if self._own.in_use:
            raise InvalidArgument("a write with a writer needs a session without temporary tables and settings")

    def _check(self, transaction_id: bytes | None) -> None:
        self._activity.check()
        transaction = self._own.transaction
        # An empty id is one that was sent, and never given out.
        if transaction_id is not None and (transaction is None or transaction.id != transaction_id):
            raise InvalidArgument("the transaction is unknown: it ended, or belongs to another session")
