"""Files of a database: copied piece by piece, synced, put in their place without writing over anything.

Owns how bytes and names get to the disk. Must never open a database.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InternalError, Overloaded, Unavailable

__all__ = ["PIECE_BYTES", "copy_file", "put_in_place", "sync", "timestamp", "told_of_disk"]

PIECE_BYTES = 2 * 1024 * 1024
_SYNC_EVERY_BYTES = 32 * 1024 * 1024
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


def copy_file(source: int, target: Path, size: int, check: Callable[[], None] = lambda: None) -> None:
    """Copy the first `size` bytes of an open file into a new one, which this user alone may read, and sync it.

    Python's lock is free while the disk works. `check` is called between pieces and may raise.
    """
    buffer = memoryview(bytearray(PIECE_BYTES))
    done = synced = 0
    with target.open("xb", buffering=0) as file:
        os.fchmod(file.fileno(), 0o600)
        while done < size:
            check()
            got = os.preadv(source, [buffer[: min(PIECE_BYTES, size - done)]], done)
            if not got:
                raise InternalError("a file became shorter while it was copied")
            written = 0
            while written < got:
                written += file.write(buffer[written:got])
            done += got
            if done - synced >= _SYNC_EVERY_BYTES:  # a little at a time, or commits wait for one large sync
                os.fsync(file.fileno())
                synced = done
        os.fsync(file.fileno())


def put_in_place(path: Path, target: Path) -> None:
    """Give a finished file another name in its directory, durably. Raises FileExistsError when that is taken."""
    try:
        os.link(path, target)  # unlike a rename it takes nobody's name away
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        path.rename(target)
    else:
        path.unlink()
    sync(target.parent)


def sync(path: Path) -> None:
    """Wait until a file's contents, or a directory's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def timestamp(seconds: float | None = None) -> str:
    """Return a time (now when None) as names of files carry it, in UTC: 20261125T101112Z."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(seconds))


@contextlib.contextmanager
def told_of_disk(what: str) -> Iterator[None]:
    """Turn what the disk refuses into one error without paths: Overloaded when it is full, else Unavailable."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise Overloaded(f"{what}: the disk is full", retry_after_seconds=1.0) from error
        raise Unavailable(f"{what}: {os.strerror(error.errno or errno.EIO)}") from error
