"""Fixtures: connections of the ADBC driver, and a client that speaks by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pytest

import ducktower
from support.flight_sql import RawFlightSql

Connect = Callable[..., Any]


@pytest.fixture
def connect(server: ducktower.FlightServer) -> Iterator[Connect]:
    """Return a function that connects the ADBC driver to the server; autocommit unless told otherwise."""
    with ExitStack() as stack:

        def one(*, autocommit: bool = True, **options: str) -> Any:
            return stack.enter_context(adbc.connect(server.url, db_kwargs=options, autocommit=autocommit))

        yield one


@pytest.fixture
def cursor(connect: Connect) -> Iterator[Any]:
    """Return a cursor of an autocommitting connection."""
    with connect().cursor() as one:
        yield one


@pytest.fixture
def raw_sql(server: ducktower.FlightServer) -> Iterator[RawFlightSql]:
    """Return a client that keeps nothing between its calls."""
    with RawFlightSql(server.url) as one:
        yield one
