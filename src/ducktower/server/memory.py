"""How much memory the process may take in all, and how it is shared out between DuckDB and our own buffers.

A limit for DuckDB alone leaves what waits in queues, streams and uploads uncounted: together they may be more than
there is, and the system kills the process. So one total is shared out: what an idle process takes, what nobody counts,
our own buffers, and the rest is DuckDB's.

Owns the total and the shares. Must never watch over them: each buffer has its own limit, and its own error. Nor does it
share out what is not ours, as the messages that gRPC is receiving.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..config import MIB, EngineConfig, ServerConfig
from ..errors import InvalidArgument

__all__ = ["available_bytes", "described", "shared_out"]

_IDLE_BYTES = 192 * MIB
"""What the process takes when it does nothing: Python, Arrow, gRPC and DuckDB, their code, threads and pools."""
_UNCOUNTED_PART = 5
_UNCOUNTED_BYTES_MAX = 1024 * MIB
"""One part in so many of the rest, up to that, is for what DuckDB and Arrow take and do not count, and for what the C
library keeps: 64 heavy queries at once took 200 to 250 MiB more than DuckDB's limit of 444."""
_OUR_PART = 4
"""One part in so many of the rest is for our own buffers, at most."""
_UPLOAD_BYTES = 24 * MIB
"""What a large upload holds outside DuckDB: the rows that are joined, and the batch that they become."""
_TOTAL_BYTES_MIN = 384 * MIB


def shared_out(engine: EngineConfig, server: ServerConfig) -> tuple[EngineConfig, ServerConfig]:
    """Return the settings with limits lowered so that all stay within `memory_bytes_max` together.

    A limit that is lower already stays, as does a `memory_limit` that was given; when that is the only one, everything
    stays. Raises InvalidArgument for a total in which there is no room.
    """
    total = engine.memory_bytes_max
    if total is None:
        if engine.memory_limit is not None:
            return engine, server
        total = max(available_bytes() * 4 // 5, _TOTAL_BYTES_MIN)
    if total < _TOTAL_BYTES_MIN:
        raise InvalidArgument(f"memory_bytes_max must be at least {_TOTAL_BYTES_MIN // MIB} MiB, not {total} bytes")
    rest = total - _IDLE_BYTES
    uncounted = min(rest // _UNCOUNTED_PART, _UNCOUNTED_BYTES_MAX)
    quarter = rest // _OUR_PART // 4
    queue = min(engine.queue_bytes_max, quarter)
    arriving = min(engine.arriving_bytes_max, quarter)
    results = min(server.results_waiting_bytes_max, quarter)
    uploads = min(engine.large_writes_in_flight_max, max(1, quarter // _UPLOAD_BYTES))
    ours = queue + arriving + results + uploads * _UPLOAD_BYTES
    duckdb = engine.memory_limit or f"{rest - uncounted - ours}B"
    return replace(
        engine,
        memory_limit=duckdb,
        queue_bytes_max=queue,
        group_bytes_max=min(engine.group_bytes_max, queue),
        arriving_bytes_max=arriving,
        large_writes_in_flight_max=uploads,
    ), replace(server, results_waiting_bytes_max=results)


def described(engine: EngineConfig, server: ServerConfig) -> str:
    """Say what the limits of memory are now, in one line for the log."""
    return (
        f"memory: {engine.memory_limit} for DuckDB; MiB of writes queued {engine.queue_bytes_max // MIB}, arriving "
        f"{engine.arriving_bytes_max // MIB}, of results that wait {server.results_waiting_bytes_max // MIB}; "
        f"{engine.large_writes_in_flight_max} large uploads at once"
    )


def available_bytes(root: Path = Path("/")) -> int:
    """Return the memory that the process may use: the machine's, or less where a control group of it says so (Linux).

    `root` is where `proc` and `sys` are.
    """
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *_group_limits(root)])


def _group_limits(root: Path) -> Iterator[int]:
    """Yield the limits of the process's control groups, of both kinds and at every level."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers:
                yield from _limits_up(root / "sys/fs/cgroup", path, "memory.max")
            elif "memory" in controllers.split(","):
                yield from _limits_up(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes")


def _limits_up(mount: Path, path: str, name: str) -> Iterator[int]:
    """Yield the limits of a group and of those above it; within a container the mount may begin at the group itself."""
    group = mount / path.lstrip("/")
    for directory in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError):  # none there, or `max`
            yield int((directory / name).read_text())
        if directory == mount:
            return
