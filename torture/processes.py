"""The servers and the clients as processes.

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

import psutil

__all__ = ["Client", "Server", "Servers"]

STARTING_SECONDS = 60.0
ENDING_SECONDS = 60.0
STOPPING_SECONDS = 5.0
MEMORY_LIMIT = "400MB"
"""What DuckDB may have: so much that a check is never short of it, so little that it can be filled at once."""


def _python(command: list[str], log: Path, **more: str) -> subprocess.Popen[bytes]:
    """Start a module of ours, with `more` in its environment and no settings of Ducktower's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DUCKTOWER_")}
    with log.open("ab") as stderr:
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env=kept | more,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(ENDING_SECONDS)
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(BrokenPipeError):
            pipe.close()


def _stands(pid: int) -> bool:
    """Return whether the process stands still, within a bound of time."""
    deadline = time.monotonic() + STOPPING_SECONDS
    with contextlib.suppress(psutil.NoSuchProcess):
        while time.monotonic() < deadline:
            if psutil.Process(pid).status() == psutil.STATUS_STOPPED:
                return True
            time.sleep(0.002)
    return False


class Client:
    """A client of one kind of the server at `port`, reached by `url`; its journal is in the directory."""

    def __init__(self, kind: str, url: str, port: int, directory: Path) -> None:
        self._process = _python(["torture.workload", kind, url, str(port), str(directory)], directory / f"{kind}.log")

    @property
    def status(self) -> int | None:
        """The exit status, or None while it runs."""
        return self._process.poll()

    def signal(self, number: int) -> None:
        """Send a signal; to a process that has ended nothing is sent."""
        if self._process.poll() is None:
            self._process.send_signal(number)

    def stop(self) -> bool:
        """Send SIGSTOP; return whether the process stands still now, and not at its end."""
        self.signal(signal.SIGSTOP)
        return _stands(self._process.pid)

    def kill(self) -> bool:
        """Send SIGKILL and wait; return whether that is what the process died of."""
        _end(self._process)
        return self._process.returncode == -signal.SIGKILL


class Servers:
    """Starts servers on one database, one after the other. `more` is in their environment."""

    def __init__(self, database: Path, log: Path, **more: str) -> None:
        self._database = database
        self._log = log
        self._process = _python(["torture.server"], log, **more)
        self._text = b""

    def start(self, port: int) -> Server:
        """Start a server and wait until it is ready; `port` 0 lets it choose. Raises RuntimeError when it fails."""
        arguments = [
            *("serve", str(self._database), "--port", str(port)),
            *("--log-level", "warning", "--memory-limit", MEMORY_LIMIT),
        ]
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(arguments).encode() + b"\n")
            self._process.stdin.flush()
        deadline = time.monotonic() + STARTING_SECONDS
        found: dict[str, str] = {}
        while not {"started", "ready"} <= found.keys():
            word, _, rest = self.line(deadline).partition(" ")
            if word not in ("started", "ready"):
                with contextlib.suppress(ProcessLookupError, ValueError):
                    if word != "ended":
                        os.kill(int(found.get("started", "")), signal.SIGKILL)
                raise RuntimeError(f"the server did not start: {word} {rest}; see {self._log}")
            found[word] = rest
        return Server(self, self._database, int(found["started"]), found["ready"])

    def line(self, deadline: float) -> str:
        """Return what is said next, or nothing when nothing is said until the deadline or the end."""
        assert self._process.stdout is not None
        while b"\n" not in self._text:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return ""
            piece = os.read(self._process.stdout.fileno(), 4096)
            if not piece:
                return ""
            self._text += piece
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def close(self) -> None:
        """Start no more. The last server must have ended."""
        _end(self._process)


class Server:
    """A running `ducktower serve`."""

    def __init__(self, servers: Servers, database: Path, pid: int, url: str) -> None:
        self._servers = servers
        self._database = database
        self._pid = pid
        self._status: int | None = None
        self.url = url
        self.port = int(url.rpartition(":")[2])

    def wait(self, seconds: float) -> int | None:
        """Return the exit status, or None when it runs on for so long."""
        if self._status is None:
            word, _, status = self._servers.line(time.monotonic() + seconds).partition(" ")
            if word == "ended":
                self._status = int(status)
        return self._status

    def signal(self, number: int) -> None:
        """Send a signal; to a process that has ended nothing is sent."""
        if self.wait(0) is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def stop(self) -> bool:
        """Send SIGSTOP; return whether the process stands still now, and not at its end."""
        self.signal(signal.SIGSTOP)
        return _stands(self._pid)

    def kill(self) -> bool:
        """Send SIGKILL and wait; return whether that is what the process died of."""
        self.signal(signal.SIGKILL)
        return self.wait(ENDING_SECONDS) == -signal.SIGKILL

    def fill_disk(self, more_bytes: int) -> None:
        """Let no file grow past the largest of the database's by more than `more_bytes`."""
        files = self._database.parent.glob(f"{self._database.name}*")
        self._limit_files(max(file.stat().st_size for file in files) + more_bytes)

    def empty_disk(self) -> None:
        """Let files grow again."""
        self._limit_files(resource.RLIM_INFINITY)

    def _limit_files(self, size_bytes: int) -> None:
        if self.wait(0) is None:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(self._pid, resource.RLIMIT_FSIZE, (size_bytes, resource.RLIM_INFINITY))
