"""What a server says and keeps of itself when nobody asked for more."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import ducktower
from support.servers import running

Grant = Callable[..., str]


def test_an_open_server_says_so_in_one_line(database: Path, tmp_path: Path) -> None:
    """On stderr, before it is ready."""
    with running(database, tmp_path / "log") as server:
        said = [line for line in server.stderr.splitlines() if "whoever" in line or "open:" in line]
        assert said == [f"open: whoever reaches {server.url} may do everything; `ducktower token create` changes that"]


def test_a_server_that_asks_does_not_say_that_it_is_open(database: Path, tmp_path: Path, grant: Grant) -> None:
    """With a token there is no such line."""
    token = grant("olga")
    with running(database, tmp_path / "log") as server:
        with ducktower.connect(server.url, token=token) as client:
            client.health()
        assert "open:" not in server.stderr
        assert "whoever" not in server.stderr


def test_nothing_is_audited_unless_it_is_asked_for(database: Path, tmp_path: Path, grant: Grant) -> None:
    """No file of the server's has a line of a call without `--audit-log`; with it that file alone."""
    token = grant("rita", "reader")
    audit = tmp_path / "audit.jsonl"
    audited = []
    for options in ((), ("--audit-log", str(audit))):
        with running(database, tmp_path / "log", *options) as server:
            with ducktower.connect(server.url, token=token, retry_seconds=0) as client:
                client.query("SELECT 1")
                with pytest.raises(ducktower.Forbidden):
                    client.execute("CREATE TABLE t (n INTEGER)")
            server.terminate()
        audited.append(
            [one for one in sorted(tmp_path.rglob("*")) if one.is_file() and b'"outcome"' in one.read_bytes()]
        )
    assert audited == [[], [audit]]
