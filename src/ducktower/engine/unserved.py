"""A database file that nobody serves: held while it is looked at, put aside, what is in it.

Owns how such a file is kept from servers meanwhile, and the names under which it is put aside. Must never change or
delete one.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import duckdb

from ..errors import InvalidArgument, Unavailable
from .database import check_unserved, looks_like_duckdb, no_duckdb, opened_apart
from .failures import first_line
from .file_copies import sync, timestamp
from .fingerprints import Fingerprint, fingerprint
from .wal import LOGS

__all__ = ["check_file", "contents", "held", "made_like", "put_aside"]


def check_file(path: Path) -> None:
    """Raise InvalidArgument for what is no DuckDB file that this user may read, Unavailable for what is served here."""
    check_unserved(path)  # before it is opened, for to close it would unlock it
    if not path.is_file():
        raise InvalidArgument(f'"{path}" is a directory' if path.is_dir() else f'there is no file "{path}"')
    try:
        duckdb_file = looks_like_duckdb(path)
    except OSError as error:
        raise InvalidArgument(f'"{path}" cannot be read: {error.strerror}') from error
    if not duckdb_file:
        raise InvalidArgument(no_duckdb(path))


@contextlib.contextmanager
def held(path: Path) -> Iterator[int]:
    """Keep servers, and whoever else writes with DuckDB, from a file until the block ends; give its descriptor.

    Raises Unavailable when one has it open. The lock is that which DuckDB takes; it goes with the first descriptor of
    the file that this process closes, so within the block nothing else may open it.
    """
    check_unserved(path)
    try:
        file = path.open("r+b")
    except OSError as error:
        raise InvalidArgument(f'"{path}" may not be written: {error.strerror}') from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise Unavailable(f'database "{path}" is open in another process; stop that first') from error
        yield file.fileno()


def contents(path: Path, memory_bytes: int) -> Fingerprint:
    """Open a file by itself, without changing it, and read all of it.

    Raises Unavailable when another process writes it, InvalidArgument when it is damaged.
    """
    try:
        with opened_apart(path, memory_bytes) as connection:
            return fingerprint(connection)
    except duckdb.Error as error:
        text = first_line(str(error))
        if "Could not set lock on file" in text:
            raise Unavailable(f'database "{path}" is open in another process; stop that first') from error
        raise InvalidArgument(f'"{path}" is damaged: {text}') from error


def made_like(path: Path, other: Path) -> None:
    """Give a file the permissions, and where this user may, the owner of another one."""
    found = other.stat()
    path.chmod(stat.S_IMODE(found.st_mode))
    with contextlib.suppress(PermissionError):
        os.chown(path, found.st_uid, found.st_gid)


def put_aside(database: Path, label: str) -> list[Path]:
    """Give the database and its logs, those of them that are there, dated names; return these."""
    found = [suffix for suffix in ("", *LOGS) if os.path.lexists(f"{database}{suffix}")]
    name = base = f"{database}.{label}-{timestamp()}"
    number = 1
    while any(os.path.lexists(f"{name}{suffix}") for suffix in ("", *LOGS)):
        number += 1
        name = f"{base}-{number}"
    kept = []
    for suffix in found:  # the file first: without it a log is replayed by nobody
        os.rename(f"{database}{suffix}", f"{name}{suffix}")
        kept.append(Path(f"{name}{suffix}"))
    sync(database.parent)
    return kept
