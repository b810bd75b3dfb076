"""Reads: one snapshot each, read-only by the engine, bounded, cancellable, and always given back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from support.cursors import all_returned
from support.endings import fails_with
from support.resources import held, settles_within
from support.servers import environment
from support.threads import together
from support.waiting import until

MESSAGE_BYTES_MAX = 4 * 1024 * 1024
ENDLESS = "SELECT sum(a.i + b.i) FROM range(10000000) a(i), range(10000000) b(i)"
LONG = "SELECT i, i * 2 AS j FROM range(50000000) r(i)"


def chunks(raw: flight.FlightClient, sql: str) -> Iterator[Any]:
    """Give the record batches of a query as they came over the wire."""
    for chunk in raw.do_get(flight.Ticket(sql.encode())):
        yield chunk.data


class TestSnapshot:
    """A read sees one state of the database, from its first batch to its last."""

    def test_a_long_read_while_writers_commit(self, server: ducktower.FlightServer) -> None:
        """A read of three million rows is complete and unmixed, while four clients change and append rows."""
        rows = 3_000_000
        with ducktower.connect(server.url) as client:
            client.execute(
                f"CREATE TABLE t AS SELECT i, 0 AS version FROM range({rows}) r(i); CREATE TABLE log (i INTEGER)"
            )
            stop = threading.Event()
            reads: list[tuple[int, int, int, int]] = []

            def work(number: int) -> int:
                with ducktower.connect(server.url) as own:
                    if number == 0:
                        try:
                            reads.extend(self.read_all(own) for _ in range(4))
                        finally:
                            stop.set()
                        return 0
                    writes = 0
                    while not stop.is_set():
                        if number == 1:
                            own.execute("UPDATE t SET version = version + 1 WHERE i % 100000 = 0")
                            own.execute(f"UPDATE t SET version = version + 0 WHERE i % 100000 = {writes}")
                        else:
                            own.ingest("t", pa.table({"i": pa.array([-1] * 10), "version": pa.array([0] * 10)}))
                        writes += 1
                    return writes

            writes = together(4, work)
            assert all(count > 0 for count in writes[1:]), "the writers wrote meanwhile"
            for found, total, versions, appended in reads:
                assert found == rows
                assert total == rows * (rows - 1) // 2
                assert versions == 1, "all changed rows have one version: they changed in one statement"
                assert appended % 10 == 0, "no part of a write is seen"

    def read_all(self, client: ducktower.FlightClient) -> tuple[int, int, int, int]:
        found = total = appended = 0
        versions: set[int] = set()
        for batch in client.reader("SELECT i, version FROM t"):
            table = pa.table(batch)
            i = table.column("i")
            kept = pa.compute.greater_equal(i, 0)
            appended += table.num_rows - pa.compute.sum(kept).as_py()
            table = table.filter(kept)
            found += table.num_rows
            total += pa.compute.sum(table.column("i")).as_py() or 0
            changed = pa.compute.equal(
                pa.compute.subtract(
                    table.column("i"), pa.compute.multiply(pa.compute.divide(table.column("i"), 100_000), 100_000)
                ),
                0,
            )
            versions.update(table.filter(changed).column("version").to_pylist())
        return found, total, len(versions), appended

    def test_a_reader_that_pauses_keeps_its_snapshot(self, client: ducktower.FlightClient) -> None:
        """What is deleted, dropped or added after the first batch is not seen by a read that began before."""
        client.execute("CREATE TABLE t AS SELECT i FROM range(2000000) r(i)")
        reader = client.reader("SELECT i FROM t")
        first = reader.read_next_batch().num_rows
        client.execute("DELETE FROM t WHERE i % 2 = 0")
        client.ingest("t", [{"i": -1}])
        client.execute("DROP TABLE t")
        assert first + sum(batch.num_rows for batch in reader) == 2_000_000

    def test_a_read_sees_what_was_acknowledged_before_it(self, server: ducktower.FlightServer) -> None:
        """Each of eight clients finds every row it was acknowledged, however it wrote it, at once."""
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE t (writer INTEGER, i INTEGER)")

            def work(number: int) -> None:
                with ducktower.connect(server.url) as own, own.appender("t") as rows:
                    for i in range(0, 30, 3):
                        own.ingest("t", [{"writer": number, "i": i}])
                        assert self.count(own, number) == i + 1
                        own.execute("INSERT INTO t VALUES (?, ?)", [number, i + 1])
                        assert self.count(own, number) == i + 2
                        rows.append({"writer": number, "i": i + 2}).result()
                        assert self.count(own, number) == i + 3

            together(8, work)

    def count(self, client: ducktower.FlightClient, writer: int) -> int:
        return int(client.query("SELECT count(*) AS n FROM t WHERE writer = ?", [writer])["n"][0].as_py())


WRITING = [
    "EXPLAIN ANALYZE INSERT INTO t VALUES (99)",
    "EXPLAIN ANALYZE DELETE FROM t",
    "EXPLAIN ANALYZE CREATE TABLE made (i INTEGER)",
    "SELECT nextval('s')",
    "WITH x AS (INSERT INTO t VALUES (99) RETURNING i) SELECT * FROM x",
    "WITH x AS (DELETE FROM t RETURNING i) SELECT * FROM x",
    "SELECT 1; INSERT INTO t VALUES (99)",
    "COMMIT; DROP TABLE t",
    "ROLLBACK; BEGIN; DROP TABLE t",
    "INSERT INTO t VALUES (99)",
    "INSERT INTO t VALUES (99) RETURNING i",
    "DELETE FROM t",
    "DROP TABLE t",
    "TRUNCATE t",
    "CREATE TABLE made AS SELECT 1",
    "CREATE TEMP TABLE made AS SELECT 1",
    "ALTER TABLE t RENAME TO made",
    "CHECKPOINT",
    "FORCE CHECKPOINT",
    "VACUUM",
    "CALL force_checkpoint()",
    "SELECT * FROM force_checkpoint()",
    "PREPARE p AS INSERT INTO t VALUES (99)",
    "SET VARIABLE x = 1",
    "USE memory",
    "DETACH test",
]
REACHING_OUT = [
    "COPY t TO '{path}'",
    "ATTACH '{path}'",
    "EXPORT DATABASE '{path}'",
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_parquet('{file}')",
    "SELECT * FROM read_json('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM sniff_csv('{file}')",
    "SELECT * FROM parquet_metadata('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM 'https://example.com/x.parquet'",
    "SELECT * FROM glob('/*')",
    "SELECT getenv('HOME')",
    "SELECT * FROM query('COPY t TO ''{path}''')",
    "SET enable_external_access = true",
    "INSTALL httpfs",
    "LOAD httpfs",
]


class TestReadOnly:
    """A read changes nothing, whatever its text."""

    @pytest.mark.parametrize("sql", WRITING)
    def test_a_text_that_writes_is_refused(self, client: ducktower.FlightClient, sql: str) -> None:
        """It is refused, and the table, the sequence and the commits are as they were."""
        client.execute("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1); CREATE SEQUENCE s")
        before = client.health()["commit"]
        # A checkpoint by way of a function meets the read's own transaction.
        with pytest.raises((ducktower.Forbidden, ducktower.InvalidSQL, ducktower.Conflict)):
            client.query(sql)
        assert client.query("SELECT i FROM t").to_pylist() == [{"i": 1}]
        assert client.tables().column("table_name").to_pylist() == ["t"]
        assert client.health()["commit"] == before
        assert client.execute("SELECT nextval('s') AS n").table.to_pylist() == [{"n": 1}]

    @pytest.mark.parametrize("sql", WRITING)
    def test_a_description_runs_nothing(
        self, client: ducktower.FlightClient, raw: flight.FlightClient, sql: str
    ) -> None:
        """GetFlightInfo of such a text is refused as well, or describes it, and changes nothing."""
        client.execute("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1); CREATE SEQUENCE s")
        try:
            raw.get_flight_info(flight.FlightDescriptor.for_command(sql.encode()))
        except (flight.FlightError, pa.ArrowException) as error:
            assert "[FORBIDDEN]" in str(error) or "[INVALID_SQL]" in str(error)  # noqa: PT017
        assert client.query("SELECT i FROM t").to_pylist() == [{"i": 1}]
        assert client.tables().column("table_name").to_pylist() == ["t"]
        assert client.execute("SELECT nextval('s') AS n").table.to_pylist() == [{"n": 1}]

    @pytest.mark.parametrize("sql", REACHING_OUT)
    def test_a_text_that_reaches_out_is_refused(self, client: ducktower.FlightClient, tmp_path: Path, sql: str) -> None:
        """No file is read or made, no network asked, no setting changed."""
        client.execute("CREATE TABLE t (i INTEGER)")
        file = tmp_path / "secret.csv"
        file.write_text("a,b\n1,2\n")
        before = sorted(tmp_path.iterdir())
        with pytest.raises((ducktower.Forbidden, ducktower.InvalidSQL, ducktower.TableNotFound)) as caught:
            client.query(sql.format(path=tmp_path / "made", file=file))
        assert "1,2" not in caught.value.message
        assert sorted(tmp_path.iterdir()) == before

    def test_an_operator_may_open_files(self, tmp_path: Path) -> None:
        """With `external_access` the same query reads the file."""
        file = tmp_path / "open.csv"
        file.write_text("a,b\n1,2\n")
        with ducktower.serve(external_access=True) as server, ducktower.connect(server.url) as client:
            assert client.query(f"FROM read_csv('{file}')").to_pylist() == [{"a": 1, "b": 2}]


class TestFailures:
    """A read that fails says why, with its code, wherever it fails."""

    @pytest.mark.parametrize(
        ("sql", "kind", "named"),
        [
            ("SELEC 1", ducktower.InvalidSQL, "SELEC"),
            ("", ducktower.InvalidSQL, "no statement"),
            ("SELECT * FROM nope", ducktower.TableNotFound, "nope"),
            ("SELECT nope FROM range(3)", ducktower.InvalidSQL, "nope"),
            ("SELECT 'x'::INTEGER", ducktower.InvalidSQL, "'x'"),
            ("SELECT error('mine')", ducktower.InvalidSQL, "mine"),
            ("SELECT error('[UNAVAILABLE] mine')", ducktower.InvalidSQL, "mine"),
        ],
    )
    def test_before_the_first_batch(
        self, client: ducktower.FlightClient, sql: str, kind: type[ducktower.DucktowerError], named: str
    ) -> None:
        """The call itself fails, with one line."""
        for call in (client.query, client.reader):
            with pytest.raises(kind, match=named) as caught:
                call(sql)
            assert type(caught.value) is kind
            assert "\n" not in caught.value.message
            assert "Traceback" not in str(caught.value)

    @pytest.mark.parametrize(("width", "rows"), [(1, 8_000_000), (3000, 200_000)])
    def test_in_the_middle_of_the_stream(self, client: ducktower.FlightClient, width: int, rows: int) -> None:
        """After good batches the stream ends in the coded error: never as if it were complete.

        The bad row is far behind the first batch: DuckDB computes ahead with all its threads, as far as it has room.
        """
        sql = (
            f"SELECT i, repeat('x', {width}) AS v, CASE WHEN i = {rows - 1000} THEN 'x' ELSE '1' END::INTEGER AS n "
            f"FROM range({rows}) r(i)"
        )
        reader = client.reader(sql)
        assert reader.read_next_batch().num_rows > 0
        assert "'x'" in fails_with(ducktower.InvalidSQL, reader).message
        with pytest.raises(ducktower.InvalidSQL, match="'x'"):
            client.query(sql)
        all_returned(client)

    def test_a_raw_client_sees_the_code_and_no_traceback(self, raw: flight.FlightClient) -> None:
        """The text that any Flight client gets is one line with the code at its head."""
        with pytest.raises(pa.ArrowInvalid) as caught:
            list(chunks(raw, "SELEC 1"))
        assert "[INVALID_SQL] syntax error" in str(caught.value)
        assert "Traceback" not in str(caught.value)
        assert ".py" not in str(caught.value)

    def test_a_long_error_arrives(self, client: ducktower.FlightClient) -> None:
        """A text over the limit of gRPC's headers is cut, not lost."""
        with pytest.raises(ducktower.InvalidSQL, match="yyyy"):
            client.query(f"SELECT error('{'y' * 100_000}')")


class TestLimits:
    """Time, size and number of reads are bounded."""

    @pytest.fixture
    def server(self, database: Path) -> Iterator[ducktower.FlightServer]:
        """Serve with a short time for a statement."""
        with ducktower.serve(str(database), query_timeout_seconds=0.5, drain_seconds=5) as running:
            yield running

    def test_a_query_that_computes_too_long(self, client: ducktower.FlightClient) -> None:
        """TIMEOUT before the first batch; the cursor comes back."""
        with pytest.raises(ducktower.TimedOut, match=r"0\.5 seconds"):
            client.query(ENDLESS)
        all_returned(client)

    def test_a_stream_that_takes_too_long(self, client: ducktower.FlightClient) -> None:
        """TIMEOUT in the middle of the stream, for a reader that does not come on; the cursor comes back."""
        reader = client.reader(LONG)
        reader.read_next_batch()
        until(lambda: not client.sessions() or client.sessions()[0]["ending"], "the end of the time")
        assert "0.5 seconds" in fails_with(ducktower.TimedOut, reader).message
        all_returned(client)

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM range(1000000) r(i)",
            "SELECT i, repeat('x', 20) AS v FROM range(300000) r(i)",
            "SELECT i, repeat('x', 400) AS v FROM range(50000) r(i)",
            "SELECT i, repeat('x', 4000) AS v FROM range(10000) r(i)",
            "SELECT repeat('x', 1000000) AS v FROM range(20) r(i)",
            "SELECT i, repeat('x', CASE WHEN i < 20000 THEN 1 ELSE 2000 END) AS v FROM range(60000) r(i)",
            "SELECT i, range(CASE WHEN i < 30000 THEN 1 ELSE 500 END) AS v FROM range(60000) r(i)",
            "SELECT " + ", ".join(f"i::HUGEINT + {n} AS c{n}" for n in range(100)) + " FROM range(20000) r(i)",
            "SELECT {'a': i, 'b': repeat('x', 1000)} AS s FROM range(20000) r(i)",
        ],
    )
    def test_every_message_is_below_4_mib(self, database: Path, tmp_path: Path, sql: str) -> None:
        """Whatever the rows are like, no batch comes near what gRPC clients refuse by default."""
        with (
            ducktower.serve(str(tmp_path / "messages.duckdb")) as server,
            flight.connect(server.url) as raw,
            ducktower.connect(server.url) as client,
        ):
            sizes = []
            rows = 0
            for batch in chunks(raw, sql):
                sizes.append(batch.get_total_buffer_size())
                rows += batch.num_rows
            assert client.query(f"SELECT count(*) AS n FROM ({sql})").to_pylist() == [{"n": rows}]
            assert max(sizes) < MESSAGE_BYTES_MAX

    def test_a_single_row_may_be_larger(self, client: ducktower.FlightClient) -> None:
        """One value over the limit arrives by itself: there is nothing to cut."""
        (row,) = client.query("SELECT repeat('x', 10000000) AS v").to_pylist()
        assert len(row["v"]) == 10_000_000

    def test_more_reads_than_places(self, tmp_path: Path) -> None:
        """Past `reads_in_flight_max` a read waits, then hears OVERLOADED; a place that comes free is used."""
        with (
            ducktower.serve(str(tmp_path / "p.duckdb"), reads_in_flight_max=2, lease_wait_seconds=0.2) as server,
            ducktower.connect(server.url, retry_seconds=0.001) as client,
        ):
            held_open = [client.reader(LONG) for _ in range(2)]
            with pytest.raises(ducktower.Overloaded, match="place for another read") as caught:
                client.query("SELECT 1")
            assert caught.value.retryable
            held_open.pop().close()
            until(lambda: len(client.sessions()) < 2, "a free place")
            assert client.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]
            held_open.pop().close()

    def test_more_calls_than_places(self, tmp_path: Path) -> None:
        """Past `calls_in_flight_max` a call is refused at once with OVERLOADED."""
        with (
            ducktower.serve(str(tmp_path / "p.duckdb"), calls_in_flight_max=1) as server,
            ducktower.connect(server.url, retry_seconds=0.001) as client,
        ):
            client.execute("CREATE TABLE t (i INTEGER)")
            with client.appender("t") as rows:
                rows.append({"i": 1}).result()
                with pytest.raises(ducktower.Overloaded, match="1 calls are in flight"):
                    client.query("SELECT 1")
            until(lambda: answers(client), "a free place")


def answers(client: ducktower.FlightClient) -> bool:
    """Whether the server takes a query now."""
    try:
        return client.query("SELECT 1").num_rows == 1
    except ducktower.Overloaded:
        return False


class TestEnds:
    """However a read ends, its cursor, thread and descriptors come back."""

    def test_cancelled_by_an_operator(self, server: ducktower.FlightServer) -> None:
        """The cancelled call fails with CANCELLED, others go on."""
        with ducktower.connect(server.url) as client, ducktower.connect(server.url) as operator:
            failures: list[BaseException] = []

            def ask() -> None:
                try:
                    client.query(ENDLESS)
                except ducktower.DucktowerError as error:
                    failures.append(error)

            thread = threading.Thread(target=ask)
            thread.start()
            (call,) = until(operator.sessions, "the query")
            assert call["kind"] == "query"
            assert call["text"] == ENDLESS
            assert operator.cancel(call["id"]) is True
            thread.join(30)
            assert [type(error) for error in failures] == [ducktower.Cancelled]
            all_returned(operator)
            assert operator.cancel(call["id"]) is False

    def test_cancelled_in_the_middle_of_the_stream(self, server: ducktower.FlightServer) -> None:
        """A stream that is cancelled ends in CANCELLED, never as if it were complete."""
        with ducktower.connect(server.url) as client, ducktower.connect(server.url) as operator:
            reader = client.reader(LONG)
            reader.read_next_batch()
            (call,) = operator.sessions()
            assert operator.cancel(call["id"]) is True
            fails_with(ducktower.Cancelled, reader)
            all_returned(operator)

    def test_a_client_that_leaves_while_duckdb_computes(self, server: ducktower.FlightServer) -> None:
        """The query is interrupted and its cursor comes back, without waiting for its end."""
        with ducktower.connect(server.url) as operator:
            program = "import sys, ducktower; ducktower.connect(sys.argv[1]).query(sys.argv[2])"
            process = subprocess.Popen([sys.executable, "-c", program, server.url, ENDLESS], env=environment())
            try:
                until(operator.sessions, "the query")
            finally:
                process.kill()
                process.wait()
            all_returned(operator)

    def test_a_client_that_leaves_while_it_reads(self, server: ducktower.FlightServer) -> None:
        """A process killed in the middle of a stream gives its cursor back."""
        with ducktower.connect(server.url) as operator:
            program = (
                "import sys, time, ducktower; r = ducktower.connect(sys.argv[1]).reader(sys.argv[2]);"
                "r.read_next_batch(); print('reading', flush=True); time.sleep(60)"
            )
            process = subprocess.Popen(
                [sys.executable, "-c", program, server.url, LONG], env=environment(), stdout=subprocess.PIPE
            )
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"reading\n"
                assert len(operator.sessions()) == 1
            finally:
                process.kill()
                process.communicate()
            all_returned(operator)

    @pytest.mark.parametrize("way", ["closed", "dropped", "never_read", "raw_cancelled", "client_closed"])
    def test_fifty_abandoned_streams(self, server: ducktower.FlightServer, way: str) -> None:
        """No cursor, thread or descriptor is left of fifty streams that nobody read to the end."""
        with ducktower.connect(server.url) as operator:
            self.abandon(server.url, way)
            all_returned(operator)
            before = held()
            for _ in range(50):
                self.abandon(server.url, way)
            all_returned(operator)
            assert operator.query("SELECT 1 AS a").to_pylist() == [{"a": 1}]
            # gRPC keeps a few threads and sockets of its own about for a while.
            settles_within(before, spare_threads=8, spare_descriptors=8)

    def abandon(self, url: str, way: str) -> None:
        if way == "raw_cancelled":
            with flight.connect(url) as raw:
                stream = raw.do_get(flight.Ticket(LONG.encode()))
                stream.read_chunk()
                stream.cancel()
            return
        client = ducktower.connect(url)
        reader = client.reader(LONG)
        if way != "never_read":
            reader.read_next_batch()
        if way == "closed":
            reader.close()
        if way == "client_closed":
            client.close()
        del reader
        client.close()

    def test_fifty_reads_that_fail(self, server: ducktower.FlightServer) -> None:
        """Nor is anything left of fifty that failed in the middle."""
        sql = "SELECT CASE WHEN i = 190000 THEN 'x' ELSE '1' END::INTEGER AS n FROM range(200000) r(i)"
        with ducktower.connect(server.url) as client:
            for _ in range(50):
                with pytest.raises(ducktower.InvalidSQL):
                    client.query(sql)
            all_returned(client)

    def test_many_readers_at_once(self, server: ducktower.FlightServer) -> None:
        """Thirty-two clients stream half a million rows each, at once, each its own and complete."""

        def read(number: int) -> int:
            with ducktower.connect(server.url) as own:
                return sum(b.num_rows for b in own.reader("SELECT i + ? AS i FROM range(500000) r(i)", [number]))

        assert together(32, read) == [500_000] * 32
        with ducktower.connect(server.url) as operator:
            all_returned(operator)
