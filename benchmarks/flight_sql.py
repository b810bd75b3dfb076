"""Flight SQL through the ADBC driver: what a query costs more than plain DoGet, bulk ingest, many parameters, metadata.

Owns these figures and their bases. Must never time connecting.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import adbc_driver_manager
import pyarrow as pa
import pyarrow.flight as flight

from ducktower.protocol.flight_sql import messages, pack

from .driver import driver
from .figures import Bench, Figure, expect_rows
from .inprocess import bulk_write_seconds
from .lineitem import columns
from .load import stored_rows
from .processes import apart, serving
from .rows import lineitem_table

__all__ = ["flight_sql"]

QUERY = "SELECT 42 AS n"
PARAMETER_ROWS = 100_000
PARAMETER_RATE = 500_000
TABLES = 1_000
TABLE_COLUMNS = 20
ROUND_TRIPS = 2.2  # most that a query may cost, in plain DoGets


def flight_sql(bench: Bench) -> list[Figure]:
    """A small query three ways, ingest beside the in-process load, `executemany`, and the list of many tables."""
    return [*_query(bench), *_ingest(bench), _many(bench), _tables(bench)]


def _query(bench: Bench) -> list[Figure]:
    base = Figure(name="base_plain_query", title="small query, plain DoGet", unit="queries/s")
    pair = Figure(
        name="sql_query_pyarrow",
        title="  GetFlightInfo and DoGet, the same client",
        unit="queries/s",
        base_title=base.title,
        base=base.values,
    )
    driver = Figure(
        name="sql_query_adbc",
        title="  Flight SQL by the ADBC driver",
        unit="queries/s",
        base_title=base.title,
        base=base.values,
        target=round(1 / ROUND_TRIPS, 3),
        note=f"the target is a p50 within {ROUND_TRIPS} of plain DoGet's",
    )
    with (
        tempfile.TemporaryDirectory(dir=bench.directory) as place,
        serving(Path(place) / "query.duckdb", *bench.flags) as server,
    ):
        for _ in range(bench.scale.rounds):
            for figure, seconds in zip(
                (base, pair, driver), apart(_latencies, server.url, bench.scale.seconds), strict=True
            ):
                figure.values.append(1 / statistics.median(seconds))
                figure.latencies += seconds
    return [base, pair, driver]


def _latencies(url: str, seconds: float) -> list[list[float]]:
    """Return the durations of a small query: by DoGet, by GetFlightInfo and DoGet, by the driver; in turns."""
    descriptor = flight.FlightDescriptor.for_command(pack(messages.CommandStatementQuery(query=QUERY)))
    ticket = flight.Ticket(QUERY.encode())
    with (
        flight.connect(url) as client,
        driver(url) as connection,
        adbc_driver_manager.AdbcStatement(connection.adbc_connection) as statement,
    ):

        def by_driver() -> None:
            statement.set_sql_query(QUERY)
            handle, _ = statement.execute_query()
            pa.RecordBatchReader._import_from_c(handle.address).read_all()

        ways: tuple[Callable[[], object], ...] = (
            lambda: client.do_get(ticket).read_all(),
            lambda: client.do_get(client.get_flight_info(descriptor).endpoints[0].ticket).read_all(),
            by_driver,
        )
        taken: list[list[float]] = [[] for _ in ways]
        for way in ways * 20:
            way()
        end = time.perf_counter() + seconds * len(ways)
        while time.perf_counter() < end:
            for way, durations in zip(ways, taken, strict=True):
                start = time.perf_counter()
                way()
                durations.append(time.perf_counter() - start)
    return taken


def _ingest(bench: Bench) -> list[Figure]:
    rows = bench.scale.bulk_rows // 2
    base = Figure(name="base_sql_ingest", title="in-process INSERT ... SELECT, same batches", unit="Mrows/s")
    ingest = Figure(
        name="sql_ingest",
        title=f"adbc_ingest, {rows / 1e6:g}M rows x 16 columns",
        unit="Mrows/s",
        base_title=base.title,
        base=base.values,
        target=0.7,
    )
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        for inside, seconds in apart(_ingest_seconds, Path(place), rows, bench.scale.rounds, bench.flags):
            base.values.append(rows / 1e6 / inside)
            ingest.values.append(rows / 1e6 / seconds)
    return [base, ingest]


def _ingest_seconds(directory: Path, rows: int, rounds: int, flags: tuple[str, ...]) -> list[tuple[float, float]]:
    """Return, for each round, the seconds in process (the better of two ways) and through the server."""
    table = lineitem_table(rows)
    batches = table.to_batches()
    taken = []
    for _ in range(rounds):
        inside = min(bulk_write_seconds(directory, batches, way) for way in (True, False))
        path = directory / "served.duckdb"
        with serving(path, *flags) as server:
            with driver(server.url) as connection, connection.cursor() as cursor:
                cursor.execute(f"CREATE TABLE lineitem ({columns()})")
                start = time.perf_counter()
                stored = cursor.adbc_ingest("lineitem", table, mode="append")
                seconds = time.perf_counter() - start
            expect_rows("adbc_ingest", rows, stored)
            expect_rows("adbc_ingest", rows, stored_rows(server.url, "lineitem"))
        path.unlink()
        taken.append((inside, seconds))
    return taken


def _many(bench: Bench) -> Figure:
    figure = Figure(
        name="sql_executemany",
        title=f"executemany of {PARAMETER_ROWS:,} rows, INSERT ... VALUES (?, ?)",
        unit="rows/s",
        base_title=f"{PARAMETER_RATE:,} rows/s, which is wanted",
        target=1.0,
    )
    with (
        tempfile.TemporaryDirectory(dir=bench.directory) as place,
        serving(Path(place) / "many.duckdb", *bench.flags) as server,
    ):
        for _ in range(bench.scale.rounds):
            figure.values.append(PARAMETER_ROWS / apart(_many_seconds, server.url))
            figure.base.append(PARAMETER_RATE)
    return figure


def _many_seconds(url: str) -> float:
    """Return the seconds of one `executemany` with Arrow parameters."""
    rows = pa.table({"id": range(PARAMETER_ROWS), "value": [f"value {n}" for n in range(PARAMETER_ROWS)]})
    with driver(url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE OR REPLACE TABLE many (id BIGINT, value VARCHAR)")
        start = time.perf_counter()
        cursor.executemany("INSERT INTO many VALUES (?, ?)", rows)
        seconds = time.perf_counter() - start
        expect_rows("executemany", PARAMETER_ROWS, cursor.rowcount)
    expect_rows("executemany", PARAMETER_ROWS, stored_rows(url, "many"))
    return seconds


def _tables(bench: Bench) -> Figure:
    figure = Figure(
        name="sql_tables",
        title=f"all objects of {TABLES:,} tables of {TABLE_COLUMNS} columns, the slowest",
        unit="s",
        target=1.0,
        at_most=True,
    )
    with (
        tempfile.TemporaryDirectory(dir=bench.directory) as place,
        serving(Path(place) / "tables.duckdb", *bench.flags) as server,
    ):
        figure.values = apart(_tables_seconds, server.url, bench.scale.rounds)
    return figure


def _tables_seconds(url: str, rounds: int) -> list[float]:
    """Return the seconds, for each round, in which the driver lists every column of every table."""
    named = ", ".join(f"column_{number} BIGINT" for number in range(TABLE_COLUMNS))
    taken = []
    with driver(url) as connection, connection.cursor() as cursor:
        for first in range(0, TABLES, 100):  # a script has a longest text
            cursor.execute("; ".join(f"CREATE TABLE t{number} ({named})" for number in range(first, first + 100)))
        for _ in range(rounds):
            start = time.perf_counter()
            listed = connection.adbc_get_objects(depth="all").read_all().to_pylist()
            taken.append(time.perf_counter() - start)
            tables = [
                table
                for catalog in listed
                for schema in catalog["catalog_db_schemas"] or ()
                for table in schema["db_schema_tables"] or ()
            ]
            found = sum(len(table["table_columns"]) for table in tables)
            expect_rows("adbc_get_objects", TABLES * TABLE_COLUMNS, found)
    return taken
