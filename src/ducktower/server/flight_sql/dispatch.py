"""Which handler serves which command and action of Flight SQL: the tables, and the way from bytes to a handler.

Owns the tables. What is in none of them answers UNIMPLEMENTED with its type's name, bytes that are no message
INVALID_ARGUMENT. Must never know what a handler does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

from google.protobuf.message import Message

from ...config import ServerConfig
from ...engine import Caller, Engine
from ...errors import InvalidArgument, LimitExceeded
from ...protocol.flight_sql import flight_messages as f
from ...protocol.flight_sql import is_packed, parse, type_name, unpack
from ...protocol.flight_sql import messages as m
from ...protocol.status import Unimplemented
from ..visits import Visit
from .asking import Ask
from .metadata import Metadata
from .results import Results
from .session_actions import ALWAYS_ADMITTED, SessionActions
from .statements import CLOSING, Statements

__all__ = ["FlightSql"]

_Handler = Callable[[Ask[Any]], Any]


class _Command(NamedTuple):
    """A command, and what serves it in each call that it may come with."""

    message: type[Message]
    info: _Handler | None = None
    schema: _Handler | None = None
    get: _Handler | None = None
    put: _Handler | None = None


class _Action(NamedTuple):
    """An action; its body is packed in Any, or is the message itself."""

    description: str
    message: type[Message] | None
    packed: bool
    run: Callable[[Ask[Any]], Iterator[bytes]]


class FlightSql:
    """Flight SQL beside plain Flight, over the same engine. Safe from any thread."""

    claims = staticmethod(is_packed)
    """Whether a command or ticket is one of Flight SQL."""

    always_admitted = ALWAYS_ADMITTED
    closing = CLOSING

    def __init__(self, engine: Engine, config: ServerConfig) -> None:
        self._config = config
        self.results = Results(config)
        engine.when_reads_wait(self.results.give_way)
        statements = Statements(engine.config, self.results)
        metadata = Metadata(engine, engine.config.batch_bytes_max)
        self._commands = {
            command.message.DESCRIPTOR.name: command
            for command in (
                _Command(m.CommandStatementQuery, info=statements.query_info, schema=statements.query_schema),
                _Command(m.CommandStatementUpdate, put=statements.update),
                _Command(
                    m.CommandPreparedStatementQuery,
                    info=statements.prepared_info,
                    schema=statements.prepared_schema,
                    put=statements.bind,
                ),
                _Command(m.CommandPreparedStatementUpdate, put=statements.prepared_update),
                _Command(m.CommandStatementIngest, put=statements.ingest),
                _Command(m.TicketStatementQuery, get=statements.fetch),
                *(
                    _Command(
                        question.message,
                        info=partial(metadata.info, question),
                        schema=partial(metadata.schema, question),
                        get=partial(metadata.get, question),
                    )
                    for question in metadata.questions
                ),
            )
        }
        self._actions = _actions(statements, SessionActions(self.results))

    def get(self, ticket: bytes, visit: Visit, caller: Caller) -> Any:
        """DoGet: return a pyarrow.RecordBatchReader."""
        return self._serve("get", "DoGet", ticket, visit, caller)

    def info(self, descriptor: Any, visit: Visit, caller: Caller) -> Any:
        """GetFlightInfo."""
        return self._serve("info", "GetFlightInfo", descriptor.command, visit, caller, descriptor=descriptor)

    def schema(self, descriptor: Any, visit: Visit, caller: Caller) -> Any:
        """GetSchema: return a pyarrow.Schema."""
        return self._serve("schema", "GetSchema", descriptor.command, visit, caller)

    def put(self, descriptor: Any, reader: Any, visit: Visit, caller: Caller) -> bytes:
        """DoPut: return the one answer."""
        answer: bytes = self._serve("put", "DoPut", descriptor.command, visit, caller, reader=reader)
        return answer

    def exchange(self, descriptor: Any) -> None:
        """DoExchange: no command of Flight SQL comes with it. Raises Unimplemented."""
        raise Unimplemented(f"{type_name(unpack(descriptor.command, 'command'))} is not offered by DoExchange")

    def has_action(self, name: str) -> bool:
        """Whether an action is one of Flight SQL."""
        return name in self._actions

    def actions(self) -> list[tuple[str, str]]:
        """ListActions: names and descriptions of those that are offered."""
        return [(name, action.description) for name, action in self._actions.items() if action.message is not None]

    def act(self, name: str, body: bytes, visit: Visit, caller: Caller) -> Iterator[bytes]:
        """DoAction: return the results' bodies."""
        action = self._actions[name]
        if len(body) > self._config.action_bytes_max:
            raise LimitExceeded(
                f"the action's body has {len(body)} bytes, the limit is {self._config.action_bytes_max}"
            )
        if action.message is None:
            return action.run(Ask(None, visit, caller))
        if action.packed:
            packed = unpack(body, f"body of {name}")
            if type_name(packed) != action.message.DESCRIPTOR.name:
                raise InvalidArgument(f"the body of {name} is a {type_name(packed)}")
            body = packed.value
        return action.run(Ask(parse(action.message, body), visit, caller))

    def close(self) -> None:
        """Drop what waits."""
        self.results.close()

    def _serve(self, slot: str, rpc: str, raw: bytes, visit: Visit, caller: Caller, **brought: Any) -> Any:
        packed = unpack(raw, "ticket" if slot == "get" else "command")
        name = type_name(packed)
        command = self._commands.get(name)
        handler = getattr(command, slot) if command is not None else None
        if command is None or handler is None:
            raise Unimplemented(f"{name} is not offered by {rpc}")
        return handler(Ask(parse(command.message, packed.value), visit, caller, **brought))


def _actions(statements: Statements, sessions: SessionActions) -> dict[str, _Action]:
    return {
        "CreatePreparedStatement": _Action(
            "Prepare a statement.", m.ActionCreatePreparedStatementRequest, packed=True, run=statements.prepare
        ),
        "ClosePreparedStatement": _Action(
            "Forget a prepared statement.",
            m.ActionClosePreparedStatementRequest,
            packed=True,
            run=statements.close_prepared,
        ),
        "BeginTransaction": _Action(
            "Begin a transaction.", m.ActionBeginTransactionRequest, packed=True, run=sessions.begin
        ),
        "EndTransaction": _Action(
            "Commit a transaction or roll it back.", m.ActionEndTransactionRequest, packed=True, run=sessions.end
        ),
        "CancelFlightInfo": _Action(
            "End a query's result.", f.CancelFlightInfoRequest, packed=False, run=sessions.cancel_info
        ),
        "CancelQuery": _Action(
            "End a query's result; the older form.",
            m.ActionCancelQueryRequest,
            packed=True,
            run=sessions.cancel_query,
        ),
        "SetSessionOptions": _Action(
            "Set options of the session.", f.SetSessionOptionsRequest, packed=False, run=sessions.set_options
        ),
        "GetSessionOptions": _Action(
            "Tell the options of the session.", f.GetSessionOptionsRequest, packed=False, run=sessions.get_options
        ),
        "CloseSession": _Action(
            "End the session; roll back what is open.", f.CloseSessionRequest, packed=False, run=sessions.close
        ),
        "BeginSavepoint": _Action("", None, packed=True, run=sessions.savepoint),
        "EndSavepoint": _Action("", None, packed=True, run=sessions.savepoint),
        "CreatePreparedSubstraitPlan": _Action("", None, packed=True, run=_no_plans),
        "RenewFlightEndpoint": _Action("", None, packed=False, run=_no_renewal),
    }


def _no_renewal(_ask: Ask[Any]) -> Iterator[bytes]:
    raise Unimplemented("RenewFlightEndpoint is not offered: endpoints have no time of expiry")


def _no_plans(_ask: Ask[Any]) -> Iterator[bytes]:
    raise Unimplemented("CreatePreparedSubstraitPlan is not offered: Substrait plans are not run here")
