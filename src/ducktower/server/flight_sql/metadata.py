"""Metadata: what there is, as the tables that drivers expect.

Owns which method of the engine answers a command, and the schema of each answer. A ticket is the command itself:
the answer is made when it is fetched. Must never hold SQL.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import pyarrow as pa
from google.protobuf.message import Message

from ...engine import Engine
from ...protocol.flight_sql import messages as m
from ...protocol.flight_sql import pack, schemas
from .asking import Ask, flight_info
from .sql_info import sql_info
from .type_info import type_info

__all__ = ["Metadata", "Question"]

M = TypeVar("M", bound=Message)


class Question(NamedTuple, Generic[M]):
    """One command: its message, its answer's schema, and what answers it."""

    message: type[M]
    schema: Callable[[M], pa.Schema]
    answer: Callable[[Ask[M]], pa.Table]


class Metadata:
    """The handlers. Each runs in the thread of its call."""

    def __init__(self, engine: Engine, batch_bytes_max: int) -> None:
        self._engine = engine
        self._batch_bytes_max = batch_bytes_max
        self.questions: tuple[Question[Any], ...] = (
            Question(m.CommandGetSqlInfo, lambda _: schemas.SQL_INFO, self._sql_info),
            Question(m.CommandGetXdbcTypeInfo, lambda _: schemas.XDBC_TYPE_INFO, self._type_info),
            Question(m.CommandGetCatalogs, lambda _: schemas.CATALOGS, self._catalogs),
            Question(m.CommandGetDbSchemas, lambda _: schemas.DB_SCHEMAS, self._db_schemas),
            Question(m.CommandGetTables, _tables_schema, self._tables),
            Question(m.CommandGetTableTypes, lambda _: schemas.TABLE_TYPES, self._table_types),
            Question(m.CommandGetPrimaryKeys, lambda _: schemas.PRIMARY_KEYS, self._primary_keys),
            Question(m.CommandGetExportedKeys, lambda _: schemas.FOREIGN_KEYS, self._exported_keys),
            Question(m.CommandGetImportedKeys, lambda _: schemas.FOREIGN_KEYS, self._imported_keys),
            Question(m.CommandGetCrossReference, lambda _: schemas.FOREIGN_KEYS, self._cross_reference),
        )

    @staticmethod
    def info(question: Question[M], ask: Ask[M]) -> Any:
        """GetFlightInfo: the schema; the ticket is the command."""
        return flight_info(question.schema(ask.message), ask.descriptor, pack(ask.message))

    @staticmethod
    def schema(question: Question[M], ask: Ask[M]) -> Any:
        """GetSchema."""
        return question.schema(ask.message)

    def get(self, question: Question[M], ask: Ask[M]) -> Any:
        """DoGet: the answer, in one batch while it is small: some drivers read no more than the first."""
        table = question.answer(ask)
        table = pa.Table.from_arrays(table.columns, schema=question.schema(ask.message)).combine_chunks()
        rows = table.num_rows
        if table.nbytes > self._batch_bytes_max:
            rows = max(1, rows * self._batch_bytes_max // (2 * table.nbytes))
        return table.to_reader(max_chunksize=max(1, rows))

    def _sql_info(self, ask: Ask[m.CommandGetSqlInfo]) -> pa.Table:
        return sql_info(self._engine, list(ask.message.info))

    def _type_info(self, ask: Ask[m.CommandGetXdbcTypeInfo]) -> pa.Table:
        return type_info(_set(ask.message, "data_type"))

    def _catalogs(self, ask: Ask[m.CommandGetCatalogs]) -> pa.Table:
        return self._engine.catalogs(session=ask.visit.find(), caller=ask.caller)

    def _db_schemas(self, ask: Ask[m.CommandGetDbSchemas]) -> pa.Table:
        message = ask.message
        return self._engine.db_schemas(
            _set(message, "catalog"),
            _set(message, "db_schema_filter_pattern"),
            session=ask.visit.find(),
            caller=ask.caller,
        )

    def _tables(self, ask: Ask[m.CommandGetTables]) -> pa.Table:
        message = ask.message
        return self._engine.tables_of(
            _set(message, "catalog"),
            _set(message, "db_schema_filter_pattern"),
            _set(message, "table_name_filter_pattern"),
            list(message.table_types),
            include_schema=message.include_schema,
            session=ask.visit.find(),
            caller=ask.caller,
        )

    def _table_types(self, _ask: Ask[m.CommandGetTableTypes]) -> pa.Table:
        return self._engine.table_types()

    def _primary_keys(self, ask: Ask[m.CommandGetPrimaryKeys]) -> pa.Table:
        return self._engine.primary_keys(*_table(ask.message), session=ask.visit.find(), caller=ask.caller)

    def _exported_keys(self, ask: Ask[m.CommandGetExportedKeys]) -> pa.Table:
        return self._engine.exported_keys(*_table(ask.message), session=ask.visit.find(), caller=ask.caller)

    def _imported_keys(self, ask: Ask[m.CommandGetImportedKeys]) -> pa.Table:
        return self._engine.imported_keys(*_table(ask.message), session=ask.visit.find(), caller=ask.caller)

    def _cross_reference(self, ask: Ask[m.CommandGetCrossReference]) -> pa.Table:
        message = ask.message
        return self._engine.cross_reference(
            _set(message, "pk_catalog"),
            _set(message, "pk_db_schema"),
            message.pk_table,
            _set(message, "fk_catalog"),
            _set(message, "fk_db_schema"),
            message.fk_table,
            session=ask.visit.find(),
            caller=ask.caller,
        )


def _set(message: Message, name: str) -> Any:
    """Return an optional field, None when it is not set."""
    return getattr(message, name) if message.HasField(name) else None


def _table(
    message: m.CommandGetPrimaryKeys | m.CommandGetExportedKeys | m.CommandGetImportedKeys,
) -> tuple[str | None, str | None, str]:
    return _set(message, "catalog"), _set(message, "db_schema"), message.table


def _tables_schema(message: m.CommandGetTables) -> pa.Schema:
    return schemas.TABLES_WITH_SCHEMA if message.include_schema else schemas.TABLES
