"""A backup on its way to a file of this machine: complete under its name, or not there.

Owns the file while it is written. Must never hold more than a piece of it in memory, nor write over a file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InvalidArgument, Unavailable

__all__ = ["Backup", "check_destination", "partial_of", "receive"]

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


class Backup(NamedTuple):
    """What a backup holds: its file in bytes, the seconds that the server took, a checksum of the contents."""

    rows: int
    tables: int
    bytes: int
    seconds: float
    checksum: str
    commit: int
    """Every commit up to this one is in it, counted as receipts count them."""


def check_destination(destination: Path) -> None:
    """Raise InvalidArgument for a file that is there, or whose directory is not: before anything is asked for."""
    if destination.is_dir():
        raise InvalidArgument(f'"{destination}" is a directory; name a file in it')
    if os.path.lexists(destination):
        raise _taken(destination)
    if not destination.parent.is_dir():
        raise InvalidArgument(f'there is no directory "{destination.parent}"')


def partial_of(destination: Path) -> Path:
    """Return where the bytes are until they are complete."""
    return destination.with_name(f".{destination.name}.{os.getpid()}.part")


def receive(parts: Iterator[bytes], destination: Path) -> Backup:
    """Write what follows the first part, which says what comes, and give the file its name when it is on the disk.

    Raises InvalidArgument for a name that was taken meanwhile or a directory that may not be written, Unavailable for a
    stream that ended too soon or a disk that is full; then there is no file.
    """
    found: dict[str, Any] = json.loads(next(parts))
    made = Backup(**{name: found[name] for name in Backup._fields})  # fields of later versions are left out
    partial = partial_of(destination)
    try:
        with _told_of_disk(destination):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb", buffering=0) as file:
            for piece in parts:
                with _told_of_disk(destination):
                    _write(file, piece)
            if file.tell() != made.bytes:
                raise Unavailable(f"of the backup's {made.bytes} bytes {file.tell()} came; nothing was kept")
            with _told_of_disk(destination):
                os.fsync(descriptor)
        with _told_of_disk(destination):
            _name(partial, destination)
    finally:
        partial.unlink(missing_ok=True)
    return made


def _write(file: Any, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[file.write(left) :]


def _name(partial: Path, destination: Path) -> None:
    """Give the file its name, durably, and take it from no other one."""
    try:
        os.link(partial, destination)
    except FileExistsError:
        raise _taken(destination) from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        check_destination(destination)
        partial.rename(destination)
    directory = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _taken(destination: Path) -> InvalidArgument:
    return InvalidArgument(f'"{destination}" exists; nothing is written over')


@contextlib.contextmanager
def _told_of_disk(destination: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = os.strerror(error.errno or errno.EIO)
        if error.errno in (errno.EACCES, errno.EROFS, errno.ENAMETOOLONG):
            raise InvalidArgument(f'cannot write "{destination}": {why}') from error
        raise Unavailable(f'cannot write "{destination}": {why}; nothing was kept') from error
