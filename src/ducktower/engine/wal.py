"""The write-ahead log beside a database file: how large it is, and what is in it before DuckDB replays it.

DuckDB replays every whole commit and drops what follows the last one: a crash tears the log's end, and nothing there
was acknowledged. But a log whose beginning or end was damaged later looks the same to DuckDB, is dropped as silently,
and deleted with the next checkpoint. So the log is looked through before it is replayed, and what will not be
replayed is kept.

A log whose database file is not there DuckDB deletes, and makes a new, empty file: so that is refused.

Owns reading those files and the copies of them. Must never change or delete a log.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import math
import mmap
import os
import re
import shutil
import struct
import time
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path

from ..errors import InvalidArgument, Unavailable

__all__ = [
    "LOGS",
    "Found",
    "commit_ends",
    "look_through",
    "real_path",
    "replaying",
    "to_be_replayed",
    "torn_copies",
    "wal_bytes",
    "wal_path",
]

log = logging.getLogger(__name__)

_NUMBER = rb"[\x80-\xff]*[\x00-\x7f]"
_HEAD = re.compile(
    rb"\x64\x00\x62\x65\x00" + _NUMBER + rb"(?:\x66\x00\x10(?:" + _NUMBER + rb"){16})?"
    rb"(?:\x67\x00(" + _NUMBER + rb"))?\xff\xff",
    re.DOTALL,
)
"""How a log begins: its version, then, by DuckDB's version, whose it is (16 bytes) and after how many checkpoints."""
_HEAD_BYTES_MAX = 128
_HEADERS = (4_096, 8_192)
_HEADER = struct.Struct("<QQ")
"""Of the database file: a checksum, and how many checkpoints there were. The header with more of them counts."""
_ENTRY = struct.Struct("<QQ")
_COMMIT = b"\x64\x00\x64\xff\xff"
"""The entry with which a transaction ends."""
LOGS = (".wal", ".wal.checkpoint", ".wal.recovery")
"""The log, the one that is written to while a checkpoint runs, and the one that both are joined in after a crash."""

_TORN = ".torn-"
_TORN_KEPT_MAX = 10


@dataclass(frozen=True, slots=True)
class Found:
    """What is in a log."""

    nbytes: int = 0
    commits: int = 0
    """Transactions that are there in whole."""
    torn_bytes: int = 0
    """What follows the last of them: it is not replayed."""


def wal_path(database: str) -> Path:
    """Return where DuckDB keeps the log of a database file."""
    return Path(f"{database}.wal")


def real_path(database: str | Path) -> str:
    """Return the path of a database's file, behind links: there its log is, whatever name it is opened by.

    DuckDB keeps the log of a file that is not there yet beside the link to it, and looks for it beside the file later.
    Raises InvalidArgument when there is one beside the link.
    """
    real = os.path.realpath(database)
    if os.path.islink(database) and wal_bytes(str(database)):
        raise InvalidArgument(
            f'"{database}" is a link to "{real}", and a WAL is beside the link, where some program left it; '
            f'move that WAL to "{wal_path(real)}" if it is of this database, else away. Nothing was changed'
        )
    return real


def wal_bytes(database: str) -> int:
    """Return the size of a database's log and of those that a checkpoint keeps beside it; 0 when there is none."""
    return sum(_size(f"{database}{suffix}") for suffix in LOGS)


def look_through(path: Path) -> Found:
    """Count the whole commits of a log by the sizes that its entries have, without reading their contents.

    Raises OSError when the file cannot be read. A log of a form that is not known has no whole commit.
    """
    size, ends = _size(path), commit_ends(path)
    return Found(size, len(ends) - 1, size - ends[-1]) if ends else Found(size, 0, size)


def commit_ends(path: Path) -> list[int]:
    """Return where a log's head and each whole commit end, in bytes from its beginning. Raises as `look_through`.

    It is empty for a log of a form that is not known, and for none.
    """
    if not _size(path):
        return []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        size = len(data)
        start = _first_entry(data)
        if start is None:
            return []
        ends, at = [start], start
        while at + _ENTRY.size <= size:
            length, _ = _ENTRY.unpack_from(data, at)
            begin, at = at + _ENTRY.size, at + _ENTRY.size + length
            if not length or at > size:
                break
            if length == len(_COMMIT) and data[begin:at] == _COMMIT:
                ends.append(at)
    return ends


def to_be_replayed(database: str) -> dict[Path, Found]:
    """Look through the logs that DuckDB will replay: those that the file's last checkpoint has not in it yet.

    A kill at the end of a checkpoint leaves both: then the first one is in the file, and the other is replayed alone.
    """
    written = _checkpoints_of(database)
    found: dict[Path, Found] = {}
    for suffix in LOGS[:2]:
        path = Path(f"{database}{suffix}")
        if _size(path) and _begun_after(path) >= written:
            found[path] = look_through(path)
    return found


@contextlib.contextmanager
def replaying(database: str) -> Iterator[Found]:
    """Look through a database's log before the block opens the database, and tell afterwards what there was.

    A log of which something will not be replayed is copied first. Raises Unavailable when it has no whole commit and
    cannot be copied; else a copy that fails is only told of: a full disk must not keep what was acknowledged away.
    Raises InvalidArgument when there is a log, and no file that it belongs to.
    """
    logs = to_be_replayed(database)
    found = _joined(logs.values())
    if wal_bytes(database) and not os.path.exists(database):
        raise InvalidArgument(
            f'database "{database}" is not there, but its WAL "{wal_path(database)}" is, with {found.commits} commits '
            "that the file may not have; put the file back beside it, or move the WAL away to begin with an empty "
            "database. Nothing was changed"
        )
    kept = {
        copy: of_log
        for path, of_log in logs.items()
        if of_log.torn_bytes and (copy := _kept(database, path, of_log)) is not None
    }
    started = time.monotonic()
    try:
        yield found
    except BaseException:
        for path in kept:  # what DuckDB does not open it leaves alone
            path.unlink(missing_ok=True)
        raise
    seconds = time.monotonic() - started
    log.info("opened in %.3f seconds; the WAL had %d bytes, %d commits", seconds, found.nbytes, found.commits)
    for path, of_log in kept.items():
        log.warning(
            "the last %d of %d bytes of the WAL were no whole commit and were not replayed, as after a crash in the "
            'middle of one; the WAL as it was is kept as "%s"',
            of_log.torn_bytes,
            of_log.nbytes,
            path,
        )
    if kept:
        with contextlib.suppress(OSError):
            _prune(database)


def torn_copies(database: str) -> list[Path]:
    """Return the copies of logs that were kept at the starts of a database, the oldest first."""
    path = wal_path(database)
    return sorted(path.parent.glob(f"{glob.escape(path.name)}{_TORN}*"))


def _prune(database: str) -> None:
    """Keep the last few copies: of each, whole commits were replayed. One without a whole commit stays for ever."""
    replayed = [path for path in torn_copies(database) if look_through(path).commits]
    for path in replayed[:-_TORN_KEPT_MAX]:
        log.info("taking away %s, a copy of a WAL whose commits were replayed long ago", path)
        path.unlink(missing_ok=True)


def _joined(logs: Iterable[Found]) -> Found:
    return Found(*(sum(numbers) for numbers in zip(*map(astuple, logs), strict=True)))


def _checkpoints_of(database: str) -> int:
    try:
        with open(database, "rb") as file:
            headers = [os.pread(file.fileno(), _HEADER.size, at) for at in _HEADERS]
    except FileNotFoundError:
        return 0
    return max(int(_HEADER.unpack(header)[1]) if len(header) == _HEADER.size else 0 for header in headers)


def _begun_after(path: Path) -> float:
    """Return after how many checkpoints a log was begun; infinite where it does not say."""
    with path.open("rb") as file:
        head = _HEAD.match(file.read(_HEAD_BYTES_MAX))
    if head is None or head[1] is None:
        return math.inf
    number: bytes = head[1]
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(number))


def _kept(database: str, path: Path, found: Found) -> Path | None:
    first = wal_path(database)
    which = path.name.removeprefix(first.name).replace(".", "-")
    kept = first.with_name(f"{first.name}{_TORN}{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}{which}")
    try:
        shutil.copy2(path, kept)
    except OSError as error:
        kept.unlink(missing_ok=True)
        if not found.commits:
            raise Unavailable(
                f'the WAL "{path}" is damaged and cannot be copied to be kept: {error.strerror}'
            ) from error
        log.warning("the torn end of the WAL, %d bytes, cannot be kept: %s", found.torn_bytes, error)
        return None
    return kept


def _first_entry(data: mmap.mmap) -> int | None:
    head = _HEAD.match(data[:_HEAD_BYTES_MAX])
    return None if head is None else head.end()


def _size(path: str | Path) -> int:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return 0
