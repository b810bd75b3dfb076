"""How rows meet tables: hostile names, matched columns, defaults, constraints, upserts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ducktower
from ducktower.client.data import to_arrow
from ducktower.engine.inserts import quoted
from support.threads import together
from support.waiting import until

HOSTILE = [
    'a"; DROP TABLE b; --',
    "a'; DROP TABLE b; --",
    '"',
    '""',
    "a.b",
    "select",
    "with space",
    "tab\tand\nline",
    "ünï🦆",
    "%s ? $1",
    "x" * 500,
    "__ducktower_0",
]


def rows_of(client: ducktower.FlightClient, table: str, order: str = "1") -> list[dict[str, Any]]:
    """Return a table's rows in order."""
    return client.query(f"SELECT * FROM {quoted(table)} ORDER BY {order}").to_pylist()


def is_there(client: ducktower.FlightClient, table: str) -> bool:
    """Whether the table is in the catalog."""
    return table in client.tables().column("table_name").to_pylist()


class TestNames:
    """Names are data."""

    @pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
    def test_a_hostile_table_name_is_only_a_name(self, client: ducktower.FlightClient, name: str) -> None:
        """A table with that name is made, written in every way, listed and read; table b stays."""
        client.execute("CREATE TABLE b (i INTEGER)")
        schema = pa.schema([("i", pa.int64()), ("v", pa.string())])
        client.create_table(name, schema)
        client.ingest(name, [{"i": 1, "v": "x"}])
        client.ingest(name, pa.table({"i": range(100_000), "v": ["long enough to be large"] * 100_000}))
        client.ingest(name, [{"i": 1, "v": "y"}], mode="upsert", key=["i"])
        with client.appender(name) as rows:
            rows.append({"i": 5, "v": "z"})
        assert client.table_schema(name).names == ["i", "v"]
        assert client.query(f"SELECT count(*) AS n FROM {quoted(name)}").to_pylist() == [{"n": 100_002}]
        client.ingest(name, [{"i": 2}], mode="replace")
        assert rows_of(client, name) == [{"i": 2}]
        assert sorted(client.tables().column("table_name").to_pylist()) == sorted(["b", name])

    @pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
    def test_a_hostile_missing_table_is_named(self, client: ducktower.FlightClient, name: str) -> None:
        """The error names it, and nothing else happens."""
        client.execute("CREATE TABLE b (i INTEGER)")
        with pytest.raises(ducktower.TableNotFound) as caught:
            client.ingest(name, [{"i": 1}])
        assert name in caught.value.message
        with pytest.raises(ducktower.TableNotFound):
            client.table_schema(name)
        assert is_there(client, "b")

    @pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
    def test_a_hostile_column_name_is_only_a_name(self, client: ducktower.FlightClient, name: str) -> None:
        """A column, and a key, with that name works in every mode."""
        client.ingest("t", pa.table({name: [1, 2], "v": ["a", "b"]}), mode="create")
        client.ingest("t", pa.table({name: [3], "v": ["c"]}))
        client.ingest("t", pa.table({name: [1], "v": ["z"]}), mode="upsert", key=[name])
        with client.appender("t") as rows:
            rows.append({name: 9, "v": "d"})
        assert [row[name] for row in rows_of(client, "t")] == [1, 2, 3, 9]
        assert rows_of(client, "t")[0]["v"] == "z"

    @pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
    def test_a_hostile_schema_name_is_only_a_name(self, client: ducktower.FlightClient, name: str) -> None:
        """A schema with that name is written to and read from."""
        client.execute(f"CREATE SCHEMA {quoted(name)}")
        client.ingest("t", [{"i": 1}], schema_name=name, mode="create")
        client.ingest("t", [{"i": 2}], schema_name=name)
        assert client.query(f"SELECT count(*) AS n FROM {quoted(name)}.t").to_pylist() == [{"n": 2}]
        assert client.table_schema("t", name).names == ["i"]

    @settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(name=st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40))
    def test_any_name_can_be_used(self, client: ducktower.FlightClient, name: str) -> None:
        """Whatever characters a name has, a table and a column of it can be made and read."""
        client.ingest(name, pa.table({name: [1]}), mode="replace")
        client.ingest(name, pa.table({name: [2]}))
        assert [row[name] for row in rows_of(client, name)] == [1, 2]
        client.execute(f"DROP TABLE {quoted(name)}")

    def test_an_empty_name_is_refused(self, client: ducktower.FlightClient) -> None:
        """No table has no name."""
        with pytest.raises(ducktower.InvalidArgument):
            client.ingest("", [{"i": 1}])

    def test_a_name_with_a_zero_character_is_refused(self, client: ducktower.FlightClient) -> None:
        """A NUL in a name gives one clean error, whatever DuckDB makes of it."""
        with pytest.raises(ducktower.DucktowerError) as caught:
            client.ingest("a\0b", [{"i": 1}])
        assert caught.value.code != "INTERNAL"

    def test_a_missing_schema_is_named(self, client: ducktower.FlightClient) -> None:
        """A schema that does not exist is said, in every mode."""
        for mode in ("append", "create", "replace", "create_append"):
            with pytest.raises((ducktower.TableNotFound, ducktower.InvalidArgument), match="nope"):
                client.ingest("t", [{"i": 1}], schema_name="nope", mode=mode)

    def test_the_system_catalog_is_no_target(self, client: ducktower.FlightClient) -> None:
        """DuckDB's own views cannot be written."""
        for schema, table in (("information_schema", "tables"), ("pg_catalog", "pg_class")):
            for mode in ("append", "replace"):
                with pytest.raises(ducktower.DucktowerError) as caught:
                    client.ingest(table, [{"table_name": "x"}], schema_name=schema, mode=mode)
                assert caught.value.code != "INTERNAL"
        assert client.tables().num_rows == 0

    def test_a_view_is_no_target(self, client: ducktower.FlightClient) -> None:
        """A view is refused with one clear error that names it."""
        client.execute("CREATE TABLE t (i INTEGER); CREATE VIEW w AS FROM t")
        for data in ([{"i": 1}], pa.table({"i": range(500_000)})):
            with pytest.raises(ducktower.InvalidArgument, match='"w" is a view'):
                client.ingest("w", data)


class TestRows:
    """Rows and columns, by each of the three ways in: the queue, a transaction of their own, an open stream."""

    @pytest.fixture(params=["small", "large", "appender"])
    def way(self, request: pytest.FixtureRequest) -> str:
        """Return the way in."""
        return str(request.param)

    @pytest.fixture
    def server(self, database: Path, way: str) -> Iterator[ducktower.FlightServer]:
        """Serve the database; for the large way in, every write counts as a large one."""
        limit = 1 if way == "large" else 1 << 20
        with ducktower.serve(str(database), small_write_bytes_max=limit) as running:
            yield running

    @pytest.fixture
    def append(self, client: ducktower.FlightClient, way: str) -> Callable[[str, Any], None]:
        """Return a function that appends to a table."""

        def through_an_appender(table: str, data: Any) -> None:
            with client.appender(table) as rows:
                for batch in to_arrow(data).to_batches():
                    rows.write(batch)

        return through_an_appender if way == "appender" else client.ingest

    def test_columns_match_by_name_in_any_order_and_case(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """The order and the case of the sent columns do not matter."""
        client.execute('CREATE TABLE t (Id INTEGER, "Value" VARCHAR, n DOUBLE)')
        append("t", pa.table({"N": [1.5], "VALUE": ["a"], "iD": [7]}))
        assert rows_of(client, "t") == [{"Id": 7, "Value": "a", "n": 1.5}]

    def test_a_missing_column_gets_its_default(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """A constant, an expression, a sequence, or NULL."""
        client.execute(
            "CREATE SEQUENCE s; CREATE TABLE t (i INTEGER, a INTEGER DEFAULT 5, b VARCHAR DEFAULT upper('x'), "
            "c INTEGER DEFAULT nextval('s'), d DATE, g INTEGER GENERATED ALWAYS AS (i * 2))"
        )
        append("t", pa.table({"i": [10, 20]}))
        assert rows_of(client, "t", "i") == [
            {"i": 10, "a": 5, "b": "X", "c": 1, "d": None, "g": 20},
            {"i": 20, "a": 5, "b": "X", "c": 2, "d": None, "g": 40},
        ]

    def test_an_unknown_column_is_named_and_nothing_is_stored(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """The error names the column, the table and what the table has."""
        client.execute("CREATE TABLE t (i INTEGER, v VARCHAR)")
        with pytest.raises(ducktower.SchemaMismatch, match='column "x" is not in table "t", which has "i", "v"'):
            append("t", pa.table({"i": [1], "x": [2]}))
        assert rows_of(client, "t") == []

    def test_a_column_sent_twice_is_named(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """Also when the two differ by case alone."""
        client.execute("CREATE TABLE t (i INTEGER)")
        with pytest.raises(ducktower.SchemaMismatch, match='column "I" was sent twice'):
            append("t", pa.table({"i": [1], "I": [2]}))
        with pytest.raises(ducktower.SchemaMismatch, match='column "i" was sent twice'):
            append("t", pa.table([pa.array([1]), pa.array([2])], names=["i", "i"]))
        assert rows_of(client, "t") == []

    @pytest.mark.parametrize(
        ("kind", "value", "path"),
        [
            ("STRUCT(x INTEGER, y VARCHAR)", {"x": 1, "z": 2}, "c.z"),
            ("STRUCT(x INTEGER, y VARCHAR)", {"z": 2}, "c.z"),
            ("STRUCT(x INTEGER)[]", [{"x": 1, "z": 2}], "c[].z"),
            ("STRUCT(s STRUCT(x INTEGER))", {"s": {"x": 1, "z": 2}}, "c.s.z"),
            ("STRUCT(l STRUCT(x INTEGER)[1])", {"l": [{"x": 1, "z": 2}]}, "c.l[].z"),
        ],
    )
    def test_an_unknown_field_is_named_and_nothing_is_stored(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None], kind: str, value: Any, path: str
    ) -> None:
        """At any depth, by its path, with both types."""
        client.execute(f"CREATE TABLE t (i INTEGER, c {kind})")
        with pytest.raises(ducktower.SchemaMismatch) as caught:
            append("t", pa.table({"i": [1], "c": [value]}))
        assert caught.value.message.startswith('column "c": found STRUCT(')
        assert f"wanted {kind}" in caught.value.message
        assert caught.value.message.endswith(f'there is no field "{path}"')
        assert rows_of(client, "t") == []

    def test_an_unknown_field_in_a_map_is_named(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """Of its values."""
        client.execute("CREATE TABLE t (m MAP(VARCHAR, STRUCT(x INTEGER)))")
        sent = pa.map_(pa.string(), pa.struct([("x", pa.int32()), ("z", pa.int32())]))
        with pytest.raises(ducktower.SchemaMismatch, match=r'no field "m.value.z"'):
            append("t", pa.table({"m": pa.array([[("k", {"x": 1, "z": 2})]], sent)}))
        assert rows_of(client, "t") == []

    def test_fields_match_by_name(self, client: ducktower.FlightClient, append: Callable[[str, Any], None]) -> None:
        """In any order and case; those that were not sent are NULL."""
        client.execute("CREATE TABLE t (c STRUCT(x INTEGER, y VARCHAR, s STRUCT(a INTEGER, b INTEGER)))")
        append("t", pa.table({"c": [{"S": {"B": 2}, "X": 1}]}))
        assert rows_of(client, "t") == [{"c": {"x": 1, "y": None, "s": {"a": None, "b": 2}}}]

    @pytest.mark.parametrize(
        ("kind", "value", "said"),
        [
            ("BIGINT", pa.array([1.0, 1.9]), "found DOUBLE, wanted BIGINT: not a whole number: 1.9"),
            ("BIGINT", pa.array([-0.25], pa.float32()), "found FLOAT, wanted BIGINT: not a whole number: -0.25"),
            ("INTEGER", pa.array([Decimal("7.10")]), r"found DECIMAL\(3,2\), wanted INTEGER: not a whole number: 7.10"),
            ("SMALLINT", pa.array(["12.5"]), "found VARCHAR, wanted SMALLINT: not a whole number: 12.5"),
            ("BIGINT[]", pa.array([[1.0, 2.5]]), r"found DOUBLE\[\], wanted BIGINT\[\]: not a whole number: .*2.5"),
            ("STRUCT(n INTEGER, x FLOAT)", pa.array([{"X": 0.1, "N": 0.5}]), "wanted STRUCT.*whole number: .*0.5"),
        ],
        ids=["double", "float", "decimal", "text", "list", "struct"],
    )
    def test_a_fraction_does_not_fit_an_integer(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None], kind: str, value: Any, said: str
    ) -> None:
        """It is not rounded: the column, the types and the value are named, and nothing is stored."""
        client.execute(f'CREATE TABLE t (i INTEGER, "it\'s" {kind})')
        with pytest.raises(ducktower.SchemaMismatch, match=f'^column "it\'s": .*{said}'):
            append("t", pa.table({"i": pa.array(range(len(value)), pa.int32()), "it's": value}))
        assert rows_of(client, "t") == []

    def test_whole_numbers_fit_whatever_their_type(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """A float, a decimal or a text without a fraction is an integer, NULL among them and at any size."""
        client.execute(
            "CREATE TABLE t (a BIGINT, b INTEGER, c UBIGINT, d HUGEINT[], e STRUCT(x DOUBLE, n TINYINT), f FLOAT)"
        )
        rows = {
            "a": [1.0, None, -9007199254740992.0],
            "b": [Decimal("5.00"), None, Decimal("-1.00")],
            "c": ["18446744073709551615", None, "3.0"],
            "d": [[1e30, None], None, []],
            "e": [{"n": 7.0, "x": 0.1}, None, {"n": None, "x": None}],
            "f": [0.1, None, 1e-300],
        }
        append("t", pa.table(rows))
        assert [row["a"] for row in rows_of(client, "t")] == [-9007199254740992, 1, None]
        assert client.query("SELECT b, c::VARCHAR AS c, d::VARCHAR AS d, e FROM t WHERE a = 1").to_pylist() == [
            {"b": 5, "c": "18446744073709551615", "d": "[1000000000000000019884624838656, NULL]",
             "e": {"x": 0.1, "n": 7}}
        ]  # fmt: skip
        assert client.query("SELECT c, e FROM t WHERE a < 0").to_pylist() == [{"c": 3, "e": {"x": None, "n": None}}]

    def test_a_column_keeps_as_many_digits_as_it_has(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """Of decimals, floats and times the rest is rounded: that is the type that its owner chose."""
        client.execute("CREATE TABLE t (d DECIMAL(9, 2), f FLOAT, moment TIMESTAMP, day DATE)")
        at = pa.array([1_700_000_000_123_456_789], pa.timestamp("ns"))
        append("t", pa.table({"d": [1.256], "f": [0.1], "moment": at, "day": at}))
        found = client.query("SELECT d, f = 0.1::FLOAT AS f, moment::VARCHAR AS moment, day::VARCHAR AS day FROM t")
        assert found.to_pylist() == [
            {"d": Decimal("1.26"), "f": True, "moment": "2023-11-14 22:13:20.123457", "day": "2023-11-14"}
        ]

    def test_a_generated_column_is_named(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """Its values are computed: none can be sent."""
        client.execute("CREATE TABLE t (i INTEGER, g INTEGER GENERATED ALWAYS AS (i * 2))")
        with pytest.raises(ducktower.SchemaMismatch, match='column "g" is generated'):
            append("t", pa.table({"i": [1], "g": [2]}))
        assert rows_of(client, "t") == []

    def test_a_missing_table_is_named(self, client: ducktower.FlightClient, append: Callable[[str, Any], None]) -> None:
        """An append does not make a table."""
        with pytest.raises(ducktower.TableNotFound, match='"nope"'):
            append("nope", pa.table({"i": [1]}))
        assert client.tables().num_rows == 0

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"i": [2, None], "v": ["a", "b"]}, "NOT NULL.*t.i"),
            ({"i": [2, 1], "v": ["a", "b"]}, "i: 1"),
            ({"i": [2, 2], "v": ["a", "b"]}, "2"),
            ({"i": [2, 3], "v": ["a", "bad"]}, "CHECK"),
            ({"i": [2, 3], "r": [1, 99]}, "99"),
        ],
        ids=["not_null", "primary_key", "primary_key_within", "check", "foreign_key"],
    )
    def test_a_constraint_refuses_the_whole_write(
        self,
        client: ducktower.FlightClient,
        append: Callable[[str, Any], None],
        values: dict[str, list[Any]],
        named: str,
    ) -> None:
        """CONSTRAINT_VIOLATION names the table and what was violated; not even the good rows are stored."""
        client.execute(
            "CREATE TABLE other (i INTEGER PRIMARY KEY); INSERT INTO other VALUES (1);"
            "CREATE TABLE t (i INTEGER PRIMARY KEY, v VARCHAR CHECK (v <> 'bad'), r INTEGER REFERENCES other (i));"
            "INSERT INTO t VALUES (1, 'old', 1)"
        )
        with pytest.raises(ducktower.ConstraintViolation, match=f"(?s)t.*{named}"):
            append("t", pa.table(values))
        assert rows_of(client, "t") == [{"i": 1, "v": "old", "r": 1}]

    def test_no_rows_are_a_valid_write(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """A batch without rows is stored, as nothing."""
        client.execute("CREATE TABLE t (i INTEGER)")
        append("t", pa.table({"i": pa.array([], pa.int32())}))
        assert rows_of(client, "t") == []

    def test_a_table_that_was_made_again_with_other_columns(
        self, client: ducktower.FlightClient, append: Callable[[str, Any], None]
    ) -> None:
        """What the server remembers of a table does not outlive it."""
        client.execute("CREATE TABLE t (i INTEGER)")
        append("t", pa.table({"i": [1]}))
        client.execute("CREATE OR REPLACE TABLE t (v VARCHAR DEFAULT 'd', i BIGINT)")
        append("t", pa.table({"i": [2]}))
        assert rows_of(client, "t") == [{"v": "d", "i": 2}]
        client.execute("ALTER TABLE t ADD COLUMN z INTEGER DEFAULT 9")
        append("t", pa.table({"i": [3], "z": [4]}))
        append("t", pa.table({"i": [5]}))
        assert [row["z"] for row in rows_of(client, "t", "i")] == [9, 4, 9]
        client.execute("ALTER TABLE t RENAME COLUMN i TO j")
        with pytest.raises(ducktower.SchemaMismatch, match='"i"'):
            append("t", pa.table({"i": [6]}))
        client.execute("DROP TABLE t")
        with pytest.raises(ducktower.TableNotFound):
            append("t", pa.table({"i": [7]}))


class TestCreate:
    """Tables made of an Arrow schema."""

    def test_not_null_is_kept(self, client: ducktower.FlightClient) -> None:
        """A field that is not nullable becomes a NOT NULL column."""
        client.create_table("t", pa.schema([pa.field("i", pa.int64(), nullable=False), ("v", pa.string())]))
        with pytest.raises(ducktower.ConstraintViolation, match=r"t.i"):
            client.ingest("t", [{"v": "x"}])
        client.ingest("t", [{"i": 1}])
        assert rows_of(client, "t") == [{"i": 1, "v": None}]

    def test_a_table_that_is_there_is_not_touched(self, client: ducktower.FlightClient) -> None:
        """`create` refuses, `if_not_exists` and `create_append` do not."""
        schema = pa.schema([("i", pa.int64())])
        assert client.create_table("t", schema).rows == 0
        client.ingest("t", [{"i": 1}])
        for data in ([{"i": 2}], pa.table({"i": range(500_000)})):
            with pytest.raises(ducktower.TableExists, match='"t"'):
                client.ingest("t", data, mode="create")
        with pytest.raises(ducktower.TableExists):
            client.create_table("t", schema)
        client.create_table("t", schema, if_not_exists=True)
        assert rows_of(client, "t") == [{"i": 1}]

    @pytest.mark.parametrize("rows", [3, 300_000])
    def test_create_append_makes_or_appends(self, client: ducktower.FlightClient, rows: int) -> None:
        """The first makes the table, the next ones append."""
        for expected in (rows, 2 * rows):
            assert client.ingest("t", pa.table({"i": range(rows)}), mode="create_append").rows == rows
            assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": expected}]

    @pytest.mark.parametrize("rows", [3, 300_000])
    def test_replace_puts_one_table_in_place_of_another(self, client: ducktower.FlightClient, rows: int) -> None:
        """Old columns and rows are gone."""
        client.execute("CREATE TABLE t (v VARCHAR); INSERT INTO t VALUES ('old')")
        assert client.ingest("t", pa.table({"i": range(rows)}), mode="replace").rows == rows
        assert client.table_schema("t").names == ["i"]
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": rows}]

    def test_a_replace_that_fails_leaves_the_old_table(self, client: ducktower.FlightClient) -> None:
        """The old table is given up only with the new one's COMMIT."""
        client.execute("CREATE TABLE t (v VARCHAR); INSERT INTO t VALUES ('old')")

        def batches() -> Iterator[pa.RecordBatch]:
            yield pa.record_batch({"i": range(300_000)})
            raise RuntimeError("half way")

        with pytest.raises(RuntimeError, match="half way"):
            client.ingest("t", batches(), mode="replace")
        until(lambda: client.statistics()["cursors"] <= 1, "the end of the upload")
        assert rows_of(client, "t") == [{"v": "old"}]

    def test_twice_the_same_column_makes_no_table(self, client: ducktower.FlightClient) -> None:
        """Two columns that differ by case alone are refused by name."""
        with pytest.raises(ducktower.SchemaMismatch, match='"A" was sent twice'):
            client.ingest("t", pa.table({"a": [1], "A": [2]}), mode="create")
        assert not is_there(client, "t")

    def test_no_columns_make_no_table(self, client: ducktower.FlightClient) -> None:
        """A table needs a column."""
        with pytest.raises(ducktower.InvalidArgument, match="at least one column"):
            client.create_table("t", pa.schema([]))

    def test_many_clients_create_one_table_at_once(self, server: ducktower.FlightServer) -> None:
        """Of sixteen that create it exactly one succeeds, the others hear TABLE_EXISTS; no conflict leaks."""

        def create(number: int) -> str:
            with ducktower.connect(server.url) as own:
                try:
                    own.ingest("t", [{"i": number}], mode="create")
                except ducktower.TableExists:
                    return "exists"
                return "made"

        assert sorted(together(16, create)) == ["exists"] * 15 + ["made"]

    def test_many_clients_create_or_append_at_once(self, server: ducktower.FlightServer) -> None:
        """Sixteen with `create_append` all succeed, and every row is there."""

        def write(number: int) -> int:
            with ducktower.connect(server.url) as own:
                return own.ingest("t", [{"i": number}], mode="create_append").rows

        assert together(16, write) == [1] * 16
        with ducktower.connect(server.url) as own:
            assert [row["i"] for row in rows_of(own, "t")] == list(range(16))


KEYS = {
    "primary_key": "CREATE TABLE t (a INTEGER, b VARCHAR, v INTEGER, w VARCHAR DEFAULT 'w', PRIMARY KEY (a, b))",
    "unique": "CREATE TABLE t (a INTEGER, b VARCHAR, v INTEGER, w VARCHAR DEFAULT 'w', UNIQUE (b, a))",
    "no_index": "CREATE TABLE t (a INTEGER, b VARCHAR, v INTEGER, w VARCHAR DEFAULT 'w')",
    "another_index": "CREATE TABLE t (a INTEGER, b VARCHAR, v INTEGER UNIQUE, w VARCHAR DEFAULT 'w')",
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("limit", [1 << 20, 1], ids=["small", "large"])
class TestUpsert:
    """Rows meet the rows of the same key, with and without an index on it."""

    @pytest.fixture
    def server(self, database: Path, limit: int) -> Iterator[ducktower.FlightServer]:
        """Serve the database with the limit of small writes asked for."""
        with ducktower.serve(str(database), small_write_bytes_max=limit) as running:
            yield running

    @pytest.fixture
    def client(self, server: ducktower.FlightServer, kind: str) -> Iterator[ducktower.FlightClient]:
        """Connect, and make the table with two rows."""
        with ducktower.connect(server.url) as connected:
            connected.execute(KEYS[kind])
            connected.execute("INSERT INTO t VALUES (1, 'x', 10, 'old'), (2, 'x', 20, 'old')")
            yield connected

    def upsert(self, client: ducktower.FlightClient, data: Any, key: Any = ("a", "b")) -> ducktower.Receipt:
        return client.ingest("t", data, mode="upsert", key=key)

    def test_changes_and_adds(self, client: ducktower.FlightClient) -> None:
        """A known key changes its row, an unknown one adds a row; columns not sent stay, or get their default."""
        receipt = self.upsert(client, pa.table({"b": ["x", "y"], "A": [1, 1], "v": [11, 12]}))
        assert receipt.rows == 2
        assert rows_of(client, "t", "a, b") == [
            {"a": 1, "b": "x", "v": 11, "w": "old"},
            {"a": 1, "b": "y", "v": 12, "w": "w"},
            {"a": 2, "b": "x", "v": 20, "w": "old"},
        ]

    def test_the_last_of_one_key_wins(self, client: ducktower.FlightClient) -> None:
        """Within one write, and across its batches, the last row of a key is the one that stays."""
        values = range(1000, 1500)
        table = pa.table({"a": [7] * 500, "b": ["k"] * 500, "v": values})
        self.upsert(client, pa.concat_tables([table, pa.table({"a": [7, 1], "b": ["k", "x"], "v": [5, 6]})]))
        assert [(row["a"], row["v"]) for row in rows_of(client, "t", "a, b")] == [(1, 6), (2, 20), (7, 5)]

    def test_keys_alone(self, client: ducktower.FlightClient) -> None:
        """Rows that are only a key add what is missing and change nothing."""
        self.upsert(client, pa.table({"a": [1, 3], "b": ["x", "z"]}))
        assert [(row["a"], row["v"], row["w"]) for row in rows_of(client, "t", "a, b")] == [
            (1, 10, "old"),
            (2, 20, "old"),
            (3, None, "w"),
        ]

    def test_a_missing_key_column_is_named(self, client: ducktower.FlightClient) -> None:
        """A key that was not sent, or that the table does not have, is refused."""
        with pytest.raises(ducktower.SchemaMismatch, match='"b"'):
            self.upsert(client, pa.table({"a": [1], "v": [2]}))
        with pytest.raises(ducktower.SchemaMismatch, match='"nope"'):
            self.upsert(client, pa.table({"a": [1], "nope": ["x"]}), key=["nope"])
        assert [row["v"] for row in rows_of(client, "t", "a, b")] == [10, 20]

    def test_a_null_is_no_key(self, client: ducktower.FlightClient) -> None:
        """It would match no row, and be added again each time: the write is refused, and the key column named."""
        for rows in ({"a": [1, None], "b": ["x", "x"], "v": [5, 5]}, {"a": [1, 1], "b": [None, "x"], "v": [5, 5]}):
            column = "a" if None in rows["a"] else "b"
            with pytest.raises(ducktower.ConstraintViolation, match=f'^key column "{column}" is NULL'):
                self.upsert(client, pa.table(rows))
        assert [(row["a"], row["v"]) for row in rows_of(client, "t", "a, b")] == [(1, 10), (2, 20)]
        self.upsert(client, pa.table({"a": [1], "b": ["x"], "v": pa.array([None], pa.int32())}))
        assert [row["v"] for row in rows_of(client, "t", "a, b")] == [None, 20]

    def test_a_bad_value_changes_nothing(self, client: ducktower.FlightClient) -> None:
        """One value that does not fit refuses the whole upsert, and is named."""
        with pytest.raises(ducktower.SchemaMismatch, match=r'"v".*found VARCHAR.*wanted INTEGER'):
            self.upsert(client, pa.table({"a": [1, 2], "b": ["x", "x"], "v": ["5", "five"]}))
        assert [row["v"] for row in rows_of(client, "t", "a, b")] == [10, 20]


def test_upserts_of_many_clients_all_succeed(server: ducktower.FlightServer) -> None:
    """Eight clients upsert the same ten keys again and again: no conflict is shown, each key has one row."""
    with ducktower.connect(server.url) as client:
        client.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, writer INTEGER, round INTEGER)")

        def write(number: int) -> None:
            with ducktower.connect(server.url) as own:
                for i in range(15):
                    own.ingest("t", [{"k": k, "writer": number, "round": i} for k in range(10)], mode="upsert", key="k")

        together(8, write)
        rows = rows_of(client, "t")
        assert [row["k"] for row in rows] == list(range(10))
        assert {row["round"] for row in rows} == {14}


def test_large_upserts_of_the_same_new_keys_all_succeed(server: ducktower.FlightServer) -> None:
    """Four clients bring the same keys at once: who comes late to a key changes its row, and hears of no duplicate."""
    with ducktower.connect(server.url) as client:
        client.execute("CREATE TABLE t (a INTEGER, k INTEGER, v INTEGER, PRIMARY KEY (a, k))")

        def work(number: int) -> int:
            stored = 0
            with ducktower.connect(server.url, retry_seconds=60) as own:
                for first in range(0, 200_000, 100_000):
                    rows = pa.table(
                        {"k": range(first, first + 100_000), "a": [1] * 100_000, "v": [number] * 100_000},
                    )
                    stored += own.ingest("t", rows, mode="upsert", key=["k", "a"]).rows
            return stored

        assert together(4, work) == [200_000] * 4
        assert client.query("SELECT count(*) AS n, count(DISTINCT k) AS d FROM t").to_pylist() == [
            {"n": 200_000, "d": 200_000}
        ]


def test_modes_and_keys_must_go_together(client: ducktower.FlightClient) -> None:
    """An unknown mode, an upsert without a key and a key without an upsert are refused by name."""
    client.execute("CREATE TABLE t (i INTEGER)")
    for arguments, named in (
        ({"mode": "overwrite"}, "overwrite"),
        ({"mode": "upsert"}, "needs `key`"),
        ({"key": ["i"]}, "goes with mode 'upsert'"),
    ):
        with pytest.raises(ducktower.InvalidArgument, match=named):
            client.ingest("t", [{"i": 1}], **arguments)


def test_a_write_over_the_wire_cannot_name_another_catalog(client: ducktower.FlightClient) -> None:
    """A dot in a name stays in the name: it reaches no other catalog or schema."""
    client.execute("CREATE SCHEMA s; CREATE TABLE s.t (i INTEGER)")
    with pytest.raises(ducktower.TableNotFound, match=r"s.t"):
        client.ingest("s.t", [{"i": 1}])
    with pytest.raises(ducktower.TableNotFound):
        client.ingest("t", [{"i": 1}], schema_name="test.s")
