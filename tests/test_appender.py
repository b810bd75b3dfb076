"""Open streams of small writes: acknowledged one by one, many in flight, bounded, never sent twice."""

from __future__ import annotations

import datetime as dt
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from support.cursors import all_returned
from support.proxy import Proxy
from support.resources import held, settles_within
from support.servers import ServerProcess, environment
from support.threads import together
from support.waiting import until

TESTS = Path(__file__).parent
SCHEMA = pa.schema([("i", pa.int64()), ("v", pa.string())])


@pytest.fixture
def table(client: ducktower.FlightClient) -> str:
    """Make an empty table and return its name."""
    client.create_table("t", SCHEMA)
    return "t"


def numbers(client: ducktower.FlightClient, table: str = "t") -> list[int]:
    """Return the stored numbers in order."""
    found: list[int] = client.query(f"SELECT i FROM {table} ORDER BY i").column("i").to_pylist()
    return found


@contextmanager
def no_thread_starts() -> Iterator[None]:
    """Let no thread of Python's start for the time of a block: there is no memory for so large a stack."""
    before = threading.stack_size(1 << 46)
    try:
        yield
    finally:
        threading.stack_size(before)


class TestAcknowledgements:
    """What an appender says is so."""

    def test_a_result_is_durable(self, client: ducktower.FlightClient, table: str) -> None:
        """After `result` the row is there, and its receipt carries rows and a growing commit."""
        with client.appender(table) as rows:
            last = client.health()["commit"]
            for i in range(20):
                receipt = rows.append({"i": i, "v": "x"}).result()
                assert receipt.rows == 1
                assert receipt.commit > last
                last = receipt.commit
                assert numbers(client) == list(range(i + 1))
            assert rows.acknowledged_rows == 20

    def test_rows_appended_together_are_one_write(self, client: ducktower.FlightClient, table: str) -> None:
        """Rows that wait in the buffer share a write, a receipt and a commit."""
        with client.appender(table, linger_seconds=60) as rows:
            pending = [rows.append({"i": i}) for i in range(10)]
            receipts = {write.result() for write in pending}
            assert [receipt.rows for receipt in receipts] == [10]
        assert numbers(client) == list(range(10))

    def test_a_full_buffer_is_sent(self, client: ducktower.FlightClient, table: str) -> None:
        """Past `rows_per_write` a write leaves without being asked for; flush sends the rest."""
        with client.appender(table, linger_seconds=60, rows_per_write=10) as rows:
            pending = [rows.append({"i": i}) for i in range(25)]
            rows.flush()
            assert [len({id(write) for write in pending[a:b]}) for a, b in ((0, 10), (10, 20), (20, 25))] == [1, 1, 1]
            assert rows.acknowledged_rows == 25
            assert all(write.done() for write in pending)

    def test_rows_left_to_themselves_are_sent(self, client: ducktower.FlightClient, table: str) -> None:
        """Nobody waits, nobody flushes: a row is stored all the same, and acknowledged."""
        with client.appender(table) as rows:
            for i in range(5):
                write = rows.append({"i": i})
                until(write.done, "the acknowledgement of a row left to itself")
                assert write.result().rows == 1
            assert rows.acknowledged_rows == 5

    def test_rows_after_a_long_rest_are_sent(self, client: ducktower.FlightClient, table: str) -> None:
        """The clock that watches the buffers rests after a while; a row wakes it."""
        with client.appender(table) as rows:
            for i in range(3):
                write = rows.append({"i": i})
                until(write.done, "the acknowledgement")
                time.sleep(1.3)

    def test_rows_are_not_forgotten_when_no_thread_can_be_started(
        self, client: ducktower.FlightClient, table: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Rows left to themselves are sent once one can; those of other appenders are sent meanwhile."""
        client.create_table("other", SCHEMA)
        with client.appender(table) as rows, client.appender("other") as others:
            until(rows.append({"i": 1}).done, "a first row, for which the threads are started")
            with no_thread_starts():
                late = others.append({"i": 2})
                until(lambda: "it is tried again" in caplog.text, "the clock to fail for the other appender")
                until(rows.append({"i": 3}).done, "a row of the appender that has its threads")
            until(late.done, "the row of the other appender")

    def test_answers_are_read_after_no_thread_could_be_started(
        self, client: ducktower.FlightClient, table: str
    ) -> None:
        """Who waits with a limit is told, and may try again."""
        with client.appender(table, linger_seconds=60) as rows:
            write = rows.append({"i": 1})
            with no_thread_starts(), pytest.raises(RuntimeError, match="thread"):
                write.result(20)
            assert write.result(20).rows == 1

    def test_a_limit_counts_the_wait_for_room(self, start_server: Callable[..., ServerProcess]) -> None:
        """While the server stands still nobody waits longer than it said, and nothing is lost."""
        server = start_server()
        with ducktower.connect(server.url) as client:
            client.create_table("t", SCHEMA)
            with client.appender("t", linger_seconds=60, writes_in_flight=1) as rows:
                rows.append({"i": 0}).result()
                os.kill(server.pid, signal.SIGSTOP)
                try:
                    sent = rows.append({"i": 1})
                    with pytest.raises(ducktower.TimedOut, match=r"0\.1 seconds"):
                        sent.result(0.1)
                    waiting = rows.append({"i": 2})
                    for _ in range(2):
                        with pytest.raises(ducktower.TimedOut, match=r"0\.1 seconds"):
                            waiting.result(0.1)
                finally:
                    os.kill(server.pid, signal.SIGCONT)
                assert (sent.result(30).rows, waiting.result(30).rows) == (1, 1)
            assert numbers(client) == [0, 1, 2]

    def test_a_server_that_takes_few_writes_at_once(self, database: Path) -> None:
        """What travels together is more than may be unanswered, and is taken all the same."""
        with (
            ducktower.serve(str(database), stream_writes_in_flight_max=2) as server,
            ducktower.connect(server.url) as client,
        ):
            client.create_table("t", SCHEMA)
            batch = [pa.record_batch([pa.array([i]), pa.array(["x"])], schema=SCHEMA) for i in range(2_000)]
            with client.appender("t", writes_in_flight=1_000) as rows:
                writes = [rows.write(one) for one in batch]
                rows.flush()
                assert {write.result().rows for write in writes} == {1}
            assert numbers(client) == list(range(2_000))

    def test_batches_and_rows_keep_their_order(self, client: ducktower.FlightClient, table: str) -> None:
        """Rows and batches arrive in the order in which they were given."""
        with client.appender(table, columns=["i", "v"], linger_seconds=60, rows_per_write=3) as rows:
            for i in range(0, 100, 10):
                for j in range(i, i + 5):
                    rows.append({"i": j})
                rows.write(pa.record_batch([pa.array(range(i + 5, i + 10)), pa.array(["b"] * 5)], schema=SCHEMA))
        assert client.query("SELECT i FROM t").column("i").to_pylist() == list(range(100))

    def test_many_in_flight(self, client: ducktower.FlightClient, table: str) -> None:
        """Twenty thousand one-row writes, with at most 64 unanswered, all stored and all acknowledged once."""
        batch = [pa.record_batch([pa.array([i]), pa.array(["x"])], schema=SCHEMA) for i in range(20_000)]
        with client.appender(table) as rows:
            pending = [rows.write(one) for one in batch]
            rows.flush()
            assert rows.acknowledged_rows == 20_000
        assert [write.result().rows for write in pending] == [1] * 20_000
        commits = [write.result().commit for write in pending]
        assert commits == sorted(commits)
        assert len(set(commits)) < 20_000, "writes in flight share commits"
        assert numbers(client) == list(range(20_000))

    @pytest.mark.parametrize("in_flight", [1, 2, 64])
    def test_the_bound_of_writes_in_flight(self, client: ducktower.FlightClient, table: str, in_flight: int) -> None:
        """However few may be in flight, everything gets through."""
        with client.appender(table, writes_in_flight=in_flight, rows_per_write=1) as rows:
            pending = []
            for i in range(300):
                pending.append(rows.append({"i": i}))
                assert sum(not write.done() for write in pending) <= in_flight + 1
        assert numbers(client) == list(range(300))

    def test_a_wait_with_a_limit(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient, table: str
    ) -> None:
        """`result` with a limit says TIMEOUT while the commit is held up, and may be asked again."""
        client.execute("ALTER TABLE t ADD PRIMARY KEY (i)")
        with client.appender(table) as rows:
            assert rows.append({"i": 1}).result(30).rows == 1
            committer = server.engine._committer
            with committer._lock:  # as a checkpoint would hold it
                write = rows.append({"i": 2})
                with pytest.raises(ducktower.TimedOut, match="may still be stored") as told:
                    write.result(0.1)
                assert told.value.outcome_unknown
            assert write.result(30).rows == 1
        assert numbers(client) == [1, 2]

    def test_closing_twice_and_appending_after_it(self, client: ducktower.FlightClient, table: str) -> None:
        """Close may come twice; afterwards rows are refused, not lost."""
        rows = client.appender(table)
        rows.append({"i": 1})
        rows.close()
        rows.close()
        for call in (lambda: rows.append({"i": 2}), lambda: rows.write(pa.record_batch({"i": [2]}))):
            with pytest.raises(ducktower.InvalidArgument, match="closed"):
                call()
        assert numbers(client) == [1]

    def test_an_appender_that_was_never_used(self, client: ducktower.FlightClient, table: str) -> None:
        """Opening and closing without a row is fine, with and without columns."""
        for columns in (None, ["i"]):
            with client.appender(table, columns=columns) as rows:
                rows.flush()
            assert rows.acknowledged_rows == 0
        all_returned(client)


class TestColumns:
    """Which columns an appender fills, and how."""

    def test_the_first_row_chooses(self, client: ducktower.FlightClient) -> None:
        """Columns that the first row lacks get their default for good, keys a later row lacks are NULL."""
        client.execute("CREATE TABLE t (i BIGINT, v VARCHAR, n INTEGER DEFAULT 7)")
        with client.appender("t") as rows:
            rows.append({"v": "a", "I": 1})
            rows.append({"I": 2})
            with pytest.raises(ducktower.SchemaMismatch, match='"n"'):
                rows.append({"I": 3, "n": 1})
        assert client.query("FROM t ORDER BY i").to_pylist() == [
            {"i": 1, "v": "a", "n": 7},
            {"i": 2, "v": None, "n": 7},
        ]

    def test_columns_may_be_chosen_before(self, client: ducktower.FlightClient) -> None:
        """`columns` fixes them whatever the first row has."""
        client.execute("CREATE TABLE t (i BIGINT, v VARCHAR, n INTEGER DEFAULT 7)")
        with client.appender("t", columns=["n", "i"]) as rows:
            rows.append({"i": 1})
        assert client.query("FROM t").to_pylist() == [{"i": 1, "v": None, "n": None}]

    def test_an_unknown_column_is_named(self, client: ducktower.FlightClient, table: str) -> None:
        """In `columns`, in the first row, in a later one, in a batch: named, and nothing is stored of it."""
        with pytest.raises(ducktower.SchemaMismatch, match='"x" is not in table "t", which has "i", "v"'):
            client.appender(table, columns=["i", "x"])
        with client.appender(table) as rows:
            with pytest.raises(ducktower.SchemaMismatch, match='"x"'):
                rows.append({"i": 1, "x": 2})
            rows.append({"i": 1})
            with pytest.raises(ducktower.SchemaMismatch, match='"x"'):
                rows.append({"i": 2, "x": 2})
            rows.append({"i": 3})
        assert numbers(client) == [1, 3]
        rows = client.appender(table)
        write = rows.write(pa.record_batch({"x": [1]}))
        with pytest.raises(ducktower.SchemaMismatch, match='"x"'):
            write.result()
        rows.close()
        all_returned(client)

    def test_a_missing_table_is_named_at_once(self, client: ducktower.FlightClient) -> None:
        """The appender does not open."""
        with pytest.raises(ducktower.TableNotFound, match="nope"):
            client.appender("nope")

    def test_batches_of_other_columns_are_refused(self, client: ducktower.FlightClient, table: str) -> None:
        """One stream has one schema."""
        with client.appender(table) as rows:
            rows.write(pa.record_batch({"i": [1]}))
            with pytest.raises(ducktower.SchemaMismatch):
                rows.write(pa.record_batch({"v": ["x"]}))

    def test_every_kind_of_value(self, client: ducktower.FlightClient) -> None:
        """Python values for nested, enum, decimal and time columns."""
        client.execute(
            "CREATE TABLE t (e ENUM('small', 'big'), s STRUCT(a INTEGER, l VARCHAR[], e ENUM('u', 'v')), "
            "m MAP(VARCHAR, DOUBLE), d DECIMAL(9,2), z TIMESTAMPTZ, b BLOB, h HUGEINT, u UUID, j JSON, "
            "el ENUM('u', 'v')[], f INTEGER[2], y DATE, w INTERVAL)"
        )
        row = {
            "e": "big",
            "s": {"a": 1, "l": ["x", None], "e": "v"},
            "m": [("k", 1.5)],
            "d": Decimal("1.25"),
            "z": dt.datetime(2026, 2, 28, 12, tzinfo=dt.UTC),
            "b": b"\x00",
            "h": 2**100,
            "u": "6d2c9f3e-8c1a-4b0e-9f53-0123456789ab",
            "j": '{"a": 1}',
            "el": ["u", None],
            "f": [1, 2],
            "y": dt.date(2026, 2, 28),
        }
        with client.appender("t") as rows:
            rows.append(row).result()
            rows.append(dict.fromkeys(row)).result()
            for one in (row, dict.fromkeys(row), {**row, "el": [], "e": "small"}):
                rows.append(one)
        stored = client.query("FROM t").to_pylist()
        wanted = [row, dict.fromkeys(row), row, dict.fromkeys(row), {**row, "el": [], "e": "small"}]
        assert [{name: one[name] for name in row if name != "h"} for one in stored] == [
            {name: one[name] for name in row if name != "h"} for one in wanted
        ]
        assert int(stored[0]["h"]) == 2**100


class TestRefusals:
    """A write that is refused fails alone, and somebody hears of it."""

    def test_a_bad_write_among_good_ones(self, client: ducktower.FlightClient) -> None:
        """Only its own result raises; the ones before and after are stored; the stream goes on."""
        client.execute("CREATE TABLE t (i BIGINT PRIMARY KEY, v VARCHAR NOT NULL)")
        with client.appender("t", columns=["i", "v"]) as rows:
            batches = [pa.record_batch({"i": [i % 50], "v": ["x" if i != 20 else None]}, SCHEMA) for i in range(60)]
            pending = [rows.write(batch) for batch in batches]
            outcomes: list[Any] = []
            for write in pending:
                try:
                    outcomes.append(write.result().rows)
                except ducktower.ConstraintViolation as error:
                    outcomes.append(error.code)
            bad = {20, *range(50, 60)}
            assert outcomes == ["CONSTRAINT_VIOLATION" if i in bad else 1 for i in range(60)]
            assert rows.acknowledged_rows == 49
            assert rows.append({"i": 99, "v": "y"}).result().rows == 1
        assert numbers(client) == [*(i for i in range(50) if i != 20), 99]

    def test_a_value_that_arrow_refuses_is_named(self, client: ducktower.FlightClient, table: str) -> None:
        """A value that cannot become the column's type is refused before it is sent, by column and value."""
        with client.appender(table) as rows:
            rows.append({"i": 1, "v": "x"}).result()
            write = rows.append({"i": "seven", "v": "x"})
            with pytest.raises(ducktower.SchemaMismatch, match="\"i\": found str 'seven', wanted int64"):
                write.result()
            assert rows.append({"i": 2, "v": "x"}).result().rows == 1
        assert numbers(client) == [1, 2]

    @pytest.mark.parametrize(
        ("kind", "good", "bad"),
        [
            ("BIGINT", 2.0, 1.5),
            ("INTEGER", Decimal("2.00"), Decimal("1.5")),
            ("TINYINT[]", [2.0, None], [1, 0.5]),
            ("STRUCT(n INTEGER, x DOUBLE)", {"n": 2.0, "x": 0.5}, {"n": 1.5, "x": 0.5}),
        ],
        ids=["float", "decimal", "list", "struct"],
    )
    def test_a_fraction_for_an_integer_is_named(
        self, client: ducktower.FlightClient, kind: str, good: object, bad: object
    ) -> None:
        """Arrow would cut it off: it is refused before it is sent, at any depth, and whole numbers fit."""
        client.execute(f"CREATE TABLE counted (c {kind})")
        with client.appender("counted") as rows:
            kept = [rows.append({"c": good}), rows.append({"c": None})]
            rows.flush()
            write = rows.append({"c": bad})
            with pytest.raises(ducktower.SchemaMismatch, match=r'column "c": found .*, wanted '):
                write.result()
            assert {write.result().rows for write in kept} == {2}
        assert client.query("FROM counted WHERE c IS NOT NULL")["c"].to_pylist() == [good]

    def test_a_refusal_that_nobody_waited_for_is_raised_later(self, client: ducktower.FlightClient) -> None:
        """By the next flush, append or close: once."""
        client.execute("CREATE TABLE t (i BIGINT NOT NULL)")
        rows = client.appender("t")
        rows.append({"i": None})
        with pytest.raises(ducktower.ConstraintViolation, match=r"t\.i"):
            rows.flush()
        rows.append({"i": 1})
        rows.flush()
        write = rows.append({"i": None})
        until(write.done, "the refusal")
        with pytest.raises(ducktower.ConstraintViolation):
            rows.append({"i": 2})
        rows.append({"i": 2})
        rows.append({"i": None})
        with pytest.raises(ducktower.ConstraintViolation):
            rows.close()
        assert numbers(client) in ([1], [1, 2])
        all_returned(client)

    def test_an_error_inside_the_block_is_not_hidden(self, client: ducktower.FlightClient) -> None:
        """The user's exception comes out of the `with`, although closing fails too."""
        client.execute("CREATE TABLE t (i BIGINT NOT NULL)")

        def work() -> None:
            with client.appender("t") as rows:
                rows.append({"i": None})
                raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            work()
        all_returned(client)

    def test_a_table_that_is_dropped_meanwhile(self, client: ducktower.FlightClient, table: str) -> None:
        """Writes to it fail by name; made again, the same appender goes on."""
        with client.appender(table) as rows:
            rows.append({"i": 1, "v": "x"}).result()
            client.execute("DROP TABLE t")
            with pytest.raises(ducktower.TableNotFound, match='"t"'):
                rows.append({"i": 2, "v": "x"}).result()
            client.create_table("t", SCHEMA)
            assert rows.append({"i": 3, "v": "x"}).result().rows == 1
        assert numbers(client) == [3]

    def test_a_batch_over_the_limit_is_refused(self, database: Path) -> None:
        """A write too large for a group is LIMIT_EXCEEDED, and the stream goes on."""
        with (
            ducktower.serve(str(database), group_bytes_max=100_000) as server,
            ducktower.connect(server.url) as client,
        ):
            client.create_table("t", SCHEMA)
            with client.appender("t", columns=["i", "v"]) as rows:
                write = rows.write(pa.record_batch([pa.array(range(50_000)), pa.array(["x"] * 50_000)], schema=SCHEMA))
                with pytest.raises(ducktower.LimitExceeded, match="100000"):
                    write.result()
                assert rows.append({"i": 1}).result().rows == 1
            assert numbers(client) == [1]


class TestThreads:
    """One appender, many threads; many appenders."""

    def test_many_threads_share_an_appender(self, client: ducktower.FlightClient, table: str) -> None:
        """Sixteen threads append and wait, wait with limits and flush: every row once, every receipt right."""
        with client.appender(table) as rows:

            def work(number: int) -> None:
                for i in range(100):
                    write = rows.append({"i": number * 1000 + i, "v": "x"})
                    if number % 4 == 0:
                        assert write.result().rows >= 1
                    elif number % 4 == 1:
                        assert write.result(60).rows >= 1
                    elif number % 4 == 2 and i % 10 == 0:
                        rows.flush()

            together(16, work)
            rows.flush()
            assert rows.acknowledged_rows == 1600
        assert numbers(client) == sorted(number * 1000 + i for number in range(16) for i in range(100))

    def test_many_appenders(self, server: ducktower.FlightServer) -> None:
        """Thirty-two appenders of as many clients: every row once."""
        with ducktower.connect(server.url) as client:
            client.create_table("t", SCHEMA)

            def work(number: int) -> int:
                with ducktower.connect(server.url) as own, own.appender("t") as rows:
                    for i in range(500):
                        rows.append({"i": number * 1000 + i})
                    rows.flush()
                    return rows.acknowledged_rows

            assert together(32, work) == [500] * 32
            assert numbers(client) == sorted(number * 1000 + i for number in range(32) for i in range(500))

    def test_closing_while_others_append(self, client: ducktower.FlightClient, table: str) -> None:
        """Who appends to an appender that another thread closes is told; what was acknowledged is stored."""
        rows = client.appender(table)
        rows.append({"i": 0}).result()

        def work(number: int) -> int:
            if number == 0:
                rows.close()
                return 0
            stored = 0
            for i in range(2000):
                try:
                    rows.append({"i": number * 10_000 + i}).result(60)
                except (ducktower.InvalidArgument, ducktower.Unavailable):
                    return stored
                stored += 1
            return stored

        acknowledged = sum(together(4, work)) + 1
        all_returned(client)
        assert len(numbers(client)) >= acknowledged

    def test_nothing_is_left_of_appenders(self, client: ducktower.FlightClient, table: str) -> None:
        """Thirty appenders, closed and forgotten ones, leave no threads and descriptors."""

        def use(number: int) -> None:
            rows = client.appender(table)
            write = rows.append({"i": number})
            if number % 2:
                until(write.done, "the acknowledgement")  # starts the threads of the appender
            rows.close()

        for number in range(3):
            use(number)
        gc.collect()
        before = held()
        for number in range(30):
            use(number)
        settles_within(before, spare_threads=8, spare_descriptors=4)


def stored(rows: ducktower.Appender, row: dict[str, int]) -> bool:
    """Append a row and say whether it was stored; False when it was surely not."""
    try:
        rows.append(row).result(60)
    except ducktower.Unavailable as error:
        assert not error.outcome_unknown  # noqa: PT017
        return False
    return True


class TestBreaks:
    """The stream breaks: what was in flight is not known, and is never sent again."""

    def test_a_server_that_is_killed(self, start_server: Callable[..., ServerProcess], database: Path) -> None:
        """UNAVAILABLE for what it did not answer; every acknowledged row is there, and the appender goes on, after a
        restart."""
        server = start_server()
        client = ducktower.connect(server.url)
        client.create_table("t", SCHEMA)
        rows = client.appender("t")
        acknowledged = [rows.append({"i": i}).result() and i for i in range(50)]
        server.kill()
        with pytest.raises(ducktower.Unavailable) as caught:
            rows.append({"i": 1000}).result(60)
        assert caught.value.retryable
        with pytest.raises(ducktower.Unavailable):
            rows.append({"i": 1001}).result(60)
        again = start_server(port=server.port)
        assert again.port == server.port
        until(lambda: stored(rows, {"i": 2000}), "a stream to the server that came back")
        rows.close()
        assert numbers(client) in ([*acknowledged, 2000], [*acknowledged, 1000, 2000])
        client.close()

    def test_a_network_that_fails_with_writes_in_flight(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient, table: str
    ) -> None:
        """Each write that was sent says that it is not known whether it was stored, the others that they were not sent;
        no row is there twice, and the appender goes on."""
        with Proxy(server.port) as proxy, ducktower.connect(proxy.url) as far:
            rows = far.appender(table, columns=["i"])
            acknowledged = [rows.append({"i": i}).result() and i for i in range(10)]
            with server.engine._committer._lock:  # hold the commits, so that writes are surely in flight
                batches = [pa.record_batch({"i": pa.array([100 + i], pa.int64())}) for i in range(20)]
                pending = [rows.write(batch) for batch in batches]
                proxy.cut()
                outcomes = []
                for write in pending:
                    with pytest.raises(ducktower.Unavailable) as caught:
                        write.result(60)
                    outcomes.append(caught.value)
            unknown = [outcome.outcome_unknown for outcome in outcomes]
            assert unknown == [True] * sum(unknown) + [False] * (20 - sum(unknown))
            assert sum(unknown) > 0
            for told in outcomes:
                assert ("not known" if told.outcome_unknown else "not sent") in told.message
            rows.append({"i": 200}).result()
            rows.close()
        all_returned(client)
        found = numbers(client)
        assert found[:10] == acknowledged
        assert len(found) == len(set(found))
        assert set(found[10:-1]) <= set(range(100, 100 + sum(unknown)))
        assert found[-1] == 200

    def test_a_server_that_stops_in_order(self, database: Path) -> None:
        """A stopping server ends the stream with UNAVAILABLE; what was acknowledged is there."""
        server = ducktower.serve(str(database), drain_seconds=0.5)
        with ducktower.connect(server.url) as client:
            client.create_table("t", SCHEMA)
            rows = client.appender("t")
            rows.append({"i": 1}).result()
            server.close()
            with pytest.raises(ducktower.Unavailable):
                rows.append({"i": 2}).result(60)
            rows.close()
        with ducktower.serve(str(database)) as again, ducktower.connect(again.url) as client:
            assert numbers(client) == [1]

    def test_a_server_that_ends_an_idle_stream(self, database: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The client ends it, too, in order: what else it does on its connection goes on, and so do the appenders."""
        with (
            ducktower.serve(str(database), stream_idle_seconds=1.5) as server,
            ducktower.connect(server.url) as client,
        ):
            client.create_table("t", SCHEMA)
            _, batches = client.batches("SELECT i, hash(i) AS h FROM range(3000000) r(i)")
            seen = next(batches).num_rows
            rows = client.appender("t")
            rows.append({"i": 1}).result()
            unused = client.appender("t", columns=["v"])
            until(lambda: server._listener._admission.in_flight() == 2, "the begin of both streams")
            until(lambda: server._listener._admission.in_flight() == 0, "their end")
            assert seen + sum(batch.num_rows for batch in batches) == 3_000_000
            assert unused._stream is not None
            assert "nothing was sent in the stream for 1.5 seconds" in str(unused._stream.over)
            rows.append({"i": 2}).result()
            unused.append({"v": "x"}).result()
            rows.close()
            unused.close()
            assert numbers(client) == [1, 2, None]
        assert "cut" not in caplog.text

    def test_a_server_that_stops_is_not_held(self, database: Path, caplog: pytest.LogCaptureFixture) -> None:
        """An appender that nobody uses ends its stream when it is told that the server stops: nothing is cut."""
        caplog.set_level("INFO")
        with ducktower.serve(str(database), drain_seconds=0.5) as server, ducktower.connect(server.url) as client:
            client.create_table("t", SCHEMA)
            rows = client.appender("t")
            rows.append({"i": 1}).result()
            until(
                lambda: "ducktower-appender-listen" in {thread.name for thread in threading.enumerate()}, "a listener"
            )
            server.close()
            with pytest.raises(ducktower.Unavailable):
                rows.append({"i": 2}).result()
            rows.close()
        assert "cut" not in caplog.text

    def test_a_forgotten_appender_ends_its_stream(self, server: ducktower.FlightServer) -> None:
        """With its client, whoever listens."""
        client = ducktower.connect(server.url)
        client.create_table("t", SCHEMA)
        rows = client.appender("t")
        rows.append({"i": 1}).result()
        until(rows._attended, "a listener")
        del rows, client

        def over() -> bool:
            gc.collect()  # each time: the clock may hold the appender at just that moment, to look at it
            return server._listener._admission.in_flight() == 0

        until(over, "the end of the stream")


class TestWire:
    """The exchange as other languages see it."""

    def exchange(self, raw: flight.FlightClient, body: dict[str, Any]) -> tuple[Any, Any]:
        return raw.do_exchange(flight.FlightDescriptor.for_command(json.dumps(body).encode()))

    def message(self, reader: Any) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(reader.read_chunk().app_metadata.to_pybytes())
        return found

    def test_each_batch_is_answered(self, client: ducktower.FlightClient, raw: flight.FlightClient, table: str) -> None:
        """With the sequence from its metadata, in JSON or as a number, or counted when there is none."""
        writer, reader = self.exchange(raw, {"append": {"table": table}})
        writer.begin(SCHEMA)
        batch = pa.record_batch([pa.array([1, 2]), pa.array(["a", "b"])], schema=SCHEMA)
        writer.write_with_metadata(batch, b'{"sequence": 7}')
        writer.write_with_metadata(batch, b"9")
        writer.write_batch(batch)
        answers = [self.message(reader) for _ in range(3)]
        assert [(answer["sequence"], answer["rows"]) for answer in answers] == [(7, 2), (9, 2), (10, 2)]
        assert all(answer["commit"] > 1 for answer in answers)
        writer.done_writing()
        with pytest.raises(StopIteration):
            reader.read_chunk()
        writer.close()
        assert numbers(client) == [1, 1, 1, 2, 2, 2]

    def test_a_refusal_is_a_message(self, client: ducktower.FlightClient, raw: flight.FlightClient) -> None:
        """A bad batch is answered with its sequence and a coded error, between the answers of good ones."""
        client.execute("CREATE TABLE t (i BIGINT NOT NULL)")
        writer, reader = self.exchange(raw, {"append": {"table": "t"}})
        schema = pa.schema([("i", pa.int64())])
        writer.begin(schema)
        for sequence, value in enumerate([1, None, 3], start=1):
            writer.write_with_metadata(
                pa.record_batch([pa.array([value], pa.int64())], schema=schema), b"%d" % sequence
            )
        answers = {answer["sequence"]: answer for answer in (self.message(reader) for _ in range(3))}
        assert answers[1]["rows"] == answers[3]["rows"] == 1
        error = answers[2]["error"]
        assert (error["code"], error["retryable"]) == ("CONSTRAINT_VIOLATION", False)
        assert "t.i" in error["message"]
        writer.done_writing()
        writer.close()
        assert numbers(client) == [1, 3]

    @pytest.mark.parametrize(
        "body",
        [
            {},
            [],
            "append",
            {"append": {}},
            {"append": {"table": 5}},
            {"append": []},
            {"append": {"table": "t", "mode": "replace"}},
            {"append": {"table": "t", "nope": 1}},
            {"append": {"table": "t"}, "ingest": {"table": "t"}},
            {"nope": {"table": "t"}},
        ],
    )
    def test_a_broken_command(
        self, client: ducktower.FlightClient, raw: flight.FlightClient, table: str, body: Any
    ) -> None:
        """INVALID_ARGUMENT, without a traceback."""
        with pytest.raises((flight.FlightError, pa.ArrowException), match=r"\[INVALID_ARGUMENT\]") as caught:
            self.exchange_once(raw, json.dumps(body).encode())
        assert "Traceback" not in str(caught.value)
        assert numbers(client) == []

    def exchange_once(self, raw: flight.FlightClient, command: bytes) -> None:
        writer, reader = raw.do_exchange(flight.FlightDescriptor.for_command(command))
        try:
            writer.begin(SCHEMA)
            writer.write_batch(pa.record_batch([pa.array([1]), pa.array(["a"])], schema=SCHEMA))
            writer.done_writing()
            reader.read_chunk()
        finally:
            writer.close()

    @pytest.mark.parametrize(
        "metadata", [b"x", b"{}", b"-1", b"1.5", b"true", b'{"sequence": "1"}', b"\xff", b"[" * 9999]
    )
    def test_broken_metadata(
        self, client: ducktower.FlightClient, raw: flight.FlightClient, table: str, metadata: bytes
    ) -> None:
        """Metadata that is no sequence ends the stream with INVALID_ARGUMENT, and its batch is not stored."""
        writer, reader = self.exchange(raw, {"append": {"table": table}})
        writer.begin(SCHEMA)

        def send() -> None:
            try:
                writer.write_with_metadata(pa.record_batch([pa.array([1]), pa.array(["a"])], schema=SCHEMA), metadata)
                reader.read_chunk()
            finally:
                writer.close()

        with pytest.raises((flight.FlightError, pa.ArrowException), match=r"\[INVALID_ARGUMENT\]") as caught:
            send()
        assert "Traceback" not in str(caught.value)
        assert numbers(client) == []

    def test_a_stream_without_a_schema(
        self, client: ducktower.FlightClient, raw: flight.FlightClient, table: str
    ) -> None:
        """A stream that ends before it began is refused or ignored, and leaves nothing behind."""
        writer, reader = self.exchange(raw, {"append": {"table": table}})
        writer.done_writing()
        with pytest.raises((StopIteration, flight.FlightError, pa.ArrowException)):
            reader.read_chunk()
        try:
            writer.close()
        except (flight.FlightError, pa.ArrowException) as error:
            assert "Traceback" not in str(error)  # noqa: PT017
        all_returned(client)


class TestStuckClients:
    """A client that stops reading its acknowledgements holds up nobody else."""

    @pytest.fixture
    def stuck(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Start a process with three streams that it writes to and never reads."""
        client.execute("CREATE TABLE stuck (i BIGINT); CREATE TABLE t (i BIGINT)")
        process = subprocess.Popen(
            [sys.executable, "-m", "support.stuck_reader", server.url, "stuck"],
            stdout=subprocess.PIPE,
            cwd=TESTS,
            env=environment(),
        )
        try:
            assert process.stdout is not None
            for _ in range(3):
                assert process.stdout.readline() == b"writing\n"
            yield process
        finally:
            process.kill()
            process.communicate()

    @pytest.mark.parametrize("stopped", [False, True], ids=["not_reading", "sigstop"])
    def test_others_go_on(
        self,
        server: ducktower.FlightServer,
        client: ducktower.FlightClient,
        stuck: subprocess.Popen[bytes],
        stopped: bool,
    ) -> None:
        """Other streams, writes and reads are answered, while theirs wait; killed, they leave nothing."""
        if stopped:
            os.kill(stuck.pid, signal.SIGSTOP)
        with client.appender("t") as rows:
            for i in range(200):
                assert rows.append({"i": i}).result(60).rows == 1
        for i in range(200, 220):
            client.ingest("t", [{"i": i}])
        assert numbers(client) == list(range(220))
        stuck.kill()
        stuck.wait()
        until(lambda: not server.engine.running(), "the end of their calls")
        with client.appender("t") as rows:
            assert rows.append({"i": 220}).result(60).rows == 1

    def test_a_server_with_stuck_clients_stops(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient, stuck: subprocess.Popen[bytes]
    ) -> None:
        """Closing returns although three streams are never read."""
        os.kill(stuck.pid, signal.SIGSTOP)
        closing = threading.Thread(target=server.close)
        closing.start()
        closing.join(60)
        assert not closing.is_alive()


class TestSharedStreams:
    """Appenders of one client share a stream: their writes travel together, and stay writes of their own."""

    def test_a_bad_write_among_those_that_travel_together(
        self, server: ducktower.FlightServer, client: ducktower.FlightClient
    ) -> None:
        """Of writes that left as one message only the bad ones are refused, each with its own reason."""
        client.execute("CREATE TABLE t (i BIGINT CHECK (i < 1000), v VARCHAR NOT NULL)")
        engine = server.engine
        with ExitStack() as stack:
            appenders = [stack.enter_context(client.appender("t", columns=["i", "v"])) for _ in range(20)]
            first = appenders[0].append({"i": 100, "v": "x"}).result()
            with engine._committer._lock:  # hold the commits: what is appended now gathers behind the first
                pending = [appenders[0].append({"i": 0, "v": "x"})]
                appenders[0]._send()
                for number, rows in enumerate(appenders[1:], start=1):
                    value = {5: 5_000, 11: 11_000}.get(number, number)
                    pending.append(rows.append({"i": value, "v": None if number == 8 else "x"}))
                    rows._send()
                assert not any(write.done() for write in pending)
            refused = {}
            for number, write in enumerate(pending):
                try:
                    assert write.result().rows == 1
                except ducktower.ConstraintViolation as error:
                    refused[number] = error.message
        assert refused.keys() == {5, 8, 11}
        assert "CHECK" in refused[5]
        assert "NOT NULL" in refused[8]
        good = [number for number in range(20) if number not in refused]
        assert numbers(client) == [*good, 100]
        assert [rows.acknowledged_rows for rows in appenders] == [
            2 if number == 0 else int(number in good) for number in range(20)
        ]
        assert engine.statistics()["group_writes"] == 21
        assert first.commit > 0

    def test_rows_that_do_not_fit_are_refused_before_they_leave(self, client: ducktower.FlightClient) -> None:
        """A value that Arrow refuses fails its own write, not those that would have travelled with it."""
        client.create_table("t", SCHEMA)
        outcomes: dict[int, str] = {}

        def append(number: int) -> None:
            with client.appender("t", columns=["i", "v"]) as rows:
                for turn in range(20):
                    value: Any = "not a number" if number == 3 and turn % 2 else number * 100 + turn
                    try:
                        rows.append({"i": value, "v": "x"}).result()
                        outcomes[number * 100 + turn] = "stored"
                    except ducktower.SchemaMismatch as error:
                        outcomes[number * 100 + turn] = error.message

        together(8, append)
        stored = sorted(key for key, outcome in outcomes.items() if outcome == "stored")
        assert numbers(client) == stored
        assert len(stored) == 8 * 20 - 10
        assert {outcome for key, outcome in outcomes.items() if key not in stored} == {
            "column \"i\": found str 'not a number', wanted int64"
        }

    def test_a_refusal_behind_a_write_in_flight(self, client: ducktower.FlightClient, table: str) -> None:
        """A bad write that gathered is refused once its turn comes; who waits for it does not wait for ever."""
        for turn in range(20):
            with client.appender(table, columns=["i", "v"], rows_per_write=1, linger_seconds=60) as rows:
                good = rows.append({"i": turn, "v": "x"})
                bad = rows.append({"i": "seven", "v": "x"})
                with pytest.raises(ducktower.SchemaMismatch, match="seven"):
                    bad.result()
                assert good.result().rows == 1
        assert numbers(client) == list(range(20))

    def test_empty_batches_travel_too(self, client: ducktower.FlightClient, table: str) -> None:
        """A batch of no rows among others is a write as well."""
        batches = [
            pa.record_batch([pa.array(range(n % 3), pa.int64()), pa.array(["x"] * (n % 3), pa.string())], schema=SCHEMA)
            for n in range(30)
        ]
        with client.appender(table) as rows:
            pending = [rows.write(batch) for batch in batches]
            assert [write.result().rows for write in pending] == [n % 3 for n in range(30)]

    def test_large_writes_do_not_travel_together(self, client: ducktower.FlightClient, table: str) -> None:
        """Writes that would be too large together are stored all the same, in their order."""
        with client.appender(table, columns=["i", "v"], rows_per_write=1, linger_seconds=60) as rows:
            pending = [rows.append({"i": i, "v": chr(97 + i) * 1_500_000}) for i in range(20)]
            assert [write.result().rows for write in pending] == [1] * 20
        stored = client.query(f"SELECT i, length(v) AS n, left(v, 1) AS c FROM {table}").to_pylist()
        assert stored == [{"i": i, "n": 1_500_000, "c": chr(97 + i)} for i in range(20)]

    def test_the_others_go_on_when_one_is_closed(self, client: ducktower.FlightClient, table: str) -> None:
        """The stream ends with its last appender, and a new one opens another."""
        first, second = client.appender(table), client.appender(table)
        first.append({"i": 1, "v": "a"}).result()
        second.append({"i": 2, "v": "b"}).result()
        assert first._stream is second._stream
        first.close()
        second.append({"i": 3, "v": "c"}).result()
        second.close()
        with client.appender(table) as third:
            third.append({"i": 4, "v": "d"}).result()
            assert third._stream is not first._stream
        assert numbers(client) == [1, 2, 3, 4]

    def test_other_columns_take_another_stream(self, client: ducktower.FlightClient, table: str) -> None:
        """A stream has one schema."""
        with client.appender(table) as first, client.appender(table) as second:
            first.append({"i": 1, "v": "a"}).result()
            second.append({"i": 2}).result()
            assert first._stream is not second._stream
        assert numbers(client) == [1, 2]

    def test_waiting_in_every_way_at_once(self, client: ducktower.FlightClient, table: str) -> None:
        """Threads that wait without a limit, with one that runs out, and not at all: everybody gets an outcome."""
        counts = [0] * 12

        def work(number: int) -> None:
            with client.appender(table, rows_per_write=1 + number % 3) as rows:
                for turn in range(150):
                    write = rows.append({"i": number * 1000 + turn, "v": "x"})
                    if number % 4 == 0:
                        write.result()
                    elif number % 4 == 1:
                        try:
                            write.result(0.0005)
                        except ducktower.TimedOut:
                            write.result(60)
                    elif number % 4 == 2 and turn % 7 == 0:
                        rows.flush()
                rows.flush()
                counts[number] = rows.acknowledged_rows

        together(12, work)
        assert counts == [150] * 12
        assert client.query(f"SELECT count(DISTINCT i) AS n FROM {table}").to_pylist() == [{"n": 12 * 150}]

    def test_many_wait_for_one_write(self, client: ducktower.FlightClient, table: str) -> None:
        """All threads that wait for one write get its receipt, with a limit or without."""
        with client.appender(table, linger_seconds=60) as rows:
            for turn in range(30):
                write = rows.append({"i": turn, "v": "x"})
                receipts = together(6, lambda number, write=write: write.result(60.0 if number in (2, 4) else None))
                assert len(set(receipts)) == 1
        assert numbers(client) == list(range(30))

    def test_writes_that_nobody_waits_for_leave(self, client: ducktower.FlightClient, table: str) -> None:
        """Full writes that gathered behind one in flight are sent although nobody reads its answer."""
        with client.appender(table, rows_per_write=1, linger_seconds=60) as rows:
            pending = [rows.append({"i": i, "v": "x"}) for i in range(10)]
            for write in pending:
                until(write.done, "the acknowledgement of a write that nobody waits for")
        assert numbers(client) == list(range(10))

    def test_a_network_that_fails_tells_all(self, server: ducktower.FlightServer) -> None:
        """When the shared stream breaks, what was on its way is lost for every appender, and all share another one."""
        with Proxy(server.port) as proxy, ducktower.connect(proxy.url) as client:
            client.create_table("t", SCHEMA)
            appenders = [client.appender("t") for _ in range(4)]
            for number, rows in enumerate(appenders):
                rows.append({"i": number, "v": "x"}).result()
            with server.engine._committer._lock:  # hold the commits, so that writes are surely in flight
                pending = [rows.append({"i": 9, "v": "x"}) for rows in appenders]
                for rows in appenders:
                    rows._send()
                proxy.cut()
                for write in pending:
                    with pytest.raises(ducktower.Unavailable):
                        write.result()
            for rows in appenders:
                rows.append({"i": 77, "v": "x"}).result()
            assert len({rows._stream for rows in appenders}) == 1
            for rows in appenders:
                rows.close()

        with ducktower.connect(server.url) as direct:
            assert [i for i in numbers(direct) if i != 9] == [0, 1, 2, 3, 77, 77, 77, 77]


class TestSeveralWritesInABatch:
    """The wire: a batch's metadata may say that it carries several writes."""

    def exchange(self, raw: flight.FlightClient) -> tuple[Any, Any]:
        writer, reader = raw.do_exchange(
            flight.FlightDescriptor.for_command(json.dumps({"append": {"table": "t"}}).encode())
        )
        writer.begin(SCHEMA)
        return writer, reader

    def test_they_are_answered_together(self, client: ducktower.FlightClient, raw: flight.FlightClient) -> None:
        """One message for all of them, while all goes well; the next batch counts on from the last."""
        client.create_table("t", SCHEMA)
        writer, reader = self.exchange(raw)
        batch = pa.record_batch([pa.array([1, 2, 3]), pa.array(["a", "b", "c"])], schema=SCHEMA)
        writer.write_with_metadata(batch, b'{"sequence": 5, "writes": [1, 2]}')
        answer = json.loads(reader.read_chunk().app_metadata.to_pybytes())
        assert (answer["sequence"], answer["last"], answer["rows"]) == (5, 6, 3)
        writer.write_batch(batch)
        assert json.loads(reader.read_chunk().app_metadata.to_pybytes())["sequence"] == 7
        writer.done_writing()
        writer.close()

    def test_each_is_stored_or_refused_by_itself(
        self, client: ducktower.FlightClient, raw: flight.FlightClient
    ) -> None:
        """A write is all or nothing, the batch is not."""
        client.execute("CREATE TABLE t (i BIGINT CHECK (i < 100), v VARCHAR)")
        writer, reader = self.exchange(raw)
        batch = pa.record_batch([pa.array([1, 2, 3, 400, 5]), pa.array(list("abcde"))], schema=SCHEMA)
        writer.write_with_metadata(batch, b'{"sequence": 1, "writes": [2, 2, 1]}')
        answers = [json.loads(reader.read_chunk().app_metadata.to_pybytes()) for _ in range(3)]
        assert [answer["sequence"] for answer in answers] == [1, 2, 3]
        assert [answer.get("rows") for answer in answers] == [2, None, 1]
        assert answers[1]["error"]["code"] == "CONSTRAINT_VIOLATION"
        writer.done_writing()
        writer.close()
        assert numbers(client) == [1, 2, 5]

    @pytest.mark.parametrize(
        ("writes", "code"),
        [
            ("[1]", "INVALID_ARGUMENT"),
            ("[1, 1, 1]", "INVALID_ARGUMENT"),
            ("[3, -1]", "INVALID_ARGUMENT"),
            ("[2, 1]", "INVALID_ARGUMENT"),
            ("[1.0, 1]", "INVALID_ARGUMENT"),
            ("[true, true]", "INVALID_ARGUMENT"),
            ('"11"', "INVALID_ARGUMENT"),
            ("2", "INVALID_ARGUMENT"),
            (json.dumps([1] * 2000), "LIMIT_EXCEEDED"),
        ],
    )
    def test_what_does_not_add_up_is_refused(
        self, client: ducktower.FlightClient, raw: flight.FlightClient, writes: str, code: str
    ) -> None:
        """The stream ends with one clear error, and nothing of the batch is stored."""
        client.create_table("t", SCHEMA)
        writer, reader = self.exchange(raw)
        batch = pa.record_batch([pa.array([1, 2]), pa.array(["a", "b"])], schema=SCHEMA)

        def send() -> None:
            try:
                writer.write_with_metadata(batch, f'{{"sequence": 1, "writes": {writes}}}'.encode())
                reader.read_chunk()
            finally:
                writer.close()

        with pytest.raises((flight.FlightError, pa.ArrowException), match=rf"\[{code}\]") as caught:
            send()
        assert "Traceback" not in str(caught.value)
        assert numbers(client) == []
