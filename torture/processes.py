"""The server and the clients as processes.

Owns starting, hurting and ending them, each by its own id. Must never judge.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["Process", "Server", "start_client"]

STARTING_SECONDS = 30.0
ENDING_SECONDS = 30.0
STOPPING_SECONDS = 5.0


class Process:
    """A process that may be stopped, continued and killed."""

    def __init__(self, command: list[str], log: Path, **more: str) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("DUCKTOWER_")}
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=kept | more,
            )

    def signal(self, number: int) -> None:
        """Send a signal; to a process that has ended nothing is sent."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def stop(self) -> bool:
        """Send SIGSTOP; return whether the process stands still now, and not at its end."""
        self.signal(signal.SIGSTOP)
        deadline = time.monotonic() + STOPPING_SECONDS
        while self.process.poll() is None and time.monotonic() < deadline:
            if os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WNOHANG) is not None:
                return True
            time.sleep(0.002)
        return False

    def kill(self) -> bool:
        """Send SIGKILL and wait; return whether that is what the process died of."""
        self.signal(signal.SIGKILL)
        self.process.wait(ENDING_SECONDS)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        return self.process.returncode == -signal.SIGKILL


class Server(Process):
    """`ducktower serve`, imported but not begun, with `more` in its environment."""

    def __init__(self, log: Path, **more: str) -> None:
        super().__init__(["torture.server"], log, **more)
        self._log = log

    def serve(self, database: Path, port: int) -> None:
        """Serve the database and wait until it is ready; `port` 0 lets it choose. Raises RuntimeError when it fails."""
        arguments = ["serve", str(database), "--port", str(port), "--log-level", "warning"]
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self.process.stdin.flush()
        self._database = database
        ready, _, _ = select.select([self.process.stdout], [], [], STARTING_SECONDS)
        line = self.process.stdout.readline().decode() if ready else ""
        if not line.startswith("ready grpc"):
            status = self.process.poll()
            self.kill()
            raise RuntimeError(f"the server did not start, exit status {status}: {line!r}; see {self._log}")
        self.url = line.split()[1]
        self.port = int(self.url.rpartition(":")[2])

    def fill_disk(self, more_bytes: int) -> None:
        """Let no file grow past the largest of the database's by more than `more_bytes`."""
        files = self._database.parent.glob(f"{self._database.name}*")
        limit = max(file.stat().st_size for file in files) + more_bytes
        if self.process.poll() is None:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    def empty_disk(self) -> None:
        """Let files grow again."""
        if self.process.poll() is None:
            without = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, without)


def start_client(kind: str, url: str, port: int, directory: Path) -> Process:
    """Start a client of this kind of the server at `port`, reached by `url`; its journal is in the directory."""
    return Process(["torture.workload", kind, url, str(port), str(directory)], directory / f"{kind}.log")
