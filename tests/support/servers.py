"""The real `ducktower serve` in a process of its own, which a test may signal, kill or starve."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_END_SECONDS = 60


def environment() -> dict[str, str]:
    """This process's environment without settings of Ducktower's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DUCKTOWER_")}


class ServerProcess:
    """A running server: its URL, its process, what it said on stderr."""

    def __init__(self, database: Path | str, log: Path, *options: str, port: int = 0) -> None:
        self._log = log
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "ducktower.cli", "serve", str(database), "--port", str(port), *options],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environment(),
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline().decode()
        if not line.startswith("ready grpc"):
            self.kill()
            raise AssertionError(f"the server did not start: {line!r} {self.stderr}")
        self.url = line.split()[1]

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.url.rpartition(":")[2])

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def stderr(self) -> str:
        """What it has said so far."""
        return self._log.read_text()

    def terminate(self) -> int:
        """Send SIGTERM and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """Send SIGKILL."""
        if self.process.poll() is None:
            self.process.kill()
        self._ended()

    def _ended(self) -> int:
        status = self.process.wait(_END_SECONDS)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status


@contextmanager
def running(database: Path | str, log: Path, *options: str, port: int = 0) -> Iterator[ServerProcess]:
    """Run a server for the length of a block; it is killed at the end when it is still there."""
    server = ServerProcess(database, log, *options, port=port)
    try:
        yield server
    finally:
        server.kill()
