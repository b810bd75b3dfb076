"""Flight SQL's metadata as exact Arrow tables: catalogs, schemas, tables, keys, and what DuckDB says of its SQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from ducktower.engine import Engine, Session
from support.engines import opened
from test_types import TYPES

SETUP = """
CREATE TABLE people (id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, born DATE, balance DECIMAL(12, 2));
CREATE SEQUENCE numbers;
CREATE TABLE pairs (b INTEGER, a INTEGER, n BIGINT DEFAULT nextval('numbers'), PRIMARY KEY (a, b), UNIQUE (n));
CREATE TABLE uses (
    owner INTEGER REFERENCES people (id), x INTEGER, y INTEGER, m BIGINT REFERENCES pairs (n),
    FOREIGN KEY (x, y) REFERENCES pairs (a, b)
);
CREATE VIEW everybody AS SELECT id, name || '!' AS loud FROM people;
CREATE SCHEMA "Odd _%";
CREATE TABLE "Odd _%"."T_1" (i INTEGER);
CREATE TABLE "Odd _%".people (id INTEGER PRIMARY KEY);
CREATE TABLE "Odd _%".uses (owner INTEGER REFERENCES "Odd _%".people (id));
"""

NOT_NULL = "not null"


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Open an engine on a file with a small schema."""
    with opened(database) as running:
        running.execute(SETUP)
        yield running


@pytest.fixture
def session(engine: Engine) -> Session:
    """Open a session with a temporary table."""
    opened_session = engine.sessions.open()
    opened_session.update("CREATE TEMP TABLE mine (a INTEGER PRIMARY KEY)")
    return opened_session


def shape(table: pa.Table) -> list[str]:
    """Return the columns as text."""
    return [str(field).removeprefix("pyarrow.Field<").removesuffix(">") for field in table.schema]


def names(table: pa.Table) -> list[tuple[Any, ...]]:
    """Return the rows, without the serialized schemas."""
    columns = [
        column.to_pylist()
        for name, column in zip(table.column_names, table.columns, strict=True)
        if name != "table_schema"
    ]
    return list(zip(*columns, strict=True))


def inner(table: pa.Table, row: int = 0) -> pa.Schema:
    """Return the Arrow schema in a row's table_schema."""
    return pa.ipc.read_schema(pa.py_buffer(table.column("table_schema")[row].as_py()))


class TestCatalogsAndSchemas:
    """What the tables hang in."""

    def test_catalogs(self, engine: Engine, session: Session) -> None:
        """The served one; the temporary one where it holds something."""
        assert shape(engine.catalogs()) == ["catalog_name: string not null"]
        assert names(engine.catalogs()) == [("test",)]
        assert names(engine.catalogs(session=session)) == [("temp",), ("test",)]

    def test_schemas(self, engine: Engine, session: Session) -> None:
        """Filters are exact for the catalog and LIKE patterns for the schema."""
        assert shape(engine.db_schemas()) == ["catalog_name: string", "db_schema_name: string not null"]
        assert names(engine.db_schemas()) == [("test", "Odd _%"), ("test", "main")]
        assert names(engine.db_schemas("TEST", "m%")) == [("test", "main")]
        assert names(engine.db_schemas(None, "odd \\_\\%")) == [("test", "Odd _%")]
        assert names(engine.db_schemas(None, "odd\\_%")) == []
        assert names(engine.db_schemas("elsewhere")) == names(engine.db_schemas("")) == []
        assert names(engine.db_schemas(None, "main", session)) == [("temp", "main"), ("test", "main")]

    def test_a_new_schema_is_there_at_once(self, engine: Engine, session: Session) -> None:
        """Also within the transaction that makes it, and for nobody else."""
        session.update("BEGIN; CREATE SCHEMA fresh")
        assert ("test", "fresh") in names(engine.db_schemas(session=session))
        assert ("test", "fresh") not in names(engine.db_schemas())


class TestTables:
    """Tables and views, with their columns."""

    def test_all(self, engine: Engine) -> None:
        """They are ordered by their names; nothing internal is shown."""
        found = engine.tables_of()
        assert shape(found) == [
            "catalog_name: string",
            "db_schema_name: string",
            "table_name: string not null",
            "table_type: string not null",
        ]
        assert names(found) == [
            ("test", "Odd _%", "T_1", "TABLE"),
            ("test", "Odd _%", "people", "TABLE"),
            ("test", "Odd _%", "uses", "TABLE"),
            ("test", "main", "everybody", "VIEW"),
            ("test", "main", "pairs", "TABLE"),
            ("test", "main", "people", "TABLE"),
            ("test", "main", "uses", "TABLE"),
        ]

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"table_pattern": "PEOPLE", "schema_pattern": "main"}, ["people"]),
            ({"table_pattern": "%eop%"}, ["people", "people"]),
            ({"table_pattern": "t\\_1"}, ["T_1"]),
            ({"table_pattern": "_\\_1"}, ["T_1"]),
            ({"table_pattern": "nothing%"}, []),
            ({"schema_pattern": "odd%", "table_pattern": "T%"}, ["T_1"]),
            ({"types": ["VIEW"]}, ["everybody"]),
            ({"types": ["view", "LOCAL TEMPORARY"]}, ["everybody"]),
            ({"types": ["BASE TABLE"], "table_pattern": "pairs"}, ["pairs"]),
            ({"types": ["TABLE"], "table_pattern": "pairs"}, ["pairs"]),
            ({"types": ["SYSTEM TABLE"]}, []),
            ({"types": [], "table_pattern": "pairs"}, ["pairs"]),
            ({"catalog": "test", "table_pattern": "pairs"}, ["pairs"]),
            ({"catalog": "other"}, []),
            ({"catalog": ""}, []),
            ({"table_pattern": "'; DROP TABLE pairs; --"}, []),
        ],
    )
    @pytest.mark.parametrize("include_schema", [False, True])
    def test_filters(self, engine: Engine, filters: dict[str, Any], found: list[str], include_schema: bool) -> None:
        """Patterns are LIKE's, in any case; types are those that drivers know."""
        assert engine.tables_of(**filters, include_schema=include_schema).column("table_name").to_pylist() == found

    def test_temporary_ones(self, engine: Engine, session: Session) -> None:
        """They are their session's."""
        assert names(engine.tables_of(types=["LOCAL TEMPORARY"], session=session)) == [
            ("temp", "main", "mine", "LOCAL TEMPORARY")
        ]
        assert names(engine.tables_of(types=["LOCAL TEMPORARY"])) == []

    def test_in_a_transaction(self, engine: Engine, session: Session) -> None:
        """A session sees its own uncommitted tables; one whose transaction failed sees what is committed."""
        session.update("BEGIN; CREATE TABLE yet (i INTEGER)")
        assert engine.tables_of(table_pattern="yet", session=session).num_rows == 1
        assert engine.tables_of(table_pattern="yet").num_rows == 0
        with pytest.raises(Exception, match="stop"):
            session.query("SELECT error('stop')")
        assert engine.tables_of(table_pattern="yet", session=session).num_rows == 0
        assert engine.tables_of(table_pattern="people", session=session).num_rows == 2

    def test_columns(self, engine: Engine) -> None:
        """The inner schema has Arrow's types, NOT NULL, and Flight SQL's metadata."""
        found = engine.tables_of(table_pattern="people", schema_pattern="main", include_schema=True)
        assert str(found.schema.field("table_schema")) == "pyarrow.Field<table_schema: binary not null>"
        schema = inner(found)
        assert [str(field) for field in schema] == [
            "pyarrow.Field<id: int32 not null>",
            "pyarrow.Field<name: string not null>",
            "pyarrow.Field<born: date32[day]>",
            "pyarrow.Field<balance: decimal128(12, 2)>",
        ]
        assert schema.field("balance").metadata == {
            b"ARROW:FLIGHT:SQL:CATALOG_NAME": b"test",
            b"ARROW:FLIGHT:SQL:SCHEMA_NAME": b"main",
            b"ARROW:FLIGHT:SQL:TABLE_NAME": b"people",
            b"ARROW:FLIGHT:SQL:TYPE_NAME": b"DECIMAL(12,2)",
            b"ARROW:FLIGHT:SQL:PRECISION": b"12",
            b"ARROW:FLIGHT:SQL:SCALE": b"2",
            b"ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT": b"0",
            b"ARROW:FLIGHT:SQL:IS_CASE_SENSITIVE": b"0",
            b"ARROW:FLIGHT:SQL:IS_READ_ONLY": b"0",
            b"ARROW:FLIGHT:SQL:IS_SEARCHABLE": b"1",
        }
        pairs = inner(engine.tables_of(table_pattern="pairs", include_schema=True))
        assert pairs.field("n").metadata[b"ARROW:FLIGHT:SQL:IS_AUTO_INCREMENT"] == b"1"

    @pytest.mark.parametrize("kind", [*TYPES, "GEOMETRY", "BIT", "TIMETZ"])
    def test_every_type(self, engine: Engine, kind: str) -> None:
        """A column's type is the one that a query of it has."""
        engine.execute(f"CREATE TABLE x (c {kind})")
        with engine.read("FROM x") as reader:
            assert (
                inner(engine.tables_of(table_pattern="x", include_schema=True)).field("c").type
                == reader.schema.field(0).type
            )

    def test_a_view_whose_table_is_gone(self, engine: Engine) -> None:
        """It is still listed, and does not break the list."""
        engine.execute("CREATE TABLE base (a INTEGER); CREATE VIEW broken AS FROM base; DROP TABLE base")
        assert engine.tables_of(include_schema=True).column("table_name").to_pylist().count("broken") == 1

    def test_many(self, engine: Engine) -> None:
        """A thousand tables of twenty columns come in order, each with all of its columns."""
        columns = ", ".join(f"c{i} {list(TYPES)[i]}" for i in range(20))
        for start in range(0, 1000, 200):
            engine.execute("; ".join(f"CREATE TABLE many_{n:04} ({columns})" for n in range(start, start + 200)))
        found = engine.tables_of(table_pattern="many%", include_schema=True)
        assert found.column("table_name").to_pylist() == [f"many_{n:04}" for n in range(1000)]
        assert {len(inner(found, row)) for row in range(1000)} == {20}
        assert inner(found, 999).field("c19").metadata[b"ARROW:FLIGHT:SQL:TABLE_NAME"] == b"many_0999"

    def test_types(self, engine: Engine) -> None:
        """The kinds that `tables_of` tells apart."""
        assert shape(engine.table_types()) == ["table_type: string not null"]
        assert names(engine.table_types()) == [("LOCAL TEMPORARY",), ("TABLE",), ("VIEW",)]


class TestKeys:
    """Primary and foreign keys."""

    def test_primary(self, engine: Engine, session: Session) -> None:
        """In the key's own order, which need not be the columns'."""
        found = engine.primary_keys(None, None, "Pairs")
        assert shape(found) == [
            "catalog_name: string",
            "db_schema_name: string",
            "table_name: string not null",
            "column_name: string not null",
            "key_name: string",
            "key_sequence: int32 not null",
        ]
        assert names(found) == [
            ("test", "main", "pairs", "a", "pairs_a_b_pkey", 1),
            ("test", "main", "pairs", "b", "pairs_a_b_pkey", 2),
        ]
        assert len(names(engine.primary_keys(None, None, "people"))) == 2
        assert len(names(engine.primary_keys("test", "odd _%", "people"))) == 1
        assert names(engine.primary_keys("other", None, "people")) == []
        assert names(engine.primary_keys(None, None, "uses")) == []
        assert names(engine.primary_keys("temp", None, "mine", session=session)) == [
            ("temp", "main", "mine", "a", "mine_a_pkey", 1)
        ]

    def test_foreign(self, engine: Engine) -> None:
        """Exported, imported and crossed, for keys of one and of several columns, also to a UNIQUE constraint."""
        assert shape(engine.imported_keys(None, "main", "uses")) == [
            "pk_catalog_name: string",
            "pk_db_schema_name: string",
            "pk_table_name: string not null",
            "pk_column_name: string not null",
            "fk_catalog_name: string",
            "fk_db_schema_name: string",
            "fk_table_name: string not null",
            "fk_column_name: string not null",
            "key_sequence: int32 not null",
            "fk_key_name: string",
            "pk_key_name: string",
            "update_rule: uint8 not null",
            "delete_rule: uint8 not null",
        ]
        to_pairs = [
            ("test", "main", "pairs", "n", "test", "main", "uses", "m", 1, "uses_m_n_fkey", "pairs_n_key", 3, 3),
            ("test", "main", "pairs", "a", "test", "main", "uses", "x", 1, "uses_x_y_a_b_fkey", "pairs_a_b_pkey", 3, 3),
            ("test", "main", "pairs", "b", "test", "main", "uses", "y", 2, "uses_x_y_a_b_fkey", "pairs_a_b_pkey", 3, 3),
        ]
        to_people = [
            (
                "test",
                "main",
                "people",
                "id",
                "test",
                "main",
                "uses",
                "owner",
                1,
                "uses_owner_id_fkey",
                "people_id_pkey",
                3,
                3,
            )
        ]
        assert names(engine.exported_keys(None, "main", "PAIRS")) == to_pairs
        assert sorted(names(engine.imported_keys("test", "main", "uses"))) == sorted(to_pairs + to_people)
        assert names(engine.cross_reference(None, "main", "people", None, None, "uses")) == to_people
        assert names(engine.cross_reference(None, None, "uses", None, None, "people")) == []

    def test_imported_keys_are_ordered_by_what_they_refer_to(self, engine: Engine) -> None:
        """Drivers rely on it."""
        found = engine.imported_keys(None, "main", "uses")
        assert found.column("pk_table_name").to_pylist() == ["pairs", "pairs", "pairs", "people"]

    def test_another_schema(self, engine: Engine) -> None:
        """A foreign key stays within its schema."""
        found = names(engine.exported_keys(None, "Odd _%", "people"))
        assert [row[:8] for row in found] == [("test", "Odd _%", "people", "id", "test", "Odd _%", "uses", "owner")]

    def test_names_of_tables_that_are_not_there(self, engine: Engine) -> None:
        """They have no keys, and hostile ones do no harm."""
        for table in ("nowhere", "'; DROP TABLE people; --", ""):
            assert engine.primary_keys(None, None, table).num_rows == 0
            assert engine.imported_keys(None, None, table).num_rows == 0
        assert engine.tables_of(table_pattern="people").num_rows == 2


def test_what_duckdb_says_of_its_sql(engine: Engine) -> None:
    """Keywords and functions are its own, each function of a kind once."""
    facts = engine.sql_facts()
    assert {"SELECT", "QUALIFY", "ASOF"} <= set(facts.keywords)
    assert facts.keywords == sorted(set(facts.keywords))
    for kind, some in {
        "numeric": {"abs", "sqrt", "round"},
        "string": {"upper", "replace", "trim"},
        "datetime": {"year", "date_trunc", "strftime"},
        "system": {"version", "current_schema", "now"},
    }.items():
        assert some <= set(facts.functions[kind]), kind
        assert facts.functions[kind] == sorted(set(facts.functions[kind]))
    assert engine.sql_facts() is facts
