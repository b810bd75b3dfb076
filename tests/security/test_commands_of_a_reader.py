"""Each command and action of Flight SQL, from the server's own list, sent by a reader."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import pack
from support.flight_sql import RawFlightSql
from support.refusals import forbidden, is_known
from support.waiting import until

Grant = Callable[..., str]
Connect = Callable[..., ducktower.FlightClient]
Try = Callable[[RawFlightSql], object]

ASK = "FROM t"
WRITE = "INSERT INTO t VALUES (1)"
ROW = pa.table({"n": pa.array([1], pa.int32())})
SLOTS = ("info", "schema", "get", "put")
_Ingest = m.CommandStatementIngest.TableDefinitionOptions


def prepared(raw: RawFlightSql, sql: str) -> Any:
    """Return the handle of a prepared statement."""
    return raw.prepare(sql).prepared_statement_handle


def ingest(raw: RawFlightSql, *, temporary: bool = False, new: bool = False) -> None:
    """Bulk ingest."""
    options = _Ingest(
        if_not_exist=_Ingest.TABLE_NOT_EXIST_OPTION_CREATE if new else _Ingest.TABLE_NOT_EXIST_OPTION_FAIL,
        if_exists=_Ingest.TABLE_EXISTS_OPTION_APPEND,
    )
    table = "made" if new else "t"
    raw.put(m.CommandStatementIngest(table=table, temporary=temporary, table_definition_options=options), ROW)


def in_transaction(raw: RawFlightSql, sql: str, *, commit: bool) -> None:
    """Ask in a transaction."""
    transaction = raw.begin()
    try:
        raw.query(sql, transaction)
    finally:
        raw.end(transaction, commit=commit)


def of_question(message: Any, slot: str) -> Try:
    """Ask for metadata by one of the three calls."""
    return {
        "info": lambda raw: raw.info(message),
        "schema": lambda raw: raw.schema(message),
        "get": lambda raw: raw.flight.do_get(flight.Ticket(pack(message))).read_all(),
    }[slot]


QUESTIONS = (
    m.CommandGetSqlInfo(),
    m.CommandGetXdbcTypeInfo(),
    m.CommandGetCatalogs(),
    m.CommandGetDbSchemas(),
    m.CommandGetTables(include_schema=True),
    m.CommandGetTableTypes(),
    m.CommandGetPrimaryKeys(table="t"),
    m.CommandGetExportedKeys(table="t"),
    m.CommandGetImportedKeys(table="t"),
    m.CommandGetCrossReference(pk_table="t", fk_table="t"),
)

ASKS: dict[str, list[Try]] = {
    "CommandStatementQuery.info": [lambda raw: raw.info(m.CommandStatementQuery(query=ASK))],
    "CommandStatementQuery.schema": [lambda raw: raw.schema(m.CommandStatementQuery(query=ASK))],
    "TicketStatementQuery.get": [lambda raw: raw.query(ASK)],
    "CommandPreparedStatementQuery.info": [
        lambda raw: raw.info(m.CommandPreparedStatementQuery(prepared_statement_handle=prepared(raw, ASK)))
    ],
    "CommandPreparedStatementQuery.schema": [
        lambda raw: raw.schema(m.CommandPreparedStatementQuery(prepared_statement_handle=prepared(raw, ASK)))
    ],
    "CommandPreparedStatementQuery.put": [
        lambda raw: raw.put(
            m.CommandPreparedStatementQuery(prepared_statement_handle=prepared(raw, "SELECT ?::INTEGER AS n")), ROW
        )
    ],
    "CreatePreparedStatement": [lambda raw: raw.prepare(ASK)],
    "ClosePreparedStatement": [lambda raw: raw.close_prepared(prepared(raw, ASK))],
    "BeginTransaction": [lambda raw: in_transaction(raw, ASK, commit=False)],
    "EndTransaction": [lambda raw: in_transaction(raw, ASK, commit=True)],
    "CancelFlightInfo": [lambda raw: raw.cancel(raw.info(m.CommandStatementQuery(query=ASK)))],
    "CancelQuery": [
        lambda raw: raw.act(
            "CancelQuery",
            m.ActionCancelQueryRequest(info=raw.info(m.CommandStatementQuery(query=ASK)).serialize()),
        )
    ],
    "SetSessionOptions": [
        lambda raw: raw.act(
            "SetSessionOptions",
            f.SetSessionOptionsRequest(session_options={"TimeZone": f.SessionOptionValue(string_value="Asia/Tokyo")}),
            packed=False,
        )
    ],
    "GetSessionOptions": [lambda raw: raw.act("GetSessionOptions", f.GetSessionOptionsRequest(), packed=False)],
    "CloseSession": [lambda raw: raw.close_session()],
} | {
    f"{message.DESCRIPTOR.name}.{slot}": [of_question(message, slot)]
    for message in QUESTIONS
    for slot in ("info", "schema", "get")
}
"""What a reader may: each works."""

CHANGES: dict[str, list[Try]] = {
    "CommandStatementQuery.info": [
        lambda raw: raw.info(m.CommandStatementQuery(query=WRITE)),
        lambda raw: raw.info(m.CommandStatementQuery(query="SELECT nextval('s')")),
    ],
    "CommandStatementQuery.schema": [lambda raw: raw.schema(m.CommandStatementQuery(query=WRITE))],
    "CommandStatementUpdate.put": [lambda raw: raw.update(WRITE), lambda raw: raw.update("DROP TABLE t")],
    "CreatePreparedStatement": [lambda raw: raw.prepare(WRITE), lambda raw: raw.prepare("CREATE TABLE made (n INT)")],
    "CommandPreparedStatementQuery.info": [
        lambda raw: raw.info(
            m.CommandPreparedStatementQuery(prepared_statement_handle=prepared(raw, "SELECT nextval('s')"))
        )
    ],
    "CommandPreparedStatementUpdate.put": [
        lambda raw: raw.put(
            m.CommandPreparedStatementUpdate(prepared_statement_handle=prepared(raw, "SELECT nextval('s')"))
        )
    ],
    "CommandStatementIngest.put": [
        lambda raw: ingest(raw),
        lambda raw: ingest(raw, new=True),
        lambda raw: ingest(raw, new=True, temporary=True),
    ],
    "BeginTransaction": [
        lambda raw: in_transaction(raw, WRITE, commit=True),
        lambda raw: in_transaction(raw, "SELECT nextval('s')", commit=False),
    ],
    "SetSessionOptions": [lambda raw: raw.update("SET threads = 1")],
}
"""What it may not: each is FORBIDDEN."""


def offered(server: ducktower.FlightServer) -> set[str]:
    """Return what the server's own tables have: each command with the calls that it comes by, and each action."""
    sql = server._sql
    assert sql is not None
    commands = {f"{name}.{slot}" for name, one in sql._commands.items() for slot in SLOTS if getattr(one, slot)}
    return commands | {name for name, _ in sql.actions()}


def test_a_reader_asks_by_every_command_and_changes_nothing(
    closed: ducktower.FlightServer, as_: Connect, owner: str, grant: Grant
) -> None:
    """None of the server's commands and actions is left out, and those that change are refused."""
    assert set(ASKS) | set(CHANGES) == offered(closed)
    boss = as_(owner)
    boss.execute("CREATE TABLE t (n INTEGER); CREATE SEQUENCE s")
    token = grant("rita", "reader")
    client = as_(token)
    until(lambda: is_known(client), "the new token")
    for tries, expected in ((CHANGES, True), (ASKS, False)):
        found = {}
        for what, attempts in tries.items():
            with RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {token}") as raw:
                found[what] = [forbidden(attempt, raw) for attempt in attempts]
        assert found == {what: [expected] * len(attempts) for what, attempts in tries.items()}
    assert boss.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]
    assert boss.tables()["table_name"].to_pylist() == ["t"]
    assert boss.query("SELECT last_value AS v FROM duckdb_sequences()")["v"].to_pylist() == [None]
