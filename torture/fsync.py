"""fsync in the server's hands: slow or failing on order, and counted.

Owns the preloaded library and the memory that is shared with it. Must never decide when.
"""

from __future__ import annotations

import mmap
import shutil
import struct
import subprocess
import sys
from pathlib import Path

__all__ = ["Fsync", "fsync_library"]

_NUMBERS = struct.Struct("=qqqq")  # as in slow_fsync.c


def fsync_library(directory: Path) -> Path | None:
    """Build the library with cc, or return None where there is none (or no LD_PRELOAD)."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = directory / "slow_fsync.so"
    source = Path(__file__).with_name("slow_fsync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


class Fsync:
    """What the fsyncs of every server that is started with `environment` do. One thread uses it."""

    def __init__(self, library: Path, path: Path) -> None:
        path.write_bytes(_NUMBERS.pack(0, 0, 0, 0))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _NUMBERS.size)
        self.environment = {"LD_PRELOAD": str(library), "TORTURE_FSYNC": str(path)}

    def order(self, milliseconds: int) -> None:
        """Have each fsync wait from now on; -1 has it fail, 0 leaves it alone."""
        struct.pack_into("=q", self._shared, 0, milliseconds)

    @property
    def slowed(self) -> int:
        """Fsyncs that waited."""
        return int(_NUMBERS.unpack_from(self._shared)[1])

    @property
    def slowed_seconds(self) -> float:
        """How long those took, together."""
        return float(_NUMBERS.unpack_from(self._shared)[2]) / 1e9

    @property
    def failed(self) -> int:
        """Fsyncs that failed on order."""
        return int(_NUMBERS.unpack_from(self._shared)[3])

    def close(self) -> None:
        """Let go of the memory."""
        self._shared.close()
