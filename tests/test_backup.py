"""Backups: consistent while writers go on, verified, complete or absent; and restored over nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.flight as flight
import pytest

import cli_support
import ducktower
from ducktower.cli.app import main
from ducktower.engine import Caller, Engine, Principal
from ducktower.engine.restore import restore
from support.engines import opened
from support.servers import ServerProcess
from support.waiting import until

MEMORY = 256 * 1024 * 1024
Start = Callable[..., ServerProcess]

EVERYTHING = """
CREATE TYPE mood AS ENUM ('glad', 'sad');
CREATE SEQUENCE counted START 7;
CREATE SCHEMA "odd ""schema";
CREATE TABLE "odd ""schema"."a table" (id INTEGER PRIMARY KEY, m mood, twice INTEGER AS (id * 2) VIRTUAL);
INSERT INTO "odd ""schema"."a table" SELECT i, 'glad' FROM range(10) r(i);
CREATE TABLE t (id BIGINT DEFAULT nextval('counted'), tags VARCHAR[], since TIMESTAMPTZ, CHECK (id > 0));
INSERT INTO t SELECT nextval('counted'), ['a', NULL], '2026-11-25 10:00:00+00' FROM range(1000);
CREATE INDEX by_id ON t (id);
CREATE VIEW v AS SELECT count(*) AS n FROM t;
CREATE MACRO plus_one(n) AS n + 1;
COMMENT ON TABLE t IS 'with a comment';
CREATE TABLE nothing (i INTEGER);
"""


def left_beside(database: Path) -> list[str]:
    """Return the names of files that a backup or restore made and did not take away."""
    return [path.name for path in database.parent.iterdir() if path.name.startswith(".")]


def is_locked(database: Path) -> bool:
    """Whether another process is refused the file: a server keeps it for itself, whatever was copied."""
    program = f"import duckdb; duckdb.connect({str(database)!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    return "Could not set lock on file" in done.stderr


class TestWhileWritersWrite:
    """One server in a process of its own, writers in threads, backups meanwhile."""

    def write(self, url: str, number: int, stop: threading.Event, commits: dict[int, dict[int, int]]) -> None:
        with ducktower.connect(url) as client:
            row = 0
            while not stop.is_set():
                if number % 2:
                    receipt = client.ingest("t", [{"writer": number, "i": row}])
                    commits[number][row] = receipt.commit
                    row += 1
                else:  # large enough for a transaction of its own, whose rows go to the file before its commit
                    rows = pa.table(
                        {"writer": pa.array([number] * 100_000, pa.int64()), "i": range(row, row + 100_000)}
                    )
                    receipt = client.ingest("t", rows)
                    row += 100_000
                    commits[number][row - 1] = receipt.commit

    def test_each_is_one_moment(self, start_server: Start, database: Path, tmp_path: Path) -> None:
        """Of every writer the first rows without a hole, all whose commit it names; the file stays locked."""
        server = start_server("--stream-cache-bytes-max", "0")
        stop = threading.Event()
        commits: dict[int, dict[int, int]] = {number: {} for number in range(3)}
        with ducktower.connect(server.url) as client:
            client.create_table("t", pa.schema([("writer", pa.int64()), ("i", pa.int64())]))
            threads = [threading.Thread(target=self.write, args=(server.url, n, stop, commits)) for n in range(3)]
            for thread in threads:
                thread.start()
            try:
                until(lambda: all(commits.values()), "a write of each")
                made = {name: client.backup(tmp_path / name) for name in ("one", "two")}
            finally:
                stop.set()
                for thread in threads:
                    thread.join()
            for name, backup in made.items():
                with duckdb.connect(str(tmp_path / name), read_only=True) as copy:
                    sql = "SELECT writer, count(*), count(DISTINCT i), max(i) FROM t GROUP BY ALL"
                    found = {writer: rest for writer, *rest in copy.execute(sql).fetchall()}
                assert sum(count for count, _, _ in found.values()) == backup.rows
                for writer, (count, different, last) in found.items():
                    assert count == different == last + 1
                    assert [i for i, commit in commits[writer].items() if commit <= backup.commit and i > last] == []
                assert not (tmp_path / f"{name}.wal").exists()
                assert (tmp_path / name).stat().st_size == backup.bytes
                assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
            assert len({backup.checksum for backup in made.values()}) == 2
            assert is_locked(database)
            for backup_of, target, force in ((tmp_path / "one", database, True), (database, tmp_path / "new", False)):
                with pytest.raises(ducktower.Unavailable, match="open in another process"):
                    restore(backup_of, target, MEMORY, force=force)
            written = sum(1 if number % 2 else 100_000 for number in commits for _ in commits[number])
            assert client.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [written]
            client.checkpoint()  # nothing holds checkpoints any more
        assert server.terminate() == 0
        assert left_beside(database) == []
        with duckdb.connect(str(database), read_only=True) as after:
            assert after.execute("SELECT count(*) FROM t").fetchall() == [(written,)]


def test_all_of_it_comes_back(database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Indexes, constraints, sequences, views, macros, comments and the ledger, by the commands; twice is the same."""
    with ducktower.serve(str(database)) as server, ducktower.connect(server.url) as client:
        client.execute(EVERYTHING)
        client.ingest("nothing", [{"i": 1}], writer="w", sequence=1)
        copy = tmp_path / "copy"
        assert main(["backup", str(copy), "--json", "--url", server.url]) == 0
        told = json.loads(capsys.readouterr().out)
        assert (told["rows"], told["tables"], told["bytes"]) == (1011, 3, copy.stat().st_size)
        assert client.backup(tmp_path / "again").checksum == told["checksum"]
        client.execute("UPDATE t SET tags = NULL WHERE id = 8")
        assert client.backup(tmp_path / "changed").checksum != told["checksum"]
        assert main(["backup", str(copy), "--url", server.url]) == 1
        assert "INVALID_ARGUMENT: " in (line := capsys.readouterr().err)
        assert "nothing is written over" in line
    back = tmp_path / "back.duckdb"
    assert main(["restore", str(copy), str(back), "--checksum", told["checksum"]]) == 0
    said = capsys.readouterr().out
    assert f"1,011 rows in 3 tables, {told['bytes']:,} bytes" in said
    with ducktower.serve(str(back)) as server, ducktower.connect(server.url) as client:
        assert client.query("SELECT n, plus_one(n) AS m FROM v").to_pylist() == [{"n": 1000, "m": 1001}]
        assert client.query("SELECT comment FROM duckdb_tables() WHERE table_name = 't'")["comment"].to_pylist() == [
            "with a comment"
        ]
        assert client.query('SELECT sum(twice) AS s FROM "odd ""schema"."a table"')["s"].to_pylist() == [90]
        assert client.query("SELECT index_name AS i FROM duckdb_indexes() ORDER BY ALL")["i"].to_pylist() == ["by_id"]
        assert client.execute("INSERT INTO t (since) VALUES (now()) RETURNING id").table["id"].to_pylist() == [1007]
        with pytest.raises(ducktower.ConstraintViolation):
            client.execute('INSERT INTO "odd ""schema"."a table" (id) VALUES (3)')
        with pytest.raises(ducktower.ConstraintViolation):
            client.execute("INSERT INTO t (id) VALUES (-1)")
        assert client.writer("w").sequence == 1


class TestRefused:
    """What is refused, with one clear error, leaves nothing behind."""

    @pytest.fixture
    def engine(self, database: Path) -> Any:
        with opened(database) as engine:
            engine.execute("CREATE TABLE t AS SELECT i, hash(i) AS h FROM range(300000) r(i)")
            engine.execute("CREATE TABLE z AS SELECT 1 AS i")
            yield engine

    def test_whoever_is_no_owner_of_all(self, engine: Engine) -> None:
        """A reader, a writer, and an owner of some tables alone."""
        for principal in (Principal("a", "reader"), Principal("a", "writer"), Principal("a", "owner", ("t",))):
            with pytest.raises(ducktower.Forbidden), engine.backups.sent(Caller(principal=principal)):
                pass

    def test_a_second_at_once(self, engine: Engine, database: Path) -> None:
        """OVERLOADED while one is made or sent; afterwards it is taken, and a checkpoint as well."""
        with engine.backups.sent() as (made, pieces):
            assert len(next(pieces)) < made.bytes
            with pytest.raises(ducktower.Overloaded, match="one is at a time"), engine.backups.sent():
                pass
            engine.checkpoint()  # held off while the snapshot is open, no longer while bytes are sent
        with engine.backups.sent() as (again, pieces):
            assert sum(map(len, pieces)) == again.bytes
        assert left_beside(database) == []

    def test_a_database_in_memory(self) -> None:
        """There is no file."""
        with (
            ducktower.serve() as server,
            ducktower.connect(server.url) as client,
            pytest.raises(ducktower.InvalidArgument, match="in memory"),
        ):
            client.backup("never")

    def test_no_room(self, database: Path) -> None:
        """What would leave less free than is kept free is not begun."""
        with opened(database, free_bytes_min=0) as engine:
            engine.execute("CREATE TABLE t AS SELECT 1 AS i")
        with (
            opened(database, free_bytes_min=2**60) as engine,
            pytest.raises(ducktower.Overloaded, match="bytes of free space"),
            engine.backups.sent(),
        ):
            pass
        assert left_beside(database) == []

    def test_a_copy_that_is_not_as_the_snapshot(self, engine: Engine, database: Path) -> None:
        """A copy damaged before it is looked at is dropped; the served database stays as it was."""
        engine.checkpoint()
        damaged = []

        def gone() -> bool:  # asked between the copy and the look at it
            for copy in database.parent.glob(".*/copy"):
                if not damaged and copy.stat().st_size == database.stat().st_size:
                    with copy.open("r+b") as file:
                        file.seek(copy.stat().st_size // 2)
                        file.write(b"\xff" * 100_000)
                    damaged.append(copy)
            return False

        with (
            pytest.raises(ducktower.DucktowerError, match="the backup was not made") as refused,
            engine.backups.sent(Caller(gone=gone)),
        ):
            pass
        assert damaged
        assert str(database.parent) not in str(refused.value)
        assert left_beside(database) == []
        assert engine.health()["status"] == "serving"
        assert engine.health()["fatal_errors"] == 0
        with engine.backups.sent() as (made, _):
            assert made.rows == 300_001

    def test_destinations(self, client: ducktower.FlightClient, tmp_path: Path) -> None:
        """A file that is there, a directory, one that is not: before anything is asked for."""
        (tmp_path / "there").write_text("mine")
        for path in (tmp_path / "there", tmp_path, tmp_path / "no" / "such"):
            with pytest.raises(ducktower.InvalidArgument):
                client.backup(path)
        assert (tmp_path / "there").read_text() == "mine"

    def test_arguments(self, raw: flight.FlightClient) -> None:
        """A client cannot say where on the server."""
        with pytest.raises(pa.ArrowInvalid, match="INVALID_ARGUMENT"):
            list(raw.do_action(flight.Action("backup", b'{"name": "x"}')))


class TestADiskThatIsFull:
    """A limit on the size of files is what a full disk is to whoever writes one."""

    def test_of_the_server_or_of_the_client(self, start_server: Start, database: Path, tmp_path: Path) -> None:
        """One error, no file on either side; later it works, and a kill in the middle leaves nothing for long."""
        import resource

        server = start_server()
        with ducktower.connect(server.url) as client:
            client.execute("CREATE TABLE t AS SELECT i, hash(i) AS h FROM range(2000000) r(i)")
            client.checkpoint()
            _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (4_000_000, hard))
            with pytest.raises(ducktower.Overloaded, match="disk is full"):
                client.backup(tmp_path / "copy")
            resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
            command = " ".join([*cli_support.COMMAND, "backup", str(tmp_path / "copy"), "--url", server.url])
            done = subprocess.run(
                ["bash", "-c", f"ulimit -f 4000; exec {command}"],
                capture_output=True,
                text=True,
                timeout=60,
                env=cli_support.environment(),
            )
            assert done.returncode == 1
            assert done.stderr.startswith("UNAVAILABLE: cannot write"), done.stderr
            assert not (tmp_path / "copy").exists()
            until(lambda: not left_beside(database), "the end of what was sent")
            assert client.backup(tmp_path / "copy").rows == 2_000_000
            assert left_beside(database) == []
            with flight.connect(server.url) as raw:
                stuck = raw.do_action(flight.Action("backup", b""))
                next(stuck)
                server.kill()
        assert left_beside(database) != []
        with opened(database):
            assert left_beside(database) == []  # what a kill left goes with the next start


def test_a_client_that_does_not_read_holds_up_nobody(start_server: Start, database: Path) -> None:
    """SIGTERM while a backup waits for its client: status 0, and nothing is left behind."""
    server = start_server("--drain-seconds", "0.5")
    with ducktower.connect(server.url) as client, flight.connect(server.url) as raw:
        client.execute("CREATE TABLE t AS SELECT i, hash(i) AS h FROM range(2000000) r(i)")
        stuck = raw.do_action(flight.Action("backup", b""))
        assert json.loads(next(stuck).body.to_pybytes())["rows"] == 2_000_000
        assert [call["kind"] for call in client.sessions()] == ["backup"]
        assert left_beside(database) != []
        assert server.terminate() == 0
    assert left_beside(database) == []


class TestRestore:
    """A backup in its place, over nothing."""

    @pytest.fixture
    def backup(self, tmp_path: Path) -> Path:
        path = tmp_path / "backup"
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE t AS SELECT i FROM range(50000) r(i)")
        return path

    @pytest.fixture
    def target(self, tmp_path: Path) -> Path:
        path = tmp_path / "there" / "db.duckdb"
        path.parent.mkdir()
        return path

    def rows(self, path: Path) -> int:
        with duckdb.connect(str(path), read_only=True) as connection:
            return int(connection.execute("SELECT count(*) FROM t").fetchall()[0][0])

    def test_what_was_there_is_kept(self, backup: Path, target: Path, start_server: Start) -> None:
        """Without --force it stays, with it it is put aside, its WAL beside it, and opens as it was."""
        copy = target.with_name("crashed")
        with duckdb.connect(str(copy)) as connection:
            connection.execute("CREATE TABLE t AS SELECT 1 AS i; CHECKPOINT; INSERT INTO t VALUES (2)")
            shutil.copy(copy, target)
            shutil.copy(f"{copy}.wal", f"{target}.wal")
        with pytest.raises(ducktower.InvalidArgument, match="--force"):
            restore(backup, target, MEMORY)
        done = restore(backup, target, MEMORY, force=True)
        assert self.rows(target) == 50_000 == done.rows
        assert not Path(f"{target}.wal").exists()
        old, log = done.aside
        assert str(log) == f"{old}.wal"
        assert self.rows(old) == 2
        assert self.rows(backup) == 50_000

    def test_a_stale_wal_is_not_replayed(self, backup: Path, target: Path) -> None:
        """A WAL without its database, of whatever it was, is put aside."""
        wal = Path(f"{target}.wal")
        wal.write_bytes(b"of another database")
        done = restore(backup, target, MEMORY)
        assert self.rows(target) == 50_000
        assert [path.read_bytes() for path in done.aside] == [b"of another database"]

    def test_a_database_that_is_served(self, backup: Path, database: Path) -> None:
        """By this process: it is not opened, not even to look, because that would unlock it."""
        with opened(database) as engine:
            with pytest.raises(ducktower.Unavailable, match="served by this process"):
                restore(backup, database, MEMORY, force=True)
            with pytest.raises(ducktower.Unavailable, match="served by this process"):
                restore(database, backup.with_name("new"), MEMORY)
            assert is_locked(database)
            assert engine.tables().num_rows == 0
        assert sorted(path.name for path in database.parent.glob("test.duckdb*")) == ["test.duckdb"]

    def test_what_is_no_good_backup(self, backup: Path, target: Path) -> None:
        """No file, no DuckDB file, a damaged one, another checksum, one with a WAL: nothing appears."""
        text = backup.with_name("text")
        text.write_text("hello, I am not a database at all, but quite some text")
        damaged = backup.with_name("damaged")
        raw = bytearray(backup.read_bytes())
        raw[len(raw) // 2] ^= 0xFF
        damaged.write_bytes(raw)
        cut = backup.with_name("cut")
        cut.write_bytes(backup.read_bytes()[:-200_000])
        unfinished = backup.with_name("unfinished")
        shutil.copy(backup, unfinished)
        Path(f"{unfinished}.wal").write_bytes(b"x")
        for path, why in (
            (backup.with_name("none"), "there is no file"),
            (backup.parent, "is a directory"),
            (text, "is no DuckDB database"),
            (damaged, "is damaged"),
            (cut, "is damaged"),
            (unfinished, "has a WAL beside it"),
        ):
            with pytest.raises(ducktower.InvalidArgument, match=why):
                restore(path, target, MEMORY)
        with pytest.raises(ducktower.InvalidArgument, match="has the checksum"):
            restore(backup, target, MEMORY, checksum="0" * 64)
        with pytest.raises(ducktower.InvalidArgument, match="same file"):
            restore(backup, backup, MEMORY, force=True)
        assert list(target.parent.iterdir()) == []


class TestByTheClock:
    """Backups that the server makes by itself."""

    def made(self, place: Path) -> list[Path]:
        return sorted(place.glob("test.duckdb-*.duckdb"))

    def test_missed_ones_are_made_and_old_ones_taken_away(self, database: Path, tmp_path: Path) -> None:
        """At the start when one is due, and not when none is; foreign files stay, whatever they look like."""
        place = tmp_path / "kept"
        settings: dict[str, Any] = {"backup_dir": str(place), "backup_every_seconds": 3600, "backups_kept_max": 2}
        with opened(database, **settings) as engine:
            until(lambda: "last_backup" in engine.health(), "the first backup")
        (first,) = self.made(place)
        with opened(database, **settings) as engine:
            assert engine.health()["last_backup"] == first.name[-23:-7]
        assert self.made(place) == [first]
        series = first.name[:-23]
        old = [place / f"{series}2024010{day}T000000Z.duckdb" for day in (1, 2, 3)]
        foreign = [
            place / name for name in ("test.duckdb-20240101T000000Z.duckdb", f"{series}mine.duckdb", "notes.txt")
        ]
        for path in (*old, *foreign):
            path.write_text("x")
        first.rename(place / f"{series}20240104T000000Z.duckdb")
        with opened(database, **settings) as engine:
            until(lambda: not engine.health()["last_backup"].startswith("2024"), "the missed backup")
            until(lambda: not old[2].exists(), "the end of the old ones")
            assert "last_backup_error" not in engine.health()
            assert engine.statistics()["last_backup"] == engine.health()["last_backup"]
        assert len([path for path in self.made(place) if path not in foreign]) == 2
        assert all(path.exists() for path in foreign)

    def test_they_follow_one_another_and_end_with_the_server(self, start_server: Start, database: Path) -> None:
        """`--backup-every 1s`: the second has what the first lacks; SIGTERM does not wait for the next."""
        server = start_server("--backup-every", "1s", "--backup-keep", "100")
        place = Path(f"{database}.backups")
        with ducktower.connect(server.url) as client:
            until(lambda: self.made(place), "the first backup")
            client.create_table("t", pa.schema([("i", pa.int64())]))
            count = len(self.made(place))
            until(lambda: len(self.made(place)) > count + 1, "a later one")
        assert server.terminate() == 0
        with duckdb.connect(str(self.made(place)[-1]), read_only=True) as copy:
            assert copy.execute("SHOW TABLES").fetchall() == [("t",)]
        assert "WARNING" not in server.stderr

    def test_a_failure_is_told(self, database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """In the log and in health; the server serves."""
        (tmp_path / "file").write_text("no directory")
        with opened(database, backup_dir=str(tmp_path / "file"), backup_every_seconds=3600) as engine:
            until(lambda: "last_backup_error" in engine.health(), "the failure")
            assert "UNAVAILABLE: the backup was not made" in engine.health()["last_backup_error"]
            assert engine.health()["status"] == "serving"
        assert "the scheduled backup failed" in caplog.text

    def test_settings(self, tmp_path: Path) -> None:
        """Without a file there is nothing to back up; SQL does not reach the directory."""
        with pytest.raises(ducktower.InvalidArgument, match="needs a database in a file"):
            ducktower.serve(backup_every_seconds=60)
        (tmp_path / "open" / "kept").mkdir(parents=True)
        with pytest.raises(ducktower.InvalidArgument, match="SQL must not reach"):
            ducktower.serve(
                str(tmp_path / "db"), allow_paths=(str(tmp_path / "open"),), backup_dir=str(tmp_path / "open" / "kept")
            )
        assert main(["serve", "--backup-every", "often"]) == 2
