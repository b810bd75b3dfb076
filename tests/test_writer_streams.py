"""Named writers in open streams: sequences in the batches' metadata, each write once, no hole in what is stored."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import ducktower
from support.threads import together

SCHEMA = pa.schema([("i", pa.int64())])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightClient]:
    """Connect to a server that the tests of this module share."""
    database = tmp_path_factory.mktemp("writers") / "shared.duckdb"
    with ducktower.serve(str(database)) as server, ducktower.connect(server.url) as connected:
        yield connected


@pytest.fixture
def table(shared: ducktower.FlightClient) -> ducktower.FlightClient:
    """Make the table anew, which refuses values below 0, and return the client."""
    shared.execute("CREATE OR REPLACE TABLE t (i BIGINT CHECK (i >= 0))")
    return shared


class Stream:
    """One DoExchange as a client of another language has it."""

    def __init__(self, writer: Any, reader: Any) -> None:
        self._writer = writer
        self._reader = reader

    def send(self, sequence: int | None, *writes: list[int]) -> None:
        """Send one message: a write for each list of values. Without a sequence it has no metadata."""
        batch = pa.record_batch([pa.array([i for values in writes for i in values], pa.int64())], schema=SCHEMA)
        if sequence is None:
            self._writer.write_batch(batch)
            return
        metadata = {"sequence": sequence, "writes": [len(values) for values in writes]}
        self._writer.write_with_metadata(batch, json.dumps(metadata if len(writes) > 1 else sequence).encode())

    def answers(self, count: int) -> list[dict[str, Any]]:
        """Return the next answers."""
        return [json.loads(self._reader.read_chunk().app_metadata.to_pybytes()) for _ in range(count)]

    def told(self, sequence: int | None, *writes: list[int], answers: int = 1) -> list[dict[str, Any]]:
        """Send a message and return its answers."""
        self.send(sequence, *writes)
        return self.answers(answers)


@contextmanager
def opened(url: str, **command: Any) -> Iterator[Stream]:
    """Open a stream to the table for the time of a block."""
    with flight.connect(url) as raw:
        descriptor = flight.FlightDescriptor.for_command(json.dumps({"append": {"table": "t", **command}}).encode())
        writer, reader = raw.do_exchange(descriptor)
        with writer:
            writer.begin(SCHEMA)
            yield Stream(writer, reader)
            writer.done_writing()


def values(client: ducktower.FlightClient) -> list[int]:
    """Return what is stored."""
    return list(client.query("FROM t ORDER BY i")["i"].to_pylist())


class TestOnce:
    """A write takes effect once, whatever it travels with."""

    def test_repeats_cut_otherwise(self, table: ducktower.FlightClient) -> None:
        """A message's writes are repeats when they come alone, by DoPut, or with others, some of them new."""
        with opened(table.url, writer="cut") as first:
            (answer,) = first.told(1, [1], [], [2, 3])
        assert (answer["sequence"], answer["last"], answer["rows"]) == (1, 3, 3)
        commit = answer["commit"]
        with opened(table.url, writer="cut") as second:
            assert second.told(3, [2, 3]) == [{"sequence": 3, "rows": 2, "commit": commit}]
            again = second.told(2, [], [2, 3], [4], answers=3)
            assert [one["rows"] for one in again] == [0, 2, 1]
            assert [one["commit"] == commit for one in again] == [True, True, False]
        data = pa.table({"i": [1]}, schema=SCHEMA)
        assert table.ingest("t", data, writer="cut", sequence=1) == (1, commit)
        assert values(table) == [1, 2, 3, 4]
        assert table.writer("cut")[:2] == (4, 4)

    def test_two_streams_send_the_same(self, table: ducktower.FlightClient) -> None:
        """Many writes in flight at once are stored once and in their order, and both streams have every receipt."""

        def send(_: int) -> list[dict[str, Any]]:
            with opened(table.url, writer="twice") as stream:
                for sequence in range(1, 201, 2):
                    stream.send(sequence, [sequence], [sequence + 1])
                found: list[dict[str, Any]] = []
                while sum(one.get("last", one["sequence"]) - one["sequence"] + 1 for one in found) < 200:
                    found += stream.answers(1)
                return found

        for answers in together(2, send):
            assert all("commit" in one for one in answers)
        assert values(table) == list(range(1, 201))


class TestRefused:
    """A write that is refused leaves no hole, and nobody else without an answer."""

    def test_within_a_message(self, table: ducktower.FlightClient) -> None:
        """What comes before it is stored, what comes behind it is refused, also in the messages that follow."""
        with opened(table.url, writer="bad") as stream:
            stream.send(1, [1], [-2], [3])
            stream.send(4, [4], [5])
            stored, bad, *behind = stream.answers(5)
            assert stored["rows"] == 1
            assert bad["error"]["code"] == "CONSTRAINT_VIOLATION"
            assert {one["error"]["code"] for one in behind} == {"INVALID_ARGUMENT"}
            assert all("2 comes next" in one["error"]["message"] for one in behind)
            assert [one["rows"] for one in stream.told(2, [2], [3])] == [2]
        assert values(table) == [1, 2, 3]
        assert table.writer("bad")[:2] == (3, 3)

    def test_beside_others(self, table: ducktower.FlightClient) -> None:
        """Writers whose messages are in one group with refused ones, repeats and gaps are stored all the same."""

        def good(number: int) -> None:
            with opened(table.url, writer=f"good {number}") as stream:
                for sequence in range(1, 41, 2):
                    stream.send(sequence, [number], [number])
                answers = stream.answers(20)
                assert [one.get("rows") for one in answers] == [2] * 20

        def bad(number: int) -> None:
            with opened(table.url, writer=f"bad {number}") as stream:
                for sequence in (1, 1, 7, 1):
                    stream.send(sequence, [9], [-1])
                answers = stream.answers(8)
                assert [one.get("rows") for one in answers] == [1, None, 1, None, None, None, 1, None]

        together(5, lambda number: good(number) if number < 3 else bad(number))
        assert values(table) == sorted([*[0] * 40, *[1] * 40, *[2] * 40, 9, 9])

    def test_broken_metadata(self, table: ducktower.FlightClient) -> None:
        """A writer's batch needs a sequence, from 1; and the command has none."""
        with opened(table.url, writer="none") as stream:
            assert "from 1" in stream.told(0, [1])[0]["error"]["message"]
            assert "from 1" in stream.told(2**63 - 1, [1], [2], answers=2)[1]["error"]["message"]
        with pytest.raises(pa.ArrowInvalid, match="needs its sequence"), opened(table.url, writer="none") as stream:
            stream.told(None, [1])
        for command in ({"writer": "none", "sequence": 1}, {"sequence": 1}, {"writer": 1}, {"writer": "x" * 256}):
            with pytest.raises(pa.ArrowInvalid, match=r"writer|sequence"), opened(table.url, **command) as stream:
                stream.told(1, [1])
        assert values(table) == []


class TestResuming:
    """Whoever resumes a writer is the only one who writes for it from then on."""

    def test_earlier_streams_end(self, table: ducktower.FlightClient) -> None:
        """What an earlier stream sends after that is refused; writers of others and other names go on."""
        with opened(table.url, writer="resumed") as old, opened(table.url, writer="other") as other:
            old.told(1, [1])
            other.told(1, [11])
            assert ask(table.url, {"writer": "resumed", "resume": True})["sequence"] == 1
            (late,) = old.told(2, [2])
            assert late["error"]["code"] == "INVALID_ARGUMENT"
            assert "resumed by another client" in late["error"]["message"]
            with opened(table.url, writer="resumed") as new:
                assert new.told(2, [20])[0]["rows"] == 1
            assert other.told(2, [12])[0]["rows"] == 1
        assert values(table) == [1, 11, 12, 20]

    def test_nothing_is_on_its_way(self, table: ducktower.FlightClient) -> None:
        """What was queued before is in the answer, stored or refused."""
        with opened(table.url, writer="busy") as old:
            for sequence in range(1, 101):
                old.send(sequence, [sequence])
            old.answers(1)
            state = ask(table.url, {"writer": "busy", "resume": True})
            stored = [one for one in old.answers(99) if "rows" in one]
            assert state["sequence"] == len(stored) + 1
            assert ask(table.url, {"writer": "busy"}) == state
        assert values(table) == list(range(1, state["sequence"] + 1))

    def test_a_broken_question(self, table: ducktower.FlightClient) -> None:
        """`resume` is true or false."""
        with pytest.raises(pa.ArrowInvalid, match='"resume"'):
            ask(table.url, {"writer": "w", "resume": 1})


def ask(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """Run the action `writer`."""
    with flight.connect(url) as raw:
        (result,) = raw.do_action(flight.Action("writer", json.dumps(body).encode()))
    found: dict[str, Any] = json.loads(result.body.to_pybytes())
    return found
