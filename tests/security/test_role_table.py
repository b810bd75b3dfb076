"""What each role can do, as docs/security.md says it, tried over the wire."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql
from support.waiting import until

Grant = Callable[..., str]
Connect = Callable[..., ducktower.FlightClient]

PAGE = Path(__file__).parent.parent.parent / "docs" / "security.md"
ROLES = ("reader", "writer", "owner")
ROW = pa.table({"id": pa.array([1], pa.int32()), "v": pa.array([1], pa.int32())})
OTHERS = "SELECT count(*) AS n FROM range(1_000_000_000_000)"
_Ingest = m.CommandStatementIngest.TableDefinitionOptions


class Me:
    """Somebody who tries: a client, and one of Flight SQL that keeps a session."""

    def __init__(self, client: ducktower.FlightClient, raw: RawFlightSql, boss: ducktower.FlightClient) -> None:
        self.client = client
        self.raw = raw
        self.boss = boss

    def act(self, name: str) -> None:
        """An action of plain Flight."""
        list(self.raw.flight.do_action(flight.Action(name, b"")))

    def in_transaction(self, sql: str) -> None:
        """Run an update in a transaction, which is rolled back."""
        transaction = self.raw.begin()
        try:
            self.raw.update(sql, transaction)
        finally:
            self.raw.end(transaction, commit=False)

    def prepared(self, sql: str) -> None:
        """Prepare and run an update."""
        handle = self.raw.prepare(sql).prepared_statement_handle
        self.raw.put(m.CommandPreparedStatementUpdate(prepared_statement_handle=handle))

    def prepared_query(self, sql: str) -> None:
        """Prepare and run a query."""
        handle = self.raw.prepare(sql).prepared_statement_handle
        self.raw.ask(m.CommandPreparedStatementQuery(prepared_statement_handle=handle))

    def stream(self) -> None:
        """Append in an open stream."""
        with self.client.appender("t") as rows:
            rows.append({"id": 50, "v": 1}).result()

    def bulk(self, table: str, *, new: bool) -> None:
        """Bulk ingest of Flight SQL."""
        options = _Ingest(
            if_not_exist=_Ingest.TABLE_NOT_EXIST_OPTION_CREATE if new else _Ingest.TABLE_NOT_EXIST_OPTION_FAIL,
            if_exists=_Ingest.TABLE_EXISTS_OPTION_FAIL if new else _Ingest.TABLE_EXISTS_OPTION_APPEND,
        )
        self.raw.put(
            m.CommandStatementIngest(table=table, table_definition_options=options), ROW.slice(0, 0 if new else 1)
        )

    def set_time_zone(self) -> None:
        """As an option and as SQL."""
        value = f.SessionOptionValue(string_value="Asia/Tokyo")
        self.raw.act("SetSessionOptions", f.SetSessionOptionsRequest(session_options={"TimeZone": value}), packed=False)
        self.raw.update("SET TimeZone = 'UTC'")

    def see_others(self) -> None:
        """See and end what somebody else runs."""
        busy = threading.Thread(target=_failure_of, args=(lambda: self.boss.query(OTHERS),))
        busy.start()
        try:
            until(lambda: _running(self.boss), "what somebody else runs")
            theirs = _running(self.client)
            assert self.client.cancel(theirs[0] if theirs else _running(self.boss)[0]) is bool(theirs)
            if not theirs:
                raise ducktower.Forbidden("neither seen nor ended")
        finally:
            for one in _running(self.boss):
                self.boss.cancel(one)
            busy.join(30)


def _running(client: ducktower.FlightClient) -> list[int]:
    return [one["id"] for one in client.sessions() if one["text"] == OTHERS]


def _failure_of(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except ducktower.DucktowerError as error:
        return error
    return None


Try = Callable[[Me], object]

TRIES: dict[str, list[Try]] = {
    "`health`": [lambda me: me.act("health")],
    "query": [lambda me: me.client.query("SELECT * FROM t"), lambda me: me.client.query("WITH a AS (FROM t) FROM a")],
    "query, by Flight SQL": [lambda me: me.raw.query("SELECT * FROM t")],
    "prepare a query": [lambda me: me.prepared_query("SELECT * FROM t")],
    "`EXPLAIN` and `EXPLAIN ANALYZE` of a query": [
        lambda me: me.client.query("EXPLAIN SELECT * FROM t"),
        lambda me: me.client.query("EXPLAIN ANALYZE SELECT * FROM t"),
    ],
    "list tables, columns and keys": [
        lambda me: me.act("tables"),
        lambda me: list(me.raw.flight.list_flights()),
        lambda me: me.client.table_schema("t"),
        lambda me: me.raw.ask(m.CommandGetTables(include_schema=True)),
        lambda me: me.raw.ask(m.CommandGetPrimaryKeys(table="t")),
    ],
    "`sessions`: one's own": [lambda me: me.act("sessions")],
    "`SET TimeZone` in a session": [Me.set_time_zone],
    "begin and end a transaction": [lambda me: me.raw.end(me.raw.begin())],
    "`INSERT`, `UPDATE`, `DELETE`, `MERGE`": [
        lambda me: me.client.execute("INSERT INTO t VALUES (60, 1)"),
        lambda me: me.client.execute("UPDATE t SET v = 2 WHERE id = 60"),
        lambda me: me.client.execute("DELETE FROM t WHERE id = 60"),
        lambda me: me.client.execute(
            "MERGE INTO t USING (SELECT 61 AS id, 1 AS v) s ON t.id = s.id "
            "WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)"
        ),
    ],
    "`INSERT ... RETURNING`": [lambda me: me.client.execute("INSERT INTO t VALUES (62, 1) RETURNING id")],
    "`INSERT` by Flight SQL": [lambda me: me.raw.update("INSERT INTO t VALUES (63, 1)")],
    "`INSERT` in a transaction": [lambda me: me.in_transaction("INSERT INTO t VALUES (64, 1)")],
    "`INSERT`, prepared": [lambda me: me.prepared("INSERT INTO t VALUES (65, 1)")],
    "`EXPLAIN ANALYZE` of an `INSERT`": [
        lambda me: me.client.execute("EXPLAIN ANALYZE INSERT INTO t VALUES (66, 1)"),
    ],
    "`nextval`": [lambda me: me.client.execute("INSERT INTO t SELECT nextval('s'), 1")],
    "append": [lambda me: me.client.ingest("t", [{"id": 67, "v": 1}])],
    "upsert": [lambda me: me.client.ingest("t", [{"id": 67, "v": 2}], mode="upsert", key=["id"])],
    "append in an open stream": [Me.stream],
    "bulk ingest into a table that is there": [lambda me: me.bulk("t", new=False)],
    "ingest with `create`, `replace`, `create_append`": [
        lambda me: me.client.ingest("made1", ROW, mode="create"),
        lambda me: me.client.ingest("made1", ROW, mode="replace"),
        lambda me: me.client.ingest("made2", ROW, mode="create_append"),
    ],
    "bulk ingest into a new table": [lambda me: me.bulk("made3", new=True)],
    "`CREATE`, `ALTER`, `DROP`": [
        lambda me: me.client.execute("CREATE TABLE made4 (n INTEGER)"),
        lambda me: me.raw.update("CREATE VIEW made5 AS SELECT 1 AS n"),
        lambda me: me.prepared("CREATE SCHEMA made6"),
        lambda me: me.client.execute("ALTER TABLE t ALTER COLUMN v SET DEFAULT 0"),
        lambda me: me.in_transaction("DROP TABLE IF EXISTS nosuch"),
    ],
    "`CREATE TEMP TABLE` in a session": [lambda me: me.raw.update("CREATE TEMP TABLE mine (n INTEGER)")],
    "`CREATE MACRO`": [lambda me: me.client.execute("CREATE MACRO twice(n) AS n * 2")],
    "`PREPARE` and `EXECUTE` as SQL": [
        lambda me: me.client.execute("PREPARE p AS INSERT INTO t VALUES (68, 1); EXECUTE p"),
    ],
    "`PRAGMA` and `CALL`": [
        lambda me: me.client.execute("PRAGMA version"),
        lambda me: me.client.execute("CALL pragma_version()"),
    ],
    "scripts in which one statement is more than the role": [
        lambda me: me.client.execute("SELECT 1; CREATE TABLE IF NOT EXISTS made7 (n INTEGER)"),
    ],
    "`checkpoint`": [lambda me: me.client.checkpoint()],
    "`backup`": [lambda me: me.act("backup")],
    "`statistics`": [lambda me: me.act("statistics")],
    "`sessions` and `cancel` of others": [Me.see_others],
}


def table() -> dict[str, dict[str, bool]]:
    """Return what the page says: what, and which role may."""
    rows = re.findall(r"^\| (.+?) \| (yes|no) \| (yes|no) \| (yes|no) \|$", PAGE.read_text(), re.MULTILINE)
    return {what: dict(zip(ROLES, (one == "yes" for one in said), strict=True)) for what, *said in rows}


def allowed(attempt: Try, me: Me) -> bool:
    """Whether an attempt is not FORBIDDEN; any other failure is the test's."""
    try:
        attempt(me)
    except (ducktower.Forbidden, flight.FlightUnauthorizedError):
        return False
    return True


def test_the_table_has_a_line_for_each_attempt() -> None:
    """Nothing is said that is not tried, nothing tried that is not said."""
    assert list(table()) == list(TRIES)


@pytest.mark.parametrize("role", ROLES)
def test_each_role_may_what_the_table_says(
    closed: ducktower.FlightServer, as_: Connect, owner: str, grant: Grant, role: str
) -> None:
    """Each line, tried in every way that it names: all of them work, or all are FORBIDDEN."""
    boss = as_(owner)
    boss.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, v INTEGER); CREATE SEQUENCE s START 100")
    token = grant("ada", role)
    client = as_(token)
    until(lambda: not isinstance(_failure_of(client.health), ducktower.Unauthenticated), "the new token")
    with RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {token}") as raw:
        me = Me(client, raw, boss)
        found = {what: [allowed(attempt, me) for attempt in attempts] for what, attempts in TRIES.items()}
    said = {what: [may[role]] * len(TRIES[what]) for what, may in table().items()}
    assert found == said
    if role == "reader":
        assert boss.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]
