"""The ledger's bounds: whose writers are whose, how many there are, and which are forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import ducktower
from ducktower.config import EngineConfig
from ducktower.engine import Caller, Engine, Named, Principal, Receipt, Target
from ducktower.engine.ledger import Ledger, Row, claimed
from ducktower.engine.words import Outcome, PlanKey, Write
from ducktower.server.token_file import TokenFile
from support.engines import opened
from support.threads import together

SCHEMA = pa.schema([("i", pa.int64())])
DAY = 24 * 3600 * 1_000_000


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Open an engine that knows three writers, and make the table."""
    with opened(database, writers_max=3) as one:
        made(one)
        yield one


def made(engine: Engine) -> None:
    """Make the table."""
    engine.execute("CREATE TABLE t (i BIGINT)")


def put(engine: Engine, writer: str, sequence: int, *values: int, of: str = "ada") -> Receipt:
    """Store rows as a principal's writer; its sequence unless there are others."""
    data = pa.table({"i": list(values) or [sequence]}, schema=SCHEMA)
    caller = Caller(principal=Principal(of, "writer"))
    return engine.put(Target("t"), data.to_reader(), caller, Named(writer, sequence))


def stored(engine: Engine) -> int:
    """Return the number of rows."""
    return int(engine.read("SELECT count(*) FROM t").read_all()[0][0].as_py())


class TestPrincipals:
    """A name belongs to the token's owner."""

    def test_the_same_name(self, engine: Engine) -> None:
        """Two principals' writers of one name have sequences and outcomes of their own."""
        put(engine, "w", 1, 10)
        put(engine, "w", 2, 11)
        theirs = put(engine, "w", 1, 20, 21, of="bob")
        assert theirs.rows == 2
        assert put(engine, "w", 1, 20, 21, of="bob") == theirs
        with pytest.raises(ducktower.InvalidArgument, match="2 comes next"):
            put(engine, "w", 3, of="bob")
        for name, told in (("ada", (2, 2)), ("bob", (1, 2)), ("eve", (0, 0))):
            assert engine.writer("w", Caller(principal=Principal(name, "writer")))[:2] == told
        assert stored(engine) == 4

    def test_resuming_anothers_name(self, engine: Engine) -> None:
        """To resume a writer ends the streams of one's own writer of that name alone."""
        outcomes: list[Outcome] = []
        streams = {
            name: engine.appending(Target("t"), SCHEMA, Caller(principal=Principal(name, "writer")), writer="w")
            for name in ("ada", "bob")
        }
        engine.writer("w", Caller(principal=Principal("bob", "writer")), resume=True)
        batch = pa.record_batch([pa.array([1], pa.int64())], schema=SCHEMA)
        with pytest.raises(ducktower.InvalidArgument, match="resumed by another client"):
            streams["bob"].submit(batch, outcomes.append, sequence=1)
        streams["ada"].submit(batch, outcomes.append, sequence=1)
        assert engine.writer("w", Caller(principal=Principal("ada", "writer")))[:2] == (1, 1)

    def test_over_the_wire(self, database: Path) -> None:
        """Tokens of two owners, one name: each is told of its own."""
        tokens = TokenFile(f"{database}.tokens")
        texts = [tokens.create(name, "owner", (), None)[1] for name in ("ada", "bob")]
        with (
            ducktower.serve(str(database), drain_seconds=5) as server,
            ducktower.connect(server.url, token=texts[0]) as ada,
            ducktower.connect(server.url, token=texts[1]) as bob,
        ):
            ada.create_table("t", SCHEMA)
            first = [client.ingest("t", [{"i": n}], writer="w", sequence=1) for n, client in enumerate((ada, bob))]
            again = [client.ingest("t", [{"i": n}], writer="w", sequence=1) for n, client in enumerate((ada, bob))]
            assert again == first
            done = bob.execute("DELETE FROM t", writer="w", sequence=2)
            assert done.rows == 2
            assert [client.writer("w").sequence for client in (ada, bob)] == [1, 2]


class TestHowMany:
    """There may be so many writers, and those that are known go on."""

    def test_one_too_many(self, engine: Engine) -> None:
        """A new writer is refused, in whichever way it writes; the others are not."""
        for name in ("a", "b", "c"):
            put(engine, name, 1)
        caller = Caller(principal=Principal("ada", "writer"))
        with pytest.raises(ducktower.LimitExceeded, match="3 writers"):
            put(engine, "d", 1)
        with pytest.raises(ducktower.LimitExceeded, match="3 writers"):
            engine.execute("INSERT INTO t VALUES (9)", None, caller, Named("d", 1))
        assert put(engine, "a", 2).rows == 1
        assert engine.execute("INSERT INTO t VALUES (9)", None, caller, Named("b", 2)).rows == 1
        assert stored(engine) == 5
        assert engine.writer("d", caller).sequence == 0

    def test_many_at_once(self, engine: Engine) -> None:
        """Writers that begin at one moment are counted, too."""

        def begin(number: int) -> bool:
            try:
                put(engine, f"writer {number}", 1)
            except ducktower.LimitExceeded:
                return False
            return True

        assert sum(together(12, begin)) == 3
        assert stored(engine) == 3

    def test_in_one_group(self) -> None:
        """So they are when their writes are of one group."""
        config = EngineConfig(writers_max=3)
        ledger = Ledger(config, "memory")
        key = PlanKey(Target("t"), SCHEMA)

        def write(number: int) -> Write:
            claim = claimed(config, Principal("ada", "writer"), Named(f"writer {number}", 1), number)
            return Write(key, [], 0, 0, lambda _: None, claims=(claim,))

        outcomes: dict[int, Outcome] = {}
        with duckdb.connect() as cursor:
            ready, later, held = ledger.admit(cursor, [write(n) for n in range(8)], outcomes)
        assert (len(ready), len(later), len(held)) == (3, 0, 3)
        assert [type(outcome) for outcome in outcomes.values()] == [ducktower.LimitExceeded] * 5


def kept(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """Return what the ledger of a database that nobody serves has."""
    return [Row.of(line) for (line,) in connection.execute("FROM _ducktower.ledger").fetchall()]


def grown_older(connection: duckdb.DuckDBPyConnection, writer: str) -> None:
    """Have what this writer wrote be 31 days older."""
    lines = [line._replace(at=line.at - 31 * DAY) if line.writer == writer else line for line in kept(connection)]
    connection.execute("DELETE FROM _ducktower.ledger")
    connection.executemany("INSERT INTO _ducktower.ledger VALUES (?)", [[line.line()] for line in lines])


class TestForgetting:
    """Writers that were silent for long enough are forgotten, when there is a reason to look."""

    def test_silent_ones_make_room(self, database: Path) -> None:
        """A new writer takes the place of one that was silent for too long, which begins with 1 again."""
        with opened(database) as engine:
            made(engine)
            for sequence in (1, 2):
                put(engine, "old", sequence)
            put(engine, "young", 1)
        with duckdb.connect(str(database)) as connection:  # as it looks after 31 days
            grown_older(connection, "old")
        with opened(database, writers_max=2) as engine:
            assert put(engine, "old", 2).rows == 1  # remembered for as long as nobody needs its place
            assert put(engine, "new", 1).rows == 1
            with pytest.raises(ducktower.InvalidArgument, match="1 comes next"):
                put(engine, "old", 3)
            with pytest.raises(ducktower.LimitExceeded):
                put(engine, "old", 1)
            with pytest.raises(ducktower.LimitExceeded):
                put(engine, "newer", 1)
            assert put(engine, "young", 1).rows == 1
            assert put(engine, "young", 2).rows == 1
            assert stored(engine) == 5
        with duckdb.connect(str(database)) as connection:
            assert {line.writer for line in kept(connection)} == {"new", "young"}

    def test_who_writes_again_stays(self, database: Path) -> None:
        """A writer that was silent and then wrote once more is no silent one; all of its kept outcomes stay."""
        with opened(database) as engine:
            made(engine)
            receipts = [put(engine, "old", sequence) for sequence in (1, 2)]
        with duckdb.connect(str(database)) as connection:
            grown_older(connection, "old")
        with opened(database, writers_max=1) as engine:
            receipts.append(put(engine, "old", 3))
            with pytest.raises(ducktower.LimitExceeded):
                put(engine, "new", 1)
            assert [put(engine, "old", sequence) for sequence in (1, 2, 3)] == receipts
