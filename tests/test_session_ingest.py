"""Bulk ingest: what is made, replaced or added to, in and outside a transaction, and clients that die half way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import ducktower
from ducktower.engine import Caller, Engine, Ingest, Session, Target
from support.engines import batches, opened, rows
from support.threads import together
from test_types import TYPES

MODES: dict[str, dict[str, Any]] = {
    "create": {"if_missing": "create", "if_exists": "fail"},
    "append": {"if_missing": "fail", "if_exists": "append"},
    "replace": {"if_missing": "create", "if_exists": "replace"},
    "create_append": {"if_missing": "create", "if_exists": "append"},
    "replace_only": {"if_missing": "fail", "if_exists": "replace"},
    "never": {"if_missing": "fail", "if_exists": "fail"},
}

STARTS = ["without state", "in a transaction", "with state"]


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Open an engine on a file; one of five batches is a large write."""
    with opened(database, small_write_bytes_max=30_000) as running:
        yield running


@pytest.fixture(params=STARTS)
def session(engine: Engine, request: pytest.FixtureRequest) -> Session:
    """Open a session of each kind: all promises hold for each."""
    opened_session = engine.sessions.open()
    if request.param == "in a transaction":
        opened_session.begin()
    elif request.param == "with state":
        opened_session.update("CREATE TEMP TABLE something (i INTEGER)")
    return opened_session


@pytest.fixture
def plain(engine: Engine) -> Session:
    """Open a session without state."""
    return engine.sessions.open()


def small() -> Any:
    """Return three rows."""
    return pa.table({"i": pa.array([1, 2, 3], pa.int64()), "v": ["a", "b", None]}).to_reader()


class Leaves:
    """A client that is gone once its rows were read half way; what it sent looks like a normal end."""

    def __init__(self, after: int) -> None:
        self._after = after
        self._left = False

    def caller(self) -> Caller:
        """Return who asks."""
        return Caller(gone=lambda: self._left)

    def reader(self, source: Any) -> Any:
        """Return the first batches of `source`."""

        def make() -> Iterator[Any]:
            for number, batch in enumerate(source):
                if number == self._after:
                    break
                yield batch
            self._left = True

        return pa.RecordBatchReader.from_batches(source.schema, make())


class TestModes:
    """What happens to a table that is there, and to one that is not."""

    @pytest.mark.parametrize("count", [1, 5])
    @pytest.mark.parametrize(
        ("mode", "there", "outcome"),
        [
            ("create", False, 0),
            ("create", True, ducktower.TableExists),
            ("append", False, ducktower.TableNotFound),
            ("append", True, 1),
            ("replace", False, 0),
            ("replace", True, 0),
            ("create_append", False, 0),
            ("create_append", True, 1),
            ("replace_only", True, 0),
            ("replace_only", False, ducktower.TableNotFound),
            ("never", True, ducktower.TableExists),
            ("never", False, ducktower.TableNotFound),
        ],
    )
    def test_each(self, session: Session, mode: str, there: bool, count: int, outcome: Any) -> None:
        """Rows are counted and stored, or the one clear error comes."""
        if there:
            session.update("CREATE TABLE x (i BIGINT, v VARCHAR)")
            session.update("INSERT INTO x SELECT -1, 'old'")
        ingest = Ingest(table="x", **MODES[mode])
        if isinstance(outcome, int):
            assert session.ingest(ingest, batches(count)) == count * 1000
            assert rows(session, "SELECT count(*) FROM x") == [(count * 1000 + outcome,)]
        else:
            with pytest.raises(outcome):
                session.ingest(ingest, batches(count))

    def test_types_and_nulls_are_kept(self, session: Session) -> None:
        """A table that is made has the columns that were sent, NOT NULL included."""
        schema = pa.schema([pa.field("d", pa.decimal128(10, 2), nullable=False), pa.field("l", pa.list_(pa.int8()))])
        table = pa.table([pa.array([1, 2], pa.decimal128(10, 2)), [[1], None]], schema=schema)
        assert session.ingest(Ingest(table="odd \"' name", **MODES["create"]), table.to_reader()) == 2
        described = rows(session, 'SELECT column_name, column_type, "null" FROM (DESCRIBE "odd ""\' name")')
        assert described == [("d", "DECIMAL(10,2)", "NO"), ("l", "TINYINT[]", "YES")]

    def test_columns_match_by_name(self, session: Session) -> None:
        """Their order does not matter; one that is not sent gets its default; dictionaries are text."""
        session.update("CREATE TABLE x (k INTEGER DEFAULT 7, v VARCHAR, i BIGINT)")
        table = pa.table({"I": [1], "v": pa.array(["a"]).dictionary_encode()})
        assert session.ingest(Ingest(table="x", **MODES["append"]), table.to_reader()) == 1
        assert rows(session, "FROM x") == [(7, "a", 1)]

    @pytest.mark.parametrize("mode", ["create_append", "replace"])
    def test_many_at_once(self, engine: Engine, mode: str) -> None:
        """Sessions with state that make one table at once do it one after the other: no conflict is shown."""
        sessions = [engine.sessions.open() for _ in range(6)]
        for one in sessions:
            one.update("CREATE TEMP TABLE something (i INTEGER)")
        assert together(6, lambda n: sessions[n].ingest(Ingest(table="x", **MODES[mode]), small())) == [3] * 6
        assert rows(sessions[0], "SELECT count(*) FROM x") == [(18 if mode == "create_append" else 3,)]

    def test_no_rows(self, session: Session) -> None:
        """A table is made of columns alone."""
        empty = pa.schema([("a", pa.int32())]).empty_table().to_reader()
        assert session.ingest(Ingest(table="x", **MODES["create"]), empty) == 0
        assert session.describe("FROM x").dataset_schema.names == ["a"]

    @pytest.mark.parametrize(
        "table",
        [
            pa.table({"i": [1], "unknown": [1]}),
            pa.table({"i": ["no number"], "v": ["x"]}),
            pa.table({"v": pa.nulls(1, pa.string())}),
        ],
    )
    def test_rows_that_do_not_fit(self, session: Session, table: pa.Table) -> None:
        """Nothing is stored."""
        session.update("CREATE TABLE x (i BIGINT, v VARCHAR NOT NULL)")
        with pytest.raises(ducktower.DucktowerError) as caught:
            session.ingest(Ingest(table="x", **MODES["append"]), table.to_reader())
        assert isinstance(caught.value, (ducktower.SchemaMismatch, ducktower.ConstraintViolation)), caught.value
        assert '"' in str(caught.value) or "x.v" in str(caught.value)


class TestWhere:
    """Schemas, catalogs, temporary tables."""

    def test_another_schema(self, session: Session) -> None:
        """It is named, or the session's own."""
        session.update("CREATE SCHEMA s")
        assert session.ingest(Ingest(table="x", schema="s", **MODES["create"]), small()) == 3
        assert rows(session, "SELECT count(*) FROM s.x") == [(3,)]
        session.update("USE s")
        assert session.ingest(Ingest(table="x", **MODES["append"]), small()) == 3
        assert session.ingest(Ingest(table="x", schema="main", **MODES["create"]), small()) == 3
        assert rows(session, "SELECT count(*) FROM s.x") == [(6,)]

    def test_a_schema_or_catalog_that_is_not_there(self, plain: Session) -> None:
        """They are refused; the served catalog may be named."""
        with pytest.raises(ducktower.DucktowerError, match="nowhere"):
            plain.ingest(Ingest(table="x", schema="nowhere", **MODES["create"]), small())
        with pytest.raises(ducktower.InvalidArgument, match='catalog "elsewhere" is not served'):
            plain.ingest(Ingest(table="x", catalog="elsewhere", **MODES["create"]), small())
        assert plain.ingest(Ingest(table="x", catalog="test", **MODES["create"]), small()) == 3

    @pytest.mark.parametrize("count", [1, 5])
    def test_temporary(self, engine: Engine, session: Session, count: int) -> None:
        """The table is the session's own; other modes find it again."""
        ingest = Ingest(table="x", temporary=True, **MODES["create"])
        assert session.ingest(ingest, batches(count)) == count * 1000
        with pytest.raises(ducktower.TableNotFound):
            engine.sessions.open().query("FROM x")
        assert session.ingest(Ingest(table="x", temporary=True, **MODES["append"]), batches(count)) == count * 1000
        assert rows(session, "SELECT count(*) FROM x") == [(count * 2000,)]
        assert session.ingest(Ingest(table="x", temporary=True, **MODES["replace"]), small()) == 3
        assert rows(session, "SELECT count(*) FROM x") == [(3,)]

    def test_a_temporary_table_in_a_schema(self, plain: Session) -> None:
        """There is no such thing."""
        with pytest.raises(ducktower.InvalidArgument, match="temporary"):
            plain.ingest(Ingest(table="x", temporary=True, schema="main", **MODES["create"]), small())


class TestTransactions:
    """Rows share the fate of the transaction that they are ingested in."""

    @pytest.mark.parametrize("commit", [True, False])
    def test_without_the_id(self, engine: Engine, plain: Session, commit: bool) -> None:
        """A driver that does not tell the id means the transaction that is open."""
        other = engine.sessions.open()
        plain.update("CREATE TABLE x (i BIGINT, v VARCHAR)")
        plain.update("INSERT INTO x VALUES (0, 'old')")
        transaction = plain.begin()
        assert plain.ingest(Ingest(table="x", **MODES["replace"]), batches(5)) == 5000
        assert plain.ingest(Ingest(table="x", transaction_id=transaction, **MODES["append"]), small()) == 3
        assert rows(other, "FROM x") == [(0, "old")]
        plain.end(transaction, commit=commit)
        assert rows(other, "SELECT count(*) FROM x") == [(5003 if commit else 1,)]

    def test_a_dead_id(self, plain: Session) -> None:
        """It is refused before a row is read."""
        transaction = plain.begin()
        plain.end(transaction, commit=True)
        with pytest.raises(ducktower.InvalidArgument, match="transaction is unknown"):
            plain.ingest(Ingest(table="x", transaction_id=transaction, **MODES["create"]), small())

    def test_drop_and_create_in_one(self, engine: Engine, plain: Session) -> None:
        """What pandas does for `if_exists="replace"`: look, drop, create, fill, in one transaction."""
        plain.update("CREATE TABLE x AS SELECT 'old' AS other")
        transaction = plain.begin()
        plain.update("DROP TABLE x")
        assert plain.ingest(Ingest(table="x", **MODES["create"]), small()) == 3
        plain.end(transaction, commit=True)
        assert rows(engine.sessions.open(), "SELECT count(i) FROM x") == [(3,)]

    @pytest.mark.parametrize(
        "replace",
        [
            lambda engine: engine.execute("CREATE OR REPLACE TABLE x (v VARCHAR, i BIGINT)"),
            lambda engine: engine.execute("DROP TABLE x; CREATE TABLE x (v VARCHAR, i BIGINT)"),
            lambda engine: engine.put(
                Target("x", mode="replace"),
                pa.table({"v": pa.array([], pa.string()), "i": pa.array([], pa.int64())}).to_reader(),
            ),
            lambda engine: engine.sessions.open().update(
                "BEGIN; DROP TABLE x; CREATE TABLE x (v VARCHAR, i BIGINT); COMMIT"
            ),
            lambda engine: engine.sessions.open().update(
                "DROP TABLE IF EXISTS x; CREATE TABLE x AS SELECT 'b' AS v, 1 AS i LIMIT 0"
            ),
        ],
    )
    def test_values_by_position_after_a_change(self, engine: Engine, plain: Session, replace: Any) -> None:
        """An INSERT without names of columns means the table as it is, however it was changed."""
        plain.update("CREATE TABLE x (i BIGINT, v VARCHAR)")
        prepared = plain.prepare("INSERT INTO x VALUES (?, ?)")
        assert prepared.update(pa.table({"0": [1], "1": ["a"]})) == 1
        assert plain.update("INSERT INTO x VALUES (2, 'b')") == 1
        replace(engine)
        assert plain.update("INSERT INTO x VALUES ('1', 2)") == 1
        assert prepared.update(pa.table({"0": ["3"], "1": [4]})) == 1
        assert rows(plain, "SELECT v, i FROM x ORDER BY i") == [("1", 2), ("3", 4)]

    def test_small_writes_of_others_find_the_new_table(self, engine: Engine, plain: Session) -> None:
        """A table that was replaced in a transaction has other columns for everybody."""
        other = engine.sessions.open()
        plain.ingest(Ingest(table="x", **MODES["create"]), small())
        other.update("INSERT INTO x VALUES (9, 'z')")
        plain.begin()
        plain.ingest(Ingest(table="x", **MODES["replace"]), pa.table({"w": [1.5]}).to_reader())
        plain.update("COMMIT")
        other.update("INSERT INTO x VALUES (2.5)")
        assert rows(other, "FROM x") == [(1.5,), (2.5,)]


class TestClientsThatDie:
    """A client that dies half way leaves the table as it was."""

    @pytest.mark.parametrize("mode", ["append", "replace", "create_append"])
    @pytest.mark.parametrize("after", [0, 1, 4])
    @pytest.mark.parametrize("temporary", [False, True])
    def test_outside_a_transaction(
        self, engine: Engine, plain: Session, mode: str, after: int, temporary: bool
    ) -> None:
        """The end of its stream looks normal; its absence is noticed before COMMIT."""
        ingest = {"table": "x", "temporary": temporary}
        plain.ingest(Ingest(**ingest, **MODES["create"]), small())
        client = Leaves(after)
        with pytest.raises(ducktower.Cancelled):
            plain.ingest(Ingest(**ingest, **MODES[mode]), client.reader(batches(6)), client.caller())
        assert rows(plain, "SELECT count(*), max(v) FROM x") == [(3, "b")]

    def test_in_a_transaction(self, engine: Engine, plain: Session) -> None:
        """The transaction has failed and cannot be committed by accident."""
        plain.ingest(Ingest(table="x", **MODES["create"]), small())
        transaction = plain.begin()
        plain.update("INSERT INTO x VALUES (4, 'mine')")
        client = Leaves(2)
        with pytest.raises(ducktower.Cancelled):
            plain.ingest(Ingest(table="x", **MODES["append"]), client.reader(batches(6)), client.caller())
        with pytest.raises(ducktower.InvalidSQL, match="failed earlier"):
            plain.query("FROM x")
        with pytest.raises(ducktower.InvalidSQL, match="nothing was stored"):
            plain.end(transaction, commit=True)
        assert rows(engine.sessions.open(), "SELECT count(*) FROM x") == [(3,)]

    def test_a_stream_that_breaks(self, session: Session) -> None:
        """A failure of the source stores nothing and is told."""
        session.update("CREATE TABLE x (i BIGINT, v VARCHAR)")
        source = batches(4)

        def make() -> Iterator[Any]:
            yield source.read_next_batch()
            raise pa.ArrowInvalid("the stream broke")

        broken = pa.RecordBatchReader.from_batches(source.schema, make())
        with pytest.raises(ducktower.DucktowerError, match="broke"):
            session.ingest(Ingest(table="x", **MODES["append"]), broken)
        if not session.in_transaction:
            assert rows(session, "SELECT count(*) FROM x") == [(0,)]


def test_every_type_by_a_session_s_own_cursor(engine: Engine) -> None:
    """What a result gave goes into a table of its type, and makes one, within a transaction."""
    session = engine.sessions.open()
    for number, (kind, values) in enumerate(TYPES.items()):
        source, target, made = f"source_{number}", f"target_{number}", f"made_{number}"
        listed = ", ".join(f"(CAST({value} AS {kind}))" for value in [*values, "NULL"])
        session.update(f"CREATE TABLE {source} AS SELECT v FROM (VALUES {listed}) t(v)")
        session.update(f"CREATE TABLE {target} (v {kind}); BEGIN")
        for table, mode in ((target, "append"), (made, "create")):
            with session.query(f"FROM {source}").reader as reader:
                given = reader.read_all()
            assert session.ingest(Ingest(table=table, **MODES[mode]), given.to_reader()) == len(values) + 1
        session.update("COMMIT")
        wanted = rows(session, f"SELECT v::VARCHAR FROM {source}")
        assert rows(session, f"SELECT v::VARCHAR FROM {target}") == wanted, kind
        assert rows(session, f"SELECT count(v) FROM {made}") == [(len(values),)], kind


def test_what_a_variant_arrives_as_is_refused(session: Session) -> None:
    """DuckDB takes it for two fields of bytes; the value itself is taken."""
    session.update("CREATE TABLE variants (v VARIANT)")
    with session.query("SELECT 42::VARIANT AS v").reader as reader:
        given = reader.read_all()
    with pytest.raises(ducktower.SchemaMismatch, match=r'column "v": .*wanted VARIANT: send the value itself'):
        session.ingest(Ingest(table="variants", **MODES["append"]), given.to_reader())
