"""A damaged database: copied first, tried on the copy, what is lost is told, and the originals stay."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import psutil
import pytest

import cli_support
import ducktower
from ducktower.cli.app import main
from ducktower.engine.recover import recover
from ducktower.engine.salvage import Salvage
from ducktower.engine.wal import look_through, wal_path
from support.crashes import killed_in_a_checkpoint
from support.engines import opened

COMMITS = 20
COMMIT = b"\x64\x00\x64\xff\xff"
ROWS = 250_000

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with a database and the WAL of 20 commits, as a kill leaves them."""
    place = tmp_path_factory.mktemp("crashed")
    original = place / "original.duckdb"
    with duckdb.connect(str(original)) as connection:
        connection.execute(f"""
            CREATE TYPE mood AS ENUM ('glad', 'sad');
            CREATE SEQUENCE counted;
            CREATE TABLE large AS SELECT i, hash(i) AS h FROM range({ROWS}) r(i);
            CREATE TABLE parent (id INTEGER PRIMARY KEY, m mood, twice INTEGER AS (id * 2) VIRTUAL);
            CREATE TABLE child (id INTEGER REFERENCES parent (id));
            INSERT INTO parent SELECT i, 'glad' FROM range(10) r(i);
            INSERT INTO child SELECT i FROM range(10) r(i);
            CREATE INDEX by_i ON large (i);
            CREATE VIEW v AS SELECT count(*) AS n FROM parent;
            CREATE TABLE small (i INTEGER);
            CHECKPOINT;
        """)
        for number in range(COMMITS):
            connection.execute(f"INSERT INTO small VALUES ({number})")
        for suffix in ("", ".wal"):
            shutil.copy(f"{original}{suffix}", place / f"db.duckdb{suffix}")
    return place


@pytest.fixture(scope="module")
def salvage() -> Iterator[Salvage]:
    """Return a process that reads damaged files, for all tests of this module."""
    with Salvage() as process:
        yield process


@pytest.fixture
def damaged(crashed: Path, tmp_path: Path) -> Path:
    """Return a database that may be damaged, a copy of that."""
    for suffix in ("", ".wal"):
        shutil.copy(crashed / f"db.duckdb{suffix}", tmp_path / f"db.duckdb{suffix}")
    return tmp_path / "db.duckdb"


def flip(path: Path, at: int, count: int = 1) -> None:
    """Invert bytes of a file."""
    raw = bytearray(path.read_bytes())
    raw[at : at + count] = bytes(byte ^ 0xFF for byte in raw[at : at + count])
    path.write_bytes(raw)


def files_of(database: Path) -> Files:
    """Return the database and its WAL."""
    return {path.name: path.read_bytes() for path in sorted(database.parent.glob("db.duckdb*")) if path.is_file()}


@pytest.fixture
def untouched(damaged: Path) -> Iterator[None]:
    """Look, after a test that asks for it, whether the originals are as they were when it called `recover`."""
    yield
    copies = next(damaged.parent.glob("db.duckdb.recover-*"))
    for name, raw in files_of(damaged).items():
        assert (copies / name.replace("db.duckdb", "original")).read_bytes() == raw


def rows(database: Path, table: str) -> int:
    """Count, as DuckDB does."""
    with duckdb.connect(str(database), read_only=True) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])


def behind_commits(raw: bytes, count: int) -> int:
    """Return where a WAL goes on behind its first commits."""
    at = 0
    for _ in range(count):
        at = raw.index(COMMIT, at) + len(COMMIT)
    return at


@pytest.mark.usefixtures("untouched")
class TestTheLog:
    """What is wrong is the WAL."""

    def test_nothing_is_wrong(self, damaged: Path, salvage: Salvage) -> None:
        """All of it is there, in one file."""
        done = recover(damaged, salvage)
        assert done.lost == ()
        assert {table.name: table.rows for table in done.salvaged.tables} == {
            "child": 10,
            "large": ROWS,
            "parent": 10,
            "small": COMMITS,
        }
        assert rows(done.path, "small") == COMMITS
        assert not Path(f"{done.path}.wal").exists()

    def test_torn(self, damaged: Path, salvage: Salvage) -> None:
        """Whole commits are there, the torn one is told."""
        wal = Path(f"{damaged}.wal")
        os.truncate(wal, wal.stat().st_size - 3)
        done = recover(damaged, salvage)
        assert rows(done.path, "small") == COMMITS - 1
        assert ["no whole commit" in line for line in done.lost] == [True]

    def test_damaged_in_the_middle(self, damaged: Path, salvage: Salvage) -> None:
        """DuckDB refuses all of it; the commits before the damage are recovered all the same."""
        wal = Path(f"{damaged}.wal")
        at = behind_commits(wal.read_bytes(), 13)
        flip(wal, at + 20)  # within the 14th
        with pytest.raises(ducktower.InternalError, match="`ducktower recover "), opened(damaged):
            pass
        said: list[str] = []
        done = recover(damaged, salvage, tell=said.append)
        assert rows(done.path, "small") == 13
        assert done.lost == (f"the last {COMMITS - 13} of {COMMITS} commits in the WAL",)
        assert said[-1] == f"it opens with the first 13 of the {COMMITS} commits of its WAL"

    def test_damaged_where_an_entry_says_how_long_it_is(self, damaged: Path, salvage: Salvage) -> None:
        """What is behind cannot be counted any more: it is told as bytes, and not as no commits."""
        wal = Path(f"{damaged}.wal")
        raw = wal.read_bytes()
        at = behind_commits(raw, 13)
        wal.write_bytes(raw[:at] + b"GARBAGEGARBAGE" + raw[at + 14 :])
        done = recover(damaged, salvage)
        assert rows(done.path, "small") == 13
        (lost,) = done.lost
        assert lost.startswith(f"{len(raw) - at} bytes of the WAL ")

    def test_of_another_database(self, damaged: Path, salvage: Salvage, tmp_path: Path) -> None:
        """It opens as of its last checkpoint, and what the WAL had is told as lost."""
        other = tmp_path / "other"
        with duckdb.connect(str(other)) as connection:
            connection.execute("CREATE TABLE small (i INTEGER); CHECKPOINT; INSERT INTO small VALUES (1), (2)")
            shutil.copy(f"{other}.wal", f"{damaged}.wal")
        done = recover(damaged, salvage)
        assert rows(done.path, "small") == 0
        assert done.lost == ("the WAL, with 1 commits",)

    def test_of_an_older_state(self, damaged: Path, salvage: Salvage) -> None:
        """DuckDB refuses a WAL from before the file's last checkpoint: what it had is told, too."""
        wal = Path(f"{damaged}.wal")
        before = wal.read_bytes()
        duckdb.connect(str(damaged)).close()  # which writes it into the file
        wal.write_bytes(before)
        done = recover(damaged, salvage)
        assert rows(done.path, "small") == COMMITS
        assert done.lost == (f"the WAL, with {COMMITS} commits",)


class TestTwoLogs:
    """A kill in the midst of a checkpoint leaves a second WAL, of the commits beside it."""

    def test_nothing_is_wrong(self, tmp_path: Path, salvage: Salvage) -> None:
        """Both are replayed."""
        database = tmp_path / "db.duckdb"
        side = killed_in_a_checkpoint(database)
        done = recover(database, salvage)
        assert not [line for line in done.lost if "no whole commit" not in line]
        with duckdb.connect(str(done.path), read_only=True) as connection:
            ((count, last),) = connection.execute("SELECT count(*), max(i) FROM t").fetchall()
        assert count == last + 2
        assert count > look_through(side).commits > 0
        with duckdb.connect(str(database), read_only=False) as connection:  # what DuckDB makes of the originals
            assert connection.execute("SELECT count(*), max(i) FROM t").fetchall() == [(count, last)]

    def test_the_second_is_damaged(self, tmp_path: Path, salvage: Salvage) -> None:
        """All of the first is recovered, and the other is told as lost."""
        database = tmp_path / "db.duckdb"
        side = killed_in_a_checkpoint(database)
        commits = look_through(wal_path(str(database))).commits
        flip(side, 4, 8)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(ducktower.InternalError, match="`ducktower recover "), opened(database):
            pass
        said: list[str] = []
        done = recover(database, salvage, tell=said.append)
        assert said[-1] == f"it opens with the first {commits} of the {commits} commits of its WAL"
        assert [line for line in done.lost if "beside a checkpoint" in line]
        with duckdb.connect(str(done.path), read_only=True) as connection:
            ((count, last),) = connection.execute("SELECT count(*), max(i) FROM t").fetchall()
        assert count == last + 2
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name in before} == before


@pytest.mark.usefixtures("untouched")
class TestTheFile:
    """What is wrong is the file."""

    def block_of(self, database: Path, table: str) -> int:
        with duckdb.connect(str(database), read_only=True) as connection:
            blocks = f"pragma_storage_info('{table}') WHERE block_id > 0 AND segment_type != 'VALIDITY'"
            sql = f"SELECT max(block_id) FROM {blocks}"
            (block,) = connection.execute(sql).fetchall()[0]
        return 3 * 4096 + block * 262_144

    def test_a_damaged_block(self, damaged: Path, salvage: Salvage) -> None:
        """The rows in it are lost and counted, all others are in a new file, with what belongs to them."""
        flip(damaged, self.block_of(damaged, "large") + 1_000)
        with pytest.raises(duckdb.Error, match="Corrupt"):
            duckdb.connect(str(damaged), read_only=True).execute("SELECT sum(hash(i, h)) FROM large").fetchall()
        done = recover(damaged, salvage)
        (large,) = (table for table in done.salvaged.tables if table.name == "large")
        assert 0 < large.lost_rows < ROWS
        assert large.rows + large.lost_rows == ROWS
        assert rows(done.path, "large") == large.rows
        assert rows(done.path, "small") == COMMITS
        assert [line.split(":")[0] for line in done.lost] == [f'{large.lost_rows} rows of table "large"']
        with duckdb.connect(str(done.path)) as connection:
            assert connection.execute("SELECT sum(h = hash(i)) = count(*) FROM large").fetchall() == [(True,)]
            assert connection.execute("SELECT n FROM v").fetchall() == [(10,)]
            assert connection.execute("SELECT sum(twice) FROM parent").fetchall() == [(90,)]
            assert connection.execute("SELECT index_name FROM duckdb_indexes()").fetchall() == [("by_i",)]
            with pytest.raises(duckdb.ConstraintException):
                connection.execute("INSERT INTO child VALUES (77)")

    def test_nothing_can_be_read(self, damaged: Path, salvage: Salvage) -> None:
        """Half of it is gone, and with it what says where tables are: one error, which says where the copies are."""
        os.truncate(damaged, damaged.stat().st_size // 8)
        with pytest.raises(ducktower.InvalidArgument, match="a backup is what helps"):
            recover(damaged, salvage)


class TestInPlace:
    """The result where the database was, by the command."""

    def test_the_originals_are_kept(self, damaged: Path, salvage: Salvage, capsys: pytest.CaptureFixture[str]) -> None:
        """A server opens what was recovered; the originals are there twice."""
        Path(f"{damaged}.wal.torn-20260101T000000").write_bytes(Path(f"{damaged}.wal").read_bytes())
        flip(Path(f"{damaged}.wal"), 150)
        before = files_of(damaged)
        assert main(["recover", str(damaged), "--in-place", "--json"]) == 0
        said = capsys.readouterr()
        done = json.loads(said.out)
        assert "it opens " in said.err
        assert done["recovered"] == str(damaged)
        assert [one["commits"] for one in done["torn"]] == [COMMITS]
        assert [Path(path).read_bytes() for path in done["aside"]] == [before["db.duckdb"], before["db.duckdb.wal"]]
        assert done["lost"]
        with opened(damaged) as engine:
            assert engine.health()["replayed_commits"] == 0
        assert recover(damaged, salvage).lost == ()

    def test_what_is_served_or_is_none(self, damaged: Path, salvage: Salvage, tmp_path: Path) -> None:
        """Neither is touched."""
        with opened(damaged) as engine:
            with pytest.raises(ducktower.Unavailable, match="served by this process"):
                recover(damaged, salvage)
            assert engine.health()["status"] == "serving"
        with duckdb.connect(str(damaged)):
            line = cli_support.fails("recover", str(damaged), code="UNAVAILABLE")
            assert "open in another process" in line
        for path in (tmp_path / "none", tmp_path):
            with pytest.raises(ducktower.InvalidArgument):
                recover(path, salvage)
        assert list(tmp_path.glob("*.recover-*")) == []


def test_a_process_that_ends_is_an_answer(damaged: Path, salvage: Salvage) -> None:
    """When DuckDB takes its process down, that attempt has failed, and the next one has a new process."""
    assert salvage.opens(damaged).error == ""
    (process,) = (one for one in psutil.Process().children() if "ducktower.engine.salvage" in one.cmdline())
    process.kill()
    assert salvage.look(damaged).error == "DuckDB ended with status -9"
    assert salvage.look(damaged).whole


def test_what_takes_long_draws_nothing(damaged: Path) -> None:
    """DuckDB would show a progress bar on stdout after two seconds, where the process answers and commands print."""
    program = """
import sys
from pathlib import Path
from ducktower.engine.database import opened_apart
with opened_apart(Path(sys.argv[1])) as connection:
    slow = "levenshtein(repeat('a', 40000), repeat('b', 40000 + i))"
    connection.execute(f"SELECT {slow} FROM small WHERE i = 1").fetchall()
    assert connection.execute("SELECT current_setting('enable_progress_bar')").fetchall() == [(False,)]
"""
    done = subprocess.run([sys.executable, "-c", program, str(damaged)], capture_output=True, check=True)
    assert done.stdout == b""
