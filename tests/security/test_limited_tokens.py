"""A token that is limited to some tables, as a server gets it: from the token file, in every way over the wire."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql
from support.refusals import forbidden, is_known
from support.waiting import until

Grant = Callable[..., str]
Connect = Callable[..., ducktower.FlightClient]

ROW = pa.table({"n": pa.array([1], pa.int64())})
LONG = "SELECT count(*) AS n FROM hidden, range(1_000_000_000_000)"
ITS_OWN = "SELECT count(*) AS n FROM sales_a, range(1_000_000_000_000)"


@pytest.fixture
def boss(closed: ducktower.FlightServer, as_: Connect, owner: str) -> ducktower.FlightClient:
    """Return an owner of all tables, who made some of them; in `sales_a` and `hidden` is a row each."""
    assert closed.asks
    client = as_(owner)
    client.execute("CREATE TABLE sales_a (n BIGINT); CREATE TABLE hidden (n BIGINT); INSERT INTO hidden VALUES (7)")
    client.execute("INSERT INTO sales_a VALUES (1); CREATE VIEW sales_leak AS FROM hidden")
    return client


def known(client: ducktower.FlightClient) -> ducktower.FlightClient:
    """Wait until the server has noticed a new token."""
    until(lambda: is_known(client), "the new token")
    return client


# -- other people's calls ----------------------------------------------------------------------------------------------


@contextmanager
def busy(client: ducktower.FlightClient, sql: str) -> Iterator[Callable[[], int | None]]:
    """Run a query that does not end by itself for the length of a block; give what tells its id, None once it ended."""
    failed: list[Exception] = []

    def ask() -> None:
        try:
            client.query(sql)
        except ducktower.DucktowerError as error:
            failed.append(error)

    def running() -> int | None:
        return next((one["id"] for one in client.sessions() if one["text"] == sql), None)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        until(running, "the query")
        yield running
    finally:
        found = running()
        if found is not None:
            client.cancel(found)
        thread.join(30)
    assert [type(error) for error in failed] == [ducktower.Cancelled]


def test_a_limited_owner_sees_and_ends_its_own_calls_alone(
    closed: ducktower.FlightServer, as_: Connect, boss: ducktower.FlightClient, owner: str, grant: Grant
) -> None:
    """The text of a call tells names and values of tables that it may not use; whoever may use all of them sees all."""
    token = grant("lena", "owner", "sales_*")
    lena = known(as_(token))
    with (
        RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {owner}") as bosses,
        RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {token}") as lenas,
        busy(boss, LONG) as theirs,
        busy(lena, ITS_OWN) as own,
    ):
        bosses.begin()
        lenas.begin()
        assert [one["text"] for one in lena.sessions()] == [ITS_OWN]
        assert _principals(lenas) == {"lena"}
        assert _principals(bosses) == {"lena", "olga"}
        other, mine = theirs(), own()
        assert other is not None
        assert mine is not None
        assert lena.cancel(other) is False
        assert theirs() == other
        assert {one["text"] for one in boss.sessions()} >= {LONG, ITS_OWN}
        assert lena.cancel(mine) is True
        until(lambda: own() is None, "the end of its own")
        assert theirs() == other


def _principals(raw: RawFlightSql) -> set[str]:
    (answer,) = raw.act("sessions")
    return {one["principal"] for one in json.loads(answer)["flight_sql"]}


# -- tables ------------------------------------------------------------------------------------------------------------

Try = Callable[[ducktower.FlightClient, RawFlightSql, str], object]

TRIES: dict[str, Try] = {
    "query": lambda client, _raw, name: client.query(f"FROM {name}"),
    "read by columns": lambda client, _raw, name: client.query(f"SELECT n FROM (SELECT * FROM {name})"),
    "INSERT from it": lambda client, _raw, name: client.execute(f"INSERT INTO sales_a FROM {name} WHERE false"),
    "its columns": lambda client, _raw, name: client.table_schema(name),
    "query, by Flight SQL": lambda _client, raw, name: raw.query(f"FROM {name}"),
    "its columns, by Flight SQL": lambda _client, raw, name: raw.schema(m.CommandStatementQuery(query=f"FROM {name}")),
    "prepare": lambda _client, raw, name: raw.prepare(f"FROM {name}"),
    "in a transaction": lambda _client, raw, name: in_transaction(raw, name),
}
"""What can be tried on a table and on a view."""

WRITES: dict[str, Try] = {
    "ingest": lambda client, _raw, name: client.ingest(name, ROW),
    "open stream": lambda client, _raw, name: appended(client, name),
    "INSERT": lambda client, _raw, name: client.execute(f"INSERT INTO {name} VALUES (1)"),
    "DELETE": lambda client, _raw, name: client.execute(f"DELETE FROM {name} WHERE n = 1"),
    "UPDATE, by Flight SQL": lambda _client, raw, name: raw.update(f"UPDATE {name} SET n = 1 WHERE n = 1"),
    "bulk ingest": lambda _client, raw, name: bulk(raw, name),
}
"""What can be tried on a table alone: for everybody a view takes no rows."""


def in_transaction(raw: RawFlightSql, name: str) -> None:
    """Ask in a transaction, which is rolled back."""
    transaction = raw.begin()
    try:
        raw.query(f"FROM {name}", transaction)
    finally:
        raw.end(transaction, commit=False)


def appended(client: ducktower.FlightClient, name: str) -> None:
    """Append a row in an open stream."""
    with client.appender(name) as rows:
        rows.append({"n": 1}).result()


def bulk(raw: RawFlightSql, name: str) -> None:
    """Bulk ingest of Flight SQL."""
    options = m.CommandStatementIngest.TableDefinitionOptions(
        if_not_exist=m.CommandStatementIngest.TableDefinitionOptions.TABLE_NOT_EXIST_OPTION_FAIL,
        if_exists=m.CommandStatementIngest.TableDefinitionOptions.TABLE_EXISTS_OPTION_APPEND,
    )
    raw.put(m.CommandStatementIngest(table=name, table_definition_options=options), ROW)


def listings(client: ducktower.FlightClient, raw: RawFlightSql) -> list[set[str]]:
    """Return the tables that each list has."""
    return [
        set(client.tables().column("table_name").to_pylist()),
        {info.descriptor.path[-1].decode() for info in raw.flight.list_flights()},
        set(raw.ask(m.CommandGetTables())["table_name"].to_pylist()),
    ]


@pytest.mark.parametrize("role", ["writer", "owner"])
def test_a_limited_token_sees_and_touches_its_tables_alone(
    closed: ducktower.FlightServer, as_: Connect, boss: ducktower.FlightClient, owner: str, grant: Grant, role: str
) -> None:
    """By plain Flight, by Flight SQL, in lists and through a view; what it has a pattern for works."""
    token = grant("walt", role, "sales_*")
    client = known(as_(token))
    with (
        RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {token}") as raw,
        RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {owner}") as bosses,
    ):
        assert listings(client, raw) == [{"sales_a"}] * 3
        assert listings(boss, bosses) == [{"sales_a", "hidden", "sales_leak"}] * 3
        for name in ("sales_a", "hidden", "sales_leak"):
            tries = TRIES if name == "sales_leak" else TRIES | WRITES
            refused = [what for what, attempt in tries.items() if forbidden(attempt, client, raw, name)]
            assert refused == ([] if name == "sales_a" else list(tries)), name
        assert boss.query("FROM hidden")["n"].to_pylist() == [7]
        for name, tries in (("hidden", TRIES | WRITES), ("sales_leak", TRIES)):
            assert not any(forbidden(attempt, boss, bosses, name) for attempt in tries.values())
