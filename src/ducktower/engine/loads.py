"""Writes with a transaction of their own: large streams, tables to be made, upserts that met a conflict.

Rows go from their source into DuckDB without passing Python. Owns the transaction on the leased cursor.
Must never be used for a small append: the commit queue is several times faster for those.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Any

import duckdb

from ..errors import Conflict, DucktowerError
from .calls import Call
from .database import Lease
from .failures import is_fatal, translate
from .headroom import Headroom
from .inserts import diagnose, insert_sql, make_table, quoted, table_columns, was_late
from .rollback import rolled_back
from .words import Target

__all__ = ["Load"]

_PAUSE_SECONDS_FIRST = 0.002
_PAUSE_SECONDS_MAX = 0.25


class Load:
    """One write on one lease; used by the thread that serves the call."""

    def __init__(
        self,
        lease: Lease,
        catalog: str,
        target: Target,
        schema: Any,
        call: Call,
        before_commit: Callable[[Any, int], None] | None = None,
        *,
        headroom: Headroom,
    ) -> None:
        """`before_commit` gets the cursor and the rows, within the transaction, each time before COMMIT."""
        self._before_commit = before_commit
        self._headroom = headroom
        self._given: int | None = None  # rows that came, where an upsert stores others
        self._cursor = lease.cursor
        self._catalog = catalog
        self._target = target
        self._schema = schema
        self._call = call
        self._name = f"__ducktower_{secrets.token_hex(8)}"
        self._reading = False  # whether rows were asked of the source since the last BEGIN

    def stream(self, reader: Any, retry_seconds: float) -> int:
        """Store what `reader` (pyarrow.RecordBatchReader) gives, all or nothing; return the rows.

        The stream can be read once. A conflict is met by trying again for `retry_seconds` as long as nothing
        was read, later it is raised. An upsert is put by in a temporary table first, and tries again from there.
        """
        try:
            if self._target.mode != "upsert":
                self._cursor.register(self._name, reader)
                return self._retried(retry_seconds, once=True)
            table_columns(self._cursor, self._catalog, self._target)
            self._cursor.register(f"{self._name}_stream", reader)
            staged = self._cursor.execute(
                f"CREATE TEMP TABLE {quoted(self._name)} AS FROM {quoted(self._name + '_stream')}"
            ).fetchall()[0][0]
            self._call.check()
            self._given = int(staged)
            self._retried(retry_seconds, once=False)
            return int(staged)
        except Exception as error:
            raise self._reason(error, None) from error

    def table(self, table: Any, retry_seconds: float) -> int:
        """Store a pyarrow.Table, all or nothing, trying again for `retry_seconds` after conflicts."""
        try:
            self._cursor.register(self._name, table)
            self._given = int(table.num_rows)
            self._retried(retry_seconds, once=False)
        except Exception as error:
            raise self._reason(error, self._name) from error
        return int(table.num_rows)

    def _retried(self, retry_seconds: float, *, once: bool) -> int:
        deadline = time.monotonic() + retry_seconds
        pause = _PAUSE_SECONDS_FIRST
        while True:
            self._reading = False
            try:
                return self._transaction()
            except (duckdb.Error, DucktowerError) as error:
                conflict = isinstance(translate(error), Conflict) or was_late(
                    self._cursor, self._catalog, self._target, error
                )
                if not conflict or (once and self._reading) or time.monotonic() > deadline:
                    raise
            self._call.check()
            time.sleep(pause)
            pause = min(pause * 2, _PAUSE_SECONDS_MAX)

    def _transaction(self) -> int:
        self._cursor.execute("BEGIN TRANSACTION")
        try:
            make_table(self._cursor, self._catalog, self._target, self._schema)
            columns = table_columns(self._cursor, self._catalog, self._target)
            sql = insert_sql(self._cursor, self._catalog, self._target, self._schema, columns, self._name)
            self._reading = True
            self._cursor.execute(sql)
            rows = int(self._cursor.rowcount)
            # A client that was killed looks like one that finished: ask before it is too late.
            self._call.check()
            if self._before_commit is not None:
                self._before_commit(self._cursor, rows if self._given is None else self._given)
            with self._headroom.taken():
                self._cursor.execute("COMMIT")
        except BaseException:
            rolled_back(self._cursor)  # else closing the cursor does it: a second BEGIN fails
            raise
        return rows

    def _reason(self, error: BaseException, source: str | None) -> DucktowerError:
        asked = self._call.error()
        if asked is not None or is_fatal(error):
            return translate(error, self._call)
        if isinstance(error, DucktowerError):
            return error
        return diagnose(self._cursor, self._catalog, self._target, self._schema, source, error)
