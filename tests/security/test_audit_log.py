"""The audit log: a line for each call, with who and what, and without a value, a text or a secret."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import cli_support as cli
import ducktower
from support.flight_sql import RawFlightSql
from support.waiting import until

VALUE = "c0ffee-c0ffee"


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """Return where the audit log is to be."""
    return tmp_path / "audit.jsonl"


@pytest.fixture
def audited(owner: str, database: Path, log_file: Path) -> Iterator[ducktower.FlightServer]:
    """Serve the database to whoever has a token, and write down what they do."""
    with ducktower.serve(str(database), audit_log=str(log_file), login_pause_seconds=0.05) as server:
        yield server


def lines(log_file: Path) -> list[dict[str, Any]]:
    """Return what was written down."""
    return [json.loads(line) for line in log_file.read_text().splitlines()]


def test_each_call_leaves_a_line(audited: ducktower.FlightServer, owner: str, log_file: Path) -> None:
    """Who, from where, which call, with which outcome."""
    with ducktower.connect(audited.url, token=owner, retry_seconds=0) as client:
        client.execute("CREATE TABLE t (v VARCHAR)")
        client.ingest("t", [{"v": VALUE}])
        client.query("SELECT * FROM t WHERE v = ?", [VALUE])
        with pytest.raises(ducktower.TableNotFound):
            client.query(f"SELECT '{VALUE}' FROM nosuch")
    with RawFlightSql(audited.url, authorization=f"Bearer {owner}") as raw:
        raw.update(f"INSERT INTO t VALUES ('{VALUE}')")
    with (
        ducktower.connect(audited.url, token="dtk_a_wrong", retry_seconds=0) as nobody,
        pytest.raises(ducktower.Unauthenticated),
    ):
        nobody.query(VALUE)
    found = lines(log_file)
    assert [(one["principal"], one["role"], one["call"], one["outcome"]) for one in found] == [
        ("olga", "owner", "DoAction execute", "OK"),
        ("olga", "owner", "DoPut", "OK"),
        ("olga", "owner", "DoGet", "OK"),
        ("olga", "owner", "DoGet", "TABLE_NOT_FOUND"),
        ("olga", "owner", "DoPut", "OK"),
        (None, None, "DoGet", "UNAUTHENTICATED"),
    ]
    assert [(one["statements"], one["rows"]) for one in found] == [
        (["CREATE"], None),
        (["INGEST append"], 1),
        (["SELECT"], 1),
        (["SELECT"], None),
        (["INSERT"], 1),
        ([], None),
    ]
    assert [one["tables"] for one in found[1:4]] == [["main.t"], ["t"], ["nosuch"]]
    for one in found:
        assert one["peer"].startswith("ipv4:127.0.0.1:")
        assert one["time"].endswith("+00:00")
        assert one["seconds"] >= 0
    written = log_file.read_text()
    for secret in (VALUE, owner.split("_", 2)[2], "wrong"):
        assert secret not in written
    assert stat.S_IMODE(log_file.stat().st_mode) == 0o600


def test_a_restart_goes_on_in_the_same_file(database: Path, log_file: Path) -> None:
    """Nothing that was written down is lost."""
    for _ in range(2):
        with (
            ducktower.serve(str(database), audit_log=str(log_file)) as server,
            ducktower.connect(server.url) as client,
        ):
            client.health()
    assert [one["call"] for one in lines(log_file)] == ["DoAction health"] * 2


def test_a_stream_is_one_line(audited: ducktower.FlightServer, owner: str, log_file: Path) -> None:
    """An open stream of writes ends in one line, however many writes it carried."""
    with ducktower.connect(audited.url, token=owner) as client:
        client.create_table("t", pa.schema([("n", pa.int64())]))
        with client.appender("t") as rows:
            for n in range(10):
                rows.append({"n": n}).result()
    (stream,) = [one for one in lines(log_file) if one["call"] == "DoExchange"]
    assert (stream["statements"], stream["rows"]) == (["INGEST append"], 10)


def read_in_part(client: ducktower.FlightClient, sql: str) -> None:
    """Read the first rows of a result and leave."""
    with client.reader(sql) as reader:
        reader.read_next_batch()


def test_a_result_that_streams_is_written_down_at_its_end(
    audited: ducktower.FlightServer, owner: str, log_file: Path
) -> None:
    """With the rows that were sent, and what came of it: whole, failed on the way, or left by its client."""
    fixed, wide = "SELECT i FROM range(3_000_000) t(i)", "SELECT repeat('x', 50) AS v FROM range(400_000) t(i)"
    failing = "SELECT CASE WHEN i < 2_000_000 THEN i ELSE error('no') END AS i FROM range(3_000_000) t(i)"
    with ducktower.connect(audited.url, token=owner, retry_seconds=0) as client:
        for number, (sql, rows) in enumerate(((fixed, 3_000_000), (wide, 400_000)), 1):
            assert client.query(sql).num_rows == rows
            until(lambda number=number: len(lines(log_file)) == number, "the line of a stream")
        with pytest.raises(ducktower.InvalidSQL):
            client.query(failing)
        until(lambda: len(lines(log_file)) == 3, "the line of the failed one")
        read_in_part(client, "SELECT i FROM range(1_000_000_000) t(i)")
        until(lambda: len(lines(log_file)) == 4, "the line of the one that was left")
    whole, of_text, failed, left = lines(log_file)
    assert (whole["rows"], whole["outcome"]) == (3_000_000, "OK")
    assert (of_text["rows"], of_text["outcome"]) == (400_000, "OK")
    assert failed["outcome"] == "INVALID_SQL"
    assert 0 < failed["rows"] < 3_000_000
    assert left["outcome"] == "CANCELLED"
    assert 0 < left["rows"] < 1_000_000_000
    assert {one["call"] for one in lines(log_file)} == {"DoGet"}


def test_a_query_of_flight_sql_is_run_by_one_line_and_sent_by_another(
    audited: ducktower.FlightServer, owner: str, log_file: Path
) -> None:
    """Both say what was asked; the rows of a stream are in the line of the call that sent them."""
    with RawFlightSql(audited.url, authorization=f"Bearer {owner}") as raw:
        assert raw.query("SELECT i FROM range(3_000_000) t(i)").num_rows == 3_000_000
        assert raw.query("SELECT 1 AS n").num_rows == 1
    until(lambda: len(lines(log_file)) == 4, "the line of the stream")
    found = {(one["call"], one["rows"]) for one in lines(log_file)}
    assert found == {("GetFlightInfo", None), ("DoGet", 3_000_000), ("GetFlightInfo", 1), ("DoGet", 1)}
    assert all(one["statements"] == ["SELECT"] and one["outcome"] == "OK" for one in lines(log_file))


def test_a_stream_that_the_stopping_server_ends_is_written_down(owner: str, database: Path, log_file: Path) -> None:
    """No call leaves no line."""
    with (
        ducktower.serve(str(database), audit_log=str(log_file), drain_seconds=0.1) as server,
        ducktower.connect(server.url, token=owner, retry_seconds=0) as client,
        client.reader("SELECT i FROM range(1_000_000_000) t(i)") as reader,
    ):
        reader.read_next_batch()
        server.close()
        with pytest.raises((ducktower.DucktowerError, pa.ArrowException, OSError)):
            reader.read_all()
    (line,) = lines(log_file)
    assert line["outcome"] in ("CANCELLED", "UNAVAILABLE")
    assert line["rows"] > 0


def test_tables_that_are_not_named(audited: ducktower.FlightServer, owner: str, log_file: Path) -> None:
    """Those under views, macros and texts that are run as SQL are written down, also after they were made anew."""
    with ducktower.connect(audited.url, token=owner, retry_seconds=0) as client:
        client.execute(
            "CREATE TABLE a (n INTEGER); CREATE TABLE b (n INTEGER); CREATE SCHEMA s; CREATE TABLE s.c (n INTEGER);"
            "CREATE VIEW v AS SELECT * FROM a JOIN s.c USING (n); CREATE VIEW w AS FROM v;"
            "CREATE MACRO biggest() AS (SELECT max(n) FROM b); CREATE MACRO rows_of() AS TABLE FROM w"
        )
        asked = {
            "FROM w": {"w", "v", "a", "s.c"},
            "FROM query('FROM v')": {"v", "a", "s.c"},
            "FROM query_table('b')": {"b"},
            "FROM query_table(['a', 'b'])": {"a", "b"},
            "FROM query_table('a' || '')": {"?"},
            "SELECT biggest()": {"b"},
            "FROM rows_of()": {"w", "v", "a", "s.c"},
            "WITH v AS (SELECT 1) FROM v": set(),
        }
        for sql in asked:
            client.query(sql)
        client.execute("CREATE OR REPLACE VIEW v AS FROM b")
        client.query("FROM w")
        client.execute("INSERT INTO a FROM w")
    found = [set(one["tables"]) for one in lines(log_file) if one["call"] == "DoGet"]
    assert found == [*asked.values(), {"w", "v", "b"}]
    assert set(lines(log_file)[-1]["tables"]) == {"a", "w", "v", "b"}


def test_a_log_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """Whoever asks for one gets one, or no server."""
    path = tmp_path / "nosuch" / "audit.jsonl"
    with pytest.raises(ducktower.InvalidArgument, match="cannot be written"):
        ducktower.serve(audit_log=str(path))
    cli.fails("serve", "--port", "0", "--audit-log", str(path), code="INVALID_ARGUMENT")
