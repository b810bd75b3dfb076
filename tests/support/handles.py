"""Handles that a client makes up: of prepared statements, transactions, savepoints and results that wait.

Somebody else's, one's own of another kind, and near misses of both, in every call that takes one. Each is refused with
INVALID_ARGUMENT, or ends nothing where the protocol has no refusal; what its owner holds is there afterwards.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.flight as flight
from google.protobuf.message import Message

import ducktower
from ducktower.config import EngineConfig, ServerConfig
from ducktower.engine import Caller, Engine
from ducktower.errors import InvalidArgument
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import pack
from ducktower.server.auth import Authenticator
from ducktower.server.flight_sql.dispatch import FlightSql
from ducktower.server.logins import Logins
from ducktower.server.token_file import TokenFile
from ducktower.server.visits import Visit, Visits
from support.bad_bytes import Source
from support.flight_sql import RawFlightSql, unpacked

__all__ = ["HANDLE_SEEDS", "Handles", "ServedHandles"]

Kind = Literal["transaction", "prepared", "result"]
Way = Literal["get", "info", "schema", "put", "act"]

CALLERS = {"olga": "owner", "mary": "owner", "rob": "reader"}
"""Who has the handles, another of the same role, and one of less."""
HANDLE_SEEDS = [bytes([who, what]) + rest for who in range(3) for what in range(33) for rest in (b"", b"a.b")]
"""Each caller, with each form of each handle."""
_LONG = 1e6
_QUERY = "SELECT 42 AS n"
_INSERT = "INSERT INTO t VALUES (7)"


class _Attempt(NamedTuple):
    """One call with a handle."""

    kind: Kind | None
    """Of the handles that it takes; None for one that takes none."""
    way: Way
    message: Message
    action: str = ""


def _attempts(handle: bytes) -> list[_Attempt]:
    """Return every call that takes a handle, with this one."""
    transaction, prepared = {"transaction_id": handle}, {"prepared_statement_handle": handle}
    end = m.ActionEndTransactionRequest
    info = f.FlightInfo(endpoint=[{"ticket": {"ticket": pack(m.TicketStatementQuery(statement_handle=handle))}}])
    return [
        _Attempt("result", "get", m.TicketStatementQuery(statement_handle=handle)),
        _Attempt("result", "act", f.CancelFlightInfoRequest(info=info), "CancelFlightInfo"),
        _Attempt("result", "act", m.ActionCancelQueryRequest(info=info.SerializeToString()), "CancelQuery"),
        _Attempt("prepared", "info", m.CommandPreparedStatementQuery(**prepared)),
        _Attempt("prepared", "schema", m.CommandPreparedStatementQuery(**prepared)),
        _Attempt("prepared", "put", m.CommandPreparedStatementQuery(**prepared)),
        _Attempt("prepared", "put", m.CommandPreparedStatementUpdate(**prepared)),
        _Attempt("prepared", "act", m.ActionClosePreparedStatementRequest(**prepared), "ClosePreparedStatement"),
        _Attempt("transaction", "info", m.CommandStatementQuery(query=_QUERY, **transaction)),
        _Attempt("transaction", "put", m.CommandStatementUpdate(query=_INSERT, **transaction)),
        _Attempt("transaction", "put", m.CommandStatementIngest(table="t", **transaction)),
        *(
            _Attempt("transaction", "act", end(action=action, **transaction), "EndTransaction")
            for action in (end.END_TRANSACTION_COMMIT, end.END_TRANSACTION_ROLLBACK)
        ),
        _Attempt(
            "transaction",
            "act",
            m.ActionCreatePreparedStatementRequest(query=_QUERY, **transaction),
            "CreatePreparedStatement",
        ),
        *(_Attempt(None, "act", end(**transaction), action) for action in ("BeginSavepoint", "EndSavepoint")),
    ]


_UNPACKED = frozenset({"CancelFlightInfo"})
"""Actions whose body is the message itself."""


def _is_nothing(attempt: _Attempt, answers: list[bytes]) -> bool:
    """Whether an action says that it did nothing, in the way that its protocol has for that."""
    match attempt.action:
        case "CancelFlightInfo":
            return f.CancelFlightInfoResult.FromString(answers[0]).status == f.CANCEL_STATUS_NOT_CANCELLABLE
        case "CancelQuery":
            kind = m.ActionCancelQueryResult
            return bool(unpacked(answers[0], kind).result == kind.CANCEL_RESULT_NOT_CANCELLABLE)
        case "ClosePreparedStatement":
            return answers == []
        case _:
            return False


class _Held(NamedTuple):
    """What olga holds."""

    of_kind: dict[Kind, bytes]

    def made_up(self, raw: bytes) -> tuple[str, bytes]:
        """Return who calls and with which handle: the first two bytes choose, the others are put into it."""
        who = list(CALLERS)[raw[0] % len(CALLERS)]
        real = list(self.of_kind.values())[raw[1] % len(self.of_kind)]
        rest = raw[2:]
        session, dot, inner = real.partition(b".")
        forms: list[Callable[[], bytes]] = [
            lambda: real,
            lambda: rest,
            lambda: real + rest,
            lambda: rest + real,
            lambda: session + dot + rest,
            lambda: session + rest + dot + inner,
            lambda: rest + dot + inner,
            lambda: inner + rest,
            lambda: real.swapcase(),
            lambda: real[: len(rest) % len(real)] + rest,
            lambda: bytes(a ^ b for a, b in zip(real, rest.ljust(len(real), b"\0"), strict=False)),
        ]
        return who, forms[raw[1] // len(self.of_kind) % len(forms)]()

    def tried(self, raw: bytes) -> tuple[str, list[_Attempt]]:
        """Return who calls, and what that caller has no right to."""
        if len(raw) < 2:
            return "", []
        who, handle = self.made_up(raw)
        if not handle:  # says that there is none
            return "", []
        mine = {kind for kind, real in self.of_kind.items() if real == handle} if who == "olga" else set()
        return who, [attempt for attempt in _attempts(handle) if attempt.kind not in mine]


def _prepared_by(answer: bytes) -> bytes:
    return bytes(unpacked(answer, m.ActionCreatePreparedStatementResult).prepared_statement_handle)


def _result_of(info: Any) -> bytes:
    return bytes(unpacked(info.endpoints[0].ticket.ticket, m.TicketStatementQuery).statement_handle)


class Handles:
    """The handlers of Flight SQL without a network, over an engine in memory: a million inputs take minutes."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        file = TokenFile(Path(self._folder.name) / "tokens")
        self._texts = {name: file.create(name, role)[1] for name, role in CALLERS.items()}
        self._engine = Engine(EngineConfig(session_idle_seconds=_LONG, transaction_idle_seconds=_LONG))
        self._logins = Logins(file, 1.0, lambda: None)
        config = ServerConfig(client_lost_seconds=None, login_pause_seconds=0.001, results_waiting_seconds=_LONG)
        self._visits = Visits(self._engine, Authenticator(self._logins), config)
        self._sql = FlightSql(self._engine, config)
        self._engine.execute("CREATE TABLE t (n INTEGER)")
        begins, asks = self._session(), self._session()
        (begun,) = self._act(begins, _Attempt(None, "act", m.ActionBeginTransactionRequest(), "BeginTransaction"))
        transaction = bytes(unpacked(begun, m.ActionBeginTransactionResult).transaction_id)
        self._serve(begins, _Attempt(None, "put", m.CommandStatementUpdate(query=_INSERT, transaction_id=transaction)))
        prepare = m.ActionCreatePreparedStatementRequest(query=_QUERY)
        (prepared,) = self._act(asks, _Attempt(None, "act", prepare, "CreatePreparedStatement"))
        waits = self._serve(asks, _Attempt(None, "info", m.CommandStatementQuery(query=_QUERY)))
        result = _result_of(waits)
        self._held = _Held({"transaction": transaction, "prepared": _prepared_by(prepared), "result": result})
        self._begun, self._asked = begins.find(), asks.find()

    def try_all(self, raw: bytes, one_in: int = 1) -> None:
        """Make a handle up of the bytes and show it in every call, or in one of so many, which the bytes choose.

        Raises what no client may cause.
        """
        who, attempts = self._held.tried(raw)
        attempts = attempts[zlib.crc32(raw) % one_in :: one_in]
        if not attempts:
            return
        visit = self._visit({"authorization": [f"Bearer {self._texts[who]}"]})
        for attempt in attempts:
            if attempt.message.DESCRIPTOR.name == "CommandStatementIngest":
                continue  # its rows are looked at first, and come by the network
            try:
                answers = self._serve(visit, attempt)
            except InvalidArgument:
                continue
            assert attempt.way == "act", attempt
            assert _is_nothing(attempt, answers), attempt
        self.check()

    def check(self) -> None:
        """See that olga has what she had."""
        assert self._begun is not None
        assert self._asked is not None
        assert self._begun.in_transaction
        assert self._asked.prepared(self._held.of_kind["prepared"].partition(b".")[2])
        assert self._sql.results.waiting() == 1

    def close(self) -> None:
        """End the engine."""
        self._sql.close()
        self._visits.stop()
        self._logins.close()
        self._engine.close(1)
        self._folder.cleanup()

    def _session(self) -> Visit:
        """Log olga in; return a visit of the session that this begins."""
        authorization = [f"Bearer {self._texts['olga']}"]
        answer = self._visits.start_call(Source(flight.FlightMethod.HANDSHAKE), {"authorization": authorization})
        assert answer is not None
        return self._visit({"authorization": [answer.sending_headers()["authorization"]]})

    def _visit(self, headers: dict[str, list[Any]]) -> Visit:
        self._visits.start_call(Source(flight.FlightMethod.DO_GET), headers)
        return self._visits.take()

    def _serve(self, visit: Visit, attempt: _Attempt) -> Any:
        caller = Caller(principal=visit.principal)
        command = pack(attempt.message)
        descriptor = flight.FlightDescriptor.for_command(command)
        match attempt.way:
            case "get":
                return self._sql.get(command, visit, caller)
            case "info":
                return self._sql.info(descriptor, visit, caller)
            case "schema":
                return self._sql.schema(descriptor, visit, caller)
            case "put":
                return self._sql.put(descriptor, None, visit, caller)
            case "act":
                return self._act(visit, attempt)

    def _act(self, visit: Visit, attempt: _Attempt) -> list[bytes]:
        message = attempt.message
        body = message.SerializeToString() if attempt.action in _UNPACKED else pack(message)
        return list(self._sql.act(attempt.action, body, visit, Caller(principal=visit.principal)))


class ServedHandles:
    """The same by sockets, at a server that asks who calls, and where rows come with the handle."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        database = folder / "served.duckdb"
        file = TokenFile(f"{database}.tokens")
        texts = {name: file.create(name, role)[1] for name, role in CALLERS.items()}
        self.server = self._stack.enter_context(
            ducktower.serve(
                str(database),
                session_idle_seconds=_LONG,
                transaction_idle_seconds=_LONG,
                results_waiting_seconds=_LONG,
                drain_seconds=1,
            )
        )
        self._clients = {name: self._client(text) for name, text in texts.items()}
        self._begins = self._client(texts["olga"], keep_cookies=True)
        self._asks = self._client(texts["olga"], keep_cookies=True)
        self._asks.update("CREATE TABLE t (n INTEGER)")
        transaction = self._begins.begin()
        self._begins.update(_INSERT, transaction)
        prepared = bytes(self._asks.prepare(_QUERY).prepared_statement_handle)
        self._info = self._asks.info(m.CommandStatementQuery(query=_QUERY))
        self._held = _Held({"transaction": transaction, "prepared": prepared, "result": _result_of(self._info)})

    def try_all(self, raw: bytes) -> None:
        """Make a handle up of the bytes and show it in every call. Raises what no client may cause."""
        who, attempts = self._held.tried(raw)
        for attempt in attempts:
            try:
                answers = self._send(self._clients[who], attempt)
            except (flight.FlightError, pa.ArrowException) as error:
                told = str(error)
                assert told.startswith("[INVALID_ARGUMENT] "), (attempt, told)
                assert "Traceback" not in told
                continue
            assert attempt.way == "act", attempt
            assert _is_nothing(attempt, answers), attempt

    def check(self) -> None:
        """See that olga has what she had, by using it up."""
        handle = self._held.of_kind["prepared"]
        assert self._asks.fetch(self._info)["n"].to_pylist() == [42]
        again = self._asks.ask(m.CommandPreparedStatementQuery(prepared_statement_handle=handle))
        assert again["n"].to_pylist() == [42]
        assert self._asks.query("FROM t").num_rows == 0
        self._begins.end(self._held.of_kind["transaction"])
        assert self._asks.query("FROM t")["n"].to_pylist() == [7]

    def close(self) -> None:
        """End the clients and the server."""
        self._stack.close()

    def _client(self, token: str, *, keep_cookies: bool = False) -> RawFlightSql:
        client = RawFlightSql(self.server.url, keep_cookies=keep_cookies, authorization=f"Bearer {token}")
        return self._stack.enter_context(client)

    @staticmethod
    def _send(client: RawFlightSql, attempt: _Attempt) -> Any:
        message = attempt.message
        match attempt.way:
            case "get":
                return client.flight.do_get(flight.Ticket(pack(message))).read_all()
            case "info":
                return client.info(message)
            case "schema":
                return client.schema(message)
            case "put":
                return client.put(message, pa.table({"n": pa.array([1], pa.int32())}))
            case "act":
                return client.act(attempt.action, message, packed=attempt.action not in _UNPACKED)
