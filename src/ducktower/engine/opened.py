"""Which directories the operator opened to SQL. Owns what may not be in them. Must never open a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ..config import EngineConfig
from ..errors import InvalidArgument

__all__ = ["is_within", "opened_directories"]


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
