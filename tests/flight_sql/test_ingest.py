"""Bulk ingest: `adbc_ingest` in every mode, within and without a transaction, and clients that die half way."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from support.flight_sql import RawFlightSql, cursors_back
from support.waiting import until

ROWS = pa.table({"id": [1, 2, 3], "v": ["a", "b", "c"]})
MORE = pa.table({"id": [4], "v": ["d"]})


def ids(client: ducktower.FlightClient, table: str = "t") -> list[int]:
    """Return the ids that others see."""
    found: list[int] = client.query(f"SELECT id FROM {table} ORDER BY id")["id"].to_pylist()
    return found


def test_the_four_modes(cursor: Any, client: ducktower.FlightClient) -> None:
    """create, append, create_append and replace do what they say, and count."""
    assert cursor.adbc_ingest("t", ROWS, mode="create") == 3
    assert ids(client) == [1, 2, 3]
    assert cursor.adbc_ingest("t", MORE, mode="append") == 1
    assert cursor.adbc_ingest("t", MORE, mode="create_append") == 1
    assert ids(client) == [1, 2, 3, 4, 4]
    assert cursor.adbc_ingest("t", MORE, mode="replace") == 1
    assert ids(client) == [4]
    assert cursor.adbc_ingest("new", MORE, mode="create_append") == 1
    assert cursor.adbc_ingest("newer", MORE, mode="replace") == 1
    assert ids(client, "newer") == [4]


def test_what_a_mode_refuses(cursor: Any, client: ducktower.FlightClient) -> None:
    """create where there is a table, append where there is none, and columns that do not fit."""
    cursor.adbc_ingest("t", ROWS, mode="create")
    for table, data, mode, code in (
        ("t", MORE, "create", "TABLE_EXISTS"),
        ("nosuch", MORE, "append", "TABLE_NOT_FOUND"),
        ("t", pa.table({"id": [1], "other": [1]}), "append", "SCHEMA_MISMATCH"),
        ("t", pa.table({"id": ["x"]}), "append", "SCHEMA_MISMATCH"),
    ):
        with pytest.raises(adbc.ProgrammingError, match=rf"\[{code}\]"):
            cursor.adbc_ingest(table, data, mode=mode)
    assert ids(client) == [1, 2, 3]


def test_temporary_tables(connect: Any, client: ducktower.FlightClient) -> None:
    """They belong to the session alone, and are in the way of no table of the same name."""
    client.execute("CREATE TABLE t AS SELECT 99 AS id")
    with connect().cursor() as cursor, connect().cursor() as other:
        assert cursor.adbc_ingest("mine", ROWS, mode="create", temporary=True) == 3
        assert cursor.adbc_ingest("mine", MORE, mode="append", temporary=True) == 1
        cursor.execute("SELECT count(*) FROM mine")
        assert cursor.fetchone() == (4,)
        assert cursor.adbc_ingest("mine", MORE, mode="replace", temporary=True) == 1
        cursor.execute("SELECT count(*) FROM mine")
        assert cursor.fetchone() == (1,)
        with pytest.raises(adbc.ProgrammingError, match=r"\[TABLE_NOT_FOUND\]"):
            other.execute("SELECT * FROM mine")
    assert ids(client) == [99]


def test_other_schemas(cursor: Any, client: ducktower.FlightClient) -> None:
    """By name, with and without the catalog; an unknown catalog is refused."""
    client.execute("CREATE SCHEMA other")
    cursor.adbc_ingest("t", ROWS, mode="create", db_schema_name="other")
    cursor.adbc_ingest("t", MORE, mode="append", db_schema_name="other", catalog_name="test")
    assert ids(client, "other.t") == [1, 2, 3, 4]
    with pytest.raises(adbc.ProgrammingError, match=r"\[INVALID_ARGUMENT\].*nosuch"):
        cursor.adbc_ingest("t", MORE, mode="append", catalog_name="nosuch")
    with pytest.raises(adbc.ProgrammingError, match=r"nosuch"):
        cursor.adbc_ingest("t", MORE, mode="create", db_schema_name="nosuch")


def test_hostile_names(cursor: Any, client: ducktower.FlightClient) -> None:
    """A table's name is a name, whatever is in it."""
    name = 'x"; DROP TABLE t; --'
    cursor.adbc_ingest(name, ROWS, mode="create")
    assert name in client.tables()["table_name"].to_pylist()


@pytest.mark.parametrize("mode", ["create", "append", "replace", "create_append"])
def test_within_a_transaction(connect: Any, client: ducktower.FlightClient, mode: str) -> None:
    """With autocommit off it is part of the transaction, which may take it back; afterwards all is as before."""
    client.execute("CREATE TABLE there (id BIGINT, v VARCHAR)")
    client.execute("INSERT INTO there VALUES (9, 'z')")
    table = "made" if mode == "create" else "there"
    connection = connect(autocommit=False)
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest(table, ROWS, mode=mode) == 3
        cursor.execute(f"SELECT count(*) FROM {table}")
        assert cursor.fetchone() == (4 if mode in ("append", "create_append") else 3,)
        assert ids(client, "there") == [9]
        connection.rollback()
        assert ids(client, "there") == [9]
        cursor.adbc_ingest(table, ROWS, mode=mode)
        connection.commit()
    assert set(ids(client, table)) >= {1, 2, 3}


def test_a_large_stream(cursor: Any, client: ducktower.FlightClient) -> None:
    """Half a million rows in batches, from a reader."""
    schema = pa.schema([("id", pa.int64()), ("v", pa.string())])
    batches = [
        pa.record_batch({"id": range(start, start + 50_000), "v": ["x" * 20] * 50_000}, schema=schema)
        for start in range(0, 500_000, 50_000)
    ]
    reader = pa.RecordBatchReader.from_batches(schema, batches)
    assert cursor.adbc_ingest("t", reader, mode="create") == 500_000
    assert client.query("SELECT count(*) AS n, sum(id) AS s FROM t").to_pylist() == [
        {"n": 500_000, "s": 499_999 * 250_000}
    ]


@pytest.mark.parametrize("rows", [0, 1])
def test_hardly_any_rows(cursor: Any, client: ducktower.FlightClient, rows: int) -> None:
    """An empty batch makes the table all the same. (Without any batch the driver sends nothing, and fails.)"""
    batch = ROWS.slice(0, rows).to_batches()[0] if rows else pa.RecordBatch.from_pylist([], schema=ROWS.schema)
    assert cursor.adbc_ingest("t", batch, mode="create") == rows
    assert len(ids(client)) == rows


def test_every_column_type_can_be_ingested(cursor: Any, client: ducktower.FlightClient) -> None:
    """What DuckDB gave goes in again unchanged."""
    cursor.execute(
        "SELECT 1::TINYINT a, 2::UBIGINT b, 1.5::DECIMAL(9,2) c, DATE '2026-01-01' d, "
        "TIMESTAMP '2026-01-01 10:00:00' e, 'x'::BLOB f, [1, 2] g, {'k': 1} h, MAP {'m': 2} i, "
        "INTERVAL 1 DAY j, true k, '4ac7a9e9-607c-4c8a-84f3-843f0191e3fd'::UUID l"
    )
    table = cursor.fetch_arrow_table()
    assert cursor.adbc_ingest("t", table, mode="create") == 1
    cursor.execute("SELECT * FROM t")
    assert cursor.fetch_arrow_table().to_pylist() == table.to_pylist()


_UPLOADER = """
import os, sys, threading, time
import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa

url = sys.argv[1]
schema = pa.schema([("id", pa.int64()), ("filler", pa.string())])

def batches(table):
    for number in range(10_000):
        yield pa.record_batch({"id": [number] * 5000, "filler": ["x" * 100] * 5000}, schema=schema)
        if number == 20:
            os.write(1, f"{table}\\n".encode())  # at once: the threads share it
            time.sleep(600)

def upload(table, mode, autocommit):
    with adbc.connect(url, autocommit=autocommit == "on") as connection, connection.cursor() as cursor:
        cursor.adbc_ingest(table, pa.RecordBatchReader.from_batches(schema, batches(table)), mode=mode)

for one in sys.argv[2:]:
    threading.Thread(target=upload, args=one.split(":")).start()
"""


def test_a_client_that_dies_half_way_leaves_every_table_as_it_was(
    server: ducktower.FlightServer, client: ducktower.FlightClient
) -> None:
    """Killed while it uploads, in each mode, with and without a transaction: nothing is stored, nothing is dropped.

    All in one process, each to a table of its own, which can be written at once.
    """
    uploads = {
        f"{mode}_{autocommit}": (mode, autocommit)
        for mode in ("create", "append", "replace", "create_append")
        for autocommit in ("on", "off")
    }
    there = sorted(table for table, (mode, _) in uploads.items() if mode != "create")
    for table in there:
        client.execute(f"CREATE TABLE {table} (id BIGINT, filler VARCHAR); INSERT INTO {table} VALUES (7, 'kept')")
    arguments = [":".join((table, *how)) for table, how in uploads.items()]
    uploader = subprocess.Popen(
        [sys.executable, "-c", _UPLOADER, server.url, *arguments], stdout=subprocess.PIPE, text=True
    )
    try:
        assert uploader.stdout is not None
        half_way = {uploader.stdout.readline().strip() for _ in uploads}
        assert half_way == set(uploads)
        uploader.send_signal(signal.SIGKILL)
    finally:
        uploader.kill()
        uploader.wait(60)
        if uploader.stdout is not None:
            uploader.stdout.close()
    until(lambda: not client.sessions(), "the end of the uploads")
    assert {table: ids(client, table) for table in there} == {table: [7] for table in there}
    assert sorted(client.tables()["table_name"].to_pylist()) == there
    for table in there:
        client.execute(f"INSERT INTO {table} VALUES (8, 'after')")
        assert ids(client, table) == [7, 8]
    cursors_back(server, left=1)


@pytest.mark.parametrize("autocommit", [True, False])
@pytest.mark.parametrize("count", [1, 40])
@pytest.mark.parametrize("mode", ["create", "append", "replace", "create_append"])
def test_a_source_that_fails_half_way_leaves_the_table_as_it_was(
    connect: Any, client: ducktower.FlightClient, mode: str, count: int, autocommit: bool
) -> None:
    """Of few rows and of many nothing is stored. The driver gives a begun upload up when its cursor is closed."""
    client.execute("CREATE TABLE t AS SELECT 7::BIGINT AS id, 'kept' AS filler")
    table = "made" if mode == "create" else "t"
    schema = pa.schema([("id", pa.int64()), ("filler", pa.string())])

    def batches() -> Iterator[pa.RecordBatch]:
        for number in range(count):
            yield pa.record_batch({"id": [number] * 1000, "filler": ["x" * 100] * 1000}, schema=schema)
        raise ValueError("the source broke")

    connection = connect(autocommit=autocommit)
    with connection.cursor() as cursor:
        with pytest.raises(adbc.Error, match="the source broke"):
            cursor.adbc_ingest(table, pa.RecordBatchReader.from_batches(schema, batches()), mode=mode)
        assert ids(client) == [7]
    until(lambda: not client.sessions(), "the end of the upload")
    assert client.tables()["table_name"].to_pylist() == ["t"]
    assert ids(client) == [7]
    if not autocommit:
        connection.rollback()
    with connection.cursor() as cursor:
        assert cursor.adbc_ingest("t", pa.table({"id": [8], "filler": ["after"]}), mode="append") == 1
        if not autocommit:
            connection.commit()
    assert ids(client) == [7, 8]


def test_options_that_mean_nothing_are_refused(raw_sql: RawFlightSql, client: ducktower.FlightClient) -> None:
    """Unknown options, and meanings that the protocol does not have."""
    kind = m.CommandStatementIngest
    definition = kind.TableDefinitionOptions(if_not_exist=1, if_exists=1)
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*nosuch"):
        raw_sql.put(kind(table="t", table_definition_options=definition, options={"nosuch": "1"}), ROWS)
    strange = kind.TableDefinitionOptions(if_not_exist=77, if_exists=1)
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT.*77"):
        raw_sql.put(kind(table="t", table_definition_options=strange), ROWS)
    with pytest.raises(pa.ArrowInvalid, match=r"INVALID_ARGUMENT"):
        raw_sql.put(kind(table="", table_definition_options=definition), ROWS)
    assert "t" not in client.tables()["table_name"].to_pylist()
