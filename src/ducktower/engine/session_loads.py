"""Rows into tables on a session's own cursor: bulk ingest, and parameters of a plain INSERT as one Arrow insert.

Owns what "if missing" and "if it exists" mean. Must never begin or end a transaction: the session owns it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import duckdb

from ..arrow_types import plain_schema
from ..errors import InvalidArgument, InvalidSQL, TableNotFound
from .calls import Call
from .failures import translate
from .inserts import (
    VALUE_ERRORS,
    already_there,
    create_sql,
    insert_sql,
    matched,
    one_of_these,
    quoted,
    source_columns,
    table_columns,
    table_exists,
)
from .session_parts import Parts
from .value_inserts import PlainInsert
from .words import Mode, Target

__all__ = ["Ingest", "insert_rows"]

_TEMPORARY_CATALOG = "temp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ingest:
    """Where the rows of a bulk ingest go. `schema` None is the session's own; `catalog` None is the served one."""

    table: str
    schema: str | None = None
    catalog: str | None = None
    temporary: bool = False
    if_missing: Literal["create", "fail"] = "fail"
    if_exists: Literal["append", "replace", "fail"] = "append"
    transaction_id: bytes | None = None

    def target(self, parts: Parts) -> Target:
        """Return the target of a session without state."""
        self._check_catalog(parts)
        target = Target(self.table, self.schema or "main", self._mode())
        if self._needs_look():
            with parts.cursors.open("internal", "look at a table", target.label, None) as (lease, _):
                self._look(lease.cursor, parts.catalog, target)
        return target

    def store(self, cursor: Any, parts: Parts, reader: Any, call: Call) -> int:
        """Store the rows on the own cursor; return how many."""
        self._check_catalog(parts)
        catalog = _TEMPORARY_CATALOG if self.temporary else parts.catalog
        schema = "main" if self.temporary else self.schema or _current_schema(cursor)
        target = Target(self.table, schema, self._mode())
        sent = plain_schema(reader.schema)
        if sent != reader.schema.remove_metadata():
            reader = reader.cast(sent)
        self._look(cursor, catalog, target)
        self._make(cursor, catalog, target, sent)
        rows = _inserted(cursor, catalog, target, sent, reader)
        # A client that was killed looks like one that finished: ask before it is too late.
        call.check()
        return rows

    @property
    def may_make_table(self) -> bool:
        """Whether the table may be another one afterwards."""
        return self._mode() != "append"

    def _mode(self) -> Mode:
        if self.if_exists == "fail":
            return "create"
        if self.if_exists == "replace":
            return "replace"
        return "append" if self.if_missing == "fail" else "create_append"

    def _needs_look(self) -> bool:
        return self.if_missing == "fail" and self.if_exists != "append"

    def _look(self, cursor: Any, catalog: str, target: Target) -> None:
        if self._needs_look() and not table_exists(cursor, catalog, target):
            raise TableNotFound(f'table "{target.label}" does not exist')

    def _make(self, cursor: Any, catalog: str, target: Target, sent: Any) -> None:
        if target.mode == "append":
            return
        if target.mode != "replace" and table_exists(cursor, catalog, target):
            if target.mode == "create":
                raise already_there(target)
            return
        cursor.execute(create_sql(catalog, target, sent, source_columns(cursor, sent)))

    def _check_catalog(self, parts: Parts) -> None:
        if self.catalog and self.catalog.lower() != parts.catalog.lower():
            raise InvalidArgument(f'catalog "{self.catalog}" is not served; there is "{parts.catalog}"')
        if self.temporary and self.schema:
            raise InvalidArgument("a temporary table has no schema of its choice")


def _current_schema(cursor: Any) -> str:
    return str(cursor.execute("SELECT current_schema()").fetchall()[0][0])


def _inserted(cursor: Any, catalog: str, target: Target, sent: Any, reader: Any) -> int:
    if not len(sent):
        table_columns(cursor, catalog, target)
        return 0
    with _registered(cursor, reader) as name:
        columns = table_columns(cursor, catalog, target)
        sql = insert_sql(cursor, catalog, target, sent, columns, name)
        sources = source_columns(cursor, sent)  # now: after a failure the transaction answers nothing any more
        try:
            cursor.execute(sql)
        except VALUE_ERRORS as error:
            found = translate(error)
            if isinstance(found, InvalidSQL):
                raise one_of_these(found, sources, matched(target, sent, columns)) from error
            raise
        return int(cursor.rowcount)


def insert_rows(cursor: Any, insert: PlainInsert, table: Any) -> int:
    """Store a table of parameters by one Arrow insert; DuckDB resolves the names as in the statement itself."""
    table = insert.arranged(table)
    table = table.rename_columns([f"c{i}" for i in range(table.num_columns)])
    table = table.cast(plain_schema(table.schema))
    with _registered(cursor, table) as name:
        sql = f"{insert.into_sql} SELECT * FROM {quoted(name)}"
        cursor._bind(sql)  # what cannot be bound does not abort the transaction then
        cursor.execute(sql)
        return int(cursor.rowcount)


class _Source:
    """Rows that a cursor reads by name, for as long as there are any: what is left of it afterwards is empty."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.data.__arrow_c_stream__(requested_schema)


@contextlib.contextmanager
def _registered(cursor: Any, data: Any) -> Iterator[str]:
    """Register rows under a name that no client can guess.

    In an aborted transaction DuckDB does not take a name back: then an empty thing is left behind under it.
    """
    name = f"__ducktower_{secrets.token_hex(8)}"
    source = _Source(data)
    cursor.register(name, source)
    try:
        yield name
    finally:
        source.data = data.schema.empty_table()
        with contextlib.suppress(duckdb.Error):
            cursor.unregister(name)
