"""The C library's thresholds: set once, and left alone where somebody else chose."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from ducktower.malloc import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory() and keep_freed_memory()
import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(200):
    pieces = [libc.malloc(4 << 20) for _ in range(4)]
    for piece in pieces:
        ctypes.memset(piece, 1, 4 << 20)
    for piece in pieces:
        libc.free(piece)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

SCATTERED = """
import ctypes
from ducktower.malloc import give_back_freed_memory, keep_freed_memory
keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4 // 1024
pieces = [(libc.malloc(1 << 20), libc.malloc(4096)) for _ in range(200)]
for large, small in pieces:
    ctypes.memset(large, 1, 1 << 20)
    ctypes.memset(small, 1, 4096)
for large, _ in pieces:
    libc.free(large)
freed = resident()
give_back_freed_memory()
print(freed - resident())
"""


def run(code: str, *arguments: str, **environment: str) -> str:
    """Run in a process of its own: thresholds are the process's."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return done.stdout.strip()


glibc = pytest.mark.skipif(sys.platform != "linux", reason="thresholds of glibc")


@glibc
def test_pieces_that_were_freed_cost_no_further_faults() -> None:
    """200 rounds of 16 MiB touch fresh pages once, not once a round."""
    assert int(run(FAULTS, "keep")) < 2 * 4 * 1024 * 4


@glibc
def test_what_is_freed_between_what_is_in_use_can_be_given_back() -> None:
    """200 MiB in pieces of one, each before something small that stays."""
    assert int(run(SCATTERED)) > 150


@glibc
@pytest.mark.parametrize(
    "chosen", [{"MALLOC_TRIM_THRESHOLD_": "131072"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"}]
)
def test_thresholds_of_the_environment_stay(chosen: dict[str, str]) -> None:
    """Who chose by glibc's own variables keeps what was chosen."""
    assert run("from ducktower.malloc import keep_freed_memory as keep; print(keep())", **chosen) == "False"
