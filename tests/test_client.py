"""The client library: what it takes, what it gives, where it connects, what it raises."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import ibis
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.flight as flight
import pyarrow.parquet as pq
import pytest

import ducktower
from ducktower.errors import CODES
from support.cursors import all_returned
from support.servers import environment
from support.threads import together

ROWS = [{"id": 1, "v": "a", "x": 1.5}, {"id": 2, "v": None, "x": None}, {"id": 3, "v": "ü", "x": -2.0}]
TABLE = pa.Table.from_pylist(ROWS, schema=pa.schema([("id", pa.int64()), ("v", pa.string()), ("x", pa.float64())]))


@pytest.fixture
def table(client: ducktower.FlightClient) -> str:
    """Make an empty table and return its name."""
    client.create_table("t", TABLE.schema)
    return "t"


class Capsule:
    """Something with Arrow's stream interface and nothing else, as other libraries have."""

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return TABLE.to_reader().__arrow_c_stream__(requested_schema)


def batches() -> Iterator[pa.RecordBatch]:
    """Give the rows one batch each."""
    yield from TABLE.to_batches(max_chunksize=1)


FORMS: dict[str, Callable[[Path], Any]] = {
    "table": lambda _: TABLE,
    "batch": lambda _: TABLE.to_batches()[0],
    "reader": lambda _: TABLE.to_reader(2),
    "dataset": lambda path: ds.dataset(written(path)),
    "scanner": lambda path: ds.dataset(written(path)).scanner(columns=["x", "v", "id"]),
    "in_memory_dataset": lambda _: ds.dataset(TABLE),
    "pandas": lambda _: TABLE.to_pandas(),
    "pandas_named_index": lambda _: TABLE.to_pandas().set_index("id"),
    "pandas_plain_index": lambda _: TABLE.to_pandas().iloc[::-1].reset_index(drop=True),
    "polars": lambda _: pl.from_arrow(TABLE),
    "polars_lazy": lambda _: pl.from_arrow(TABLE).lazy().filter(pl.col("id") > 0),
    "polars_scan": lambda path: pl.scan_parquet(written(path)),
    "dict_of_columns": lambda _: {name: TABLE.column(name).to_pylist() for name in TABLE.column_names},
    "list_of_dicts": lambda _: ROWS,
    "tuple_of_dicts": lambda _: tuple(ROWS),
    "dicts_with_gaps": lambda _: [{"id": 1, "v": "a", "x": 1.5}, {"id": 2}, {"x": -2.0, "id": 3, "v": "ü"}],
    "generator_of_dicts": lambda _: (row for row in ROWS),
    "list_of_batches": lambda _: list(batches()),
    "list_of_tables": lambda _: [TABLE.slice(0, 1), TABLE.slice(1)],
    "generator_of_batches": lambda _: batches(),
    "capsule": lambda _: Capsule(),
}


def written(path: Path) -> Path:
    """Write the rows to a Parquet file and return its path."""
    file = path / "rows.parquet"
    pq.write_table(TABLE, file)
    return file


class TestIngest:
    """What `ingest` takes."""

    @pytest.mark.parametrize("form", FORMS)
    @pytest.mark.usefixtures("table")
    def test_every_form(self, client: ducktower.FlightClient, tmp_path: Path, form: str) -> None:
        """The same three rows in every form that users hold them in, into a table and as a new one."""
        assert client.ingest("t", FORMS[form](tmp_path)).rows == 3
        assert client.query("FROM t ORDER BY id").to_pylist() == ROWS
        assert client.ingest("made", FORMS[form](tmp_path), mode="create").rows == 3
        assert client.query("SELECT id, v, x FROM made ORDER BY id").to_pylist() == ROWS

    @pytest.mark.parametrize(
        "nothing",
        [[], {}, (), iter(()), TABLE.slice(0, 0), TABLE.schema.empty_table().to_reader(), pd.DataFrame()],
        ids=["list", "dict", "tuple", "iterator", "table", "reader", "frame"],
    )
    @pytest.mark.usefixtures("table")
    def test_nothing_is_a_valid_write(self, client: ducktower.FlightClient, nothing: Any) -> None:
        """No rows are stored as that, or refused with one clear error of ours where there are no columns."""
        try:
            assert client.ingest("t", nothing).rows == 0
        except ducktower.SchemaMismatch as error:
            assert "no column" in error.message  # noqa: PT017
        assert client.query("FROM t").num_rows == 0

    @pytest.mark.parametrize(
        "what", [5, "text", b"bytes", None, object(), [1, 2], ["a"], {"id": 5}, {"id": [1], "v": []}]
    )
    @pytest.mark.usefixtures("table")
    def test_what_is_no_data(self, client: ducktower.FlightClient, what: Any) -> None:
        """One clear error before anything is sent."""
        with pytest.raises((ducktower.InvalidArgument, ducktower.SchemaMismatch)):
            client.ingest("t", what)
        assert client.query("FROM t").num_rows == 0

    @pytest.mark.usefixtures("table")
    def test_a_column_of_mixed_values(self, client: ducktower.FlightClient) -> None:
        """Refused by name, in a list and in the middle of a generator."""
        for mixed in ([{"v": "a", "id": 1}, {"id": "x"}], {"v": ["a", "b"], "id": [1, "x"]}):
            with pytest.raises(ducktower.SchemaMismatch, match='"id"'):
                client.ingest("t", mixed)
        many = ({"id": i if i < 15_000 else "x"} for i in range(20_000))
        with pytest.raises(ducktower.SchemaMismatch, match='"id"'):
            client.ingest("t", many)
        all_returned(client)
        assert client.query("FROM t").num_rows == 0

    @pytest.mark.usefixtures("table")
    def test_a_generator_of_many_dicts(self, client: ducktower.FlightClient) -> None:
        """Streamed, in one write; a late column that the first rows lacked is refused by name."""
        assert client.ingest("t", ({"id": i, "v": str(i)} for i in range(50_000))).rows == 50_000
        assert client.query("SELECT count(DISTINCT v) AS n FROM t").to_pylist() == [{"n": 50_000}]
        late = ({"id": i} if i < 15_000 else {"id": i, "late": 1} for i in range(20_000))
        with pytest.raises(ducktower.SchemaMismatch, match='"late"'):
            client.ingest("t", late)
        all_returned(client)
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 50_000}]

    @pytest.mark.usefixtures("table")
    def test_batches_of_other_columns_in_one_stream(self, client: ducktower.FlightClient) -> None:
        """A generator whose batches differ is refused, and nothing is stored."""
        differing = (pa.record_batch({"id": [1]}) if i == 0 else pa.record_batch({"v": ["x"]}) for i in range(2))
        with pytest.raises((ducktower.SchemaMismatch, ducktower.InvalidArgument, pa.ArrowException)):
            client.ingest("t", differing)
        all_returned(client)
        assert client.query("FROM t").num_rows == 0

    def test_pandas_kinds(self, client: ducktower.FlightClient) -> None:
        """Categories, times with zones, nullable integers and missing values of a frame."""
        frame = pd.DataFrame(
            {
                "c": pd.Categorical(["x", None, "y"]),
                "z": pd.to_datetime(["2026-02-28 12:00", None, "2026-03-01"], utc=True, format="mixed"),
                "n": pd.array([1, None, 3], dtype="Int64"),
                "f": [1.5, float("nan"), 2.5],
            }
        )
        client.ingest("t", frame, mode="create")
        stored = client.query("FROM t").to_pylist()
        assert [row["c"] for row in stored] == ["x", None, "y"]
        assert [row["n"] for row in stored] == [1, None, 3]
        assert stored[0]["z"] == dt.datetime(2026, 2, 28, 12, tzinfo=dt.UTC)
        assert stored[1]["z"] is None

    def test_polars_kinds(self, client: ducktower.FlightClient) -> None:
        """Categories, enums, decimals, lists and structs of a frame, eager and lazy."""
        frame = pl.DataFrame(
            {
                "c": pl.Series(["x", None], dtype=pl.Categorical),
                "e": pl.Series(["u", "v"], dtype=pl.Enum(["u", "v"])),
                "d": pl.Series([Decimal("1.25"), None], dtype=pl.Decimal(9, 2)),
                "l": [[1, 2], []],
                "s": [{"a": 1}, {"a": None}],
            }
        )
        client.ingest("t", frame, mode="create")
        client.ingest("t", frame.lazy())
        assert client.query("FROM t").to_pylist() == frame.to_dicts() * 2

    def test_a_reader_larger_than_the_memory_it_takes(self, client: ducktower.FlightClient) -> None:
        """400 MB of rows that differ go through a process that grows by a part of them, there and back."""
        client.execute("CREATE TABLE t (i BIGINT)")
        program = """
import os, sys
import psutil, pyarrow as pa, ducktower

ROWS, SCHEMA = 1_000_000, pa.schema([("i", pa.int64())])
held = []

def look():
    held.append(psutil.Process().memory_info().rss)

def batches():
    for _ in range(50):
        noise = pa.py_buffer(os.urandom(8 * ROWS))
        yield pa.record_batch([pa.Array.from_buffers(pa.int64(), ROWS, [None, noise])], SCHEMA)
        look()

with ducktower.connect(sys.argv[1]) as client:
    client.ingest("t", pa.table({"i": [1]}))
    look()
    sent = client.ingest("t", pa.RecordBatchReader.from_batches(SCHEMA, batches())).rows
    read = 0
    for batch in client.reader("FROM t"):
        read += batch.num_rows
        look()
    print(sent, read, max(held) - held[0])
"""
        done = subprocess.run(
            [sys.executable, "-c", program, client.url], capture_output=True, text=True, timeout=100, env=environment()
        )
        assert done.returncode == 0, done.stderr
        sent, read, grown = map(int, done.stdout.split())
        assert (sent, read) == (50_000_000, 50_000_001)
        assert grown < 200_000_000


class TestQuery:
    """What comes back."""

    def test_a_table_and_a_reader(self, client: ducktower.FlightClient) -> None:
        """The whole result, or a stream of it with the schema at once."""
        sql = "SELECT i, 'x' || i AS v FROM range(300000) r(i) ORDER BY i"
        whole = client.query(sql)
        assert isinstance(whole, pa.Table)
        assert whole.num_rows == 300_000
        reader = client.reader(sql)
        assert isinstance(reader, pa.RecordBatchReader)
        assert reader.schema == whole.schema
        assert reader.read_all().equals(whole)

    def test_a_reader_that_is_dropped(self, client: ducktower.FlightClient) -> None:
        """Its query ends on the server, and so does that of a generator of batches that is closed."""
        sql = "SELECT i FROM range(50000000) r(i)"
        reader = client.reader(sql)
        assert reader.read_next_batch().num_rows > 0
        assert len(client.sessions()) == 1
        del reader
        all_returned(client)
        schema, batches = client.batches(sql)
        assert next(batches).schema == schema
        assert len(client.sessions()) == 1
        batches.close()
        all_returned(client)

    @pytest.mark.parametrize("what", [5, None, b"SELECT 1", ["SELECT 1"]])
    def test_what_is_no_query(self, client: ducktower.FlightClient, what: Any) -> None:
        """Refused by its kind."""
        for call in (client.query, client.reader):
            with pytest.raises(ducktower.InvalidArgument, match=type(what).__name__):
                call(what)

    def test_a_text_that_begins_like_json(self, client: ducktower.FlightClient) -> None:
        """SQL is SQL, whatever character it begins with."""
        with pytest.raises(ducktower.InvalidSQL):
            client.query("{ not json")

    def test_an_ibis_expression(self, client: ducktower.FlightClient) -> None:
        """An expression on a table of the server's runs there; in a schema, and as a stream, too."""
        client.ingest("t", TABLE, mode="create")
        t = client.table("t")
        late = t.filter(t.id > 1)
        expression = late.group_by(big=late.id > 2).agg(n=late.count(), s=late.x.sum()).order_by("big")
        assert client.query(expression).to_pylist() == [
            {"big": False, "n": 1, "s": None},
            {"big": True, "n": 1, "s": -2.0},
        ]
        assert client.reader(t.select("id").order_by("id")).read_all().column("id").to_pylist() == [1, 2, 3]
        client.execute('CREATE SCHEMA "odd s"')
        client.ingest('odd "t', TABLE, schema_name="odd s", mode="create")
        odd = client.table('odd "t', "odd s")
        assert client.query(odd.count().name("n")).to_pylist() == [{"n": 3}]
        unbound = ibis.table({"id": "int64"}, name="t")
        assert client.query(unbound.id.max().name("m")).to_pylist() == [{"m": 3}]

    def test_an_ibis_memtable(self, client: ducktower.FlightClient) -> None:
        """Rows that are here and not on the server: refused with the way to go, alone and within an expression."""
        rows = ibis.memtable(pa.table({"id": [1]}))
        joined = ibis.table({"id": "int64"}, name="t").join(rows, "id")
        for query in (rows, rows.id.max(), joined):
            with pytest.raises(ducktower.InvalidArgument, match=r"memtable.*`ingest`"):
                client.query(query)

    def test_an_ibis_table_that_is_missing(self, client: ducktower.FlightClient) -> None:
        """TABLE_NOT_FOUND, from `table` and from a query of it."""
        with pytest.raises(ducktower.TableNotFound, match="nope"):
            client.table("nope")
        with pytest.raises(ducktower.TableNotFound, match="nope"):
            client.query(ibis.table({"id": "int64"}, name="nope"))

    def test_table_schema(self, client: ducktower.FlightClient) -> None:
        """The Arrow schema of tables and views, by schema too."""
        client.ingest("t", TABLE, mode="create")
        client.execute("CREATE SCHEMA s; CREATE TABLE s.u (a ENUM('x')); CREATE VIEW w AS SELECT id FROM t")
        assert client.table_schema("t") == TABLE.schema
        assert client.table_schema("w").names == ["id"]
        assert pa.types.is_dictionary(client.table_schema("u", "s").field("a").type)


class TestConnect:
    """Where a client connects to."""

    @pytest.mark.parametrize(
        ("given", "url"),
        [
            ("grpc://localhost:9000", "grpc://localhost:9000"),
            ("grpc://localhost", "grpc://localhost:8815"),
            ("grpc://localhost/", "grpc://localhost:8815"),
            ("grpc://localhost:9000/", "grpc://localhost:9000"),
            ("localhost:9000", "grpc://localhost:9000"),
            ("localhost", "grpc://localhost:8815"),
            ("127.0.0.1:9000", "grpc://127.0.0.1:9000"),
            ("grpc+tcp://localhost:9000", "grpc+tcp://localhost:9000"),
            ("grpc+tls://localhost", "grpc+tls://localhost:8815"),
            ("grpc://[::1]:9000", "grpc://[::1]:9000"),
            ("grpc://[::1]", "grpc://[::1]:8815"),
            (None, "grpc://127.0.0.1:8815"),
        ],
    )
    def test_forms_of_a_url(self, given: str | None, url: str) -> None:
        """Scheme and port may be left out."""
        with ducktower.connect(given) as client:
            assert client.url == url

    @pytest.mark.parametrize(
        "url", ["http://localhost", "grpc://", "://x", "postgres://localhost:1", "grpc://host:port"]
    )
    def test_what_is_no_url(self, url: str) -> None:
        """Refused by name, at once."""
        with pytest.raises(ducktower.InvalidArgument):
            ducktower.connect(url).close()

    def test_the_environment(
        self, server: ducktower.FlightServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """DUCKTOWER_URL serves when none is given, and what is given wins; a missing CA file is named."""
        monkeypatch.setenv("DUCKTOWER_URL", server.url)
        monkeypatch.setenv("DUCKTOWER_TOKEN", "secret")
        with ducktower.connect() as client:
            assert client.url == server.url
            assert client.health()["status"] == "serving"
        with ducktower.connect("grpc://localhost:1") as client:
            assert client.url == "grpc://localhost:1"
        monkeypatch.setenv("DUCKTOWER_TLS_CA", str(tmp_path / "missing.pem"))
        monkeypatch.setenv("DUCKTOWER_URL", "grpc+tls://localhost:1")
        with pytest.raises(ducktower.InvalidArgument, match=r"missing\.pem"):
            ducktower.connect()

    def test_nobody_there(self) -> None:
        """UNAVAILABLE, after the time for trying again, with one line that says where."""
        with ducktower.connect("grpc://127.0.0.1:1", retry_seconds=0.2) as client:
            for call in (client.health, lambda: client.query("SELECT 1"), lambda: client.ingest("t", [{"i": 1}])):
                with pytest.raises(ducktower.Unavailable) as caught:
                    call()
                assert caught.value.retryable
                assert "grpc://127.0.0.1:1;" in caught.value.message
                assert "`ducktower serve`" in caught.value.message
                assert "\n" not in caught.value.message
                assert "debug context" not in caught.value.message

    def test_a_call_with_a_limit(self, server: ducktower.FlightServer) -> None:
        """`timeout_seconds` ends a call in TIMEOUT, and the server lets go of it."""
        with ducktower.connect(server.url, timeout_seconds=0.5) as client:
            with pytest.raises(ducktower.TimedOut):
                client.query("SELECT sum(a.i) FROM range(10000000) a(i), range(10000000) b(i)")
            all_returned(client)

    def test_closing_twice(self, server: ducktower.FlightServer) -> None:
        """Is harmless."""
        client = ducktower.connect(server.url)
        client.health()
        client.close()
        client.close()

    def test_one_client_in_many_threads(self, client: ducktower.FlightClient) -> None:
        """Sixteen threads share a connection for every kind of call."""
        client.create_table("t", TABLE.schema)

        def work(number: int) -> int:
            stored = 0
            for i in range(10):
                stored += client.ingest("t", [{"id": number * 100 + i}]).rows
                assert client.query("SELECT ? AS a", [number]).to_pylist() == [{"a": number}]
                assert client.execute("SELECT ? AS a", [i]).table.to_pylist() == [{"a": i}]
            return stored

        assert sum(together(16, work)) == 160
        assert client.query("SELECT count(DISTINCT id) AS n FROM t").to_pylist() == [{"n": 160}]


class TestErrors:
    """The same class on this side of the wire."""

    def test_classes_and_texts(self, client: ducktower.FlightClient) -> None:
        """What the server raised is raised here, with its text alone."""
        client.execute("CREATE TABLE t (id BIGINT NOT NULL)")
        for call, kind, named in (
            (lambda: client.query("SELEC"), ducktower.InvalidSQL, "SELEC"),
            (lambda: client.query("FROM nope"), ducktower.TableNotFound, "nope"),
            (lambda: client.create_table("t", TABLE.schema), ducktower.TableExists, "t"),
            (lambda: client.ingest("t", [{"x": 1}]), ducktower.SchemaMismatch, '"x"'),
            (lambda: client.ingest("t", [{"id": None}]), ducktower.ConstraintViolation, "id"),
            (lambda: client.query("DROP TABLE t"), ducktower.Forbidden, "DROP"),
            (lambda: client.ingest("t", ROWS, mode="x"), ducktower.InvalidArgument, "'x'"),
        ):
            with pytest.raises(ducktower.DucktowerError) as caught:
                call()
            error = caught.value
            assert type(error) is kind
            assert CODES[error.code] is type(error)
            assert named in error.message
            for noise in ("Detail:", "gRPC", "Traceback", "Flight error", "[", "\n"):
                assert noise not in error.message.replace("[]", "")

    def test_what_a_foreign_server_raised(self) -> None:
        """Another server's Python exception comes as its text, without the traceback that Arrow adds."""

        class Foreign(flight.FlightServerBase):  # type: ignore[misc]
            def do_get(self, context: Any, ticket: Any) -> Any:
                raise pa.ArrowInvalid("theirs")

            def do_action(self, context: Any, action: Any) -> Any:
                raise RuntimeError("theirs")

            def get_schema(self, context: Any, descriptor: Any) -> Any:
                raise ValueError("theirs")

            def do_put(self, *_: Any) -> None:
                raise flight.FlightUnavailableError("theirs")

        with (
            Foreign("grpc://127.0.0.1:0") as foreign,
            ducktower.connect(f"grpc://127.0.0.1:{foreign.port}", retry_seconds=0) as client,
        ):
            for call in (
                lambda: client.query("SELECT 1"),
                client.health,
                lambda: client.table_schema("t"),
                lambda: client.ingest("t", TABLE),
            ):
                with pytest.raises(ducktower.DucktowerError) as caught:
                    call()
                assert "theirs" in caught.value.message
                for noise in ("Detail:", "Traceback", "Python exception", "debug context", "\n"):
                    assert noise not in caught.value.message

    def test_a_call_that_a_stopping_server_dropped(self) -> None:
        """gRPC's own CANCELLED is no cancelled call: it is UNAVAILABLE, and a write may have been stored."""

        class Stopping(flight.FlightServerBase):  # type: ignore[misc]
            def do_put(self, *_: Any) -> None:
                raise flight.FlightCancelledError("CANCELLED")

        with (
            Stopping("grpc://127.0.0.1:0") as stopping,
            ducktower.connect(f"grpc://127.0.0.1:{stopping.port}", retry_seconds=0) as client,
            pytest.raises(ducktower.Unavailable, match=r"\(CANCELLED\)$"),
        ):
            client.ingest("t", TABLE)

    def test_a_source_that_raises_an_arrow_error(self, client: ducktower.FlightClient) -> None:
        """The user's own exception comes back as it was, and nothing is stored."""
        client.create_table("t", TABLE.schema)

        def source() -> Iterator[pa.RecordBatch]:
            yield from batches()
            raise pa.ArrowInvalid("mine")

        with pytest.raises(pa.ArrowInvalid, match="mine"):
            client.ingest("t", pa.RecordBatchReader.from_batches(TABLE.schema, source()))
        all_returned(client)
        assert client.query("FROM t").num_rows == 0
