"""Metadata: catalogs, schemas, tables, keys and types, as the drivers demand them."""

from __future__ import annotations

import time
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pytest

import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.protocol.flight_sql import schemas
from support.flight_sql import RawFlightSql

TABLES = """
CREATE SCHEMA other;
CREATE TABLE customers (id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, email VARCHAR UNIQUE);
CREATE TABLE orders (
    region INTEGER, number BIGINT, customer INTEGER REFERENCES customers (id), amount DECIMAL(12, 2) DEFAULT 0,
    PRIMARY KEY (region, number)
);
CREATE TABLE lines (
    region INTEGER, number BIGINT, line INTEGER, sent TIMESTAMP,
    FOREIGN KEY (region, number) REFERENCES orders (region, number)
);
CREATE TABLE other.customers (n INTEGER);
CREATE TABLE "odd_name%" (n INTEGER);
CREATE VIEW names AS SELECT name FROM customers;
"""


@pytest.fixture(autouse=True)
def _tables(client: ducktower.FlightClient) -> None:
    """Make some tables."""
    client.execute(TABLES)


QUESTIONS = {
    "catalogs": (m.CommandGetCatalogs(), schemas.CATALOGS),
    "schemas": (m.CommandGetDbSchemas(), schemas.DB_SCHEMAS),
    "tables": (m.CommandGetTables(), schemas.TABLES),
    "tables with columns": (m.CommandGetTables(include_schema=True), schemas.TABLES_WITH_SCHEMA),
    "no tables": (
        m.CommandGetTables(table_name_filter_pattern="nosuch", include_schema=True),
        schemas.TABLES_WITH_SCHEMA,
    ),
    "table types": (m.CommandGetTableTypes(), schemas.TABLE_TYPES),
    "primary keys": (m.CommandGetPrimaryKeys(table="orders"), schemas.PRIMARY_KEYS),
    "no primary keys": (m.CommandGetPrimaryKeys(table="nosuch"), schemas.PRIMARY_KEYS),
    "exported keys": (m.CommandGetExportedKeys(table="orders"), schemas.FOREIGN_KEYS),
    "imported keys": (m.CommandGetImportedKeys(table="orders"), schemas.FOREIGN_KEYS),
    "cross reference": (m.CommandGetCrossReference(pk_table="orders", fk_table="lines"), schemas.FOREIGN_KEYS),
    "types": (m.CommandGetXdbcTypeInfo(), schemas.XDBC_TYPE_INFO),
    "facts": (m.CommandGetSqlInfo(), schemas.SQL_INFO),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_schemas_are_exactly_those_of_the_protocol(raw_sql: RawFlightSql, question: str) -> None:
    """GetSchema, GetFlightInfo and DoGet agree on names, types and nullability, and with the specification."""
    command, schema = QUESTIONS[question]
    assert raw_sql.schema(command).equals(schema)
    info = raw_sql.info(command)
    assert info.schema.equals(schema)
    table = raw_sql.fetch(info)
    assert table.schema.equals(schema)
    table.validate(full=True)
    for field in schema:
        if not field.nullable:
            assert table[field.name].null_count == 0
    assert raw_sql.fetch(info).num_rows == table.num_rows


# As format/FlightSql.proto has them, in its own words; "!" is "not null".
SPECIFIED = {
    "primary keys": "catalog_name string, db_schema_name string, table_name string!, column_name string!, "
    "key_name string, key_sequence int32!",
    "exported keys": "pk_catalog_name string, pk_db_schema_name string, pk_table_name string!, pk_column_name string!, "
    "fk_catalog_name string, fk_db_schema_name string, fk_table_name string!, fk_column_name string!, "
    "key_sequence int32!, fk_key_name string, pk_key_name string, update_rule uint8!, delete_rule uint8!",
    "types": "type_name string!, data_type int32!, column_size int32, literal_prefix string, literal_suffix string, "
    "create_params list<item: string not null>, nullable int32!, case_sensitive bool!, searchable int32!, "
    "unsigned_attribute bool, fixed_prec_scale bool!, auto_increment bool, local_type_name string, "
    "minimum_scale int32, maximum_scale int32, sql_data_type int32!, datetime_subcode int32, num_prec_radix int32, "
    "interval_precision int32",
    "facts": "info_name uint32!, value dense_union<string_value: string=0, bool_value: bool=1, bigint_value: int64=2, "
    "int32_bitmask: int32=3, string_list: list<item: string>=4, "
    "int32_to_int32_list_map: map<int32, list<item: int32>>=5>!",
}
SPECIFIED |= dict.fromkeys(("imported keys", "cross reference"), SPECIFIED["exported keys"])


@pytest.mark.parametrize("question", SPECIFIED)
def test_schemas_are_those_that_the_specification_spells_out(raw_sql: RawFlightSql, question: str) -> None:
    """Written here once more, so that a slip in ours is no slip in both."""
    schema = raw_sql.ask(QUESTIONS[question][0]).schema
    assert (
        ", ".join(f"{field.name} {field.type}{'' if field.nullable else '!'}" for field in schema)
        == SPECIFIED[question]
    )


def names(table: pa.Table) -> list[str]:
    """Return the tables named in an answer."""
    found: list[str] = table["table_name"].to_pylist()
    return found


def test_filters(raw_sql: RawFlightSql) -> None:
    """Catalogs are equal or not; schemas and tables are LIKE patterns, with a backslash to escape; types are a list."""
    every = names(raw_sql.ask(m.CommandGetTables()))
    assert every == ["customers", "lines", "names", "odd_name%", "orders", "customers"]
    ask = lambda **filters: names(raw_sql.ask(m.CommandGetTables(**filters)))  # noqa: E731
    assert ask(table_name_filter_pattern="%mers") == ["customers", "customers"]
    assert ask(table_name_filter_pattern="order_") == ["orders"]
    assert ask(table_name_filter_pattern="odd\\_name\\%") == ["odd_name%"]
    assert ask(db_schema_filter_pattern="oth%") == ["customers"]
    assert ask(catalog="test", db_schema_filter_pattern="main", table_types=["VIEW"]) == ["names"]
    assert ask(catalog="nosuch") == []
    assert ask(table_types=["nosuch"]) == []
    assert raw_sql.ask(m.CommandGetDbSchemas(db_schema_filter_pattern="oth%"))["db_schema_name"].to_pylist() == [
        "other"
    ]
    assert "test" in raw_sql.ask(m.CommandGetCatalogs())["catalog_name"].to_pylist()
    kinds = raw_sql.ask(m.CommandGetTableTypes())["table_type"].to_pylist()
    assert set(raw_sql.ask(m.CommandGetTables())["table_type"].to_pylist()) <= set(kinds)


def test_columns_are_those_of_a_query(raw_sql: RawFlightSql, cursor: Any) -> None:
    """The schema within the answer is what SELECT gives, with DuckDB's type names and nullability beside it."""
    answer = raw_sql.ask(m.CommandGetTables(table_name_filter_pattern="orders", include_schema=True))
    schema = pa.ipc.read_schema(pa.py_buffer(answer["table_schema"][0].as_py()))
    assert schema.names == ["region", "number", "customer", "amount"]
    cursor.execute("SELECT * FROM orders")
    assert schema.types == cursor.fetch_arrow_table().schema.types
    assert [field.nullable for field in schema] == [False, False, True, True]
    metadata = schema.field("amount").metadata
    assert metadata[b"ARROW:FLIGHT:SQL:TYPE_NAME"] == b"DECIMAL(12,2)"
    assert (metadata[b"ARROW:FLIGHT:SQL:PRECISION"], metadata[b"ARROW:FLIGHT:SQL:SCALE"]) == (b"12", b"2")


def test_primary_keys(raw_sql: RawFlightSql) -> None:
    """In the order of the key."""
    answer = raw_sql.ask(m.CommandGetPrimaryKeys(table="orders", catalog="test", db_schema="main"))
    assert [(row["column_name"], row["key_sequence"]) for row in answer.to_pylist()] == [("region", 1), ("number", 2)]
    assert raw_sql.ask(m.CommandGetPrimaryKeys(table="customers", db_schema="other")).num_rows == 0


def test_foreign_keys(raw_sql: RawFlightSql) -> None:
    """Exported, imported, and between two tables; of more than one column in order."""

    def keys(command: Any) -> list[tuple[Any, ...]]:
        columns = ("pk_table_name", "pk_column_name", "fk_table_name", "fk_column_name", "key_sequence")
        return [tuple(row[name] for name in columns) for row in raw_sql.ask(command).to_pylist()]

    to_orders = [("orders", "region", "lines", "region", 1), ("orders", "number", "lines", "number", 2)]
    assert keys(m.CommandGetExportedKeys(table="orders")) == to_orders
    assert keys(m.CommandGetImportedKeys(table="lines")) == to_orders
    assert keys(m.CommandGetCrossReference(pk_table="orders", fk_table="lines")) == to_orders
    assert keys(m.CommandGetImportedKeys(table="orders")) == [("customers", "id", "orders", "customer", 1)]
    assert keys(m.CommandGetCrossReference(pk_table="customers", fk_table="lines")) == []
    answer = raw_sql.ask(m.CommandGetExportedKeys(table="orders"))
    assert set(answer["update_rule"].to_pylist() + answer["delete_rule"].to_pylist()) == {3}  # NO ACTION


def test_type_info(raw_sql: RawFlightSql) -> None:
    """All types in order, or those with one number."""
    every = raw_sql.ask(m.CommandGetXdbcTypeInfo()).to_pylist()
    order = [(row["data_type"], row["type_name"]) for row in every]
    assert order == sorted(order)
    varchar = raw_sql.ask(m.CommandGetXdbcTypeInfo(data_type=12)).to_pylist()
    assert {row["data_type"] for row in varchar} == {12}
    assert "VARCHAR" in {row["type_name"] for row in varchar}
    assert raw_sql.ask(m.CommandGetXdbcTypeInfo(data_type=4711)).num_rows == 0


def test_every_type_in_the_list_is_duckdbs(raw_sql: RawFlightSql, cursor: Any) -> None:
    """Each name can be cast to."""
    for row in raw_sql.ask(m.CommandGetXdbcTypeInfo()).to_pylist():
        if row["type_name"] != "ENUM":
            cursor.execute(f"SELECT CAST(NULL AS {row['type_name']})")
            cursor.fetchall()


def test_every_type_of_duckdbs_is_in_the_list(raw_sql: RawFlightSql) -> None:
    """But those that are made of others, for which JDBC and ODBC have no number, and those that no column can have."""
    answer = raw_sql.query(
        "SELECT DISTINCT logical_type AS kind FROM duckdb_types() WHERE database_name = 'system' "
        "AND type_category IS DISTINCT FROM 'COMPOSITE' AND logical_type NOT IN ('NULL', 'TUPLE', 'TYPE', 'VARIANT')"
    )
    kinds = set(answer["kind"].to_pylist())
    assert {"VARCHAR", "HUGEINT", "TIMESTAMP WITH TIME ZONE"} <= kinds
    assert kinds <= set(raw_sql.ask(m.CommandGetXdbcTypeInfo())["type_name"].to_pylist())


# -- by the driver -----------------------------------------------------------------------------------------


def test_get_objects(connect: Any) -> None:
    """Everything at once: catalogs, schemas, tables, columns."""
    (catalog,) = (
        one for one in connect().adbc_get_objects(depth="all").read_all().to_pylist() if one["catalog_name"] == "test"
    )
    found = {schema["db_schema_name"]: schema["db_schema_tables"] for schema in catalog["catalog_db_schemas"]}
    tables = {table["table_name"]: table for table in found["main"]}
    assert tables.keys() == {"customers", "lines", "names", "odd_name%", "orders"}
    assert [column["column_name"] for column in tables["lines"]["table_columns"]] == [
        "region",
        "number",
        "line",
        "sent",
    ]
    assert tables["names"]["table_type"] == "VIEW"
    assert [table["table_name"] for table in found["other"]] == ["customers"]


@pytest.mark.parametrize("depth", ["catalogs", "db_schemas", "tables"])
def test_get_objects_to_a_depth(connect: Any, depth: str) -> None:
    """And no deeper, with filters."""
    found = connect().adbc_get_objects(depth=depth, catalog_filter="test", db_schema_filter="main").read_all()
    assert found.num_rows >= 1


def test_table_schema_and_types(connect: Any) -> None:
    """`adbc_get_table_schema` takes the current schema's table, or the one that is named."""
    connection = connect()
    assert connection.adbc_get_table_schema("customers").names == ["id", "name", "email"]
    assert connection.adbc_get_table_schema("customers", db_schema_filter="other").names == ["n"]
    with pytest.raises(adbc.Error):
        connection.adbc_get_table_schema("nosuch")
    assert {"BASE TABLE", "VIEW"} & set(connection.adbc_get_table_types())


def test_get_info(connect: Any) -> None:
    """The driver's own summary of the server."""
    info = connect().adbc_get_info()
    assert info["vendor_name"] == "Ducktower"
    assert info["vendor_version"] == ducktower.__version__


def test_temporary_tables_are_listed_for_their_session(connect: Any) -> None:
    """And for no other."""
    mine, other = connect(), connect()
    with mine.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE mine (n INTEGER)")

    def listed(connection: Any) -> bool:
        objects = connection.adbc_get_objects(depth="tables", table_name_filter="mine").read_all().to_pylist()
        return any(
            table["table_name"] == "mine"
            for catalog in objects
            for schema in catalog["catalog_db_schemas"]
            for table in schema["db_schema_tables"] or []
        )

    assert (listed(mine), listed(other)) == (True, False)


def test_tables_of_an_open_transaction_are_listed_within_it(connect: Any) -> None:
    """A table that is not committed is there for its own session alone."""
    mine, other = connect(autocommit=False), connect()
    with mine.cursor() as cursor:
        cursor.execute("CREATE TABLE pending (n INTEGER)")
        assert mine.adbc_get_table_schema("pending").names == ["n"]
        with pytest.raises(adbc.Error):
            other.adbc_get_table_schema("pending")


def test_a_thousand_tables_are_listed_whole(connect: Any, client: ducktower.FlightClient) -> None:
    """With all their columns."""
    columns = ", ".join(f"c{n} INTEGER" for n in range(20))
    for start in range(0, 1000, 100):
        client.execute("; ".join(f"CREATE TABLE many_{n} ({columns})" for n in range(start, start + 100)))
    started = time.perf_counter()
    objects = connect().adbc_get_objects(depth="all", table_name_filter="many\\_%").read_all().to_pylist()
    print(f"1,000 tables in {time.perf_counter() - started:.3f} s")
    tables = [
        table
        for catalog in objects
        for schema in catalog["catalog_db_schemas"] or []
        for table in schema["db_schema_tables"] or []
    ]
    assert len(tables) == 1000
    assert {len(table["table_columns"]) for table in tables} == {20}
