"""Fixtures: a server that asks who calls, the tokens for it, and certificates of an authority of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import ducktower
from ducktower.server.token_file import TokenFile
from support.certificates import Authority

Grant = Callable[..., str]
Connect = Callable[..., ducktower.FlightClient]


@pytest.fixture
def tokens(database: Path) -> TokenFile:
    """Return the token file beside the database, which is not there yet."""
    return TokenFile(f"{database}.tokens")


@pytest.fixture
def grant(tokens: TokenFile) -> Grant:
    """Return a function that makes a token and returns its text."""

    def one(name: str, role: str = "owner", *tables: str, expires: float | None = None) -> str:
        return tokens.create(name, role, tables, expires)[1]

    return one


@pytest.fixture
def owner(grant: Grant) -> str:
    """Return the text of an owner's token, made before the server starts."""
    return grant("olga")


@pytest.fixture
def closed(owner: str, database: Path) -> Iterator[ducktower.FlightServer]:
    """Serve the database to whoever has a token."""
    with ducktower.serve(str(database), drain_seconds=5, token_look_seconds=0.05, login_pause_seconds=0.05) as server:
        yield server


@pytest.fixture
def as_(closed: ducktower.FlightServer) -> Iterator[Connect]:
    """Return a function that connects with a token."""
    with ExitStack() as stack:
        yield lambda token=None: stack.enter_context(ducktower.connect(closed.url, token=token, retry_seconds=0.5))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Return an authority that the server's operator has."""
    return Authority(tmp_path, "authority")
