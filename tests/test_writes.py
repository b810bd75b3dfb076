"""Writes: all or nothing, whoever dies and whenever; each acknowledged row there, each other one not."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from support.cursors import all_returned
from support.proxy import Proxy
from support.resources import held, settles_within
from support.threads import together
from support.uploader import Uploads
from support.waiting import until

SCHEMA = pa.schema([("i", pa.int64()), ("v", pa.string())])


def count(client: ducktower.FlightClient, table: str = "t") -> int:
    """Return the number of rows."""
    return int(client.query(f"SELECT count(*) AS n FROM {table}")["n"][0].as_py())


def batches(number: int, rows: int = 20_000) -> Iterator[pa.RecordBatch]:
    """Give batches of about half a megabyte."""
    for start in range(0, number * rows, rows):
        yield pa.record_batch([pa.array(range(start, start + rows)), pa.array(["x" * 20] * rows)], schema=SCHEMA)


@pytest.fixture
def table(client: ducktower.FlightClient) -> str:
    """Make an empty table and return its name."""
    client.create_table("t", SCHEMA)
    return "t"


@pytest.fixture(scope="module")
def uploads() -> Iterator[Uploads]:
    """Return a starter of client processes that are killed while they upload."""
    starter = Uploads()
    yield starter
    starter.close()


class TestSizes:
    """A write is one write, whatever its size and form."""

    @pytest.mark.parametrize("rows", [0, 1, 2047, 2048, 2049, 20_000, 1_000_000])
    @pytest.mark.parametrize("form", ["table", "reader", "path_put"])
    @pytest.mark.usefixtures("table")
    def test_every_row_once(
        self, client: ducktower.FlightClient, raw: flight.FlightClient, rows: int, form: str
    ) -> None:
        """Small and large, as a table, as a reader, as a plain DoPut: counted, stored and numbered."""
        data = pa.table(
            {"i": pa.array(range(rows), pa.int64()), "v": pa.array(["x" * (i % 7) for i in range(rows)])}, SCHEMA
        )
        before = client.health()["commit"]
        if form == "path_put":
            writer, reader = raw.do_put(flight.FlightDescriptor.for_path("main", "t"), SCHEMA)
            writer.write_table(data, 3000)
            writer.done_writing()
            answer = json.loads(reader.read().to_pybytes())
            writer.close()
            receipt = ducktower.Receipt(**answer)
        else:
            receipt = client.ingest("t", data if form == "table" else data.to_reader(3000))
        assert receipt.rows == rows
        assert receipt.commit == before + 1 or (receipt.commit == before and rows == 0)
        assert client.query("SELECT count(*) AS n, count(DISTINCT i) AS d, sum(i)::BIGINT AS s FROM t").to_pylist() == [
            {"n": rows, "d": rows, "s": rows * (rows - 1) // 2 if rows else None}
        ]
        assert client.query("SELECT v FROM t ORDER BY i").column("v").to_pylist() == data.column("v").to_pylist()

    @pytest.mark.usefixtures("table")
    def test_the_order_of_rows_is_kept(self, client: ducktower.FlightClient) -> None:
        """A table holds the rows of a large write in the order sent."""
        client.ingest("t", pa.RecordBatchReader.from_batches(SCHEMA, batches(30)))
        assert client.query("SELECT i FROM t").column("i").to_pylist() == list(range(600_000))

    @pytest.mark.usefixtures("table")
    def test_many_tiny_batches_are_one_write(self, client: ducktower.FlightClient) -> None:
        """Two thousand batches of one row in one stream are one commit."""
        before = client.health()["commit"]
        receipt = client.ingest("t", pa.RecordBatchReader.from_batches(SCHEMA, batches(2000, rows=1)))
        assert receipt == (2000, before + 1)
        assert count(client) == 2000

    @pytest.mark.usefixtures("table")
    def test_one_huge_row(self, client: ducktower.FlightClient) -> None:
        """A row of 20 MB is stored and comes back."""
        client.ingest("t", [{"i": 1, "v": "ü" * 10_000_000}])
        assert client.query("SELECT strlen(v) AS n FROM t").to_pylist() == [{"n": 20_000_000}]


class TestAtomicity:
    """All of a write or nothing of it."""

    @pytest.mark.parametrize("good", [0, 1, 5, 60])
    @pytest.mark.parametrize("mode", ["append", "upsert", "create", "create_append"])
    def test_a_source_that_raises_half_way(
        self, client: ducktower.FlightClient, table: str, good: int, mode: str
    ) -> None:
        """The caller gets its own exception; nothing is stored or made; the client goes on working."""

        class MineError(Exception):
            pass

        def source() -> Iterator[pa.RecordBatch]:
            yield from batches(good)
            raise MineError("half way")

        name = table if mode in ("append", "upsert") else "made"
        key = ["i"] if mode == "upsert" else None
        reader = pa.RecordBatchReader.from_batches(SCHEMA, source())
        with pytest.raises(MineError, match="half way"):
            client.ingest(name, reader, mode=mode, key=key)
        all_returned(client)
        assert count(client) == 0
        assert client.tables().column("table_name").to_pylist() == ["t"]
        assert client.ingest("t", [{"i": 1}]).rows == 1

    @pytest.mark.parametrize("at", [0, 10_000, 500_000, 999_999])
    def test_one_bad_row_in_a_million(self, client: ducktower.FlightClient, at: int) -> None:
        """Wherever the bad row is, the large write is refused by column and nothing is stored."""
        client.execute("CREATE TABLE n (i INTEGER NOT NULL, v TINYINT)")
        values = pa.array([1] * at + [1000] + [1] * (999_999 - at), pa.int32())
        with pytest.raises(ducktower.SchemaMismatch, match=r'"v".*found INTEGER.*wanted TINYINT'):
            client.ingest("n", pa.table({"i": range(1_000_000), "v": values}))
        nulls = pa.array([1] * at + [None] + [1] * (999_999 - at), pa.int32())
        with pytest.raises(ducktower.ConstraintViolation, match=r"n\.i"):
            client.ingest("n", pa.table({"i": nulls, "v": [1] * 1_000_000}))
        assert count(client, "n") == 0

    @pytest.mark.parametrize("way", ["put", "ingest", "upsert"])
    @pytest.mark.parametrize("sent", [1, 2, 4, 30])
    def test_a_client_process_killed_while_it_uploads(
        self, client: ducktower.FlightClient, table: str, uploads: Uploads, way: str, sent: int
    ) -> None:
        """kill -9 of an uploading process, before and after the upload became a large one, leaves nothing."""
        for _ in range(10):
            uploads.killed(client.url, table, way, sent, told=sent)
            all_returned(client)
            assert count(client) == 0
        assert client.ingest("t", [{"i": 1}]).rows == 1

    @pytest.mark.parametrize("way", ["put", "ingest"])
    def test_a_client_process_killed_at_full_speed(
        self, client: ducktower.FlightClient, table: str, uploads: Uploads, way: str
    ) -> None:
        """kill -9 in the middle of sending, at forty different moments, leaves nothing."""
        for told in range(1, 41):
            uploads.killed(client.url, table, way, 100_000, told=told)
            all_returned(client)
            assert count(client) == 0

    @pytest.mark.parametrize("way", ["table", "reader", "put"])
    @pytest.mark.parametrize("after_bytes", [200_000, 3_000_000, 20_000_000])
    def test_a_network_that_fails_in_the_middle(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient, table: str, way: str, after_bytes: int
    ) -> None:
        """A connection that is reset during an upload leaves nothing, and the client hears UNAVAILABLE."""
        data = pa.Table.from_batches(batches(60))
        with Proxy(server.port) as proxy:
            proxy.cut_after(after_bytes)
            with pytest.raises(ducktower.Unavailable), ducktower.connect(proxy.url, retry_seconds=0.01) as far:
                self.send(far, proxy.url, way, table, data)
            all_returned(client)
            assert count(client) == 0
            with ducktower.connect(proxy.url) as far:
                assert far.ingest(table, [{"i": 1}]).rows == 1

    def send(self, far: ducktower.FlightClient, url: str, way: str, table: str, data: pa.Table) -> None:
        if way == "put":
            try:
                with flight.connect(url) as raw:
                    writer, reader = raw.do_put(flight.FlightDescriptor.for_path(table), SCHEMA)
                    writer.write_table(data, 20_000)
                    writer.done_writing()
                    reader.read()
                    writer.close()
            except (flight.FlightError, pa.ArrowException, OSError) as error:
                raise ducktower.Unavailable(str(error)) from error
        else:
            far.ingest(table, data if way == "table" else data.to_reader())

    def test_abandoned_uploads_leave_nothing_behind(self, client: ducktower.FlightClient, table: str) -> None:
        """Fifty uploads that are called off leave no row, cursor, thread or descriptor."""

        def refused() -> None:
            with pytest.raises(ZeroDivisionError):
                client.ingest(table, (pa.record_batch({"i": [1 // (3 - n)]}) for n in range(9)))

        refused()
        all_returned(client)
        before = held()
        for _ in range(50):
            refused()
        all_returned(client)
        assert count(client) == 0
        settles_within(before, spare_threads=8, spare_descriptors=8)


class TestIsolation:
    """One client's bad write fails alone."""

    @pytest.mark.parametrize(
        ("bad", "kind"),
        [
            ({"i": "not a number"}, ducktower.SchemaMismatch),
            ({"i": None}, ducktower.ConstraintViolation),
            ({"i": 7}, ducktower.ConstraintViolation),
            ({"i": -1}, ducktower.ConstraintViolation),
            ({"nope": 1}, ducktower.SchemaMismatch),
        ],
        ids=["type", "null", "duplicate", "check", "column"],
    )
    def test_one_bad_write_among_fifty(
        self, server: ducktower.FlightServer, bad: dict[str, Any], kind: type[ducktower.DucktowerError]
    ) -> None:
        """Fifty-one clients write in the same moment: the bad one is refused, the fifty are stored."""
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE t (i INTEGER PRIMARY KEY CHECK (i >= 0)); INSERT INTO t VALUES (7)")
            client.execute("CREATE TABLE other (i INTEGER)")

            def write(number: int) -> ducktower.Receipt | ducktower.DucktowerError:
                with ducktower.connect(server.url) as own:
                    own.health()
                    try:
                        if number == 25:
                            return own.ingest("t", [bad])
                        return own.ingest("t" if number % 2 else "other", [{"i": 100 + number}])
                    except ducktower.DucktowerError as error:
                        return error

            for _ in range(5):
                outcomes = together(51, write)
                assert type(outcomes[25]) is kind
                good = [outcome for number, outcome in enumerate(outcomes) if number != 25]
                assert all(isinstance(outcome, ducktower.Receipt) and outcome.rows == 1 for outcome in good)
                assert count(client) + count(client, "other") == 51
                client.execute("DELETE FROM t WHERE i <> 7; DELETE FROM other")

    def test_tables_of_one_group_share_a_commit(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient
    ) -> None:
        """What waits behind a commit is one transaction for all tables: one number, and a failure undoes all of it."""
        client.execute("; ".join(f"CREATE TABLE {name} (i BIGINT NOT NULL)" for name in "tuv"))
        before = client.statistics()

        def write(name: str, value: int | None) -> ducktower.Receipt:
            with ducktower.connect(server.url) as own:
                return own.ingest(name, pa.table({"i": pa.array([value], pa.int64())}))

        def in_one_group(*writes: tuple[str, int | None]) -> list[Future[ducktower.Receipt]]:
            queue = server.engine._queue
            until(lambda: queue.committing_seconds() == 0, "the end of what was before")
            with ThreadPoolExecutor(8) as pool, server.engine._committer._lock:  # the first is taken, the others gather
                later = [pool.submit(write, "t", 0)]
                until(lambda: queue.committing_seconds() > 0, "the first group")
                for number, one in enumerate(writes, 1):
                    later.append(pool.submit(write, *one))
                    until(partial(lambda n: queue.depth()[0] == n, number), "the one that waits")
            return later

        alone, *receipts = [one.result() for one in in_one_group(("t", 1), ("u", 1), ("v", 1), ("t", 2), ("u", 2))]
        assert {receipt.commit for receipt in receipts} == {alone.commit + 1}
        after = client.statistics()
        assert after["groups"] - before["groups"] == 2
        assert after["group_writes"] - before["group_writes"] == 6
        *good, bad = in_one_group(("t", 3), ("u", 3), ("v", None))
        assert isinstance(bad.exception(), ducktower.ConstraintViolation)
        assert all(one.exception() is None for one in good)
        # Once each: what a COMMIT for each table had stored before the failure would be there twice.
        assert [client.query(f"FROM {name} ORDER BY i")["i"].to_pylist() for name in "tuv"] == [
            [0, 0, 1, 2, 3],
            [1, 2, 3],
            [1],
        ]

    @pytest.mark.usefixtures("table")
    def test_a_table_that_disappears(self, server: ducktower.FlightServer) -> None:
        """Dropping one table while clients write to two fails the writes to that one alone."""
        with ducktower.connect(server.url) as client:
            client.create_table("gone", SCHEMA)

            def work(number: int) -> int:
                stored = 0
                with ducktower.connect(server.url) as own:
                    if number == 0:
                        own.execute("DROP TABLE gone")
                        return 0
                    for i in range(40):
                        try:
                            stored += own.ingest("gone" if number % 2 else "t", [{"i": i}]).rows
                        except ducktower.TableNotFound:
                            assert number % 2
                return stored

            outcomes = together(9, work)
            assert [outcomes[number] for number in range(2, 9, 2)] == [40] * 4
            assert count(client) == 160


class TestOverload:
    """A full server says so, and stores nothing of what it refused."""

    @pytest.mark.usefixtures("table")
    def test_a_full_queue_refuses_and_the_client_tries_again(self, tmp_path: Path) -> None:
        """With a queue of two, thirty-two clients all get their rows in: refusals are tried again."""
        with (
            ducktower.serve(str(tmp_path / "full.duckdb"), queue_writes_max=2, group_writes_max=1) as server,
            ducktower.connect(server.url) as client,
        ):
            client.create_table("t", SCHEMA)

            def write(number: int) -> int:
                with ducktower.connect(server.url, retry_seconds=60) as own:
                    return sum(own.ingest("t", [{"i": i}]).rows for i in range(10))

            assert sum(together(32, write)) == 320
            assert count(client) == 320
            statistics = client.statistics()
            assert statistics["rows"] == 320
            assert statistics["queue_writes"] == 0

    def test_more_large_writes_than_places(self, tmp_path: Path) -> None:
        """Past `large_writes_in_flight_max` an upload hears OVERLOADED, and stored nothing."""
        with (
            ducktower.serve(str(tmp_path / "p.duckdb"), large_writes_in_flight_max=1, lease_wait_seconds=0.2) as server,
            ducktower.connect(server.url, retry_seconds=0.001) as client,
        ):
            client.create_table("t", SCHEMA)
            go_on = threading.Event()

            def slow() -> Iterator[pa.RecordBatch]:
                yield from batches(10)
                assert go_on.wait(60)
                yield from batches(1)

            def work(number: int) -> int:
                with ducktower.connect(server.url, retry_seconds=0.001) as own:
                    if number == 0:
                        return own.ingest("t", pa.RecordBatchReader.from_batches(SCHEMA, slow())).rows
                    try:
                        until(lambda: [call for call in own.sessions() if call["kind"] == "upload"], "the upload")
                        with pytest.raises(ducktower.Overloaded, match="large write"):
                            own.ingest("t", pa.Table.from_batches(batches(10)))
                        return own.ingest("t", [{"i": 1}]).rows
                    finally:
                        go_on.set()

            assert together(2, work) == [220_000, 1]
            assert count(client) == 220_001


class TestMany:
    """Everybody at once, every row accounted for."""

    def test_thirty_two_writers_and_eight_readers(self, server: ducktower.FlightServer) -> None:
        """For several seconds: all ways of writing, every acknowledged row there, every count monotonic."""
        seconds = 4.0
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE t (writer INTEGER, i BIGINT)")
            stop = time.monotonic() + seconds

            def work(number: int) -> int:
                with ducktower.connect(server.url) as own:
                    return reads(own) if number >= 32 else WRITERS[number % 4](own, number)

            def reads(own: ducktower.FlightClient) -> int:
                counts = []
                while time.monotonic() < stop:
                    counts.append(count(own))
                assert counts == sorted(counts), "a count went down"
                assert len(counts) > 1
                return 0

            def single(own: ducktower.FlightClient, number: int) -> int:
                stored = 0
                while time.monotonic() < stop:
                    stored += own.ingest("t", [{"writer": number, "i": stored}]).rows
                return stored

            def appended(own: ducktower.FlightClient, number: int) -> int:
                with own.appender("t") as rows:
                    sent = 0
                    while time.monotonic() < stop:
                        rows.append({"writer": number, "i": sent})
                        sent += 1
                        if sent % 100 == 0:
                            rows.flush()
                    rows.flush()
                    assert rows.acknowledged_rows == sent
                return sent

            def bulk(own: ducktower.FlightClient, number: int) -> int:
                stored = 0
                while time.monotonic() < stop:
                    data = pa.table(
                        {"writer": pa.array([number] * 80_000, pa.int32()), "i": range(stored, stored + 80_000)}
                    )
                    stored += own.ingest("t", data).rows
                    time.sleep(0.1)
                return stored

            def executed(own: ducktower.FlightClient, number: int) -> int:
                stored = 0
                while time.monotonic() < stop:
                    stored += own.execute("INSERT INTO t VALUES (?, ?)", [number, stored]).rows
                return stored

            WRITERS = [single, appended, bulk, executed]  # noqa: N806 - a table, written as one
            stored = together(40, work)[:32]
            assert min(stored) > 0
            found = client.query(
                "SELECT writer, count(*) AS n, count(DISTINCT i) AS d, max(i) AS m FROM t GROUP BY ALL ORDER BY writer"
            ).to_pylist()
            assert [row["n"] for row in found] == stored
            assert all(row["n"] == row["d"] == row["m"] + 1 for row in found)
            assert client.statistics()["rows"] >= sum(n for number, n in enumerate(stored) if number % 4 != 3)
            all_returned(client)

    def test_commit_numbers_grow_by_one(self, server: ducktower.FlightServer) -> None:
        """All commits seen by all clients fill the numbers without a gap; each client's grow."""
        with ducktower.connect(server.url) as client:
            client.create_table("t", SCHEMA)

            def write(number: int) -> list[int]:
                with ducktower.connect(server.url) as own:
                    return [own.ingest("t", [{"i": i}]).commit for i in range(20)]

            seen = together(12, write)
            assert all(own == sorted(set(own)) for own in seen)
            last = client.health()["commit"]
            assert {commit for own in seen for commit in own} == set(range(2, last + 1))
