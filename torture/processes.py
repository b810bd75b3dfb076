"""The server and the clients as processes, and the library that is preloaded into the server.

Owns starting, hurting and ending them, each by its own id. Must never judge.
"""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

__all__ = ["Process", "Server", "fsync_library", "start_client"]

STARTING_SECONDS = 30.0
ENDING_SECONDS = 30.0


class Process:
    """A process that may be stopped, continued and killed."""

    def __init__(self, command: list[str], log: Path, **more: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DUCKTOWER_")}
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=kept | more,
            )

    def signal(self, number: int) -> None:
        """Send a signal; to a process that has ended nothing is sent."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self.signal(signal.SIGKILL)
        self.process.wait(ENDING_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Server(Process):
    """A running `ducktower serve`. Raises RuntimeError when it does not start."""

    def __init__(self, database: Path, port: int, log: Path, library: Path | None) -> None:
        more = {}
        if library is not None:
            more = {"LD_PRELOAD": str(library), "TORTURE_FSYNC": str(database.with_suffix(".fsync"))}
        command = ["ducktower.cli", "serve", str(database), "--port", str(port), "--log-level", "warning"]
        super().__init__(command, log, **more)
        self._database = database
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], STARTING_SECONDS)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith("ready grpc"):
            status = self.process.poll()
            self.kill()
            raise RuntimeError(f"the server did not start, exit status {status}: {line!r}; see {log}")
        self.url = line.split()[1]
        self.port = int(self.url.rpartition(":")[2])

    def fill_disk(self, more_bytes: int) -> None:
        """Let no file grow past the largest of the database's by more than `more_bytes`."""
        files = self._database.parent.glob(f"{self._database.name}*")
        limit = max(file.stat().st_size for file in files) + more_bytes
        if self.process.poll() is None:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))


def start_client(kind: str, url: str, directory: Path) -> Process:
    """Start a client of this kind; its journal is in the directory."""
    return Process(["torture.workload", kind, url, str(directory)], directory / f"{kind}.log")


def fsync_library(directory: Path) -> Path | None:
    """Build the library with cc, or return None where there is none (or no LD_PRELOAD)."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    library = directory / "slow_fsync.so"
    source = Path(__file__).with_name("slow_fsync.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library
