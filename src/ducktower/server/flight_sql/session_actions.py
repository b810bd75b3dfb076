"""Actions on sessions: transactions, options, cancelling, the end.

Owns the translation of their messages. Must never keep anything of a session.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...errors import InvalidArgument
from ...protocol.flight_sql import flight_messages as f
from ...protocol.flight_sql import messages as m
from ...protocol.flight_sql import pack, parse, type_name, unpack
from ...protocol.status import Unimplemented
from .asking import Ask, handle_of, session_for
from .results import Results

__all__ = ["ALWAYS_ADMITTED", "SessionActions"]

ALWAYS_ADMITTED = frozenset({"CancelFlightInfo", "CancelQuery", "ClosePreparedStatement", "CloseSession"})
"""Actions that make room: they are needed most when everything is taken."""

_End = m.ActionEndTransactionRequest

_REFUSALS = {
    # Why the engine refused an option -> what the wire calls it.
    "unknown name": f.SetSessionOptionsResult.INVALID_NAME,
    "unfit value": f.SetSessionOptionsResult.INVALID_VALUE,
}


class SessionActions:
    """The handlers. Each runs in the thread of its call."""

    def __init__(self, results: Results) -> None:
        self._results = results

    # -- transactions ---------------------------------------------------------------------------------

    def begin(self, ask: Ask[m.ActionBeginTransactionRequest]) -> Iterator[bytes]:
        """BeginTransaction."""
        with ask.visit.session() as session:
            transaction_id = handle_of(session, session.begin(ask.caller))
        yield pack(m.ActionBeginTransactionResult(transaction_id=transaction_id))

    def end(self, ask: Ask[m.ActionEndTransactionRequest]) -> Iterator[bytes]:
        """EndTransaction: commit or roll back."""
        message = ask.message
        if message.action not in (_End.END_TRANSACTION_COMMIT, _End.END_TRANSACTION_ROLLBACK):
            raise InvalidArgument("EndTransaction needs an action: commit or roll back")
        if not message.transaction_id:
            raise InvalidArgument("EndTransaction needs the id of a transaction")
        with session_for(ask.visit, message.transaction_id) as (session, transaction_id):
            commit = message.action == _End.END_TRANSACTION_COMMIT
            session.end(transaction_id or b"", commit=commit, caller=ask.caller)
        return iter(())

    def savepoint(self, _ask: Ask[Any]) -> Iterator[bytes]:
        """BeginSavepoint and EndSavepoint: refused."""
        raise Unimplemented("savepoints are not offered: DuckDB has none")

    # -- cancelling -----------------------------------------------------------------------------------

    def cancel_info(self, ask: Ask[f.CancelFlightInfoRequest]) -> Iterator[bytes]:
        """CancelFlightInfo."""
        done = self._cancelled(ask.message.info, ask)
        status = f.CANCEL_STATUS_CANCELLED if done else f.CANCEL_STATUS_NOT_CANCELLABLE
        yield f.CancelFlightInfoResult(status=status).SerializeToString()

    def cancel_query(self, ask: Ask[m.ActionCancelQueryRequest]) -> Iterator[bytes]:
        """CancelQuery, the older form."""
        done = self._cancelled(parse(f.FlightInfo, ask.message.info), ask)
        kind = m.ActionCancelQueryResult
        result = kind.CANCEL_RESULT_CANCELLED if done else kind.CANCEL_RESULT_NOT_CANCELLABLE
        yield pack(kind(result=result))

    def _cancelled(self, info: f.FlightInfo, ask: Ask[Any]) -> bool:
        """End the result that the FlightInfo names; False when it is over, or was none of a query."""
        done = False
        for endpoint in info.endpoint:
            packed = unpack(endpoint.ticket.ticket, "ticket")
            if type_name(packed) == "TicketStatementQuery":
                handle = parse(m.TicketStatementQuery, packed.value).statement_handle
                done = self._results.cancel(handle, ask.visit.principal) or done
        return done

    # -- options and the end --------------------------------------------------------------------------

    def set_options(self, ask: Ask[f.SetSessionOptionsRequest]) -> Iterator[bytes]:
        """SetSessionOptions: names those that were not set."""
        wanted = {name: _plain(value) for name, value in ask.message.session_options.items()}
        answer = f.SetSessionOptionsResult()
        with ask.visit.session() as session:
            for name, refusal in session.set_options(wanted, ask.caller).items():
                answer.errors[name].value = _REFUSALS[refusal]
        yield answer.SerializeToString()

    def get_options(self, ask: Ask[f.GetSessionOptionsRequest]) -> Iterator[bytes]:
        """GetSessionOptions."""
        answer = f.GetSessionOptionsResult()
        with ask.visit.session() as session:
            for name, value in session.options(ask.caller).items():
                _fill(answer.session_options[name], value)
        yield answer.SerializeToString()

    def close(self, ask: Ask[f.CloseSessionRequest]) -> Iterator[bytes]:
        """CloseSession: rolls back what is open."""
        session = ask.visit.find()
        if session is not None:
            self._results.drop_session(session.id)
        closed = ask.visit.close()
        kind = f.CloseSessionResult
        yield kind(status=kind.CLOSED if closed else kind.NOT_CLOSEABLE).SerializeToString()


def _plain(value: f.SessionOptionValue) -> Any:
    """Return an option's value; None when it is to be what it was."""
    kind = value.WhichOneof("option_value")
    if kind is None:
        return None
    return list(value.string_list_value.values) if kind == "string_list_value" else getattr(value, kind)


def _fill(field: f.SessionOptionValue, value: Any) -> None:
    match value:
        case bool():
            field.bool_value = value
        case int():
            field.int64_value = value
        case float():
            field.double_value = value
        case list():
            field.string_list_value.values.extend(map(str, value))
        case _:
            field.string_value = str(value)
