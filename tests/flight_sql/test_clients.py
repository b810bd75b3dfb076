"""Tools that people have: pandas, polars and SQLAlchemy, through the ADBC driver."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy as sa

import ducktower


def numbers(client: ducktower.FlightClient, table: str = "t") -> list[int]:
    """Return what others see of a table."""
    found: list[int] = client.query(f"SELECT n FROM {table} ORDER BY n")["n"].to_pylist()
    return found


# -- pandas ------------------------------------------------------------------------------------------------


def test_pandas_reads(connect: Any) -> None:
    """`read_sql` and `read_sql_table`. (pandas has no parameters for ADBC.)"""
    connection = connect()
    frame = pd.read_sql("SELECT i AS n, 'v' || i AS v FROM range(3) t(i)", connection)
    assert frame["v"].tolist() == ["v0", "v1", "v2"]
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t AS SELECT 7 AS n, 'x' AS v")
    assert pd.read_sql_table("t", connection).to_dict("records") == [{"n": 7, "v": "x"}]
    assert pd.read_sql("t", connection, columns=["v"])["v"].tolist() == ["x"]


@pytest.mark.parametrize("autocommit", [True, False])
def test_pandas_writes(connect: Any, client: ducktower.FlightClient, autocommit: bool) -> None:
    """`to_sql` with each `if_exists`, also with autocommit off, as pandas' documentation has it."""
    connection = connect(autocommit=autocommit)
    frame = pd.DataFrame({"n": [1, 2], "v": ["a", "b"], "at": pd.to_datetime(["2026-01-01", None])})
    assert frame.to_sql("t", connection, index=False) == 2
    with pytest.raises(ValueError, match="exists"):
        frame.to_sql("t", connection, index=False, if_exists="fail")
    assert frame.to_sql("t", connection, index=False, if_exists="append") == 2
    if not autocommit:
        connection.commit()
    assert numbers(client) == [1, 1, 2, 2]
    assert frame.to_sql("t", connection, index=False, if_exists="replace") == 2
    if not autocommit:
        connection.commit()
    assert numbers(client) == [1, 2]
    assert frame.to_sql("t", connection, index=False, if_exists="delete_rows") == 2
    if not autocommit:
        connection.commit()
    assert numbers(client) == [1, 2]


def test_pandas_knows_schemas(connect: Any, client: ducktower.FlightClient) -> None:
    """`schema=` is a schema of the server's."""
    client.execute("CREATE SCHEMA other")
    connection = connect()
    pd.DataFrame({"n": [5]}).to_sql("t", connection, index=False, schema="other")
    assert numbers(client, "other.t") == [5]
    assert pd.read_sql("SELECT n FROM other.t", connection)["n"].tolist() == [5]


def test_pandas_dtype_backend(connect: Any) -> None:
    """Arrow types stay what they are."""
    frame = pd.read_sql("SELECT 1::TINYINT AS n, NULL::INTEGER AS m", connect(), dtype_backend="pyarrow")
    assert frame.dtypes["n"] == pd.ArrowDtype(pa.int8())


# -- polars ------------------------------------------------------------------------------------------------


def test_polars_reads(connect: Any) -> None:
    """`read_database`, with and without parameters, and in batches."""
    connection = connect()
    frame = pl.read_database("SELECT i AS n, 'v' || i AS v FROM range(3) t(i)", connection)
    assert frame["v"].to_list() == ["v0", "v1", "v2"]
    frame = pl.read_database(
        "SELECT i AS n FROM range(10) t(i) WHERE i > ?", connection, execute_options={"parameters": [7]}
    )
    assert frame["n"].to_list() == [8, 9]
    batches = pl.read_database("SELECT i FROM range(300_000) t(i)", connection, iter_batches=True, batch_size=100_000)
    assert sum(batch.height for batch in batches) == 300_000


def test_polars_writes(connect: Any, client: ducktower.FlightClient) -> None:
    """`write_database` with each `if_table_exists`."""
    connection = connect(autocommit=False)
    frame = pl.DataFrame({"n": [1, 2], "v": ["a", "b"]})
    assert frame.write_database("t", connection) == 2
    assert numbers(client) == [1, 2]
    assert frame.write_database("t", connection, if_table_exists="append") == 2
    assert numbers(client) == [1, 1, 2, 2]
    assert frame.write_database("t", connection, if_table_exists="replace") == 2
    assert numbers(client) == [1, 2]
    with pytest.raises(Exception, match="TABLE_EXISTS"):
        frame.write_database("t", connection, if_table_exists="fail")


def test_polars_lazy_types(connect: Any) -> None:
    """Nested types, dates and enums arrive in polars."""
    frame = pl.read_database(
        "SELECT [1, 2] AS l, {'a': 1} AS s, DATE '2026-01-01' AS d, 'x'::ENUM('x', 'y') AS e, 1.5::DECIMAL(9,2) AS c",
        connect(),
    )
    assert frame.row(0)[:2] == ([1, 2], {"a": 1})
    assert str(frame["d"][0]) == "2026-01-01"
    assert frame["e"].to_list() == ["x"]


# -- SQLAlchemy --------------------------------------------------------------------------------------------


@pytest.fixture
def alchemy(server: ducktower.FlightServer) -> Iterator[sa.Engine]:
    """Return an engine of the generic ADBC dialect."""
    engine = sa.create_engine(f"adbc+flightsql://{server.url.removeprefix('grpc://')}?tls=false")
    yield engine
    engine.dispose()
    gc.collect()


# SQLAlchemy leaves cursors to the garbage collector, of which the driver complains.
leaves_cursors = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@leaves_cursors
def test_sqlalchemy_core(alchemy: sa.Engine, client: ducktower.FlightClient) -> None:
    """Tables are made, filled with many rows at once, changed, read, and taken back."""
    metadata = sa.MetaData()
    table = sa.Table(
        "t",
        metadata,
        sa.Column("n", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("v", sa.String, nullable=False),
    )
    metadata.create_all(alchemy)
    with alchemy.begin() as connection:
        connection.execute(sa.insert(table), [{"n": n, "v": f"v{n}"} for n in range(100)])
        assert connection.execute(sa.update(table).where(table.c.n == 1).values(v="z")).rowcount == 1
    with alchemy.connect() as connection:
        connection.execute(sa.delete(table))
        connection.rollback()
        assert connection.execute(sa.select(table.c.v).where(table.c.n < 3).order_by(table.c.n)).scalars().all() == [
            "v0",
            "z",
            "v2",
        ]
    assert len(numbers(client)) == 100
    metadata.drop_all(alchemy)
    assert not sa.inspect(alchemy).has_table("t")


@leaves_cursors
def test_sqlalchemy_reflects(alchemy: sa.Engine, client: ducktower.FlightClient) -> None:
    """Columns with their types, of a table that somebody else made."""
    client.execute("CREATE TABLE t (n INTEGER NOT NULL, v VARCHAR, d DATE)")
    table = sa.Table("t", sa.MetaData(), autoload_with=alchemy)
    assert [(column.name, type(column.type)) for column in table.columns] == [
        ("n", sa.Integer),
        ("v", sa.String),
        ("d", sa.Date),
    ]
    assert "main" in sa.inspect(alchemy).get_schema_names()


@leaves_cursors
def test_pandas_through_sqlalchemy(alchemy: sa.Engine, client: ducktower.FlightClient) -> None:
    """With parameters, which pandas does not have for ADBC itself."""
    assert pd.DataFrame({"n": [1, 2]}).to_sql("t", alchemy, index=False) == 2
    frame = pd.read_sql(sa.text("SELECT n FROM t WHERE n > :least"), alchemy, params={"least": 1})
    assert frame["n"].tolist() == [2]
