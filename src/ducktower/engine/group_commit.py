"""How a group of small writes becomes one transaction of DuckDB's.

Each pair of target and Arrow schema has a plan: a stream object registered once on the committing cursor, and
an INSERT prepared once that reads from it. A group's batches are concatenated and put into that object; the
prepared statement then costs half of what registering an Arrow table anew does (docs/decisions, group commit).

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
from collections.abc import Sequence
from typing import Any

import duckdb
import pyarrow as pa

from ..config import EngineConfig
from ..errors import Conflict, DucktowerError, Unavailable
from ..monitor import Counter
from .database import Database, Lease
from .failures import first_line, is_fatal, translate
from .inserts import diagnose, insert_sql, table_columns
from .words import Outcome, PlanKey, Receipt, Target, Write

__all__ = ["GroupCommitter"]

log = logging.getLogger(__name__)

_CONFLICT_TRIES = 3
_CONFLICT_PAUSE_SECONDS = 0.001
_REOPEN_WAIT_SECONDS = 30.0  # longer than a stalled reader is waited for


class _Source:
    """What the prepared INSERT reads: DuckDB asks it for a stream each time the statement runs."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.data.__arrow_c_stream__(requested_schema)


class _Plan:
    """One prepared INSERT and its source."""

    def __init__(self, cursor: Any, catalog: str, target: Target, schema: Any) -> None:
        self.name = f"__ducktower_{secrets.token_hex(8)}"  # no statement of a client's can guess it
        self._empty = pa.Table.from_batches([], schema=schema)
        self._source = _Source(self._empty)
        columns = table_columns(cursor, catalog, target)
        sql = insert_sql(cursor, catalog, target, schema, columns, self.name)
        try:
            cursor.register(self.name, self._source)
            if sql.startswith("INSERT"):
                cursor.execute(f"PREPARE {self.name} AS {sql}")
                sql = f"EXECUTE {self.name}"
            # else MERGE, which DuckDB 2.0 cannot prepare: it is parsed once and planned each time.
            self._execute = cursor.extract_statements(sql)[0]
        except duckdb.Error as error:
            reason = diagnose(cursor, catalog, target, schema, None, error)
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

    def empty(self) -> None:
        self._source.data = self._empty

    def drop(self, cursor: Any) -> None:
        with contextlib.suppress(duckdb.Error):
            cursor.execute(f"DEALLOCATE {self.name}")
        with contextlib.suppress(duckdb.Error):
            cursor.unregister(self.name)


class GroupCommitter:
    """Commits groups. `commit` is the function that the commit queue is given."""

    def __init__(self, database: Database, config: EngineConfig, commits: Counter, rows: Counter) -> None:
        self._database = database
        self._config = config
        self._commits = commits
        self._rows = rows
        # Guarded by _lock: the cursor, whatever runs on it, and the plans prepared on it.
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._plans: OrderedDict[PlanKey, _Plan] = OrderedDict()
        self._stale = False  # set by any thread, without the lock: the next group makes its plans anew
        database.before_reopen(self.close)

    def commit(self, writes: Sequence[Write]) -> list[Outcome]:
        """Commit the group; return each member's outcome in order. Called by the committing thread."""
        self._database.wait_serving(_REOPEN_WAIT_SECONDS)
        with self._lock:
            try:
                cursor = self._cursor()
            except DucktowerError as error:
                return [error] * len(writes)
            if self._stale:
                self._stale = False
                for key in list(self._plans):
                    self._forget(cursor, key)
            return self._commit(cursor, list(writes))

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

    def _cursor(self) -> Any:
        if self._lease is None:
            self._lease = self._database.lease("internal")
        return self._lease.cursor

    def _commit(self, cursor: Any, writes: list[Write]) -> list[Outcome]:
        """Commit all in one transaction; when that fails, the halves, until only the bad ones fail."""
        try:
            self._transaction(cursor, writes)
        except duckdb.Error as error:
            if is_fatal(error):
                self._database.note(error)
                unknown = Unavailable(
                    "the database met a fatal error and is being reopened; "
                    f"whether this write was stored is not known: {first_line(str(error))}"
                )
                return [unknown] * len(writes)
            failure: BaseException = error
        except Exception as error:  # whatever it is, it must not reach the other members
            failure = error
        else:
            number = self._commits.add()
            self._rows.add(sum(write.rows for write in writes))
            return [Receipt(write.rows, number) for write in writes]
        if len(writes) == 1:
            return [self._alone(cursor, writes[0], failure)]
        middle = len(writes) // 2
        return self._commit(cursor, writes[:middle]) + self._commit(cursor, writes[middle:])

    def _alone(self, cursor: Any, write: Write, failure: BaseException) -> Outcome:
        """Try a write that failed alone once more with a fresh plan, or find the error that names the thing."""
        # The plan may be older than the table: it was dropped and made again with other columns.
        self._forget(cursor, write.key)
        for attempt in range(_CONFLICT_TRIES):
            if attempt:
                time.sleep(_CONFLICT_PAUSE_SECONDS)
            try:
                self._transaction(cursor, [write])
            except Exception as error:
                self._database.note(error)
                failure = error
            else:
                self._rows.add(write.rows)
                return Receipt(write.rows, self._commits.add())
            if not isinstance(translate(failure), Conflict):
                break
        return self._reason(cursor, write, failure)

    def _reason(self, cursor: Any, write: Write, failure: BaseException) -> DucktowerError:
        plan = self._plans.get(write.key)
        try:
            if plan is None:
                return translate(failure)
            plan.fill(write.batches)
            return diagnose(cursor, self._database.catalog, write.key.target, write.key.schema, plan.name, failure)
        except Exception:
            log.exception("cannot find the reason of a failed write")
            return translate(failure)
        finally:
            if plan is not None:
                plan.empty()

    def _transaction(self, cursor: Any, writes: list[Write]) -> None:
        """Store all of `writes` or nothing."""
        by_plan: dict[PlanKey, list[Any]] = {}
        for write in writes:
            by_plan.setdefault(write.key, []).extend(write.batches)
        plans = [(self._plan(cursor, key), batches) for key, batches in by_plan.items()]
        try:
            for plan, batches in plans:
                plan.fill(batches)
            if len(plans) == 1:
                plans[0][0].run(cursor)  # one statement is its own transaction, and a third cheaper
                return
            cursor.execute("BEGIN TRANSACTION")
            try:
                for plan, _ in plans:
                    plan.run(cursor)
                cursor.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(duckdb.Error):
                    cursor.execute("ROLLBACK")
                raise
        finally:
            for plan, _ in plans:
                plan.empty()

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

    def _forget(self, cursor: Any, key: PlanKey) -> None:
        plan = self._plans.pop(key, None)
        if plan is not None:
            plan.drop(cursor)
