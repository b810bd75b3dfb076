"""Who may run a statement of which kind, for each kind that DuckDB has: a new one is noticed here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import duckdb
import pytest

import ducktower
from ducktower.engine.guard import _ASK, _CHANGE
from support.flight_sql import RawFlightSql
from support.refusals import forbidden, is_known
from support.waiting import until

Grant = Callable[..., str]
Connect = Callable[..., ducktower.FlightClient]
Least = Literal["reader", "writer", "owner", "nobody"]

ROLES = ("reader", "writer", "owner")
KINDS = set(duckdb.StatementType.__members__)

SAMPLES: dict[str, tuple[str, Least]] = {
    "SELECT": ("SELECT * FROM t", "reader"),
    "EXPLAIN": ("EXPLAIN SELECT * FROM t", "reader"),
    "MULTI": ("PIVOT t ON v USING count(*)", "reader"),
    "SET": ("SET TimeZone = 'UTC'", "reader"),
    "TRANSACTION": ("BEGIN TRANSACTION READ ONLY", "reader"),
    "INSERT": ("INSERT INTO t VALUES (1, 1)", "writer"),
    "UPDATE": ("UPDATE t SET v = 2", "writer"),
    "DELETE": ("DELETE FROM t", "writer"),
    "MERGE_INTO": (
        "MERGE INTO t USING (SELECT 2 AS id, 1 AS v) s ON t.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (s.id, s.v)",
        "writer",
    ),
    "CREATE": ("CREATE TABLE made (n INTEGER)", "owner"),
    "ALTER": ("ALTER TABLE t ALTER COLUMN v SET DEFAULT 0", "owner"),
    "DROP": ("DROP VIEW w", "owner"),
    "PREPARE": ("PREPARE p AS SELECT 1", "owner"),
    "EXECUTE": ("EXECUTE p", "owner"),
    "PRAGMA": ("PRAGMA version", "owner"),
    "CALL": ("CALL pragma_version()", "owner"),
    "VACUUM": ("VACUUM", "owner"),
    "COPY": ("COPY t TO 'made.csv'", "nobody"),
    "EXPORT": ("EXPORT DATABASE 'made'", "nobody"),
    "LOAD": ("LOAD json", "nobody"),
    "ATTACH": ("ATTACH ':memory:' AS made", "nobody"),
    "DETACH": ("DETACH test", "nobody"),
}
"""A statement of each kind that a text can be of, and the least role that may run it, on a server without options."""

WITHOUT_TEXT = {
    *("INVALID", "RELATION", "LOGICAL_PLAN", "EXTENSION"),  # no statement of SQL, or one of an extension's parser
    *("ANALYZE", "CREATE_FUNC", "VARIABLE_SET", "COPY_DATABASE"),  # parsed as VACUUM, CREATE, SET and PRAGMA
}
"""Kinds of which DuckDB's parser makes none. If it did, they would be the owner's."""


def test_each_kind_has_a_sample() -> None:
    """Of DuckDB's kinds none is forgotten, and each sample is of its kind."""
    assert set(SAMPLES) | WITHOUT_TEXT == KINDS
    assert not set(SAMPLES) & WITHOUT_TEXT
    with duckdb.connect() as connection:
        found = {
            kind: [one.type.name for one in connection.extract_statements(sql)] for kind, (sql, _) in SAMPLES.items()
        }
        others = ("ANALYZE", "CREATE MACRO f() AS 1", "SET VARIABLE a = 1", "COPY FROM DATABASE a TO b")
        assert not {one.type.name for sql in others for one in connection.extract_statements(sql)} & WITHOUT_TEXT
    assert found == {kind: [kind] for kind in SAMPLES}


def test_a_kind_that_no_text_has_is_the_owners() -> None:
    """Readers and writers have lists of what they may."""
    assert not (_ASK | _CHANGE) & WITHOUT_TEXT
    assert {kind for kind, (_, least) in SAMPLES.items() if least == "reader"} == _ASK
    assert {kind for kind, (_, least) in SAMPLES.items() if least == "writer"} == _CHANGE


@pytest.mark.parametrize("role", ROLES)
def test_each_role_runs_the_kinds_that_it_may(
    closed: ducktower.FlightServer, as_: Connect, owner: str, grant: Grant, role: str
) -> None:
    """By Flight SQL, in a session of its own: it works, or it is FORBIDDEN."""
    as_(owner).execute("CREATE TABLE t (id INTEGER, v INTEGER); CREATE VIEW w AS FROM t")
    token = grant("ada", role)
    client = as_(token)
    until(lambda: is_known(client), "the new token")
    with RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {token}") as raw:
        found = {kind: _runs(raw, sql) for kind, (sql, _) in SAMPLES.items()}
    may = {*ROLES[: ROLES.index(role) + 1]}
    assert found == {kind: least in may for kind, (_, least) in SAMPLES.items()}


def _runs(raw: RawFlightSql, sql: str) -> bool:
    """Whether a statement is not FORBIDDEN; any other failure is the test's."""
    if forbidden(raw.update, sql):
        return False
    if sql.startswith("BEGIN"):
        raw.update("ROLLBACK")
    return True
