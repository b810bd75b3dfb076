"""A backup put where a server will open it: checked before and after, over nothing that is there.

Owns the order of these steps. Must never remove a file that it did not make.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import InternalError, InvalidArgument
from .database import check_unserved
from .file_copies import copy_file, put_in_place, told_of_disk
from .unserved import check_file, contents, held, made_like, put_aside
from .wal import real_path, wal_bytes, wal_path

__all__ = ["Restored", "restore"]

_NOT_RESTORED = "nothing was restored"


@dataclass(frozen=True, slots=True)
class Restored:
    """What is there now, and what was put aside for it."""

    rows: int
    tables: int
    bytes: int
    checksum: str
    aside: tuple[Path, ...]


def restore(
    backup: Path, database: Path, memory_bytes: int, *, force: bool = False, checksum: str | None = None
) -> Restored:
    """Copy `backup` to `database`, which is complete or not there.

    With `force` a database that is there is put aside, with its WAL; a WAL without one always is, because DuckDB would
    replay it into the backup. Raises InvalidArgument for a backup that is none, is damaged or has another `checksum`,
    and for a database that is there; Unavailable when either is open in another process; Overloaded when the disk is
    full.
    """
    database = Path(real_path(database))
    check_file(backup)
    check_unserved(database)
    if database.is_dir():
        raise InvalidArgument(f'"{database}" is a directory; name a file in it')
    if not database.parent.is_dir():
        raise InvalidArgument(f'there is no directory "{database.parent}"')
    if database.exists() and backup.samefile(database):
        raise InvalidArgument("the backup and the database are the same file")
    if database.exists() and not force:
        raise InvalidArgument(f'"{database}" exists; --force puts it aside under a dated name')
    with contextlib.ExitStack() as stack:
        stack.enter_context(told_of_disk(_NOT_RESTORED))
        if database.exists():
            stack.enter_context(held(database))
        room = stack.enter_context(
            tempfile.TemporaryDirectory(prefix=f".{database.name}.restore-", dir=database.parent)
        )
        copy = Path(room) / "copy"
        wanted = contents(backup, memory_bytes)  # first: it tells when a server has it open
        if wal_bytes(str(backup)):
            raise InvalidArgument(
                f'"{backup}" has a WAL beside it, "{wal_path(str(backup))}", so it is no finished backup; '
                "`ducktower recover` makes one file of the two"
            )
        if checksum is not None and wanted.checksum != checksum.strip().lower():
            raise InvalidArgument(f'"{backup}" has the checksum {wanted.checksum}, not {checksum}; {_NOT_RESTORED}')
        with backup.open("rb") as source:
            copy_file(source.fileno(), copy, os.fstat(source.fileno()).st_size)
        found = contents(copy, memory_bytes)
        if found != wanted:
            raise InternalError(f"the copy is not as the backup in {wanted.difference(found)}; {_NOT_RESTORED}")
        size = copy.stat().st_size
        if database.exists():
            made_like(copy, database)
        aside = put_aside(database, "replaced")
        try:
            put_in_place(copy, database)
        except FileExistsError as error:
            raise InvalidArgument(f'"{database}" was made by somebody else meanwhile; {_NOT_RESTORED}') from error
    return Restored(found.rows, found.tables, size, found.checksum, tuple(aside))
