"""Each call of Flight's service by bare gRPC, of callers who must not be let in: also what no client library sends."""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pyarrow as pa
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import pack
from ducktower.server.token_file import TokenFile
from support.refusals import is_known
from support.waiting import until

Grant = Callable[..., str]
Connect = Callable[..., ducktower.FlightClient]

SERVICE = "/arrow.flight.protocol.FlightService/"
SECRET = 4_242_424_242_424_242
SECONDS = 60
COMMANDS = [
    b"FROM hidden",
    b'{"query": "FROM hidden"}',
    b'{"table": "hidden"}',
    b'{"table": "made", "mode": "create"}',
    b'{"append": {"table": "hidden"}}',
    pack(m.CommandStatementQuery(query="FROM hidden")),
    pack(m.CommandStatementUpdate(query="DELETE FROM hidden")),
    pack(m.CommandStatementIngest(table="hidden")),
    pack(m.CommandGetTables(include_schema=True)),
]
ACTIONS = [
    *("health", "execute", "tables", "statistics", "sessions", "cancel", "checkpoint", "backup", "no such action"),
    *("BeginTransaction", "CreatePreparedStatement", "GetSessionOptions", "CloseSession", "CancelQuery"),
]
BROKEN = [b"", b"\xff" * 40, b"\x0a\xff\xff\xff\xff\x0f"]
NOT_LET_IN = ["nobody", "garbage", "expired", "revoked", "another's name", "a cookie"]


def field(number: int, value: bytes) -> bytes:
    """Return a field of a protobuf message; of less than 16 KiB."""
    size = len(value)
    return bytes([number << 3 | 2]) + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + value


def calls() -> Iterator[tuple[str, str, list[bytes]]]:
    """Yield each call: how it streams, its name, its messages."""
    rows = field(2, pa.schema([("n", pa.int64())]).serialize().to_pybytes()[8:])
    for command in COMMANDS:
        descriptor = b"\x08\x02" + field(2, command)
        for name in ("GetFlightInfo", "GetSchema", "PollFlightInfo"):
            yield "unary_unary", name, [descriptor]
        for name in ("DoGet", "ListFlights"):
            yield "unary_stream", name, [field(1, command)]
        for name in ("DoPut", "DoExchange"):
            yield "stream_stream", name, [field(1, descriptor) + rows, rows]
        yield "unary_stream", "DoAction", [field(1, b"execute") + field(2, command)]
    for action in ACTIONS:
        yield "unary_stream", "DoAction", [field(1, action.encode()) + field(2, b'{"sql": "DROP TABLE hidden"}')]
    yield "unary_stream", "ListActions", [b""]
    for raw in BROKEN:
        yield "unary_unary", "GetFlightInfo", [raw]
        yield "unary_unary", "NoSuchCall", [raw]
        yield "unary_stream", "DoGet", [raw]
        yield "unary_stream", "DoAction", [raw]
        for name in ("Handshake", "DoPut", "DoExchange"):
            yield "stream_stream", name, [raw]


def answered(channel: Any, way: str, name: str, messages: list[bytes], metadata: Any) -> tuple[bytes, Any, str]:
    """Make a call; return what came back, the status and its text."""
    call = getattr(channel, way)(SERVICE + name)
    body = b""
    try:
        if way == "unary_unary":
            body = call(messages[0], timeout=SECONDS, metadata=metadata)
        else:
            for part in call(
                iter(messages) if way == "stream_stream" else messages[0], timeout=SECONDS, metadata=metadata
            ):
                body += part
    except grpc.RpcError as error:
        return body, error.code(), f"{error.details()} {error.trailing_metadata()}"
    return body, grpc.StatusCode.OK, ""


@pytest.mark.parametrize("who", NOT_LET_IN)
def test_who_is_not_let_in_gets_nothing_from_any_call(
    closed: ducktower.FlightServer, as_: Connect, owner: str, grant: Grant, tokens: TokenFile, who: str
) -> None:
    """Refused with UNAUTHENTICATED, or by gRPC and Arrow where it is no call of theirs; nothing is stored."""
    client = as_(owner)
    client.execute(f"CREATE TABLE hidden (n BIGINT); INSERT INTO hidden VALUES ({SECRET})")
    bearers = {
        "garbage": "dtk_0123456789_secret",
        "expired": grant("late", expires=time.time() - 1),
        "revoked": grant("gone"),
    }
    gone = as_(bearers["revoked"])
    until(lambda: is_known(gone), "the new token")
    tokens.revoke("gone")
    until(lambda: not is_known(gone), "its end")
    basic = base64.b64encode(f"olga:{grant('ada', 'reader')}".encode()).decode()
    metadata = {
        "nobody": (),
        "another's name": (("authorization", f"Basic {basic}"),),
        "a cookie": (("cookie", "arrow_flight_session_id=ducktower.YSAxIGIgYw.c2ln"),),
        **{name: (("authorization", f"Bearer {token}"),) for name, token in bearers.items()},
    }[who]
    refused = 0
    with grpc.insecure_channel(closed.url.removeprefix("grpc://")) as channel:
        for way, name, messages in calls():
            body, status, text = answered(channel, way, name, messages, metadata)
            assert body == b"", (name, messages)
            assert status not in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED), (name, messages)
            refused += text.startswith("[UNAUTHENTICATED] ")
            for word in ("hidden", "Traceback", str(SECRET), str(tokens.path.parent)):
                assert word not in text, (name, messages, text)
            if status is not grpc.StatusCode.UNAUTHENTICATED and messages[0] not in BROKEN:
                # Arrow's C++ answers PollFlightInfo; GetSchema's status is always UNKNOWN, its text ours.
                assert (name, "[UNAUTHENTICATED]" in text) in {("PollFlightInfo", False), ("GetSchema", True)}, text
    assert refused > len(COMMANDS) * 7
    assert client.query("FROM hidden")["n"].to_pylist() == [SECRET]
    assert client.query("SELECT table_name FROM duckdb_tables()")["table_name"].to_pylist() == ["hidden"]


def test_a_reader_stores_nothing_by_any_call(
    closed: ducktower.FlightServer, as_: Connect, owner: str, grant: Grant
) -> None:
    """Nor is it told what its tables do not allow; each refusal is an error of ours, without a traceback."""
    client = as_(owner)
    client.execute(f"CREATE TABLE hidden (n BIGINT); INSERT INTO hidden VALUES ({SECRET})")
    token = grant("rob", "reader", "shown*")
    rob = as_(token)
    until(lambda: is_known(rob), "the new token")
    with grpc.insecure_channel(closed.url.removeprefix("grpc://")) as channel:
        for way, name, messages in calls():
            body, status, text = answered(channel, way, name, messages, (("authorization", f"Bearer {token}"),))
            assert SECRET.to_bytes(8, "little") not in body, (name, messages)
            assert status is not grpc.StatusCode.DEADLINE_EXCEEDED, (name, messages)
            for word in ("Traceback", "[INTERNAL]", str(SECRET)):
                assert word not in text, (name, messages, text)
    assert client.query("FROM hidden")["n"].to_pylist() == [SECRET]
    assert client.query("SELECT table_name FROM duckdb_tables()")["table_name"].to_pylist() == ["hidden"]
