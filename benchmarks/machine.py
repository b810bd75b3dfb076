"""The machine: what a figure must be read with.

Owns finding it out. Must never change anything but one scratch file.
"""

from __future__ import annotations

import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

from .figures import percentiles

__all__ = ["describe"]

FLUSHES = 200


def describe(directory: Path) -> dict[str, object]:
    """Return processor, memory, disk, the time of a flush to it, versions, and how busy the machine is."""
    flush = percentiles(_flush_seconds(directory))
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "filesystem": _filesystem(directory),
        "fsync_ms": {name: float(f"{flush[name] * 1000:.3g}") for name in ("p50", "p99")},
        "load_before": round(os.getloadavg()[0], 2),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("ducktower", "duckdb", "pyarrow")},
        },
    }


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _filesystem(directory: Path) -> str:
    """Return the type of the file system that holds the directory: that of its longest mount point."""
    place = directory.resolve()
    mounts = [
        (len(part.mountpoint), part.fstype)
        for part in psutil.disk_partitions(all=True)
        if place.is_relative_to(part.mountpoint)
    ]
    return max(mounts)[1] if mounts else "unknown"


def _flush_seconds(directory: Path) -> list[float]:
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(FLUSHES):
            file.write(b"x" * 4096)
            file.flush()
            start = time.perf_counter()
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - start)
    return taken
