"""Small durable writes beside the peers'.

Owns which are compared with whom, and what is wanted. Must never compare writes that are not durable.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from torture.fsync import Fsync, fsync_library

from ..figures import Bench, Figure
from ..load import LINEITEM_TABLE, Kind, Load, Shape
from .versus import Versus, compare

__all__ = ["peer_slow_disk", "peer_writes"]

FSYNC_MILLISECONDS = 3  # longer: as on a cloud disk

_WRITES: tuple[tuple[Kind, int, str, float | None], ...] = (
    ("put", 1, "quack", 2),
    ("put", 1, "xorq", None),
    ("put", 1, "postgres", None),
    ("put", 16, "quack", 5),
    ("put", 16, "xorq", 45),
    ("put", 16, "postgres", None),
    ("put", 64, "quack", None),
    ("put", 64, "noop", 0.6),
    ("insert_sql", 16, "quack", None),
    ("append_wait", 16, "quack", 10),
    ("append_wait", 64, "postgres", 0.8),
    ("append_flow", 16, "quack", 100),
)
_LINEITEM: tuple[tuple[Kind, int, str, float | None], ...] = (
    ("put", 8, "quack", None),
    ("put", 8, "xorq", None),
    ("put", 8, "postgres", None),
)
_SLOW: tuple[tuple[Kind, int, str, float | None], ...] = (
    ("put", 1, "quack", None),
    ("put", 64, "quack", 15),
    ("put", 64, "postgres", None),
    ("append_wait", 64, "postgres", 0.6),
)


def peer_writes(bench: Bench) -> list[Figure]:
    """One-row durable writes, of two columns and of sixteen."""
    lines = [*_lines(bench, _WRITES, "pair"), *_lines(bench, _LINEITEM, "lineitem")]
    return compare(bench, "writes", lines)


def peer_slow_disk(bench: Bench) -> list[Figure]:
    """The same with every fsync made slower."""
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        directory = Path(place)
        library = fsync_library(directory)
        if library is None:
            return [Figure(name="slow_disk", title="writes with a slow fsync", unit="", note="there is no C compiler")]
        directory.chmod(0o755)  # PostgreSQL's server runs as its own user
        fsync = Fsync(library, directory / "fsync")
        (directory / "fsync").chmod(0o666)
        library.chmod(0o755)
        fsync.order(FSYNC_MILLISECONDS)
        try:
            title = f"{FSYNC_MILLISECONDS} ms more for each fsync: "
            lines = _lines(bench, _SLOW, "pair")
            return compare(bench, "slow_disk", lines, title=title, place=directory, environment=fsync.environment)
        finally:
            fsync.close()


def _lines(bench: Bench, wanted: tuple[tuple[Kind, int, str, float | None], ...], shape: Shape) -> list[Versus]:
    of_each = {"seconds": bench.scale.seconds, "processes": bench.scale.processes}
    table = {"table": LINEITEM_TABLE} if shape == "lineitem" else {}
    return [
        Versus(Load(kind=kind, clients=clients, shape=shape, **of_each, **table), peer, target)  # type: ignore[arg-type]
        for kind, clients, peer, target in wanted
    ]
