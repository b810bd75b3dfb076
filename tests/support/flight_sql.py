"""Flight SQL spoken by hand, over pyarrow's plain Flight client: what no driver sends can be sent too."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
from google.protobuf import any_pb2
from google.protobuf.message import Message

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import pack
from support.waiting import until

__all__ = ["RawFlightSql", "cursors_back", "unpacked"]


def cursors_back(server: ducktower.FlightServer, left: int = 0) -> None:
    """Wait until no cursor is leased; one is `left` where small writes were committed."""
    until(lambda: server.engine.statistics()["cursors"] <= left, "the return of every cursor")


def unpacked(body: Any, kind: type[Message]) -> Any:
    """Read an answer that is packed in Any."""
    packed = any_pb2.Any.FromString(body.to_pybytes() if isinstance(body, pa.Buffer) else body)
    assert packed.type_url == f"type.googleapis.com/{kind.DESCRIPTOR.full_name}"
    return kind.FromString(packed.value)


class _Headers(flight.ClientMiddleware):
    def __init__(self, owner: _KeepHeaders) -> None:
        self._owner = owner

    def sending_headers(self) -> dict[str, str]:
        return dict(self._owner.send)

    def received_headers(self, headers: dict[str, list[str]]) -> None:
        for name, values in headers.items():
            self._owner.received[name] = values
            if name == "set-cookie" and self._owner.keep_cookies:
                self._owner.send["cookie"] = values[0].partition(";")[0]


class _KeepHeaders(flight.ClientMiddlewareFactory):
    def __init__(self, *, keep_cookies: bool) -> None:
        self.keep_cookies = keep_cookies
        self.send: dict[str, str] = {}
        self.received: dict[str, list[str]] = {}

    def start_call(self, info: Any) -> _Headers:
        return _Headers(self)


class RawFlightSql:
    """A client. It keeps no session unless it is told to keep cookies, as the JDBC driver does."""

    def __init__(self, url: str, *, keep_cookies: bool = False, authorization: str | None = None) -> None:
        self.headers = _KeepHeaders(keep_cookies=keep_cookies)
        if authorization is not None:
            self.headers.send["authorization"] = authorization
        self.flight = flight.FlightClient(url, middleware=[self.headers])

    def __enter__(self) -> RawFlightSql:
        return self

    def __exit__(self, *_: object) -> None:
        self.flight.close()

    # -- calls ----------------------------------------------------------------------------------------

    def info(self, command: Message) -> Any:
        """GetFlightInfo."""
        return self.flight.get_flight_info(flight.FlightDescriptor.for_command(pack(command)))

    def schema(self, command: Message) -> pa.Schema:
        """GetSchema."""
        return self.flight.get_schema(flight.FlightDescriptor.for_command(pack(command))).schema

    def fetch(self, info: Any) -> pa.Table:
        """DoGet of the one endpoint."""
        (endpoint,) = info.endpoints
        return self.flight.do_get(endpoint.ticket).read_all()

    def ask(self, command: Message) -> pa.Table:
        """GetFlightInfo and DoGet; the two schemas must agree."""
        info = self.info(command)
        table = self.fetch(info)
        assert table.schema.equals(info.schema)
        return table

    def put(self, command: Message, table: pa.Table | None = None, options: Any = None) -> bytes:
        """DoPut, and its one answer."""
        table = pa.table({}) if table is None else table
        descriptor = flight.FlightDescriptor.for_command(pack(command))
        writer, reader = self.flight.do_put(descriptor, table.schema, options)
        with writer:
            writer.write_table(table)
            writer.done_writing()
            answer = reader.read()
        return b"" if answer is None else answer.to_pybytes()

    def act(self, name: str, body: Message | bytes = b"", *, packed: bool = True) -> list[bytes]:
        """DoAction."""
        if isinstance(body, Message):
            body = pack(body) if packed else body.SerializeToString()
        return [result.body.to_pybytes() for result in self.flight.do_action(flight.Action(name, body))]

    # -- usual sequences ------------------------------------------------------------------------------

    def query(self, sql: str, transaction: bytes | None = None) -> pa.Table:
        """Run a query given as text."""
        return self.ask(m.CommandStatementQuery(query=sql, transaction_id=transaction))

    def update(self, sql: str, transaction: bytes | None = None) -> int:
        """Run an update given as text; return the rows."""
        answer = self.put(m.CommandStatementUpdate(query=sql, transaction_id=transaction))
        return int(m.DoPutUpdateResult.FromString(answer).record_count)

    def begin(self) -> bytes:
        """Begin a transaction; return its id."""
        (answer,) = self.act("BeginTransaction", m.ActionBeginTransactionRequest())
        return bytes(unpacked(answer, m.ActionBeginTransactionResult).transaction_id)

    def end(self, transaction: bytes, *, commit: bool = True) -> None:
        """Commit or roll back."""
        kind = m.ActionEndTransactionRequest
        action = kind.END_TRANSACTION_COMMIT if commit else kind.END_TRANSACTION_ROLLBACK
        assert self.act("EndTransaction", kind(transaction_id=transaction, action=action)) == []

    def prepare(self, sql: str, transaction: bytes | None = None) -> Any:
        """Prepare a statement; return the answer."""
        request = m.ActionCreatePreparedStatementRequest(query=sql, transaction_id=transaction)
        (answer,) = self.act("CreatePreparedStatement", request)
        return unpacked(answer, m.ActionCreatePreparedStatementResult)

    def close_prepared(self, handle: bytes) -> None:
        """Forget a prepared statement."""
        request = m.ActionClosePreparedStatementRequest(prepared_statement_handle=handle)
        assert self.act("ClosePreparedStatement", request) == []

    def cancel(self, info: Any) -> int:
        """CancelFlightInfo; return the status."""
        request = f.CancelFlightInfoRequest(info=f.FlightInfo.FromString(info.serialize()))
        (answer,) = self.act("CancelFlightInfo", request, packed=False)
        return int(f.CancelFlightInfoResult.FromString(answer).status)

    def close_session(self) -> int:
        """CloseSession; return the status."""
        (answer,) = self.act("CloseSession", f.CloseSessionRequest(), packed=False)
        return int(f.CloseSessionResult.FromString(answer).status)
