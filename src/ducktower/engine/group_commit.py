"""How a group of small writes becomes one transaction of DuckDB's.

Each pair of target and Arrow schema has a plan: a stream object registered once on the committing cursor, and
an INSERT prepared once that reads from it. A group's batches are concatenated and put into that object; the
prepared statement then costs half of what registering an Arrow table anew does (docs/decisions, group commit).
A group of one plan is one statement, which is its own transaction; the ledger's rows are an INSERT in a CTE of it.

Owns the committing cursor and its plans, used under one lock: by the committing thread for each group, and by
the reopening thread to drop them. Must never answer a write: it returns outcomes to the queue.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from ..config import EngineConfig
from ..errors import DucktowerError, LimitExceeded, Overloaded, Unavailable, unknown
from ..monitor import Counter
from .calls import Call, Caller, Calls
from .database import Database, Lease
from .failures import is_fatal, translate
from .inserts import VALUE_ERRORS, Source, diagnose, insert_sql, table_columns
from .ledger import LEDGER, Ledger, Row
from .rollback import rolled_back
from .words import Claim, Divided, Outcome, PlanKey, Receipt, SlowWrite, Target, Write

__all__ = ["GroupCommitter"]

log = logging.getLogger(__name__)

_TRIES = 3
_TRY_PAUSE_SECONDS = 0.001
_WORTH_TRYING = (duckdb.CatalogException, duckdb.BinderException, duckdb.TransactionException)
"""A table that is another one by now, or a conflict. Rows that do not fit will not fit the next time either."""
_BEFORE_COMMIT = (duckdb.ConstraintException, duckdb.CatalogException, duckdb.BinderException, *VALUE_ERRORS)
"""What a statement fails with before its own COMMIT: it is known that nothing was stored."""
_COMMIT_TAKES = 2
"""How many times the bytes of the rows COMMIT takes at most: they are in the transaction, and copied."""
_SLOW_SECONDS = 60.0
_REOPEN_WAIT_SECONDS = 30.0  # longer than a stalled reader is waited for


class _Plan:
    """One prepared INSERT and its source; and the same with the ledger's INSERT in it, once that was asked for."""

    def __init__(self, cursor: Any, catalog: str, target: Target, schema: Any) -> None:
        self.name = f"__ducktower_{secrets.token_hex(8)}"  # no statement of a client's can guess it
        self._empty = pa.Table.from_batches([], schema=schema)
        self._source = Source(self._empty)
        columns = table_columns(cursor, catalog, target)
        sql = insert_sql(cursor, catalog, target, schema, columns, self.name)
        self._insert = sql if sql.startswith("INSERT") else None
        self._both: tuple[_Plan, Any] | None = None
        try:
            cursor.register(self.name, self._source)
            if self._insert is not None:
                self._execute = _prepared(cursor, self.name, self._insert)
            else:  # MERGE, which DuckDB 2.0 cannot prepare: it is parsed once and planned each time
                self._execute = cursor.extract_statements(sql)[0]
        except duckdb.Error as error:
            reason = _found(cursor, catalog, target, schema, None, error)
            cursor.unregister(self.name)
            raise reason from error

    def fill(self, batches: list[Any]) -> None:
        if len(batches) == 1:
            self._source.data = batches[0]
        elif batches:
            # DuckDB takes each chunk as a vector of its own: 64 one-row chunks cost four times one of 64 rows.
            self._source.data = pa.concat_batches(batches)
        else:
            self._source.data = self._empty

    def run(self, cursor: Any) -> None:
        cursor.execute(self._execute)

    def takes_along(self, cursor: Any, other: _Plan) -> bool:
        """Whether `run_both` can run the other plan, too. To be asked outside a transaction."""
        if self._both is None or self._both[0] is not other:
            statement = None
            if self._insert is not None:
                with contextlib.suppress(duckdb.Error):  # else they are run one after the other, and say why not
                    sql = f"WITH {self.name}_too AS ({other._insert}) {self._insert}"
                    statement = _prepared(cursor, f"{self.name}_both", sql)
            self._both = other, statement
        return self._both[1] is not None

    def run_both(self, cursor: Any) -> None:
        """Run it and the plan that it takes along, in one statement."""
        assert self._both is not None  # noqa: S101 - it was asked
        cursor.execute(self._both[1])

    def empty(self) -> None:
        self._source.data = self._empty

    def drop(self, cursor: Any) -> None:
        for name in (self.name, f"{self.name}_both"):
            with contextlib.suppress(duckdb.Error):
                cursor.execute(f"DEALLOCATE {name}")
        with contextlib.suppress(duckdb.Error):
            cursor.unregister(self.name)


def _prepared(cursor: Any, name: str, sql: str) -> Any:
    cursor.execute(f"PREPARE {name} AS {sql}")
    return cursor.extract_statements(f"EXECUTE {name}")[0]


class _PlanError(Exception):
    """One plan of a transaction failed: its members are to be looked at, the others are not."""

    def __init__(self, key: PlanKey, cause: Exception, call: Call, *, planned: bool) -> None:
        super().__init__(str(cause))
        self.key = key
        self.cause = cause
        self.planned = planned  # else the target itself is at fault, for all of its members
        self.slow = call.reason is not None

    @property
    def may_be_of_commit(self) -> bool:
        """Whether it may be the COMMIT that failed, of a statement that is its own transaction."""
        return self.planned and not isinstance(self.cause, _BEFORE_COMMIT)


class GroupCommitter:
    """Commits groups. `commit` is the function that the commit queue is given."""

    def __init__(
        self,
        database: Database,
        calls: Calls,
        config: EngineConfig,
        commits: Counter,
        rows: Counter,
        ledger: Ledger,
    ) -> None:
        self._database = database
        self._ledger = ledger
        self._calls = calls
        self._config = config
        self._commits = commits
        self._rows = rows
        # Guarded by _lock: the cursor, whatever runs on it, the plans prepared on it, and the keys whose
        # writes took too long, with the time until which they are kept out.
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._plans: OrderedDict[PlanKey, _Plan] = OrderedDict()
        self._slow: dict[PlanKey, float] = {}
        self._stale = False  # set by any thread, without the lock: the next group makes its plans anew
        database.before_reopen(self.close)

    def commit(self, writes: Sequence[Write]) -> list[Outcome]:
        """Commit the group; return each member's outcome in order. Called by the committing thread."""
        self._database.wait_serving(_REOPEN_WAIT_SECONDS)
        with self._lock:
            try:
                lease = self._lease = self._lease or self._database.lease("internal")
            except DucktowerError as error:
                return [error] * len(writes)
            if self._stale:
                self._forget_all(lease.cursor)
            outcomes: dict[int, Outcome] = {}
            ready = self._without_slow(writes, outcomes) if self._slow else list(writes)
            if ready:
                self._admitted(lease, ready, outcomes)
            return [outcomes[id(write)] for write in writes]

    def forget_plans(self) -> None:
        """Have every plan made anew: a table was made, dropped or altered.

        DuckDB would bind a prepared INSERT to the new table by itself, but past our own checks of its columns.
        """
        self._stale = True

    def close(self) -> None:
        """Drop the plans and the cursor; the next group makes new ones."""
        with self._lock:
            self._plans.clear()
            if self._lease is not None:
                self._lease.close()
                self._lease = None

    # -- one group ------------------------------------------------------------------------------------

    def _admitted(
        self, lease: Lease, writes: list[Write], outcomes: dict[int, Outcome], *, was_slow: bool = False
    ) -> None:
        """Commit what the ledger has no answer to; `_commit` alone for writes without a writer's name."""
        if not any(write.claims for write in writes):
            self._commit(lease, writes, outcomes, was_slow=was_slow)
            return
        try:
            ready, later, held = self._ledger.admit(lease.cursor, writes, outcomes)
        except duckdb.Error as error:
            self._give_up(writes, error, outcomes)
            return
        if ready:
            self._commit(lease, ready, outcomes, was_slow=was_slow, held=held)
        if len(later) == 1 and later[0].parts and not ready:
            self._by_parts(lease, later[0], outcomes)
        elif later and not ready:
            for write in later:  # what was put off first has nothing to wait for any more
                self._admitted(lease, [write], outcomes)
        elif later:
            self._admitted(lease, later, outcomes)
        with contextlib.suppress(duckdb.Error):
            self._ledger.prune(lease.cursor)

    def _commit(
        self,
        lease: Lease,
        writes: list[Write],
        outcomes: dict[int, Outcome],
        *,
        was_slow: bool = False,
        held: set[tuple[str, str]] | None = None,
    ) -> None:
        """Commit all in one transaction. When that fails, find the bad ones by halves and commit the others.

        What was slow once is tried once more: it may have been the machine. Whatever a member raises must not
        reach the other members, hence the broad `except`.
        """
        try:
            number = self._transaction(lease, writes, held)
        except _PlanError as error:
            culprits = [write for write in writes if _is_of(write, error.key)]
            others = [write for write in writes if not _is_of(write, error.key)]
            if is_fatal(error.cause):
                self._give_up(writes, error.cause, outcomes)
                return
            if others and _share_a_writer(culprits, others):  # which must be stored in their order
                self._divide(lease, writes, error.cause, outcomes)
                return
            if others:
                self._admitted(lease, others, outcomes)
            if error.slow and not was_slow:
                self._admitted(lease, culprits, outcomes, was_slow=True)
            elif error.key == LEDGER:
                self._give_up(culprits, error.cause, outcomes)
            elif error.slow:
                self._put_aside(culprits, outcomes)
            elif not error.planned:
                outcomes.update((id(write), _told(error.cause)) for write in culprits)
            else:
                self._divide(lease, culprits, error.cause, outcomes)
        except Exception as error:
            if is_fatal(error):
                self._give_up(writes, error, outcomes)
            elif isinstance(error, Unavailable | Overloaded):  # the database is being reopened, or has no memory
                outcomes.update((id(write), error) for write in writes)
            else:
                self._divide(lease, writes, error, outcomes)
        else:
            self._rows.add(sum(write.rows for write in writes))
            for write in writes:
                outcomes[id(write)] = Receipt(write.rows, number)

    def _divide(self, lease: Lease, writes: list[Write], failure: Exception, outcomes: dict[int, Outcome]) -> None:
        if len(writes) == 1:
            (write,) = writes
            parts = write.divided()
            if not parts:
                outcomes[id(write)] = self._alone(lease, write, failure)
                return
            of_parts: dict[int, Outcome] = {}
            self._divide(lease, parts, failure, of_parts)
            outcomes[id(write)] = Divided([of_parts[id(part)] for part in parts])  # type: ignore[misc]  # parts have none
            return
        middle = len(writes) // 2
        self._admitted(lease, writes[:middle], outcomes)
        self._admitted(lease, writes[middle:], outcomes)

    def _by_parts(self, lease: Lease, write: Write, outcomes: dict[int, Outcome]) -> None:
        """Look at the writes of a message one by one: some of them were stored before."""
        of_parts: dict[int, Outcome] = {}
        parts = write.divided()
        for part in parts:
            self._admitted(lease, [part], of_parts)
        outcomes[id(write)] = Divided([of_parts[id(part)] for part in parts])  # type: ignore[misc]  # parts have none

    def _alone(self, lease: Lease, write: Write, failure: Exception) -> Outcome:
        """Try a write that failed alone again when that may help, or find the error that names the thing."""
        for attempt in range(_TRIES):
            if not isinstance(failure, _WORTH_TRYING):
                break
            # The plan may be older than the table: it was dropped and made again with other columns.
            self._forget(lease.cursor, write.key)
            if attempt:
                time.sleep(_TRY_PAUSE_SECONDS)
            held = None
            if write.claims:
                of_claim: dict[int, Outcome] = {}
                try:
                    ready, _, held = self._ledger.admit(lease.cursor, [write], of_claim)
                except duckdb.Error as error:
                    self._give_up([write], error, of_claim)
                    return of_claim[id(write)]
                if not ready:
                    return of_claim[id(write)]
            try:
                number = self._transaction(lease, [write], held)
            except _PlanError as error:
                self._database.note(error.cause)
                failure = error.cause
            except Exception as error:
                self._database.note(error)
                failure = error
            else:
                self._rows.add(write.rows)
                return Receipt(write.rows, number)
        return self._reason(lease.cursor, write, failure)

    def _give_up(self, writes: list[Write], error: Exception, outcomes: dict[int, Outcome]) -> None:
        self._database.note(error)
        lost = _told(error)
        if not isinstance(lost, Overloaded | Unavailable):
            lost = Unavailable(f"nothing was stored, the ledger of writers cannot be used now: {lost.message}")
        outcomes.update((id(write), lost) for write in writes)

    def _put_aside(self, writes: list[Write], outcomes: dict[int, Outcome]) -> None:
        """Keep writes like these out of groups for a while: they held everybody up."""
        key = writes[0].key
        self._slow[key] = time.monotonic() + _SLOW_SECONDS
        log.warning("writes to %s take too long for a group and are kept out of it", key.target.label)
        outcomes.update((id(write), self._too_slow(write)) for write in writes)

    def _without_slow(self, writes: Sequence[Write], outcomes: dict[int, Outcome]) -> list[Write]:
        now = time.monotonic()
        self._slow = {key: until for key, until in self._slow.items() if until > now}
        outcomes.update((id(write), self._too_slow(write)) for write in writes if write.key in self._slow)
        return [write for write in writes if write.key not in self._slow]

    def _too_slow(self, write: Write) -> SlowWrite:
        return SlowWrite(
            f'table "{write.key.target.label}": the write took more than '
            f"{self._config.group_timeout_seconds:g} seconds; send it as a write of its own"
        )

    def _reason(self, cursor: Any, write: Write, failure: BaseException) -> DucktowerError:
        plan = self._plans.get(write.key)
        try:
            if plan is None:
                return _told(failure)
            plan.fill(write.batches)
            return _found(cursor, self._database.catalog, write.key.target, write.key.schema, plan.name, failure)
        except Exception:
            log.exception("cannot find the reason of a failed write")
            return translate(failure)
        finally:
            if plan is not None:
                plan.empty()

    def _transaction(self, lease: Lease, writes: list[Write], held: set[tuple[str, str]] | None = None) -> int:
        """Store all of `writes` or nothing, return the commit. Raises _PlanError when it is known whose members failed.

        The writers in `held` are free again after it.
        """
        try:
            with self._database.headroom.taken(_COMMIT_TAKES * sum(write.nbytes for write in writes)):
                try:
                    return self._store(lease, writes, held)
                except _PlanError as error:
                    self._database.note(error.cause)  # before others may commit
                    raise
        finally:
            self._ledger.release(held or set())

    def _store(self, lease: Lease, writes: list[Write], held: set[tuple[str, str]] | None) -> int:
        by_key: dict[PlanKey, list[Any]] = {}
        for write in writes:
            by_key.setdefault(write.key, []).extend(write.batches)
        lines: list[Row] = []
        if held:
            number = self._commits.add()  # before COMMIT, because the ledger says it
            lines = self._ledger.lines(_claimed(writes), number)
        call = self._calls.start(
            "commit",
            writes[0].key.target.label,
            Caller(),
            timeout_seconds=self._config.group_timeout_seconds,
            interrupt=lease.interrupt,
        )
        cursor = lease.cursor
        alone = False
        try:
            ledger = self._planned(cursor, LEDGER, call) if lines else None
            (key, batches), *others = by_key.items()
            alone = not others and (ledger is None or self._planned(cursor, key, call).takes_along(cursor, ledger))
            if alone:  # one statement is its own transaction, and a third cheaper
                self._run_plan(cursor, key, batches, call, ledger, lines)
            else:
                for key in by_key:  # first: a plan that was made in a transaction goes with it
                    self._planned(cursor, key, call)
                cursor.execute("BEGIN TRANSACTION")
                for key, batches in by_key.items():
                    self._run_plan(cursor, key, batches, call)
                if lines:
                    self._run_plan(cursor, LEDGER, [self._ledger.batch(lines)], call)
                cursor.execute("COMMIT")
        except BaseException as error:
            # Also without a BEGIN: a statement whose own COMMIT the disk refused can leave one open.
            self._roll_back(lease)
            of_statement = isinstance(error, _PlanError) and not (alone and error.may_be_of_commit)
            if lines and not of_statement:
                self._ledger.forget()  # a COMMIT that failed may have stored it
            if call.reason == "reopening" and not is_fatal(error.cause if isinstance(error, _PlanError) else error):
                # Somebody else met the fatal error; that it was interrupted says nothing of these rows.
                raise unknown(call.error() or translate(error)) from error
            raise
        else:
            self._ledger.stored(lines)
        finally:
            self._calls.finish(call)
        return number if lines else self._commits.add()

    def _roll_back(self, lease: Lease) -> None:
        """Leave no transaction open: the next group would be a part of it, acknowledged and never committed."""
        if rolled_back(lease.cursor):
            return
        self._plans.clear()
        try:
            lease.renew()
        except duckdb.Error:  # the database is gone; why, the error says that is on its way
            lease.close()
            self._lease = None  # the next group has another one

    def _planned(self, cursor: Any, key: PlanKey, call: Call) -> _Plan:
        try:
            return self._plan(cursor, key)
        except Exception as error:
            raise _PlanError(key, error, call, planned=False) from error

    def _run_plan(
        self,
        cursor: Any,
        key: PlanKey,
        batches: list[Any],
        call: Call,
        ledger: _Plan | None = None,
        lines: Sequence[Row] = (),
    ) -> None:
        """Run one plan; one that takes the ledger's along also with rows of it."""
        plan = None
        try:
            plan = self._plan(cursor, key)
            plan.fill(batches)
            if ledger is None:
                plan.run(cursor)
            else:
                ledger.fill([self._ledger.batch(lines)])
                plan.run_both(cursor)
        except Exception as error:
            raise _PlanError(key, error, call, planned=plan is not None) from error
        finally:
            for filled in (plan, ledger):
                if filled is not None:
                    filled.empty()

    def _plan(self, cursor: Any, key: PlanKey) -> _Plan:
        plan = self._plans.get(key)
        if plan is not None:
            self._plans.move_to_end(key)
            return plan
        plan = self._plans[key] = _Plan(cursor, self._database.catalog, key.target, key.schema)
        if len(self._plans) > self._config.plans_max:
            _, oldest = self._plans.popitem(last=False)
            oldest.drop(cursor)
        return plan

    def _forget_all(self, cursor: Any) -> None:
        self._stale = False
        self._slow.clear()
        for key in list(self._plans):
            self._forget(cursor, key)

    def _forget(self, cursor: Any, key: PlanKey) -> None:
        plan = self._plans.pop(key, None)
        if plan is not None:
            plan.drop(cursor)


def _told(failure: BaseException) -> DucktowerError:
    """Return the error of ours. Memory that others have is no limit that a small write passed: it may come again."""
    told = translate(failure)
    if isinstance(told, LimitExceeded) and isinstance(failure, duckdb.Error):
        return Overloaded(f"DuckDB's memory is in use: {told.message}", retry_after_seconds=1.0)
    return told


def _found(
    cursor: Any, catalog: str, target: Target, schema: Any, source: str | None, failure: BaseException
) -> DucktowerError:
    """Return the error that names the thing, unless it is the server's and not the rows'."""
    told = _told(failure)
    if isinstance(told, Overloaded | Unavailable):
        return told
    return diagnose(cursor, catalog, target, schema, source, failure)


def _is_of(write: Write, key: PlanKey) -> bool:
    """Whether a plan's failure is about this write. Those without a name have nothing to do with the ledger."""
    return bool(write.claims) if key == LEDGER else write.key == key


def _claimed(writes: list[Write]) -> Iterator[tuple[Claim, int]]:
    for write in writes:
        yield from zip(write.claims, write.parts or (write.rows,), strict=False)


def _share_a_writer(some: list[Write], others: list[Write]) -> bool:
    writers = {claim.key for write in some for claim in write.claims[:1]}
    return any(claim.key in writers for write in others for claim in write.claims[:1])
