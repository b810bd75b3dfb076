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


def test_a_log_that_cannot_be_written_stops_the_start(tmp_path: Path) -> None:
    """Whoever asks for one gets one, or no server."""
    path = tmp_path / "nosuch" / "audit.jsonl"
    with pytest.raises(ducktower.InvalidArgument, match="cannot be written"):
        ducktower.serve(audit_log=str(path))
    cli.fails("serve", "--port", "0", "--audit-log", str(path), code="INVALID_ARGUMENT")
