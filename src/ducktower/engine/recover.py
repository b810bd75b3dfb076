"""A database that does not open, or not as a whole: copied first, then tried on the copy, and what was lost is told.

Tried in this order: the file with its WAL; with as many whole commits of the WAL as DuckDB replays; without it. When
tables of what opens cannot be read as a whole, a new file is made of all that can.

Owns this order and the directory of the copies. Must never change the originals: in the end they may be put aside, and
are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InvalidArgument, Unavailable
from .file_copies import copy_file, put_in_place, sync, timestamp, told_of_disk
from .salvage import Salvage, Salvaged
from .unserved import check_file, held, made_like, put_aside
from .wal import LOGS, Found, commit_ends, look_through, real_path, to_be_replayed, torn_copies, wal_path

__all__ = ["Recovered", "recover"]


@dataclass(frozen=True, slots=True)
class Recovered:
    """What there is now, and what is lost."""

    path: Path
    """The file that was made: in the directory of copies, or the database itself when it was put in place."""
    place: Path
    """The directory with the copies of the originals."""
    salvaged: Salvaged
    lost: tuple[str, ...]
    """A line for each thing that is not in it; none when all is there."""
    aside: tuple[Path, ...] = ()
    torn: tuple[tuple[Path, int], ...] = ()
    """Copies of earlier WALs that a start kept, and how many whole commits are in each."""


def recover(
    database: Path, salvage: Salvage, *, in_place: bool = False, tell: Callable[[str], None] = lambda _: None
) -> Recovered:
    """Make a file that opens of a database that may not; with `in_place`, put it where the database is.

    `tell` is given a line for each step. Raises InvalidArgument for what is no DuckDB file and when nothing can be
    read, Unavailable when another process has it open, Overloaded when the disk is full.
    """
    database = Path(real_path(database))
    check_file(database)
    torn = tuple((path, look_through(path).commits) for path in torn_copies(str(database)))
    with told_of_disk("nothing was recovered"), held(database) as file:
        place = _place(database)
        copy_file(file, place / "original", os.fstat(file).st_size)
        logs = [suffix for suffix in LOGS if os.path.exists(f"{database}{suffix}")]
        for suffix in logs:
            _copy(Path(f"{database}{suffix}"), place / f"original{suffix}")
        sync(place)
        tell(f"the originals are copied to {place}")
        path = place / "recovered.duckdb"
        _copy(place / "original", path)
        lost = _open(salvage, place, path, logs, tell)
        salvaged, more = _read(salvage, place, path)
        aside: list[Path] = []
        if in_place:
            made_like(path, database)
            aside = put_aside(database, "damaged")
            put_in_place(path, database)
            path = database
    return Recovered(path, place, salvaged, (*lost, *more), tuple(aside), torn)


def _place(database: Path) -> Path:
    stem = f"{database}.recover-{timestamp()}"
    number = 1
    while True:
        place = Path(stem if number == 1 else f"{stem}-{number}")
        try:
            place.mkdir(mode=0o700)
        except FileExistsError:
            number += 1
        else:
            return place


def _open(salvage: Salvage, place: Path, path: Path, logs: list[str], tell: Callable[[str], None]) -> list[str]:
    """Put as much of the logs beside the copy as it opens with; return what is lost by that."""
    replayed = to_be_replayed(str(place / "original"))
    first, second = (replayed.get(place / f"original{suffix}", Found()) for suffix in LOGS[:2])
    if not second.nbytes:  # then DuckDB refuses an old one, and does not pass it over
        first = look_through(place / "original.wal")
    for suffix in logs:
        _copy(place / f"original{suffix}", Path(f"{path}{suffix}"))
    outcome = salvage.joins(path) if second.nbytes else salvage.opens(path)
    if not outcome.error:
        tell("it opens with its WAL" if logs else "it opens; there is no WAL")
        torn = first.torn_bytes + second.torn_bytes
        return [f"{torn} bytes of the WAL that are no whole commit"] if torn else []
    tell(f"it does not open{' with its WAL' if logs else ''}: {outcome.error}")
    for suffix in ("", *LOGS):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    _copy(place / "original", path)
    beside = []
    if second.nbytes:
        beside = [f"the WAL of commits beside a checkpoint, with {second.commits} commits that could be counted"]
    if first.nbytes and (commits := _replayed(salvage, place, path)) is not None:
        tell(f"it opens with the first {commits} of the {first.commits} commits of its WAL")
        return [*_not_replayed(first, commits), *beside]
    if logs and not (without := salvage.opens(path)).error:
        tell("it opens without its WAL, as of its last checkpoint")
        if first.nbytes:
            of_first = f"with {first.commits} commits" if first.commits else "of which nothing could be read"
            return [f"the WAL, {of_first}", *beside]
        return beside
    why = without.error if logs else outcome.error
    raise InvalidArgument(f'nothing of "{place / "original"}" can be read: {why}; a backup is what helps')


def _not_replayed(found: Found, commits: int) -> list[str]:
    """Tell what a log has behind the commits that were replayed."""
    lost = []
    if commits < found.commits:
        lost.append(f"the last {found.commits - commits} of {found.commits} commits in the WAL")
    if found.torn_bytes:
        lost.append(
            f"{found.torn_bytes} bytes of the WAL behind its last whole commit; what was in them cannot be told"
        )
    return lost


def _replayed(salvage: Salvage, place: Path, path: Path) -> int | None:
    """Cut the WAL after as many commits as DuckDB replays, put it beside the copy; return how many, None if none."""
    log, ends = place / "original.wal", commit_ends(place / "original.wal")
    beside = wal_path(str(path))
    good, bad = 0, len(ends)  # of commits: what DuckDB does not replay, it does not replay with more behind it either
    while bad - good > 1:
        tried = (good + bad) // 2
        beside.unlink(missing_ok=True)
        _copy(log, beside, ends[tried])
        if salvage.opens(path).error:
            bad = tried
        else:
            good = tried
    beside.unlink(missing_ok=True)
    if not good:
        return None
    _copy(log, beside, ends[good])
    return good


def _read(salvage: Salvage, place: Path, path: Path) -> tuple[Salvaged, list[str]]:
    """Make one sound file of the copy and its WAL; return what is in it, and what of the copy is not."""
    there = salvage.look(path)
    if there.whole and (done := salvage.finish(path)).whole:
        return done, []
    target = place / "rebuilt.duckdb"
    salvaged = salvage.rebuild(path, target)
    if salvaged.error:
        raise Unavailable(f'no new file could be made of "{path}": {salvaged.error}')
    lost = [
        f'{table.lost_rows} rows of table "{table.name}": {table.error}' for table in salvaged.tables if table.error
    ]
    lost += [f"{name}: it is not in the new file" for name in there.names if name not in salvaged.names]
    for suffix in ("", *LOGS):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    target.rename(path)
    return salvaged, lost


def _copy(source: Path, target: Path, size: int | None = None) -> None:
    with source.open("rb") as file:
        copy_file(file.fileno(), target, os.fstat(file.fileno()).st_size if size is None else size)
