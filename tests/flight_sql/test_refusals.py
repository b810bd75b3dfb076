"""What is no part of the protocol, or of what is offered: each has one clean answer, and the server goes on."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from google.protobuf import any_pb2

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import pack
from ducktower.server.flight_sql.asking import ticket_of
from support.flight_sql import RawFlightSql

SQL = "type.googleapis.com/arrow.flight.protocol.sql."
UNKNOWN = any_pb2.Any(type_url=SQL + "CommandStatementSubstraitPlan", value=b"\x01").SerializeToString()
FOREIGN = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.Duration", value=b"").SerializeToString()
BROKEN = any_pb2.Any(type_url=SQL + "CommandStatementQuery", value=b"\xff\xff\xff").SerializeToString()
NOT_UTF8 = any_pb2.Any(type_url=SQL + "CommandStatementQuery", value=b"\n\x02\xc3\x28").SerializeToString()
CUT = pack(m.CommandStatementQuery(query="SELECT 1"))[:-4]
EMPTY_TYPE = b"\n\x00"

Call = Callable[[flight.FlightClient, bytes], Any]


def _put(client: flight.FlightClient, command: bytes) -> None:
    writer, reader = client.do_put(flight.FlightDescriptor.for_command(command), pa.schema([("n", pa.int64())]))
    with writer:
        writer.done_writing()
        reader.read()


def _exchange(client: flight.FlightClient, command: bytes) -> None:
    writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(command))
    with writer:
        writer.begin(pa.schema([("n", pa.int64())]))
        writer.done_writing()
        reader.read_all()


CALLS: dict[str, Call] = {
    "GetFlightInfo": lambda client, raw: client.get_flight_info(flight.FlightDescriptor.for_command(raw)),
    "GetSchema": lambda client, raw: client.get_schema(flight.FlightDescriptor.for_command(raw)),
    "DoGet": lambda client, raw: client.do_get(flight.Ticket(raw)).read_all(),
    "DoPut": _put,
}


@pytest.fixture(autouse=True)
def _still_serving(client: ducktower.FlightClient) -> Any:
    """See that the server answers afterwards."""
    yield
    assert client.query("SELECT 1 AS n")["n"].to_pylist() == [1]


def no_traceback(error: BaseException) -> None:
    """See that nothing of the server's inside is in an error."""
    assert "Traceback" not in str(error)
    assert ".py" not in str(error)


@pytest.mark.parametrize("rpc", CALLS)
def test_an_unknown_command_is_named(raw: flight.FlightClient, rpc: str) -> None:
    """UNIMPLEMENTED, with its type's name."""
    with pytest.raises(NotImplementedError, match=r"CommandStatementSubstraitPlan is not offered") as caught:
        CALLS[rpc](raw, UNKNOWN)
    no_traceback(caught.value)


@pytest.mark.parametrize("rpc", CALLS)
def test_a_foreign_message_is_named(raw: flight.FlightClient, rpc: str) -> None:
    """The whole name of a type that is none of Flight SQL."""
    with pytest.raises(NotImplementedError, match=r"google\.protobuf\.Duration is not offered"):
        CALLS[rpc](raw, FOREIGN)


@pytest.mark.parametrize("rpc", CALLS)
@pytest.mark.parametrize("garbage", [BROKEN, NOT_UTF8, CUT, EMPTY_TYPE, b"\xff\xfe\x00", b"\n\x05\xff", b"{"], ids=repr)
def test_garbage_is_an_invalid_argument(raw: flight.FlightClient, rpc: str, garbage: bytes) -> None:
    """As a command or ticket, in every call; a known command in the wrong call is not offered there."""
    wanted = (pa.ArrowInvalid, NotImplementedError) if garbage in (BROKEN, NOT_UTF8) else pa.ArrowInvalid
    with pytest.raises(wanted) as caught:
        CALLS[rpc](raw, garbage)
    no_traceback(caught.value)


def test_a_broken_message_is_an_invalid_argument(raw: flight.FlightClient) -> None:
    """Where its command is offered, it is the bytes that are refused."""
    for garbage in (BROKEN, NOT_UTF8):
        for rpc in ("GetFlightInfo", "GetSchema"):
            with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*CommandStatementQuery"):
                CALLS[rpc](raw, garbage)


@pytest.mark.parametrize(
    "action",
    [
        "CreatePreparedStatement",
        "ClosePreparedStatement",
        "BeginTransaction",
        "EndTransaction",
        "CancelFlightInfo",
        "CancelQuery",
        "SetSessionOptions",
    ],
)
@pytest.mark.parametrize("body", [b"\xff\xff\xff", b"\n\x05abc", pack(m.CommandGetCatalogs())[:-2]], ids=repr)
def test_garbage_in_an_action_is_an_invalid_argument(raw_sql: RawFlightSql, action: str, body: bytes) -> None:
    """The body of every action."""
    with pytest.raises(pa.ArrowInvalid, match=r"\[INVALID_ARGUMENT\]") as caught:
        raw_sql.act(action, body)
    no_traceback(caught.value)


@pytest.mark.parametrize("action", ["CreatePreparedStatement", "BeginTransaction", "CancelQuery"])
def test_another_actions_message_is_refused(raw_sql: RawFlightSql, action: str) -> None:
    """A body of the wrong type is named."""
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*ActionEndTransactionRequest"):
        raw_sql.act(action, m.ActionEndTransactionRequest())


@pytest.mark.parametrize(
    "action", ["CreatePreparedSubstraitPlan", "BeginSavepoint", "EndSavepoint", "RenewFlightEndpoint"]
)
def test_actions_that_are_not_offered(raw_sql: RawFlightSql, action: str) -> None:
    """UNIMPLEMENTED, and not among those that ListActions names."""
    with pytest.raises(NotImplementedError, match=r"not offered"):
        raw_sql.act(action)
    assert action not in {one.type for one in raw_sql.flight.list_actions()}


def test_an_unknown_action_is_refused(raw_sql: RawFlightSql) -> None:
    """With its name, and those of all actions that there are."""
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*NoSuchAction.*execute.*CloseSession"):
        raw_sql.act("NoSuchAction")


@pytest.mark.parametrize(
    ("command", "name"),
    [(pack(m.CommandStatementQuery(query="SELECT 1")), "CommandStatementQuery"), (FOREIGN, "google.protobuf.Duration")],
)
def test_no_command_comes_with_an_exchange(raw: flight.FlightClient, command: bytes, name: str) -> None:
    """UNIMPLEMENTED, with its type's name."""
    with pytest.raises(NotImplementedError, match=f"{name} is not offered by DoExchange"):
        _exchange(raw, command)


def test_unknown_handles_are_refused(raw_sql: RawFlightSql) -> None:
    """Tickets and handles that were never given."""
    for handle in (b"", b"x", b"a.b", b"\xff" * 40, b"." * 3):
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
            raw_sql.flight.do_get(flight.Ticket(pack(m.TicketStatementQuery(statement_handle=handle)))).read_all()
        for call in (raw_sql.info, raw_sql.schema, raw_sql.put):
            with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
                call(m.CommandPreparedStatementQuery(prepared_statement_handle=handle))
        with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
            raw_sql.put(m.CommandPreparedStatementUpdate(prepared_statement_handle=handle))


def test_random_bytes_never_break_the_server(raw: flight.FlightClient) -> None:
    """Mutations of real commands: each is answered, by a result or by one clean error."""
    choice = random.Random(20261124)
    seeds = [
        pack(m.CommandStatementQuery(query="SELECT 1", transaction_id=b"x")),
        pack(m.CommandGetTables(include_schema=True)),
        pack(m.CommandGetSqlInfo(info=[0, 8])),
        pack(m.CommandPreparedStatementQuery(prepared_statement_handle=b"a.b")),
        pack(m.TicketStatementQuery(statement_handle=b"a")),
        pack(m.CommandStatementUpdate(query="SELECT 1", transaction_id=b"x")),
        pack(m.CommandPreparedStatementUpdate(prepared_statement_handle=b"a.b")),
        pack(m.CommandStatementIngest(table="t", schema="s", transaction_id=b"a.b")),
    ]
    refusals: list[BaseException] = []
    for _ in range(300):
        mutant = bytearray(choice.choice(seeds))
        for _ in range(choice.randint(1, 4)):
            mutant[choice.randrange(len(mutant))] = choice.randrange(256)
        call = choice.choice(list(CALLS.values()))
        try:
            call(raw, bytes(mutant))
        except (pa.ArrowException, NotImplementedError, KeyError, flight.FlightError) as error:
            refusals.append(error)
    for error in refusals:
        no_traceback(error)
    assert [str(error) for error in refusals if "[INTERNAL]" in str(error)] == []
    assert len(refusals) > 100


def test_random_bodies_of_actions_never_break_the_server(raw_sql: RawFlightSql) -> None:
    """Mutations of real bodies, for each action: a result or one clean error."""
    choice = random.Random(20261125)
    info = f.FlightInfo(endpoint=[f.FlightEndpoint(ticket=f.Ticket(ticket=ticket_of(b"a")))])
    seeds = {
        "CreatePreparedStatement": pack(m.ActionCreatePreparedStatementRequest(query="SELECT 1", transaction_id=b"x")),
        "ClosePreparedStatement": pack(m.ActionClosePreparedStatementRequest(prepared_statement_handle=b"a.b")),
        "BeginTransaction": pack(m.ActionBeginTransactionRequest()),
        "EndTransaction": pack(m.ActionEndTransactionRequest(transaction_id=b"a.b", action=1)),
        "CancelFlightInfo": f.CancelFlightInfoRequest(info=info).SerializeToString(),
        "CancelQuery": pack(m.ActionCancelQueryRequest(info=info.SerializeToString())),
        "SetSessionOptions": f.SetSessionOptionsRequest(
            session_options={"TimeZone": f.SessionOptionValue(string_value="UTC")}
        ).SerializeToString(),
        "GetSessionOptions": f.GetSessionOptionsRequest().SerializeToString(),
        "CloseSession": f.CloseSessionRequest().SerializeToString(),
        "BeginSavepoint": b"x",
        "EndSavepoint": b"x",
        "CreatePreparedSubstraitPlan": b"x",
    }
    refusals: list[BaseException] = []
    for action, seed in seeds.items():
        for _ in range(25):
            mutant = bytearray(seed or b"\0")
            for _ in range(choice.randint(1, 4)):
                mutant[choice.randrange(len(mutant))] = choice.randrange(256)
            try:
                raw_sql.act(action, bytes(mutant))
            except (pa.ArrowException, NotImplementedError, KeyError, flight.FlightError) as error:
                refusals.append(error)
    for error in refusals:
        no_traceback(error)
    assert [str(error) for error in refusals if "[INTERNAL]" in str(error)] == []
    assert len(refusals) > 100


@pytest.mark.parametrize(
    "descriptor",
    [
        flight.FlightDescriptor.for_path(),
        flight.FlightDescriptor.for_path("a", "b", "c"),
        flight.FlightDescriptor.for_path("x" * 100_000),
        flight.FlightDescriptor.for_command(b""),
        flight.FlightDescriptor.for_command(b"\xff"),
        flight.FlightDescriptor.for_command(b"[]"),
        flight.FlightDescriptor.for_command(b'{"table": 7}'),
        flight.FlightDescriptor.for_command(b'{"table": "t", "mode": "upsert"}'),
        flight.FlightDescriptor.for_command(b'{"table": "t", "mode": "create", "key": [[]]}'),
    ],
)
def test_descriptors_of_a_put_that_no_client_of_ours_sends(
    raw: flight.FlightClient, descriptor: flight.FlightDescriptor
) -> None:
    """One clear error each."""
    with pytest.raises(pa.ArrowInvalid, match=r"\[INVALID_ARGUMENT\]") as caught:  # noqa: PT012
        writer, _ = raw.do_put(descriptor, pa.schema([("n", pa.int64())]))
        writer.close()
    no_traceback(caught.value)


def test_plain_flight_still_takes_sql_that_begins_with_a_line_feed(raw: flight.FlightClient) -> None:
    """A line feed is how a Flight SQL message begins, too."""
    assert raw.do_get(flight.Ticket(b"\nSELECT 1 AS n")).read_all()["n"].to_pylist() == [1]
