"""Fixtures, by concern: a database file, a server on it, clients of it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pyarrow.flight as flight
import pytest

import ducktower
from support.servers import ServerProcess, running


def pytest_collection_finish() -> None:
    """Keep the tests themselves out of the garbage collector's sight.

    A server that closes collects, and so do tests that count what is left. With some thousand tests in memory that took
    longer than the rest of a start and a stop; what a test makes is looked at as before.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Let all of it go at the end: some extension modules tell of what is left."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the settings of the person who runs the tests out of the environment."""
    for name in ("DUCKTOWER_URL", "DUCKTOWER_TOKEN", "DUCKTOWER_TLS_CA", "DUCKTOWER_TLS_FINGERPRINT"):
        monkeypatch.delenv(name, raising=False)


# -- a database and a server in this process ----------------------------------------------------------


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the path of a database that does not exist yet."""
    return tmp_path / "test.duckdb"


@pytest.fixture
def server(database: Path) -> Iterator[ducktower.FlightServer]:
    """Serve that database."""
    with ducktower.serve(str(database), drain_seconds=5) as running_server:
        yield running_server


# -- clients of it ------------------------------------------------------------------------------------


@pytest.fixture
def client(server: ducktower.FlightServer) -> Iterator[ducktower.FlightClient]:
    """Connect as users do."""
    with ducktower.connect(server.url) as connected:
        yield connected


@pytest.fixture
def raw(server: ducktower.FlightServer) -> Iterator[flight.FlightClient]:
    """Connect as a client of another language does: pyarrow's own Flight client."""
    with flight.connect(server.url) as connected:
        yield connected


# -- a server in a process of its own -----------------------------------------------------------------

Start = Callable[..., ServerProcess]


@pytest.fixture
def start_server(database: Path, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts `ducktower serve` on the database, with options, in another process."""
    with ExitStack() as stack:

        def start(*options: str, port: int = 0) -> ServerProcess:
            return stack.enter_context(running(database, tmp_path / "server.log", *options, port=port))

        yield start
