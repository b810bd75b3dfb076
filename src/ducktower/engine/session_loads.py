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
import pyarrow as pa

from ..arrow_types import plain_schema
from ..errors import InvalidArgument, InvalidSQL, TableNotFound
from ..row_groups import messages_of_stream
from .calls import Call
from .failures import translate
from .inserts import (
    VALUE_ERRORS,
    Column,
    Source,
    insert_sql,
    make_table,
    matched,
    one_of_these,
    quoted,
    refuse_unknown_fields,
    source_columns,
    table_columns,
    table_exists,
)
from .session_parts import Parts
from .uploads import UploadLimit
from .value_inserts import PlainInsert
from .whole_values import refusal
from .words import Mode, Target

__all__ = ["Ingest", "Loading", "columns_of", "insert_rows"]

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
        self.check_catalog(parts)
        target = Target(self.table, self.schema or "main", self.mode)
        if self._needs_look():
            with parts.cursors.open("internal", "look at a table", target.label, None) as (lease, _):
                self.look(lease.cursor, parts.catalog, target)
        return target

    @property
    def may_make_table(self) -> bool:
        """Whether the table may be another one afterwards."""
        return self.mode != "append"

    @property
    def mode(self) -> Mode:
        """The two words in one."""
        if self.if_exists == "fail":
            return "create"
        if self.if_exists == "replace":
            return "replace"
        return "append" if self.if_missing == "fail" else "create_append"

    def _needs_look(self) -> bool:
        return self.if_missing == "fail" and self.if_exists != "append"

    def look(self, cursor: Any, catalog: str, target: Target) -> None:
        """Raise TableNotFound when the table must be there and is not."""
        if self._needs_look() and not table_exists(cursor, catalog, target):
            raise TableNotFound(f'table "{target.label}" does not exist')

    def check_catalog(self, parts: Parts) -> None:
        """Raise InvalidArgument for a place that there is not."""
        if self.catalog and self.catalog.lower() != parts.catalog.lower():
            raise InvalidArgument(f'catalog "{self.catalog}" is not served; there is "{parts.catalog}"')
        if self.temporary and self.schema:
            raise InvalidArgument("a temporary table has no schema of its choice")


class Loading:
    """One ingest on a session's own cursor. Used by the thread of its call, in a transaction that its caller owns."""

    def __init__(self, ingest: Ingest, parts: Parts, reader: Any, call: Call) -> None:
        ingest.check_catalog(parts)
        self._ingest = ingest
        self._catalog = _TEMPORARY_CATALOG if ingest.temporary else parts.catalog
        self._sent = plain_schema(reader.schema)
        self._limit = UploadLimit(parts.config)
        reader = self._limit.bounded(reader)
        self._reader = reader if self._sent == reader.schema.remove_metadata() else reader.cast(self._sent)
        self._call = call
        self._reading = False

    def may_try_again(self) -> bool:
        """Whether no row was asked of the stream yet: it can be read once."""
        return not self._reading

    def store(self, cursor: Any) -> int:
        """Store the rows; return how many."""
        ingest = self._ingest
        schema = "main" if ingest.temporary else ingest.schema or _current_schema(cursor)
        target = Target(ingest.table, schema, ingest.mode)
        ingest.look(cursor, self._catalog, target)
        make_table(cursor, self._catalog, target, self._sent)
        rows = self._insert(cursor, target)
        # A client that was killed looks like one that finished: ask before it is too late.
        self._call.check()
        return rows

    def _insert(self, cursor: Any, target: Target) -> int:
        columns = table_columns(cursor, self._catalog, target)
        if not len(self._sent):
            return 0
        rows = pa.RecordBatchReader.from_batches(self._sent, messages_of_stream(self._limit.rows(self._reader)))
        with _registered(cursor, rows) as name:
            sql = insert_sql(cursor, self._catalog, target, self._sent, columns, name)
            sources = source_columns(cursor, self._sent)  # now: after a failure the transaction answers nothing
            self._reading = True
            try:
                with self._limit.told():
                    cursor.execute(sql)
            except VALUE_ERRORS as error:
                found = refusal(error) or translate(error)
                if isinstance(found, InvalidSQL):
                    raise one_of_these(found, sources, matched(target, self._sent, columns)) from error
                raise
            return int(cursor.rowcount)


def _current_schema(cursor: Any) -> str:
    return str(cursor.execute("SELECT current_schema()").fetchall()[0][0])


def columns_of(cursor: Any, insert: PlainInsert) -> list[Column]:
    """Return the columns that the values go into, in their order; none where the insert itself tells what is wrong."""
    try:
        relation = cursor.sql(f"FROM {insert.name_sql} LIMIT 0")
    except duckdb.Error:
        return []
    found = [Column(name, str(kind), kind) for name, kind in zip(relation.columns, relation.types, strict=True)]
    if insert.columns is not None:
        by_name = {column.name.lower(): column for column in found}
        found = [by_name[name.lower()] for name in insert.columns if name.lower() in by_name]
    return found if len(found) == len(insert.order) else []


def insert_rows(cursor: Any, insert: PlainInsert, table: Any, columns: list[Column]) -> int:
    """Store a table of parameters by one Arrow insert; DuckDB resolves the names as in the statement itself."""
    table = insert.arranged(table)
    if columns:
        refuse_unknown_fields(cursor, table.schema, columns)
    table = table.rename_columns([f"c{i}" for i in range(table.num_columns)])
    table = table.cast(plain_schema(table.schema))
    with _registered(cursor, table) as name:
        sql = f"{insert.into_sql} SELECT * FROM {quoted(name)}"
        cursor._bind(sql)  # what cannot be bound does not abort the transaction then
        cursor.execute(sql)
        return int(cursor.rowcount)


@contextlib.contextmanager
def _registered(cursor: Any, data: Any) -> Iterator[str]:
    """Register rows under a name that no client can guess.

    In an aborted transaction DuckDB does not take a name back: then an empty thing is left behind under it.
    """
    name = f"__ducktower_{secrets.token_hex(8)}"
    source = Source(data)
    cursor.register(name, source)
    try:
        yield name
    finally:
        source.data = pa.Table.from_batches([], schema=data.schema)  # unions, too
        with contextlib.suppress(duckdb.Error):
            cursor.unregister(name)
