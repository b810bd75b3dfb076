"""The C library's memory: keep what large messages freed, instead of giving it back and asking for it anew.

gRPC receives and joins messages in memory of the C library's `malloc`. With glibc's defaults a message of a few
megabytes is a mapping of its own, so every one is paid for with page faults: more than half of the time that a
client spent on a bulk read (docs/decisions, page faults). Two thresholds change that.

What strangers sent is not worth keeping: that is given back.

Owns those thresholds for this process. Must never change them where somebody else chose: by glibc's own
environment variables, or by another allocator in its place.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading

__all__ = ["give_back_freed_memory", "keep_freed_memory"]

_MIB = 1024 * 1024
# From glibc's malloc.h; https://man7.org/linux/man-pages/man3/mallopt.3.html
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_MAPPED_FROM_BYTES = 32 * _MIB
"""Larger pieces are mappings of their own. It is the highest that glibc itself rises to as it learns."""
_KEPT_BYTES = 64 * _MIB
"""How much freed memory stays at the top of the heap: twice the above, as glibc itself would choose then."""
_CHOSEN_BY = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")

_lock = threading.Lock()  # guards _done
_done = False


def keep_freed_memory() -> bool:
    """Set glibc's thresholds, once for this process; return whether they are set.

    False on other C libraries, and where the environment names thresholds or tunables of `malloc`.
    """
    global _done
    with _lock:
        if not _done and _is_glibc() and not _chosen_by_others():
            with contextlib.suppress(OSError, AttributeError):
                mallopt = ctypes.CDLL(None).mallopt
                _done = bool(mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES))
        return _done


def give_back_freed_memory() -> None:
    """Give all that is free back to the system, in the midst of the heap, too: after what nobody should have to keep.

    It takes milliseconds for each gigabyte, without Python's lock. Does nothing on other C libraries.
    """
    if _is_glibc():
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _is_glibc() -> bool:
    try:
        return "glibc" in (os.confstr("CS_GNU_LIBC_VERSION") or "")
    except (AttributeError, ValueError):  # Windows, macOS
        return False


def _chosen_by_others() -> bool:
    environment = os.environ
    return any(name in environment for name in _CHOSEN_BY) or "glibc.malloc" in environment.get("GLIBC_TUNABLES", "")
