"""SQL that writes: a script is one transaction, and a conflict is tried again.

Owns the order in which statements that met a conflict try again, and which of them can be had once however often they
are sent. Must never run a statement of a kind that `statements` refuses.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import duckdb
import pyarrow as pa

from ..config import EngineConfig
from ..errors import Conflict, DucktowerError, InvalidSQL, LimitExceeded
from . import statements
from .calls import Call
from .carried import carried
from .failures import translate
from .guard import BEGIN_READ_ONLY
from .headroom import Headroom
from .ledger import Ledger
from .listings import hide_ledger
from .parameters import Parameters, Rows
from .rollback import rolled_back
from .row_limit import RowLimit
from .words import Claim, Receipt

__all__ = ["Scripts"]

_PAUSE_SECONDS_FIRST = 0.001
_PAUSE_SECONDS_MAX = 0.1
_BATCH_ROWS = 2_048

BeforeCommit = Callable[[Any, int], None] | None
"""Gets the cursor and the changed rows, within the transaction, each time before COMMIT."""


class Scripts:
    """Safe from any thread; each run uses the cursor that it is given."""

    def __init__(
        self,
        config: EngineConfig,
        admit: Callable[[], None],
        tables_changed: Callable[[], None],
        ledger: Ledger,
        *,
        commits: Callable[[], int],
        headroom: Headroom,
    ) -> None:
        """`commits` gives the number of a new commit."""
        self._headroom = headroom
        self._config = config
        self._ledger = ledger
        self._commits = commits
        self._admit_write = admit  # raises while the disk is nearly full
        self._tables_changed = tables_changed
        self._rows = RowLimit(config.row_bytes_max, "a row that the statement returns")
        # Held by one statement that met a conflict, while it tries again: so somebody always gets through.
        self._turn = threading.Lock()

    def once(self, cursor: Any, script: list[Any], parameters: Parameters | Rows, call: Call, claim: Claim) -> Receipt:
        """Run all statements or none, and that once: a repeat returns the first receipt. It has the last one's rows.

        Raises InvalidSQL for what the ledger cannot answer for: a statement whose effect is no part of the transaction,
        and one that returns rows, which are kept nowhere. And what `Ledger.turn` and `run` do.
        """
        for statement in script:
            if not statements.is_repeatable(statement):
                raise InvalidSQL(
                    f"{statements.verb(statement)} cannot have a writer here; what changes the database for good can: "
                    "INSERT, UPDATE, DELETE, MERGE, CREATE but for temporary things, ALTER, DROP"
                )
        with self._ledger.turn(cursor, claim, self._commits) as turn:
            if turn.first is not None:
                return turn.first
            rows, _ = self.run(cursor, script, parameters, call, before_commit=turn.before_commit)
        return Receipt(rows, turn.commit())

    def run(
        self,
        cursor: Any,
        script: list[Any],
        parameters: Parameters | Rows,
        call: Call,
        *,
        read_only: bool = False,
        before_commit: BeforeCommit = None,
    ) -> tuple[int, Any]:
        """Run all statements or none; return the last one's changed rows (-1: not counted) and result.

        None of them is BEGIN, COMMIT or ROLLBACK. The result is a pyarrow.Table, or None when there is none.
        Parameters go to the last statement. Raises Conflict when others kept changing the same rows for
        `conflict_retry_seconds`, Forbidden when something would be written with `read_only`.
        """
        begin = BEGIN_READ_ONLY if read_only else "BEGIN TRANSACTION"
        try:
            return self._retried(cursor, begin, script, parameters, call, before_commit)
        finally:
            if any(statements.changes_tables(statement) for statement in script):
                self._tables_changed()

    def _retried(
        self,
        cursor: Any,
        begin: str,
        script: list[Any],
        parameters: Parameters | Rows,
        call: Call,
        before_commit: BeforeCommit,
    ) -> tuple[int, Any]:
        deadline = time.monotonic() + self._config.conflict_retry_seconds
        try:
            return self._transaction(cursor, begin, script, parameters, before_commit)
        except (duckdb.Error, DucktowerError) as error:
            if not isinstance(translate(error, call), Conflict):
                raise
        pause = _PAUSE_SECONDS_FIRST
        while True:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not self._turn.acquire(timeout=remaining):
                raise Conflict("other transactions kept changing the same rows; nothing was stored")
            try:
                call.check()
                return self._transaction(cursor, begin, script, parameters, before_commit)
            except (duckdb.Error, DucktowerError) as error:
                if not isinstance(translate(error, call), Conflict):
                    raise
            finally:
                self._turn.release()
            time.sleep(pause)
            pause = min(pause * 2, _PAUSE_SECONDS_MAX)

    def _transaction(
        self,
        cursor: Any,
        begin: str,
        script: list[Any],
        parameters: Parameters | Rows,
        before_commit: BeforeCommit,
    ) -> tuple[int, Any]:
        if len(script) == 1 and statements.runs_alone(script[0]):
            if isinstance(parameters, Rows):
                raise InvalidSQL("this kind of statement takes no rows of parameters")
            return self.last(cursor, script[0], parameters)
        cursor.execute(begin)
        try:
            for statement in script[:-1]:
                self._admit(statement)
                _run(cursor, statement)
            if isinstance(parameters, Rows):
                result = self.for_each(cursor, script[-1], parameters)
            else:
                result = self.last(cursor, script[-1], parameters)
            if before_commit is not None:
                if result[1] is not None:
                    raise InvalidSQL(
                        "a statement with a writer returns no rows, as its repeat could not; nothing was stored"
                    )
                before_commit(cursor, result[0])
            with contextlib.nullcontext() if begin == BEGIN_READ_ONLY else self._headroom.taken():
                cursor.execute("COMMIT")
        except BaseException:
            rolled_back(cursor)  # else closing the cursor does it: a second BEGIN fails
            raise
        return result

    def for_each(self, cursor: Any, statement: Any, rows: Rows) -> tuple[int, Any]:
        """Run a statement once for each row of parameters; return all changed rows and all results, if it has any."""
        self._admit(statement)
        if not statements.gives_changed_rows(statement):
            changed = 0
            for part in rows.parts():
                cursor.executemany(statement, part)  # plans once for all of them, and adds their counts up
                changed = -1 if changed < 0 or cursor.rowcount < 0 else changed + int(cursor.rowcount)
            return changed, None
        tables = []
        nbytes = 0
        for parameters in rows:
            _, table = self.last(cursor, statement, parameters)
            nbytes += table.nbytes
            self._check_returned(nbytes)
            tables.append(table)
        if not tables:
            return 0, None
        result = pa.concat_tables(tables)
        return result.num_rows, result

    def last(self, cursor: Any, statement: Any, parameters: Parameters) -> tuple[int, Any]:
        """Run one statement to its end; return its changed rows (-1: not counted) and its result, if it has one."""
        self._admit(statement)
        hide_ledger(cursor, statement.query)
        relation = cursor.sql(statement, params=parameters)
        if relation is None:
            return -1, None
        reader = carried(relation).to_arrow_reader(_BATCH_ROWS)
        batches: list[Any] = []
        nbytes = 0
        for batch in reader:
            nbytes += batch.nbytes
            self._rows.check(batch)
            self._check_returned(nbytes)
            batches.append(batch)
        table = pa.Table.from_batches(batches, schema=reader.schema)
        changed = statements.changed_rows(statement, table)
        return (table.num_rows, table) if changed is None else (changed, None)

    def _admit(self, statement: Any) -> None:
        if statements.takes_space(statement):
            self._admit_write()

    def _check_returned(self, nbytes: int) -> None:
        if nbytes > self._config.returned_bytes_max:
            raise LimitExceeded(
                f"the statement returns more than {self._config.returned_bytes_max} bytes; it was rolled back"
            )


def _run(cursor: Any, statement: Any) -> None:
    """Run a statement to its end without keeping what it returns."""
    relation = cursor.sql(statement)
    if relation is not None:
        for _ in relation.to_arrow_reader(_BATCH_ROWS):
            pass
