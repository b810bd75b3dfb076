"""Statements: queries, updates, prepared statements and ingest, handed to the caller's session.

Owns the translation of their commands and answers. Must never decide where a statement runs: its session does.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from ...config import EngineConfig
from ...engine import Caller, Ingest, Session, charged_bytes
from ...errors import Cancelled, InvalidArgument, LimitExceeded
from ...protocol.flight_sql import messages as m
from ...protocol.flight_sql import pack
from .asking import Ask, flight_info, handle_of, session_for, ticket_of
from .results import Listening, Results

__all__ = ["CLOSING", "Statements"]

CLOSING = frozenset({"ClosePreparedStatement"})
"""Actions that are no failure when the session is over: it has ended what they are to end."""

_BLINK_SECONDS = 0.02
_Ingest = m.CommandStatementIngest.TableDefinitionOptions

_IF_MISSING = {
    _Ingest.TABLE_NOT_EXIST_OPTION_CREATE: "create",
    _Ingest.TABLE_NOT_EXIST_OPTION_FAIL: "fail",
    _Ingest.TABLE_NOT_EXIST_OPTION_UNSPECIFIED: "fail",
}
_IF_EXISTS = {
    _Ingest.TABLE_EXISTS_OPTION_APPEND: "append",
    _Ingest.TABLE_EXISTS_OPTION_REPLACE: "replace",
    _Ingest.TABLE_EXISTS_OPTION_FAIL: "fail",
    _Ingest.TABLE_EXISTS_OPTION_UNSPECIFIED: "fail",
}


class Statements:
    """The handlers. Each runs in the thread of its call."""

    def __init__(self, config: EngineConfig, results: Results) -> None:
        self._config = config
        self._results = results

    # -- as text --------------------------------------------------------------------------------------

    def query_info(self, ask: Ask[m.CommandStatementQuery]) -> Any:
        """GetFlightInfo: run the query; the result waits for its DoGet."""
        ask.refuse_name()
        message = ask.message
        with session_for(ask.visit, message.transaction_id) as (session, transaction_id):
            return self._held(ask, session, lambda caller: session.query(message.query, None, transaction_id, caller))

    def query_schema(self, ask: Ask[m.CommandStatementQuery]) -> Any:
        """GetSchema: describe the query's result without running it."""
        message = ask.message
        with session_for(ask.visit, message.transaction_id) as (session, _):
            return session.describe(message.query, ask.caller).dataset_schema

    def update(self, ask: Ask[m.CommandStatementUpdate]) -> bytes:
        """DoPut without rows: run SQL that writes."""
        message = ask.message
        ask.caller.taken()  # no rows are expected
        with session_for(ask.visit, message.transaction_id) as (session, transaction_id):
            return _counted(session.update(message.query, None, transaction_id, ask.caller, ask.named()))

    def fetch(self, ask: Ask[m.TicketStatementQuery]) -> Any:
        """DoGet: hand out a waiting result, once."""
        return self._results.take(ask.message.statement_handle, ask.visit.principal, ask.caller)

    # -- prepared -------------------------------------------------------------------------------------

    def prepare(self, ask: Ask[m.ActionCreatePreparedStatementRequest]) -> Iterator[bytes]:
        """CreatePreparedStatement."""
        message = ask.message
        with session_for(ask.visit, message.transaction_id) as (session, transaction_id):
            prepared = session.prepare(message.query, transaction_id, ask.caller, ask.named())
            described = prepared.description
            answer = m.ActionCreatePreparedStatementResult(
                prepared_statement_handle=handle_of(session, prepared.handle),
                dataset_schema=_serialized(described.dataset_schema),
                parameter_schema=_serialized(described.parameter_schema),
                is_update=described.is_update,
            )
        yield pack(answer)

    def close_prepared(self, ask: Ask[m.ActionClosePreparedStatementRequest]) -> Iterator[bytes]:
        """ClosePreparedStatement: idempotent, also when the session is over."""
        with (
            contextlib.suppress(InvalidArgument),
            session_for(ask.visit, ask.message.prepared_statement_handle) as (session, handle),
        ):
            session.close_prepared(handle or b"")
        return iter(())

    def prepared_info(self, ask: Ask[m.CommandPreparedStatementQuery]) -> Any:
        """GetFlightInfo: run the statement with what is bound; the result waits for its DoGet."""
        ask.refuse_name()
        with self._prepared(ask) as (session, prepared):
            return self._held(ask, session, prepared.query)

    def prepared_schema(self, ask: Ask[m.CommandPreparedStatementQuery]) -> Any:
        """GetSchema."""
        with self._prepared(ask) as (_, prepared):
            return prepared.description.dataset_schema

    def bind(self, ask: Ask[m.CommandPreparedStatementQuery]) -> bytes:
        """DoPut: bind parameters for the executions to come."""
        with self._prepared(ask) as (_, prepared):
            parameters = self._parameters(ask)
            if parameters is not None:
                prepared.bind(parameters)
        handle = ask.message.prepared_statement_handle
        return m.DoPutPreparedStatementResult(prepared_statement_handle=handle).SerializeToString()

    def prepared_update(self, ask: Ask[m.CommandPreparedStatementUpdate]) -> bytes:
        """DoPut: run the statement once for each row of parameters."""
        with self._prepared(ask) as (_, prepared):
            return _counted(prepared.update(self._parameters(ask), ask.caller, ask.named()))

    # -- ingest ---------------------------------------------------------------------------------------

    def ingest(self, ask: Ask[m.CommandStatementIngest]) -> bytes:
        """DoPut: the rows go into a table."""
        message = ask.message
        if message.options:
            raise InvalidArgument(f"option {next(iter(message.options))!r} of the ingest is not known here")
        options = message.table_definition_options
        reader = _rows(ask.reader)
        with session_for(ask.visit, message.transaction_id) as (session, transaction_id):
            ingest = Ingest(
                table=message.table,
                schema=message.schema or None,
                catalog=message.catalog or None,
                if_missing=_known(_IF_MISSING, options.if_not_exist, "if_not_exist"),
                if_exists=_known(_IF_EXISTS, options.if_exists, "if_exists"),
                temporary=message.temporary,
                transaction_id=transaction_id,
            )
            return _counted(session.ingest(ingest, reader, ask.caller, ask.named()))

    # -- within ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _prepared(self, ask: Ask[Any]) -> Iterator[tuple[Session, Any]]:
        handle = ask.message.prepared_statement_handle
        if not handle:
            raise InvalidArgument("the handle of a prepared statement is missing")
        with session_for(ask.visit, handle) as (session, inner):
            yield session, session.prepared(inner or b"")

    def _held(self, ask: Ask[Any], session: Session, run: Callable[[Caller], Any]) -> Any:
        """Run a query and let its result wait."""
        self._results.check_room(ask.visit.principal)
        started = time.monotonic()
        listening = Listening(ask.caller)
        try:
            ran = run(listening.caller())
        finally:
            listening.move(None)
        try:
            # To ask gRPC takes as long as a small query; what took no longer than a blink waits for its client anyway.
            if time.monotonic() - started > _BLINK_SECONDS and ask.caller.gone():
                raise Cancelled("the client went away before its result was there")
            handle = self._results.hold(ran.reader, listening, session.id, ran.nbytes, holds_place=ran.holds_place)
        except BaseException:
            ran.reader.close()
            raise
        return flight_info(ran.reader.schema, ask.descriptor, ticket_of(handle), ran.rows)

    def _parameters(self, ask: Ask[Any]) -> pa.Table | None:
        """Return the rows of parameters that a DoPut brought; None when it brought no columns."""
        try:
            schema = ask.reader.schema
        except (pa.ArrowException, OSError):
            ask.caller.taken()
            return None  # a DoPut without any Arrow message
        batches: list[pa.RecordBatch] = []
        nbytes = 0
        for batch in _translated(ask):
            ask.caller.heard()
            nbytes += charged_bytes(batch)
            if nbytes > self._config.bound_bytes_max:
                raise LimitExceeded(f"the parameters have more than {self._config.bound_bytes_max} bytes")
            batches.append(batch)
        ask.caller.taken()
        if ask.caller.gone():
            raise Cancelled("the client went away while it sent parameters")
        return pa.Table.from_batches(batches, schema=schema) if len(schema) else None


def _translated(ask: Ask[Any]) -> Iterator[Any]:
    try:
        yield from ask.reader.to_reader()
    except (pa.ArrowException, OSError) as error:
        if ask.caller.gone():
            raise Cancelled("the client went away while it sent parameters") from error
        raise InvalidArgument(f"the parameters cannot be read: {error}") from error


def _rows(reader: Any) -> Any:
    try:
        return reader.to_reader()
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument("the stream has no Arrow schema") from error


def _known(words: dict[Any, str], value: int, name: str) -> Any:
    if value not in words:
        raise InvalidArgument(f"{name} has no meaning {value}")
    return words[value]


def _serialized(schema: Any) -> bytes:
    """Return a schema as the wire has it; nothing when there are no columns."""
    return bytes(schema.serialize()) if schema is not None and len(schema) else b""


def _counted(rows: int) -> bytes:
    return m.DoPutUpdateResult(record_count=rows).SerializeToString()
