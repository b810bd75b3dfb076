"""A database that was served with tokens does not become open when its token file is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

import ducktower
from ducktower.server.token_file import TokenFile
from security.conftest import Grant
from support.waiting import until


@pytest.fixture
def mark(database: Path) -> Path:
    """Return where the mark is to be."""
    return Path(f"{database}.closed")


def test_a_lost_token_file_opens_nothing(
    closed: ducktower.FlightServer, tokens: TokenFile, mark: Path, database: Path, grant: Grant
) -> None:
    """The server does not start, under any name of the database; with tokens or without the mark it does."""
    closed.close()
    tokens.path.unlink()
    link = database.with_name("link.duckdb")
    link.symlink_to(database)
    for path in (database, link):
        with pytest.raises(ducktower.Forbidden, match=r"was served with tokens.*test\.duckdb\.closed"):
            ducktower.serve(str(path))
    token = grant("new")
    with ducktower.serve(str(database)) as server, ducktower.connect(server.url, token=token) as client:
        assert client.health()
        with pytest.raises(ducktower.Unauthenticated), ducktower.connect(server.url, retry_seconds=0) as nobody:
            nobody.query("SELECT 1")
    tokens.path.unlink()
    mark.unlink()
    with ducktower.serve(str(database)) as server, ducktower.connect(server.url) as client:
        assert not server.asks
        assert client.health()


def test_a_named_token_file_that_is_not_named_again(database: Path, tmp_path: Path) -> None:
    """The option that was left out is told, also to whoever adds --insecure."""
    named = TokenFile(tmp_path / "elsewhere")
    named.create("ada", "owner")
    with ducktower.serve(str(database), token_file=str(named.path)) as server:
        assert server.asks
    for insecure in (False, True):
        with pytest.raises(ducktower.Forbidden, match="--token-file"):
            ducktower.serve(str(database), insecure=insecure)


def test_the_first_token_of_an_open_server_leaves_the_mark(database: Path, mark: Path, grant: Grant) -> None:
    """A server that only becomes closed while it runs is closed for the next one, too."""
    with ducktower.serve(str(database), token_look_seconds=0.05) as server:
        assert not mark.exists()
        grant("ada")
        until(mark.exists, "the mark")
        assert server.asks


def test_no_mark_for_a_database_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is gone with its server."""
    monkeypatch.chdir(tmp_path)
    named = TokenFile(tmp_path / "tokens")
    named.create("ada", "owner")
    with ducktower.serve(token_file=str(named.path)):
        assert [path.name for path in tmp_path.iterdir()] == ["tokens"]


def test_a_mark_that_cannot_be_written(mark: Path, database: Path, grant: Grant) -> None:
    """The server does not start: what it could not note would be forgotten."""
    mark.symlink_to(mark.with_name("nosuch") / "file")
    grant("ada")
    with pytest.raises(ducktower.InvalidArgument, match="cannot be written"):
        ducktower.serve(str(database))
