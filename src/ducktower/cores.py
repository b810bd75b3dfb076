"""On which cores a thread may run: those that mostly wait for Python's lock share one.

One thread runs Python at a time. When those that stand in line for its lock are spread over several cores, each
hand-over wakes a thread on another core, which finds the lock taken again by the time that it runs: a one-row write
of 64 clients then costs 77 switches of threads instead of 24, and more than twice the time (docs/decisions, one
core for small writes). On one core the thread that has the lock goes on until it is done with it.

Owns which core that is, for this process. Must never keep there what computes: DuckDB, and rows that stream, run
on every core that the process was given.
"""

from __future__ import annotations

import os
import sys
import threading

__all__ = ["roam", "share_one", "stay"]

_lock = threading.Lock()  # guards the writing of the two below; each is read as a whole
_all: frozenset[int] = frozenset()
_home: frozenset[int] = frozenset()
"""Both are empty where threads are left alone: one core, or a system that cannot tell threads where to run."""


def share_one() -> None:
    """Choose the core, from those that the calling thread may use; once for this process.

    Which one depends on the process, so that several servers of a machine do not crowd one core.
    """
    global _all, _home
    if sys.platform != "linux":
        return
    with _lock:
        cores = sorted(os.sched_getaffinity(0))
        if len(cores) > 1 and not _all:
            _home = frozenset({cores[os.getpid() % len(cores)]})
            _all = frozenset(cores)


def stay() -> None:
    """Keep the calling thread on the shared core, from now on. Threads that it starts begin there, too."""
    _run_on(_home)


def roam() -> None:
    """Let the calling thread run on every core again."""
    _run_on(_all)


def _run_on(cores: frozenset[int]) -> None:
    if cores and sys.platform == "linux":
        try:
            os.sched_setaffinity(0, cores)
        except OSError:  # somebody took these cores from the process meanwhile: it runs where it may
            _forget()


def _forget() -> None:
    global _all, _home
    with _lock:
        _all = _home = frozenset()
