"""Session options: current catalog and schema, and the settings that do no harm."""

from __future__ import annotations

from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import adbc_driver_manager
import pytest
from adbc_driver_flightsql import ConnectionOptions

import ducktower
from ducktower.protocol.flight_sql import flight_messages as f
from support.flight_sql import RawFlightSql

OPTION = ConnectionOptions.OPTION_SESSION_OPTION_PREFIX.value
OPTION_BOOL = ConnectionOptions.OPTION_BOOL_SESSION_OPTION_PREFIX.value
OPTION_ERASE = ConnectionOptions.OPTION_ERASE_SESSION_OPTION_PREFIX.value


def options_of(raw: RawFlightSql) -> dict[str, Any]:
    """Return what GetSessionOptions tells."""
    (answer,) = raw.act("GetSessionOptions", f.GetSessionOptionsRequest(), packed=False)
    told = f.GetSessionOptionsResult.FromString(answer).session_options
    return {name: getattr(value, value.WhichOneof("option_value")) for name, value in told.items()}


def refused(raw: RawFlightSql, **options: f.SessionOptionValue) -> dict[str, int]:
    """Set options and return those that were refused, and why."""
    request = f.SetSessionOptionsRequest(session_options=options)
    (answer,) = raw.act("SetSessionOptions", request, packed=False)
    return {name: error.value for name, error in f.SetSessionOptionsResult.FromString(answer).errors.items()}


def text(value: str) -> f.SessionOptionValue:
    """Return a text as an option's value."""
    return f.SessionOptionValue(string_value=value)


def test_current_catalog_and_schema(connect: Any, client: ducktower.FlightClient) -> None:
    """The driver reads and sets them; they hold for the session's statements and no other's."""
    client.execute("CREATE SCHEMA other")
    client.execute("CREATE TABLE other.t AS SELECT 42 AS n")
    connection = connect()
    assert (connection.adbc_current_catalog, connection.adbc_current_db_schema) == ("test", "main")
    connection.adbc_current_db_schema = "other"
    assert connection.adbc_current_db_schema == "other"
    with connection.cursor() as cursor, connect().cursor() as elsewhere:
        cursor.execute("SELECT n FROM t")
        assert cursor.fetchone() == (42,)
        with pytest.raises(adbc.ProgrammingError, match=r"\[TABLE_NOT_FOUND\]"):
            elsewhere.execute("SELECT n FROM t")
    with pytest.raises(adbc_driver_manager.Error):
        connection.adbc_current_db_schema = "nosuch"
    with pytest.raises(adbc_driver_manager.Error):
        connection.adbc_current_catalog = "nosuch"


def test_use_and_options_are_the_same(connect: Any, client: ducktower.FlightClient) -> None:
    """USE as SQL is seen by the option."""
    client.execute("CREATE SCHEMA other")
    connection = connect()
    with connection.cursor() as cursor:
        cursor.execute("USE other")
    assert connection.adbc_current_db_schema == "other"


def test_a_time_zone(server: ducktower.FlightServer) -> None:
    """A setting that does no harm changes what the session's statements answer."""
    with RawFlightSql(server.url, keep_cookies=True) as raw:
        assert refused(raw, TimeZone=text("Asia/Tokyo")) == {}
        assert options_of(raw)["TimeZone"] == "Asia/Tokyo"
        asked = raw.query("SELECT strftime(TIMESTAMPTZ '2026-01-01 00:00:00+00', '%H') AS hour")
        assert asked["hour"].to_pylist() == ["09"]


def test_settings_by_the_driver(connect: Any) -> None:
    """Set, read, and taken back as the driver's own options; what is refused is named, and the connection goes on."""
    connection = connect()
    handle = connection.adbc_connection
    asked = "SELECT strftime(TIMESTAMPTZ '2026-01-01 00:00:00+00', '%H'), 7 / 2"

    def answered() -> Any:
        with connection.cursor() as cursor:
            cursor.execute(asked)
            return cursor.fetchone()

    before = (handle.get_option(f"{OPTION}TimeZone"), answered())
    handle.set_options(**{f"{OPTION}TimeZone": "Asia/Tokyo"})
    handle.set_options(**{f"{OPTION_BOOL}integer_division": "true"})
    assert (handle.get_option(f"{OPTION}TimeZone"), answered()) == ("Asia/Tokyo", ("09", 3))
    for name, value in (("memory_limit", "1TB"), ("nosuch", "x"), ("TimeZone", "nowhere")):
        with pytest.raises(adbc_driver_manager.Error, match=name):
            handle.set_options(**{OPTION + name: value})
    handle.set_options(**{f"{OPTION_ERASE}TimeZone": ""})
    handle.set_options(**{f"{OPTION_ERASE}integer_division": ""})
    assert (handle.get_option(f"{OPTION}TimeZone"), answered()) == before


def test_what_is_refused_is_named(server: ducktower.FlightServer) -> None:
    """Unknown names, values that do not fit, and settings that are the operator's; the others are set."""
    with RawFlightSql(server.url, keep_cookies=True) as raw:
        kind = f.SetSessionOptionsResult
        assert refused(
            raw,
            nosuch=text("x"),
            memory_limit=text("1TB"),
            enable_external_access=f.SessionOptionValue(bool_value=True),
            schema=text("nosuch"),
            TimeZone=text("UTC"),
        ) == {
            "nosuch": kind.INVALID_NAME,
            "memory_limit": kind.INVALID_NAME,
            "enable_external_access": kind.INVALID_NAME,
            "schema": kind.INVALID_VALUE,
        }
        assert refused(raw, TimeZone=f.SessionOptionValue(int64_value=5)) == {"TimeZone": kind.INVALID_VALUE}


def test_options_last_as_long_as_the_session(server: ducktower.FlightServer, client: ducktower.FlightClient) -> None:
    """Another connection has the defaults."""
    with RawFlightSql(server.url, keep_cookies=True) as raw, RawFlightSql(server.url, keep_cookies=True) as other:
        refused(raw, TimeZone=text("Asia/Tokyo"))
        assert options_of(other)["TimeZone"] != "Asia/Tokyo"
