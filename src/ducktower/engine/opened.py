"""Which directories the operator opened to SQL, and where patterns of files lead. Owns what may not be in them. Must
never open a file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..config import EngineConfig
from ..errors import InvalidArgument

__all__ = ["is_within", "leads_out", "opened_directories"]

_GLOB = re.compile(r"[*?\[{\\]")


def opened_directories(config: EngineConfig) -> list[str]:
    """Return the real paths of the directories that are open to SQL.

    Raises InvalidArgument for one that is none, or that has a file in it which must stay closed.
    """
    found = []
    for path in config.allow_paths:
        if not Path(path).is_dir():
            raise InvalidArgument(f'allow_paths: there is no directory "{path}"')
        real = os.path.realpath(path)
        for closed in _closed_files(config):
            if is_within(closed, real):
                raise InvalidArgument(
                    f'allow_paths: directory "{path}" has "{closed}" in it, which SQL must not reach; open another one'
                )
        found.append(real)
    return found


def _closed_files(config: EngineConfig) -> Iterator[str]:
    if config.database != ":memory:":
        yield os.path.realpath(config.database)
    if config.backup_dir is not None:
        yield os.path.realpath(config.backup_dir)
    for path in config.closed_paths:
        yield os.path.realpath(path)


def is_within(path: str, directory: str) -> bool:
    """Whether a real path is that directory, or in it."""
    return path == directory or path.startswith(directory.rstrip(os.sep) + os.sep)


def leads_out(path: str, directories: Sequence[str]) -> bool:
    """Whether a path, or a pattern of DuckDB's `glob`, may reach what is in none of the real `directories`.

    Links are followed. Of a pattern every file counts that it may match, and some that it does not.
    """
    glob = _GLOB.search(path)
    if glob is None:
        return not _are_in(os.path.realpath(path), directories)
    fixed = os.path.dirname(path[: glob.start()])
    real, parts = os.path.realpath(fixed), path[len(fixed) :].strip(os.sep).split(os.sep)
    return not _are_in(real, directories) or ".." in parts or _matches_lead_out(real, parts, directories, set())


def _matches_lead_out(
    folder: str, parts: Sequence[str], directories: Sequence[str], seen: set[tuple[str, int]]
) -> bool:
    """Whether a link leads out among what the parts of a pattern match below a folder."""
    if not parts or (folder, len(parts)) in seen:
        return False
    seen.add((folder, len(parts)))
    part, rest = parts[0], parts[1:]
    if part == "**" and _matches_lead_out(folder, rest, directories, seen):
        return True
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return False  # no folder, or closed to the server itself
    for entry in entries:
        if not _may_match(entry.name, part):
            continue
        real = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
        if not _are_in(real, directories):
            return True
        if _matches_lead_out(real, parts if part == "**" else rest, directories, seen):
            return True
    return False


def _may_match(name: str, part: str) -> bool:
    """Whether a name has what stands before the first wildcard; some file systems do not tell case."""
    glob = _GLOB.search(part)
    name, fixed = name.casefold(), part[: glob.start() if glob else None].casefold()
    return name == fixed if glob is None else name.startswith(fixed)


def _are_in(path: str, directories: Sequence[str]) -> bool:
    return any(is_within(path, directory) for directory in directories)
