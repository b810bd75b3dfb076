"""Every DuckDB type that Arrow can carry makes the round trip, by every way in; the others are named."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import ducktower

# Type -> SQL values. A NULL is added to each.
TYPES: dict[str, list[str]] = {
    "BOOLEAN": ["true", "false"],
    "TINYINT": ["-128", "127"],
    "SMALLINT": ["-32768", "32767"],
    "INTEGER": ["-2147483648", "2147483647"],
    "BIGINT": ["-9223372036854775808", "9223372036854775807"],
    "HUGEINT": ["-99999999999999999999999999999999999999", "99999999999999999999999999999999999999"],
    "UTINYINT": ["0", "255"],
    "USMALLINT": ["65535"],
    "UINTEGER": ["4294967295"],
    "UBIGINT": ["18446744073709551615"],
    "UHUGEINT": ["99999999999999999999999999999999999999"],
    "FLOAT": ["1.5", "'inf'", "'nan'", "-0.0"],
    "DOUBLE": ["1.0e308", "'-inf'", "'nan'"],
    "DECIMAL(4,1)": ["-999.9", "0.1"],
    "DECIMAL(9,2)": ["1234567.89"],
    "DECIMAL(18,3)": ["-123456789012345.678"],
    "DECIMAL(38,10)": ["1234567890123456789012345678.0123456789"],
    "VARCHAR": ["''", "'plain'", "'ünï 🦆 '' \"'", "repeat('long ', 100)"],
    "BLOB": ["''::BLOB", "'\\x00\\xFF\\x80'::BLOB"],
    "DATE": ["'0001-01-01'", "'9999-12-31'"],
    "TIME": ["'00:00:00'", "'23:59:59.999999'"],
    "TIME_NS": ["'23:59:59.999999999'"],
    "TIMESTAMP": ["'1969-12-31 23:59:59.999999'", "'2026-02-28 12:00:00.000001'"],
    "TIMESTAMP_S": ["'2026-02-28 12:00:01'"],
    "TIMESTAMP_MS": ["'2026-02-28 12:00:00.001'"],
    "TIMESTAMP_NS": ["'2026-02-28 12:00:00.000000001'"],
    "TIMESTAMPTZ": ["'2026-02-28 12:00:00.000001+05:30'"],
    "INTERVAL": ["INTERVAL '14 months 3 days 4.000005 seconds'", "INTERVAL '-1 day'"],
    "UUID": ["'6d2c9f3e-8c1a-4b0e-9f53-0123456789ab'"],
    "BIGNUM": ["'123456789012345678901234567890123456789012345678901234567890'", "-1"],
    "JSON": ["""'{"a": [1, null, "x"]}'""", "'null'"],
    "ENUM('small', 'big', 'ünï')": ["'big'", "'ünï'"],
    "INTEGER[]": ["[]", "[1, NULL, 3]"],
    "INTEGER[3]": ["[1, NULL, 3]"],
    "VARCHAR[][]": ["[['a'], NULL, ['b', 'c']]"],
    "STRUCT(a INTEGER, b VARCHAR)": ["{'a': 1, 'b': NULL}", "{'a': NULL, 'b': 'x'}"],
    "STRUCT(l STRUCT(x DECIMAL(9,2), t TIMESTAMPTZ)[], m MAP(VARCHAR, DOUBLE))": [
        "{'l': [{'x': 1.25, 't': '2026-02-28 12:00:00+00'}, NULL], 'm': MAP {'k': 1.5}}"
    ],
    "MAP(VARCHAR, INTEGER[])": ["MAP {'a': [1], 'b': NULL}", "MAP {}"],
    "MAP(INTEGER, STRUCT(e ENUM('u', 'v')))": ["MAP {1: {'e': 'v'}}"],
    "ENUM('u', 'v')[]": ["['u', NULL, 'v']"],
    "STRUCT(e ENUM('u', 'v'), d DATE)": ["{'e': 'u', 'd': '2026-02-28'}"],
    "UNION(n INTEGER, s VARCHAR)": ["union_value(n := 7)", "union_value(s := 'x')"],
}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightClient]:
    """Connect to one server for all types."""
    path: Path = tmp_path_factory.mktemp("types") / "types.duckdb"
    with ducktower.serve(str(path)) as server, ducktower.connect(server.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def streaming(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightClient]:
    """Connect to a server for which every write is a large one."""
    path: Path = tmp_path_factory.mktemp("types") / "streaming.duckdb"
    with (
        ducktower.serve(str(path), small_write_bytes_max=1) as server,
        ducktower.connect(server.url) as connected,
    ):
        yield connected


def make_tables(client: ducktower.FlightClient, kind: str, values: list[str]) -> None:
    """Make `source` with the values, and an empty `target` of the same type."""
    rows = ", ".join(f"({i}, {value})" for i, value in enumerate([*values, "NULL"]))
    client.execute(
        f"CREATE OR REPLACE TABLE source (id INTEGER, c {kind});"
        f"CREATE OR REPLACE TABLE target (id INTEGER, c {kind});"
        f"INSERT INTO source VALUES {rows}"
    )


def assert_same(client: ducktower.FlightClient, rows: int) -> None:
    """Compare the two tables within DuckDB, and what clients see of them."""
    differing = client.query(
        "SELECT id, s.c::VARCHAR AS s, t.c::VARCHAR AS t FROM source s FULL JOIN target t USING (id) "
        "WHERE s.c IS DISTINCT FROM t.c OR s.c::VARCHAR IS DISTINCT FROM t.c::VARCHAR"
    )
    assert differing.to_pylist() == []
    assert client.query("SELECT count(*) AS n FROM target").to_pylist() == [{"n": rows}]
    seen = [client.query(f"SELECT c FROM {table} ORDER BY id") for table in ("source", "target")]
    assert seen[0].schema == seen[1].schema
    assert repr(seen[0].to_pylist()) == repr(seen[1].to_pylist())


@pytest.mark.parametrize("kind", TYPES)
class TestRoundTrip:
    """What a query gives can be written back, and is the same."""

    def test_small(self, kind: str, client: ducktower.FlightClient) -> None:
        """Through the commit queue."""
        make_tables(client, kind, TYPES[kind])
        table = client.query("SELECT c, id FROM source")
        assert client.ingest("target", table).rows == table.num_rows
        assert_same(client, table.num_rows)

    def test_large(self, kind: str, streaming: ducktower.FlightClient) -> None:
        """Through a transaction of its own, from the wire into DuckDB, in several batches."""
        make_tables(streaming, kind, TYPES[kind])
        table = streaming.query("SELECT * FROM source")
        batches = [batch for i in range(table.num_rows) for batch in table.slice(i, 1).to_batches()]
        streaming.ingest("target", pa.RecordBatchReader.from_batches(table.schema, iter(batches)))
        assert_same(streaming, table.num_rows)

    def test_appender_batch(self, kind: str, client: ducktower.FlightClient) -> None:
        """Through an open stream, a batch at a time."""
        make_tables(client, kind, TYPES[kind])
        table = client.query("SELECT * FROM source")
        with client.appender("target") as rows:
            for batch in table.to_batches():
                rows.write(batch)
        assert_same(client, table.num_rows)

    def test_upsert(self, kind: str, client: ducktower.FlightClient) -> None:
        """As an update of rows that are there."""
        make_tables(client, kind, TYPES[kind])
        client.execute("INSERT INTO target (id) SELECT id FROM source")
        table = client.query("SELECT * FROM source")
        assert client.ingest("target", table, mode="upsert", key=["id"]).rows == table.num_rows
        assert_same(client, table.num_rows)

    def test_create(self, kind: str, client: ducktower.FlightClient) -> None:
        """Into a table that is made of the Arrow schema: the same values are read from it."""
        make_tables(client, kind, TYPES[kind])
        table = client.query("SELECT * FROM source ORDER BY id")
        client.execute("DROP TABLE target")
        client.ingest("target", table, mode="create")
        back = client.query("SELECT * FROM target ORDER BY id")
        assert repr(back.to_pylist()) == repr(table.to_pylist())


CARRIED: dict[str, tuple[str, Any]] = {
    # Types that Arrow has none for: a value as SQL, and what arrives.
    "BIT": ("'010101'", "010101"),
    "TIMETZ": ("'23:59:59.999999+05:30'", "23:59:59.999999+05:30"),
    "UHUGEINT": ("9" * 38, Decimal("9" * 38)),
    "BIT[]": ("['1', NULL]", ["1", None]),
    "TIMETZ[1]": ("['12:00:00-03']", ["12:00:00-03"]),
    "MAP(TIMETZ, BIT)": ("MAP {'12:00:00+01': '11'}", [("12:00:00+01", "11")]),
    "UNION(i INTEGER, b BIT)": ("union_value(b := '01'::BIT)", "01"),
    """STRUCT("a ""b" STRUCT(t TIMETZ, e ENUM('u', 'v'))[], n UHUGEINT)""": (
        """{'a "b': [{'t': '12:00:00+14', 'e': 'v'}], 'n': 7}""",
        {'a "b': [{"t": "12:00:00+14", "e": "v"}], "n": Decimal(7)},
    ),
}


@pytest.mark.parametrize("kind", CARRIED)
def test_types_that_arrow_has_not_arrive_right(kind: str, client: ducktower.FlightClient) -> None:
    """Wherever results leave the server: queries, RETURNING, with parameters; and what left can be written back."""
    sql, wanted = CARRIED[kind]
    make_tables(client, kind, [sql])
    client.execute("DELETE FROM source WHERE c IS NULL")
    schema = client.query("SELECT c FROM source LIMIT 0").schema
    asked = {
        "query": client.query("SELECT c FROM source"),
        "parameters": client.query("SELECT c FROM source WHERE id < $1", [5]),
        "streamed": client.query("SELECT c FROM source, range(100_000)").slice(99_999),
        "returning": client.execute("UPDATE source SET id = 0 RETURNING c").table,
    }
    assert {name: table.column("c").to_pylist() for name, table in asked.items()} == {name: [wanted] for name in asked}
    assert {name: table.schema for name, table in asked.items()} == dict.fromkeys(asked, schema)
    client.ingest("target", client.query("SELECT * FROM source"))
    assert_same(client, 1)


def test_two_columns_of_one_name_stay_two(client: ducktower.FlightClient) -> None:
    """Columns are carried by their position, whatever their names are."""
    table = client.query("""SELECT '1'::BIT AS "a""\", '12:00:00+02'::TIMETZ AS "a""\" """)
    assert (table.column_names, [c.to_pylist() for c in table.columns]) == (['a"'] * 2, [["1"], ["12:00:00+02"]])


@pytest.mark.parametrize("value", ["n", "{'in': [n]}"])
def test_a_number_that_arrow_cannot_hold_is_an_error(value: str, client: ducktower.FlightClient) -> None:
    """A UHUGEINT of more than 38 digits arrived as another number; now it is named, and as text it arrives."""
    source = "(SELECT 340282366920938463463374607431768211455::UHUGEINT AS n)"
    with pytest.raises(ducktower.InvalidSQL, match=r"340282366920938463463374607431768211455 to DECIMAL\(38,0\)"):
        client.query(f"SELECT {value} FROM {source}")
    client.execute("CREATE OR REPLACE TABLE huge (n UHUGEINT)")
    with pytest.raises(ducktower.InvalidSQL, match="340282366920938463463374607431768211455"):
        client.execute(f"INSERT INTO huge FROM {source} RETURNING {value}")
    assert client.query(f"SELECT n::VARCHAR AS n FROM {source}").to_pylist() == [{"n": str(2**128 - 1)}]
    assert client.query("FROM huge").num_rows == 0


@pytest.mark.parametrize("kind", ["BIT", "BIT[]", "STRUCT(b BIT)"])
@pytest.mark.parametrize("path", ["small", "large"])
def test_bytes_are_not_taken_for_bits(
    kind: str, path: str, client: ducktower.FlightClient, streaming: ducktower.FlightClient
) -> None:
    """At any depth they are refused by column: DuckDB would read each byte as eight bits."""
    target = client if path == "small" else streaming
    target.execute(f"CREATE OR REPLACE TABLE bits (c {kind})")
    value: Any = {"BIT": b"\x01", "BIT[]": [b"\x01"], "STRUCT(b BIT)": {"b": b"\x01"}}[kind]
    with pytest.raises(ducktower.SchemaMismatch, match=r'"c.*BIT.*text'):
        target.ingest("bits", pa.table({"c": [value]}))


FOREIGN: dict[str, tuple[pa.DataType, list[Any]]] = {
    # Arrow types that DuckDB takes, though it never gives them.
    "large_string": (pa.large_string(), ["a", None]),
    "string_view": (pa.string_view(), ["a" * 50, None]),
    "large_binary": (pa.large_binary(), [b"\x00a", None]),
    "binary_view": (pa.binary_view(), [b"\x00a", None]),
    "fixed_size_binary": (pa.binary(3), [b"\x00ab", None]),
    "large_list": (pa.large_list(pa.int8()), [[1, None], None]),
    "list_view": (pa.list_view(pa.int8()), [[1, None], None]),
    "date64": (pa.date64(), [None]),
    "time32_s": (pa.time32("s"), [None]),
    "time32_ms": (pa.time32("ms"), [None]),
    "duration": (pa.duration("us"), [None]),
    "decimal32": (pa.decimal32(5, 2), [Decimal("1.25"), None]),
    "decimal64": (pa.decimal64(15, 2), [Decimal("1.25"), None]),
    "null": (pa.null(), [None, None]),
    "dictionary_int64": (pa.dictionary(pa.int32(), pa.int64()), [5, None, 5]),
    "dictionary_large_string": (pa.dictionary(pa.int64(), pa.large_string()), ["x", None, "x"]),
    "timestamp_zone": (pa.timestamp("ms", "Asia/Tokyo"), [None]),
}


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("path", ["small", "large"])
def test_other_arrow_types_are_taken(
    kind: str, path: str, client: ducktower.FlightClient, streaming: ducktower.FlightClient
) -> None:
    """What other Arrow producers send is stored as the nearest type of DuckDB's."""
    arrow, values = FOREIGN[kind]
    target = client if path == "small" else streaming
    table = pa.table({"id": pa.array(range(len(values))), "c": pa.array(values, arrow)})
    target.ingest("foreign_types", table, mode="replace")
    target.ingest("foreign_types", table)
    back = target.query("SELECT c FROM foreign_types ORDER BY id").column("c").to_pylist()
    assert back == [value for value in values for _ in range(2)]


REFUSED: dict[str, pa.Array] = {
    "decimal256": pa.array([Decimal(1)], pa.decimal256(50, 2)),
    "wider_than_decimal128": pa.array([Decimal(10) ** 60], pa.decimal256(76, 0)),
}


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("mode", ["append", "create", "replace", "upsert"])
@pytest.mark.parametrize("path", ["small", "large"])
def test_types_that_duckdb_cannot_take_are_refused_by_column(
    kind: str, mode: str, path: str, client: ducktower.FlightClient, streaming: ducktower.FlightClient
) -> None:
    """The error names the column and its type, and nothing is stored or made."""
    target = client if path == "small" else streaming
    target.execute("CREATE OR REPLACE TABLE strict (id INTEGER, c DOUBLE); DROP TABLE IF EXISTS made")
    table = pa.table({"id": [1], "c": REFUSED[kind]})
    name = "made" if mode in ("create", "replace") else "strict"
    key = ["id"] if mode == "upsert" else None
    with pytest.raises(ducktower.SchemaMismatch, match='column "c" has the type decimal256'):
        target.ingest(name, table, mode=mode, key=key)
    assert target.query("SELECT count(*) AS n FROM strict").to_pylist() == [{"n": 0}]
    assert "made" not in target.tables().column("table_name").to_pylist()


CASTS: dict[str, tuple[pa.Array, str, str]] = {
    # Values that do not fit: what is sent, the column's type, what the error must name.
    "text_to_integer": (pa.array(["1", "seven"]), "INTEGER", "INTEGER"),
    "wide_to_narrow": (pa.array([1, 300]), "TINYINT", "TINYINT"),
    "negative_to_unsigned": (pa.array([1, -1]), "UBIGINT", "UBIGINT"),
    "text_to_enum": (pa.array(["u", "w"]), "ENUM('u', 'v')", "ENUM"),
    "text_to_date": (pa.array(["2026-02-28", "2026-02-30"]), "DATE", "DATE"),
    "decimal_overflow": (pa.array([Decimal("1.0"), Decimal("1000.0")]), "DECIMAL(4,1)", r"DECIMAL\(4,1\)"),
    "list_to_array": (pa.array([[1, 2, 3], [1]]), "INTEGER[3]", r"INTEGER\[3\]"),
    "nested_member": (pa.array([{"a": "1"}, {"a": "x"}]), "STRUCT(a INTEGER)", "STRUCT"),
    "list_to_number": (pa.array([[1], [2]]), "INTEGER", "INTEGER"),
    "text_to_uuid": (pa.array(["no uuid"]), "UUID", "UUID"),
    "text_to_json": (pa.array(["{broken"]), "JSON", "JSON"),
}


@pytest.mark.parametrize("case", CASTS)
@pytest.mark.parametrize("path", ["small", "large", "upsert", "appender"])
def test_a_value_that_does_not_fit_is_refused_by_column(
    case: str, path: str, client: ducktower.FlightClient, streaming: ducktower.FlightClient
) -> None:
    """The error names the column, the type found and the type wanted; nothing is stored."""
    values, kind, wanted = CASTS[case]
    target = streaming if path == "large" else client
    target.execute(f"CREATE OR REPLACE TABLE casts (id BIGINT, bad {kind})")
    table = pa.table({"id": range(len(values)), "bad": values})

    def send() -> None:
        if path == "appender":
            with target.appender("casts") as rows:
                rows.write(table.to_batches()[0])
        elif path == "upsert":
            target.ingest("casts", table, mode="upsert", key="id")
        else:
            target.ingest("casts", table)

    with pytest.raises(ducktower.SchemaMismatch, match=rf'"bad".*found .*wanted {wanted}'):
        send()
    assert target.query("SELECT count(*) AS n FROM casts").to_pylist() == [{"n": 0}]
