"""Opening after a crash, a damaged WAL, and a disk that is nearly full: told, refused, and over when it is over."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import cli_support
import ducktower
from ducktower.engine import Target
from ducktower.engine.wal import commit_ends, look_through
from support.crashes import killed_in_a_checkpoint
from support.engines import batches, opened
from support.servers import ServerProcess, running
from support.waiting import until

MIB = 1024 * 1024
Start = Callable[..., ServerProcess]


def crashed(start: Start) -> None:
    """Leave a database and a WAL of 20 commits behind a server that was killed."""
    server = start()
    with ducktower.connect(server.url) as client:
        client.execute("CREATE TABLE t AS SELECT i FROM range(1000) r(i)")
        client.checkpoint()
        for number in range(20):
            client.ingest("t", [{"i": number}])
    server.kill()


def wal_of(database: Path) -> Path:
    """Return the path of its WAL."""
    return database.with_name(database.name + ".wal")


def test_an_opening_tells_what_it_found(start_server: Start, database: Path) -> None:
    """After kill -9 the log and health say how much was replayed; a torn end is kept, and no whole commit is lost."""
    crashed(start_server)
    wal = wal_of(database)
    size = wal.stat().st_size
    os.truncate(wal, size - 3)  # the last commit, torn in the middle
    torn = wal.read_bytes()
    server = start_server()
    with ducktower.connect(server.url) as client:
        health = client.health()
        assert health["replayed_commits"] == 19
        assert health["replayed_bytes"] + health["torn_bytes"] == size - 3
        assert health["torn_bytes"] > 0
        assert health["open_seconds"] > 0
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 1019}]
        assert client.statistics()["replayed_commits"] == 19
    (kept,) = database.parent.glob("*.wal.torn-*")
    assert kept.read_bytes() == torn
    assert f"the WAL had {size - 3} bytes, 19 commits" in server.stderr
    assert str(kept) in server.stderr


def test_an_opening_after_a_kill_in_a_checkpoint(start_server: Start, database: Path) -> None:
    """There are two WALs then, both are looked through; a torn end of the second is kept, and is not of the first."""
    side = killed_in_a_checkpoint(database)
    commits = {path: look_through(path).commits for path in (wal_of(database), side)}
    assert min(commits.values()) > 0
    os.truncate(side, commit_ends(side)[-1])
    whole = wal_of(database).stat().st_size + side.stat().st_size
    with side.open("ab") as file:
        file.write(b"\x10" + bytes(20))
    torn = side.read_bytes()
    server = start_server()
    with ducktower.connect(server.url) as client:
        health = client.health()
        assert (health["replayed_commits"], health["replayed_bytes"], health["torn_bytes"]) == (
            *(sum(commits.values()), whole),
            21,
        )
        (found,) = client.query("SELECT count(*) AS n, max(i) AS m FROM t").to_pylist()
        assert found["n"] == found["m"] + 2  # each from -1 on, without a hole
    (kept,) = database.parent.glob("*.wal.torn-*-checkpoint")
    assert kept.read_bytes() == torn
    assert str(kept) in server.stderr


@pytest.mark.parametrize("where", ["head", "middle"])
def test_a_damaged_wal_is_never_lost(start_server: Start, database: Path, where: str) -> None:
    """With its head gone DuckDB would drop all of it, and deletes it later: it is kept. In the middle: refused."""
    crashed(start_server)
    wal = wal_of(database)
    damaged = bytearray(wal.read_bytes())
    at = 4 if where == "head" else damaged.index(b"\x64\x00\x64\xff\xff", len(damaged) // 2) + 1
    damaged[at : at + 4] = bytes(byte ^ 0xFF for byte in damaged[at : at + 4])
    wal.write_bytes(damaged)
    if where == "head":
        with opened(database) as engine:
            assert engine.health()["replayed_commits"] == 0
        (kept,) = database.parent.glob("*.wal.torn-*")
        assert kept.read_bytes() == damaged
    else:
        with pytest.raises(AssertionError, match=r"INTERNAL: cannot open database .*`ducktower recover "):
            start_server()
        assert wal.read_bytes() == damaged


def test_a_file_without_its_head_is_told_what_helps(start_server: Start, database: Path) -> None:
    """It is no database any more, but was one: the error says so, and nothing is changed by the server or `recover`."""
    crashed(start_server)
    database.write_bytes(bytes(4_096) + database.read_bytes()[4_096:])
    before = [path.read_bytes() for path in (database, wal_of(database))]
    for command in ("serve", "recover"):
        line = cli_support.fails(command, str(database), code="INVALID_ARGUMENT")
        assert "is no DuckDB database any more" in line
        assert "`ducktower restore` of a backup helps" in line
    assert [path.read_bytes() for path in (database, wal_of(database))] == before


def test_a_wal_whose_file_is_gone_is_never_lost(start_server: Start, database: Path) -> None:
    """DuckDB would delete it and begin with an empty file: it is refused, and all is there when the file is back."""
    crashed(start_server)
    wal, away = wal_of(database), database.with_name("away")
    before = wal.read_bytes()
    database.rename(away)
    with pytest.raises(AssertionError, match=r"INVALID_ARGUMENT: .*is not there, but its WAL .*with 20 commits"):
        start_server()
    assert wal.read_bytes() == before
    assert not database.exists()
    away.rename(database)
    with ducktower.connect(start_server().url) as client:
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 1020}]


def test_by_a_link_it_is_the_same_database(start_server: Start, database: Path, tmp_path: Path) -> None:
    """Its WAL is beside the file, not the link: it is replayed whoever opens it next, and by which name."""
    link = tmp_path / "links" / "other.duckdb"
    link.parent.mkdir()
    link.symlink_to(database)
    with (
        running(link, tmp_path / "server.log") as server,
        ducktower.connect(server.url) as client,
    ):
        client.ingest("t", [{"i": 1}], mode="create")
        server.kill()
    assert list(link.parent.iterdir()) == [link]
    with ducktower.connect(start_server().url) as client:
        assert client.query("FROM t").to_pylist() == [{"i": 1}]


def test_a_wal_beside_a_link_is_not_passed_over(database: Path, tmp_path: Path) -> None:
    """Another program may have left one there: neither a server nor `recover` nor `restore` goes on without it."""
    backup, link = tmp_path / "backup.duckdb", tmp_path / "link.duckdb"
    duckdb.connect(str(backup)).close()
    link.symlink_to(database)  # which is not there yet: later DuckDB itself follows the link
    program = """
import duckdb, os, sys
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE t (i INTEGER)")
connection.execute("INSERT INTO t VALUES (1)")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", program, str(link)], check=True)
    log = wal_of(link)
    before = log.read_bytes()
    assert not wal_of(database).exists()
    for arguments in (["serve", str(link)], ["recover", str(link)], ["restore", str(backup), str(link), "--force"]):
        line = cli_support.fails(*arguments, code="INVALID_ARGUMENT")
        assert f'move that WAL to "{wal_of(database)}"' in line
    assert log.read_bytes() == before
    log.rename(wal_of(database))
    with ducktower.serve(str(link)) as server, ducktower.connect(server.url) as client:
        assert client.query("FROM t").to_pylist() == [{"i": 1}]


def test_writes_are_refused_while_the_disk_is_nearly_full(database: Path) -> None:
    """Every kind of write is refused, an upload under way stopped, reads and DROP go on; then it is over by itself."""
    disk = os.statvfs(database.parent)
    enough = disk.f_bavail * disk.f_frsize - 192 * MIB
    if enough < 512 * MIB:
        pytest.skip("the disk of the tests is too full to make it fuller")
    ballast = database.with_name("ballast")
    with (
        ducktower.serve(str(database), free_bytes_min=enough, disk_look_seconds=0.01) as server,
        ducktower.connect(server.url, retry_seconds=0.01) as client,
    ):
        client.ingest("t", [{"i": 1}], mode="create")
        client.ingest("other", [{"i": 1}], mode="create")
        filled = threading.Event()

        def rows() -> Iterator[pa.RecordBatch]:
            yield pa.record_batch({"i": pa.array(range(500_000))})
            filled.wait(30)
            for _ in range(20_000):
                yield pa.record_batch({"i": pa.array(range(1_000))})

        uploading: list[ducktower.DucktowerError] = []

        def upload() -> None:
            try:
                client.ingest("t", pa.RecordBatchReader.from_batches(pa.schema([("i", pa.int64())]), rows()))
            except ducktower.DucktowerError as error:
                uploading.append(error)

        thread = threading.Thread(target=upload)
        thread.start()
        until(lambda: any(call["kind"] == "upload" for call in client.sessions()), "the upload")
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 512 * MIB)
        until(lambda: "warnings" in client.health(), "the warning")
        filled.set()
        thread.join(30)
        assert [error.code for error in uploading] == ["OVERLOADED"]
        large = pa.table({"i": range(500_000)})
        for write in (
            lambda: client.ingest("t", [{"i": 2}]),
            lambda: client.ingest("t", large),
            lambda: client.execute("INSERT INTO t VALUES (3)"),
            lambda: client.execute("CREATE TABLE u AS FROM t"),
        ):
            with pytest.raises(ducktower.Overloaded, match="the disk is nearly full"):
                write()
        with client.appender("t") as appender, pytest.raises(ducktower.Overloaded, match="nearly full"):
            appender.append({"i": 4}).result(30)
        assert client.query("SELECT count(*) AS n FROM t").to_pylist() == [{"n": 1}]
        client.execute("DROP TABLE other")
        client.checkpoint()
        ballast.unlink()
        until(lambda: "warnings" not in client.health(), "the end of the warning")
        assert client.ingest("t", large).rows == 500_000


def test_a_large_wal_is_warned_of(database: Path) -> None:
    """Past `wal_warn_bytes` health warns, and no more after a checkpoint."""
    with opened(database, wal_warn_bytes=2_000, disk_look_seconds=0.01) as engine:
        engine.execute("CREATE TABLE t (i BIGINT, v VARCHAR)")
        with engine.read("FROM t") as reader:
            reader.read_all()
        engine.put(Target("t"), batches(1))
        warned = until(lambda: engine.health().get("warnings"), "the warning")
        assert warned is not None
        assert "the WAL has" in warned[0]
        assert engine.health()["wal_bytes"] > 2_000
        engine.checkpoint()
        until(lambda: "warnings" not in engine.health(), "its end")


def test_a_server_tells_of_its_wal(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its size is what the file has, in both actions, and the warning is in the log as in health, also its end."""
    with (
        ducktower.serve(
            str(database), wal_warn_bytes=2_000, wal_checkpoint_bytes=None, disk_look_seconds=0.01
        ) as server,
        ducktower.connect(server.url) as client,
    ):
        client.execute("CREATE TABLE t (i BIGINT)")
        while wal_of(database).stat().st_size <= 2_000:
            client.ingest("t", [{"i": 1}])
        size = wal_of(database).stat().st_size
        until(lambda: client.health()["wal_bytes"] == size, "the size")
        assert client.statistics()["wal_bytes"] == size
        (warning,) = client.health()["warnings"]
        assert warning.startswith("the WAL has ")
        assert "the WAL has " in caplog.text
        client.checkpoint()
        until(lambda: client.health()["wal_bytes"] == 0, "the checkpoint")
        assert "warnings" not in client.health()
        assert client.statistics()["wal_bytes"] == 0
        assert "the WAL is small again" in caplog.text
