"""What a process holds: threads and file descriptors, its own or another's."""

from __future__ import annotations

import gc
import os
from typing import NamedTuple

import psutil

from .waiting import until


class Held(NamedTuple):
    """Counts of what a process holds."""

    threads: int
    descriptors: int


def held(pid: int | None = None) -> Held:
    """Count the threads and descriptors of a process, this one unless told."""
    process = psutil.Process(pid or os.getpid())
    return Held(process.num_threads(), process.num_fds())


def settles_within(before: Held, *, spare_threads: int = 0, spare_descriptors: int = 0, pid: int | None = None) -> None:
    """Wait until the process holds no more than `before` and what is spared; threads end a moment late."""

    def settled() -> bool:
        if pid is None:
            gc.collect()
        now = held(pid)
        return (
            now.threads <= before.threads + spare_threads and now.descriptors <= before.descriptors + spare_descriptors
        )

    try:
        until(settled, "giving back threads and descriptors", seconds=20)
    except AssertionError as error:
        raise AssertionError(f"held {before} before, {held(pid)} afterwards") from error
