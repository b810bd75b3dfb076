"""Backups: one consistent, verified copy of the database while writers go on.

A copy is the database's file and the WAL as they are at one moment: the same as after a loss of power, which DuckDB
knows how to open. It is complete: indexes, sequences, comments and what else no statement copies. Only checkpoints wait
for it, since nothing else changes blocks of the file that are in use.

Owns the moment of a copy, what makes a copy good, and the room in which it is made. Must never leave a file behind that
was not verified, and never write where a client says: a client is sent the bytes.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from .. import cores
from ..config import EngineConfig
from ..errors import Conflict, Forbidden, InternalError, InvalidArgument, Overloaded, Unavailable
from .calls import Call, Caller
from .database import Database, opened_apart
from .failures import first_line, without_paths
from .file_copies import PIECE_BYTES, copy_file, sync, told_of_disk
from .fingerprints import Fingerprint, fingerprint
from .guard import who
from .inserts import quoted
from .leasing import Cursors
from .wal import wal_bytes, wal_path

__all__ = ["SCHEDULED", "Backup", "Backups"]

SCHEDULED = "scheduled backup"
_MOMENT_TRIES = 10_000
_MOMENT_PAUSE_SECONDS = 0.0005
_CLOSE_WAIT_SECONDS = 5.0
_AGAIN_SECONDS = 1.0
_NOT_MADE = "the backup was not made"


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """What a backup holds. `checksum` is of the contents, in whatever order the rows are."""

    rows: int
    tables: int
    bytes: int
    seconds: float
    checksum: str
    commit: int
    """Every commit up to this one is in it, counted as receipts count them."""

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for the wire."""
        return asdict(self)


class Backups:
    """Makes one backup at a time. Safe from any thread."""

    def __init__(self, config: EngineConfig, database: Database, cursors: Cursors, commit: Callable[[], int]) -> None:
        """`commit` gives the number of the last commit."""
        self._config = config
        self._database = database
        self._cursors = cursors
        self._commit = commit
        self._one = threading.Lock()  # held while one is made and sent
        self.place = _place(config)
        """Where they are made, and where those of the clock are kept."""
        self._room = f".{os.path.basename(config.database)}.backup-"
        self._clean()

    @property
    def busy(self) -> bool:
        """Whether one is being made or sent."""
        return self._one.locked()

    @contextlib.contextmanager
    def sent(self, caller: Caller | None = None) -> Iterator[tuple[Backup, Iterator[bytes]]]:
        """Make a backup for its client: what it is, and its bytes in pieces. It is gone from here afterwards.

        Raises Forbidden for all but owners of all tables, InvalidArgument for a database in memory, Overloaded while
        another is made or when the disk has no room for it, Unavailable when it failed, Conflict when a checkpoint came
        between.
        """
        who(caller).require("owner", "make a backup")
        if who(caller).limited:
            raise Forbidden("a token that is limited to some tables may not make a backup")
        with self.made("backup", caller) as (made, path, call):
            yield made, _pieces(path, call)

    @contextlib.contextmanager
    def made(self, kind: str, caller: Caller | None = None) -> Iterator[tuple[Backup, Path, Call]]:
        """Make a backup: what it is, where it is until the block ends, and the call that it is. Raises as `sent`."""
        if not self._one.acquire(blocking=False):
            raise Overloaded(
                "another backup is being made or sent; one is at a time", retry_after_seconds=_AGAIN_SECONDS
            )
        try:
            with told_of_disk(_NOT_MADE):
                self._check_place()
                with (
                    tempfile.TemporaryDirectory(prefix=self._room, dir=self.place) as room,
                    self._made(kind, Path(room) / "copy", caller) as (made, path, call),
                ):
                    yield made, path, call
        finally:
            self._one.release()

    def close(self) -> None:
        """Wait for what was asked to end, and leave nothing of it behind."""
        if self._one.acquire(timeout=_CLOSE_WAIT_SECONDS):
            self._one.release()
        self._clean()

    # -- within ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _made(self, kind: str, path: Path, caller: Caller | None) -> Iterator[tuple[Backup, Path, Call]]:
        cores.roam()
        started = time.monotonic()
        lease = self._database.lease("internal")
        work = _Interruptible(lease.interrupt)
        call = self._cursors.start(kind, "", caller, work.interrupt)
        try:
            with self._cursors.translated(kind, call), told_of_disk(_NOT_MADE):
                commit, snapshot = self._copy(lease.cursor, path, call)
            # The snapshot ends before the copy is looked at and sent: it keeps old rows alive, and checkpoints away.
            lease.close()
            with _told_of_copy(call), told_of_disk(_NOT_MADE):
                found = self._finished(path, call, work)
            if found != snapshot:
                where = snapshot.difference(found)
                raise InternalError(f"{_NOT_MADE}: {where} is not in the copy as it is in the database")
            made = Backup(
                rows=found.rows,
                tables=found.tables,
                bytes=path.stat().st_size,
                seconds=round(time.monotonic() - started, 3),
                checksum=found.checksum,
                commit=commit,
            )
            yield made, path, call
        finally:
            self._cursors.calls.finish(call)
            lease.close()

    def _copy(self, cursor: Any, path: Path, call: Call) -> tuple[int, Fingerprint]:
        """Copy the database as the cursor's transaction sees it; return the last commit and what is to be found."""
        wal = wal_path(self._config.database)
        file = self._database.descriptor()
        with self._database.without_checkpoints():
            commit, log_bytes = self._moment(cursor, wal, call)
        before = self._database.checkpoints_written()
        copy_file(file, path, os.fstat(file).st_size, call.check)
        if log_bytes:
            with wal.open("rb") as source:  # DuckDB locks the database's file alone, so this may be closed
                copy_file(source.fileno(), wal_path(str(path)), log_bytes, call.check)
        if self._database.checkpoints_written() != before:
            raise Conflict(f"{_NOT_MADE}: a checkpoint was written in the middle of it; try again")
        with self._cursors.cache.streaming():
            return commit, fingerprint(cursor, call.check)

    def _moment(self, cursor: Any, wal: Path, call: Call) -> tuple[int, int]:
        """Begin a snapshot; return the last commit before it, and how much of the WAL belongs to it.

        A transaction begins under the lock under which commits reach the WAL: as long as that did not grow meanwhile,
        the snapshot sees what is in it, and no more. And as long as a transaction may have changed definitions, DuckDB
        writes no checkpoint, by itself or on demand: so this one makes a schema that nobody will see.
        """
        making = f"CREATE SCHEMA {quoted(f'__ducktower_{secrets.token_hex(8)}')}"
        for _ in range(_MOMENT_TRIES):
            call.check()
            commit = self._commit()
            before = _size(wal)
            cursor.execute("BEGIN TRANSACTION")
            cursor.execute(making)
            if _size(wal) == before == wal_bytes(self._config.database):
                return commit, before
            cursor.execute("ROLLBACK")
            time.sleep(_MOMENT_PAUSE_SECONDS)
        raise Overloaded(
            f"{_NOT_MADE}: commits came too fast to find a moment between two; try again",
            retry_after_seconds=_AGAIN_SECONDS,
        )

    def _finished(self, path: Path, call: Call, work: _Interruptible) -> Fingerprint:
        """Make one file of the copy and its WAL; open it anew and return what is in it."""
        memory = self._config.backup_memory_bytes_max
        with work.on(opened_apart(path, memory, writable=True)) as whole:  # reads the WAL, as after a crash
            whole.execute("CHECKPOINT")
        if wal_path(str(path)).exists():
            raise InternalError(f"{_NOT_MADE}: the copy's WAL could not be written into its file")
        sync(path)
        with work.on(opened_apart(path, memory)) as copy:
            return fingerprint(copy, call.check)

    def _check_place(self) -> None:
        """Raise when there cannot be a copy, or no room for it; take away what a crash left."""
        database = self._config.database
        if database == ":memory:":
            raise InvalidArgument("a database in memory has no file to copy; serve a file to have backups")
        self.place.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._clean()
        wanted = os.path.getsize(database) + wal_bytes(database) + self._config.free_bytes_min
        disk = os.statvfs(self.place)
        if (free := disk.f_bavail * disk.f_frsize) < wanted:
            raise Overloaded(
                f"{_NOT_MADE}: it needs {wanted} bytes of free space on the server's disk, there are {free}",
                retry_after_seconds=_AGAIN_SECONDS,
            )

    def _clean(self) -> None:
        """Take away the rooms of backups that are made no more: one is made at a time, by the one who has the file."""
        if self._config.database != ":memory:":
            for left in self.place.glob(f"{glob.escape(self._room)}*"):
                shutil.rmtree(left, ignore_errors=True)


class _Interruptible:
    """What a backup's call is ended by: the snapshot's cursor, and the copy's connection once there is one."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self._interrupt = interrupt
        self._lock = threading.Lock()  # guards _copy
        self._copy: Any = None

    def interrupt(self) -> None:
        """Stop what runs on either; from any thread."""
        self._interrupt()
        with self._lock:
            if self._copy is not None:
                self._copy.interrupt()

    @contextlib.contextmanager
    def on(self, copy: Any) -> Iterator[Any]:
        """Have the copy's connection interrupted, too, until the block ends, which closes it."""
        with self._lock:
            self._copy = copy
        try:
            yield copy
        finally:
            with self._lock:
                self._copy = None
            copy.close()


def _place(config: EngineConfig) -> Path:
    if config.backup_dir is not None:
        return Path(config.backup_dir)
    if config.backup_every_seconds is not None:
        return Path(f"{config.database}.backups")
    return Path(os.path.dirname(os.path.realpath(config.database)))


def _pieces(path: Path, call: Call) -> Iterator[bytes]:
    with path.open("rb", buffering=0) as file:
        while piece := file.read(PIECE_BYTES):
            call.check()
            yield piece


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


@contextlib.contextmanager
def _told_of_copy(call: Call) -> Iterator[None]:
    """Tell why the copy could not be finished; whatever happened to it, the database that is served is well."""
    try:
        yield
    except duckdb.Error as error:
        why = without_paths(first_line(str(error)))
        raise call.error() or Unavailable(f"{_NOT_MADE}, its copy failed: {why}") from error
