"""Exactly once: a write with a writer and a sequence takes effect once, whoever dies and however often it is sent."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import duckdb
import pyarrow as pa
import pytest

import ducktower
from ducktower.config import EngineConfig
from ducktower.engine import Engine, Named, Principal, Target
from ducktower.engine.ledger import Ledger, claimed
from support.servers import ServerProcess
from support.threads import together
from support.waiting import until

SCHEMA = pa.schema([("i", pa.int64())])
SLOW_COMMIT, BAD_COMMIT = 5, 8
ODD_LEDGER = f"""
    CREATE SCHEMA _ducktower;
    CREATE TABLE _ducktower.ledger (
        line VARCHAR,
        CHECK (CASE CAST(line ->> '$[6]' AS BIGINT)
            WHEN {SLOW_COMMIT} THEN levenshtein(repeat('a', 40000), repeat('b', 40000 + len(line) % 2)) > 0
            WHEN {BAD_COMMIT} THEN false
            ELSE true
        END)
    )
"""
"""A ledger, made before the server does so, into which one commit takes long and another one cannot write."""
LARGE = pa.table({"i": range(300_000)})


def rows(*values: int) -> pa.Table:
    """Return rows to be stored."""
    return pa.table({"i": list(values)})


def count(client: ducktower.FlightClient) -> int:
    """Return the number of rows."""
    return int(client.query("SELECT count(*) AS n FROM t")["n"][0].as_py())


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightClient]:
    """Connect to a server that the tests of this module share."""
    database = tmp_path_factory.mktemp("ledger") / "shared.duckdb"
    with ducktower.serve(str(database)) as server, ducktower.connect(server.url) as connected:
        yield connected


@pytest.fixture
def table(shared: ducktower.FlightClient) -> ducktower.FlightClient:
    """Make the table anew and return the client."""
    shared.ingest("t", pa.Table.from_batches([], schema=SCHEMA), mode="replace")
    return shared


class TestRepeats:
    """A repeat is answered with the first receipt."""

    @pytest.mark.parametrize("size", ["small", "large", "stream", "upsert"])
    def test_first_receipt(self, table: ducktower.FlightClient, size: str) -> None:
        """However a write is committed, its repeat is answered the same and stores nothing."""
        mode, key = ("upsert", ["i"]) if size == "upsert" else ("append", None)
        data = rows(1, 2) if size in ("small", "upsert") else LARGE

        def send(sequence: int) -> ducktower.Receipt:
            source = data.to_reader() if size == "stream" else data
            return table.ingest("t", source, mode=mode, key=key, writer=f"repeat {size}", sequence=sequence)

        first = send(1)
        second = send(2)
        assert send(1) == first
        assert send(2) == second
        assert first.commit < second.commit
        assert count(table) == data.num_rows * (1 if size == "upsert" else 2)

    def test_twins_in_flight(self, table: ducktower.FlightClient) -> None:
        """Retries at one moment store one write between them, beside writes of others."""
        receipts: list[ducktower.Receipt] = []

        def send(number: int) -> None:
            for sequence in range(1, 21):
                receipts.append(table.ingest("t", rows(sequence), writer="twins", sequence=sequence))
                table.ingest("t", rows(number), writer=f"twin {number}", sequence=sequence)

        together(4, send)
        assert count(table) == 20 + 4 * 20
        assert len(set(receipts)) == 20

    def test_large_twins(self, table: ducktower.FlightClient) -> None:
        """Of two large loads with one sequence one is stored, and both are answered."""
        receipts = together(2, lambda _: table.ingest("t", LARGE, writer="large twins", sequence=1))
        assert count(table) == LARGE.num_rows
        assert receipts[0] == receipts[1]

    @pytest.mark.parametrize(
        "columns",
        [
            "i BIGINT PRIMARY KEY",
            "i BIGINT UNIQUE, j BIGINT DEFAULT nextval('numbers')",
            "i BIGINT CHECK (i > 0), j BIGINT GENERATED ALWAYS AS (i * 2)",
            "i BIGINT REFERENCES parents (i)",
            "i DECIMAL(9, 2)",
        ],
    )
    def test_tables_of_any_kind(self, table: ducktower.FlightClient, columns: str) -> None:
        """Rows and their line of the ledger are one write, whatever the table is, and after it is another one."""
        writer = f"kind {columns}"
        table.execute(
            "CREATE SEQUENCE IF NOT EXISTS numbers; CREATE TABLE IF NOT EXISTS parents (i BIGINT PRIMARY KEY)"
        )
        table.execute("INSERT OR IGNORE INTO parents VALUES (1), (2), (3)")
        table.execute(f"CREATE OR REPLACE TABLE t ({columns})")
        receipts = [table.ingest("t", rows(1), writer=writer, sequence=1)]
        table.execute("ALTER TABLE t RENAME TO before; ALTER TABLE before RENAME TO t")
        receipts.append(table.ingest("t", rows(2, 3), writer=writer, sequence=2))
        assert table.ingest("t", rows(1), writer=writer, sequence=1) == receipts[0]
        assert table.writer(writer) == (2, 3, receipts[1].commit)
        table.execute(f"CREATE OR REPLACE TABLE t ({columns})")
        table.ingest("t", rows(1), writer=writer, sequence=3)
        assert table.query("SELECT i::BIGINT AS i FROM t")["i"].to_pylist() == [1]
        table.execute("DROP TABLE t")


class TestRefusals:
    """What is not a repeat and not the next write is a clear error, and stores nothing."""

    def test_gap_content_and_bad_data(self, table: ducktower.FlightClient) -> None:
        """A skipped sequence, other content, and rows that do not fit, which do not take the sequence."""
        table.ingest("t", rows(1), writer="refused", sequence=1)
        with pytest.raises(ducktower.InvalidArgument, match=r'sequence 3 of writer "refused".*2 comes next'):
            table.ingest("t", rows(3), writer="refused", sequence=3)
        with pytest.raises(ducktower.InvalidArgument, match="stored with other content"):
            table.ingest("t", rows(2), writer="refused", sequence=1)
        with pytest.raises(ducktower.SchemaMismatch, match='column "i"'):
            table.ingest("t", pa.table({"i": ["x"]}), writer="refused", sequence=2)
        table.ingest("t", rows(2), writer="refused", sequence=2)
        assert count(table) == 2
        assert table.writer("refused")[:2] == (2, 2)

    def test_large_with_other_rows(self, table: ducktower.FlightClient) -> None:
        """A large repeat that goes on otherwise than the first one is noticed by its rows."""
        table.ingest("t", pa.table({"i": range(1_000_000)}), writer="longer", sequence=1)
        with pytest.raises(ducktower.InvalidArgument, match="other rows"):
            table.ingest("t", pa.table({"i": range(1_000_001)}), writer="longer", sequence=1)
        assert count(table) == 1_000_000

    def test_names(self, table: ducktower.FlightClient) -> None:
        """A writer needs a name of some length, and a sequence from 1."""
        for name, sequence in (("", 1), ("x" * 256, 1), ("zero", 0)):
            with pytest.raises(ducktower.InvalidArgument):
                table.ingest("t", rows(1), writer=name, sequence=sequence)
        with pytest.raises(ducktower.InvalidArgument, match="belong together"):
            table.ingest("t", rows(1), writer="alone")
        assert count(table) == 0

    def test_one_bad_write_in_a_group(self, table: ducktower.FlightClient) -> None:
        """Writers whose writes share a group with refused ones, repeats and gaps are stored all the same."""
        refused: list[ducktower.DucktowerError] = []

        def good(number: int) -> None:
            for sequence in range(1, 16):
                first = table.ingest("t", rows(number), writer=f"good {number}", sequence=sequence)
                assert table.ingest("t", rows(number), writer=f"good {number}", sequence=sequence) == first

        def bad() -> None:
            for sequence in range(1, 16):
                try:
                    table.ingest("t", pa.table({"i": ["x"]}), writer="bad", sequence=1 + sequence % 2)
                except ducktower.DucktowerError as error:
                    refused.append(error)

        together(5, lambda number: good(number) if number < 4 else bad())
        assert count(table) == 4 * 15
        assert {type(error) for error in refused} == {ducktower.SchemaMismatch, ducktower.InvalidArgument}


class TestHidden:
    """The ledger is the server's."""

    def test_in_no_listing(self, table: ducktower.FlightClient) -> None:
        """Listings do not show it."""
        table.ingest("t", rows(1), writer="hidden", sequence=1)
        assert "_ducktower" not in table.tables()["schema_name"].to_pylist()

    @pytest.mark.parametrize(
        "sql",
        [
            "FROM information_schema.tables",
            "FROM information_schema.columns",
            "FROM information_schema.schemata",
            "FROM duckdb_tables()",
            "FROM duckdb_columns",
            "FROM duckdb_schemas()",
            "FROM duckdb_constraints()",
            "FROM pg_catalog.pg_tables",
            "FROM pg_class",
            "FROM pg_namespace",
            "FROM sqlite_master",
            "SHOW ALL TABLES",
            "SHOW /* all of them */ SCHEMAS",
            "WITH listed AS (FROM Information_Schema.Tables) FROM listed",
            "FROM query('FROM duckdb_tables()')",
        ],
    )
    def test_in_no_listing_by_sql(self, table: ducktower.FlightClient, sql: str) -> None:
        """Nor do DuckDB's own listings, whichever way SQL is run; what clients made, they show."""
        table.ingest("t", rows(1), writer="listed", sequence=1 + table.writer("listed").sequence)
        table.execute(
            "CREATE SCHEMA IF NOT EXISTS shown; CREATE TABLE IF NOT EXISTS shown.shown (shown BIGINT NOT NULL)"
        )
        found = [table.query(sql), table.execute(sql).table]
        for autocommit in (True, False):
            with adbc.connect(table.url, autocommit=autocommit) as connection, connection.cursor() as cursor:
                cursor.execute("CREATE OR REPLACE TEMP TABLE state (i BIGINT)")
                cursor.execute(sql)
                found.append(cursor.fetch_arrow_table())
        for listed in map(str, (one.to_pylist() for one in found)):
            assert "shown" in listed
            assert "ledger" not in listed
            assert "_ducktower" not in listed

    def test_listed_into_a_table(self, table: ducktower.FlightClient) -> None:
        """What is made of a listing has nothing of it either, and is made as always."""
        table.ingest("t", rows(1), writer="made", sequence=1)
        table.execute("CREATE OR REPLACE TABLE made AS SELECT table_name FROM information_schema.tables")
        table.execute("INSERT INTO made SELECT table_name FROM duckdb_tables()")
        assert {"t", "made"} <= set(table.query("FROM made")["table_name"].to_pylist())
        assert "ledger" not in table.query("FROM made")["table_name"].to_pylist()
        table.execute("DROP TABLE made")

    @pytest.mark.parametrize(
        "sql",
        [
            "DELETE FROM _ducktower.ledger",
            'INSERT INTO "_DuckTower".ledger SELECT * FROM _ducktower.ledger',
            "DROP SCHEMA _ducktower CASCADE",
            "USE _ducktower",
            "SET search_path = '_duck' || 'tower'",
        ],
    )
    def test_no_sql_of_clients(self, table: ducktower.FlightClient, sql: str) -> None:
        """An owner may not write it either."""
        with pytest.raises(ducktower.Forbidden):
            table.execute(sql)

    def test_names_like_it(self, table: ducktower.FlightClient) -> None:
        """A longer name is a name like others."""
        for name in ("__ducktower", "my_ducktower", "_ducktowers", "_ducktower2"):
            table.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT 1 AS i")
            assert table.query(f"FROM {name}")["i"].to_pylist() == [1]
            table.execute(f"DROP TABLE {name}")

    def test_no_rows_of_clients(self, table: ducktower.FlightClient) -> None:
        """Nor store rows there, nor look at it."""
        with pytest.raises(ducktower.Forbidden):
            table.ingest("ledger", rows(1), schema_name="_ducktower")
        with pytest.raises(ducktower.Forbidden):
            table.table_schema("ledger", "_DUCKTOWER")


class TestEndings:
    """What was acknowledged is known after every end."""

    def test_killed_after_commit(self, start_server: Callable[..., ServerProcess]) -> None:
        """A server killed before its acknowledgement arrived: the client sends again, and it is there once."""
        server = start_server()
        with ducktower.connect(server.url, retry_seconds=60) as client:
            client.create_table("t", SCHEMA)
            killer = threading.Thread(target=server.kill)
            receipts = []
            for sequence in range(1, 201):
                if sequence == 100:
                    killer.start()
                    restarted = threading.Thread(target=lambda: (killer.join(), start_server(port=server.port)))
                    restarted.start()
                receipts.append(client.ingest("t", rows(sequence), writer="w", sequence=sequence))
            restarted.join()
            assert [client.ingest("t", rows(n), writer="w", sequence=n) for n in range(1, 201)] == receipts
            assert count(client) == 200
            assert client.writer("w")[:2] == (200, 200)

    def test_fatal_error_and_pruning(self, database: Path) -> None:
        """After the database was opened again outcomes are known; old ones are pruned and said to be too old."""
        engine = Engine(EngineConfig(database=str(database), writer_outcomes_max=8))
        target = Target("t", mode="create")
        try:
            engine.put(target, pa.Table.from_batches([], schema=SCHEMA).to_reader())
            target = Target("t")
            put = lambda n: engine.put(target, rows(n).to_reader(), named=Named("w", n))  # noqa: E731
            receipts = [put(n) for n in range(1, 101)]
            engine._database.note(duckdb.FatalException("pretended"))
            assert [put(n) for n in range(93, 101)] == receipts[92:]
            with pytest.raises(ducktower.InvalidArgument, match="too old"):
                put(5)
            assert engine.writer("w")[:2] == (100, 100)
        finally:
            engine.close()
        with duckdb.connect(str(database)) as opened:
            assert opened.execute("SELECT count(*) < 40 FROM _ducktower.ledger").fetchall() == [(True,)]
            assert opened.execute("SELECT count(*) FROM t").fetchall() == [(100,)]

    def test_the_ledger_is_slow_or_fails_in_a_group(self, database: Path) -> None:
        """Slow once, it is tried again; else its writers are told that nothing was stored, and no others."""
        with duckdb.connect(str(database)) as made:
            made.execute(ODD_LEDGER)
            made.execute("CREATE TABLE t (i BIGINT); CREATE TABLE u (i BIGINT)")
        with ducktower.serve(str(database), group_timeout_seconds=1) as server:

            def write(table: str, value: int, writer: str | None, seconds: float = 0.001) -> ducktower.Receipt:
                with ducktower.connect(server.url, retry_seconds=seconds) as own:
                    return own.ingest(table, rows(value), writer=writer, sequence=None if writer is None else 1)

            def in_one_group(*writes: Any) -> list[Future[ducktower.Receipt]]:
                queue = server.engine._queue
                with ThreadPoolExecutor(8) as pool, server.engine._committer._lock:  # one is taken, the others gather
                    later = [pool.submit(write, "t", 0, None)]
                    until(lambda: queue.committing_seconds() > 0, "the first group")
                    for number, one in enumerate(writes, 1):
                        later.append(pool.submit(write, *one))
                        until(partial(lambda n: queue.depth()[0] == n, number), "the one that waits")
                return later[1:]

            for number in range(1, SLOW_COMMIT - 1):
                assert write("t", number, None).commit == number
            slow = [one.result() for one in in_one_group(("t", 10, "a"), ("u", 11, "b"))]
            assert {(receipt.rows, receipt.commit) for receipt in slow} == {(1, SLOW_COMMIT + 1)}
            assert write("u", 11, "b") == slow[1]
            refused, again, without = in_one_group(("t", 20, "c"), ("u", 21, "d", 30.0), ("t", 22, None))
            told = refused.exception()
            assert isinstance(told, ducktower.Unavailable)
            assert not told.outcome_unknown
            assert again.result().rows == without.result().rows == 1
            with ducktower.connect(server.url) as client:
                stored = client.query("SELECT i FROM t UNION ALL SELECT i FROM u ORDER BY i")["i"].to_pylist()
                assert stored == [0, 0, 1, 2, 3, 10, 11, 21, 22]  # and not 20

    def test_read_again_while_a_write_is_under_way(self) -> None:
        """Another write's COMMIT failed meanwhile, so the memory is dropped: the writer's rows are still known."""
        config = EngineConfig()
        ledger = Ledger(config, "memory")
        commits = itertools.count(1)
        with duckdb.connect() as cursor:
            for sequence, stored in ((1, 3), (2, 5)):
                claim = claimed(config, Principal("ada", "writer"), Named("w", sequence), sequence)
                with ledger.turn(cursor, claim, lambda: next(commits)) as turn:
                    ledger.forget()
                    cursor.execute("BEGIN TRANSACTION")
                    turn.before_commit(cursor, stored)
                    cursor.execute("COMMIT")
            assert ledger.state(cursor, ("ada", "w")) == (2, 8, 2)


def test_the_ledgers_rows() -> None:
    """Rows of the ledger come back as they were, names of any letters among them, and pandas is not imported."""
    program = """
import sys
from ducktower.engine.ledger import Ledger, Row
lines = [Row("", "a", 1, -(2**63), 0, 2**63 - 1, 3, 4), Row("Öl", "名前, \\"ab\\", \\ud800", 2, 5, -1, 7, 8, 9)]
batch = Ledger.batch(lines)
batch.validate(full=True)
print([Row.of(line) for line in batch["line"].to_pylist()] == lines, "pandas" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "True False\n", done.stderr
