"""The peers' drivers, started and asked from here.

Owns their processes: each ends when its input does, and is killed by its own id when it does not. Must never measure.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..clocked import Outcome, summed
from ..load import Load
from .environments import python_of

__all__ = ["Peer", "PeerFailed"]

LOAD_WORDS = ("kind", "seconds", "table", "shape", "rows", "every", "query")
"""What a driver is told of a load."""
ROOT = Path(__file__).parents[2]
ENDING_SECONDS = 30.0
LONGEST_SECONDS = 300.0


class PeerFailed(RuntimeError):
    """A peer could not do the work; the text is its own."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One peer: its name in tables, the module of its driver, and that of its requirements."""

    title: str
    driver: str

    @contextmanager
    def serving(self, directory: Path, **environment: str) -> Iterator[Served]:
        """Run its server with a database in the directory."""
        words = {"directory": str(directory), "started": time.time()}
        with _started(self.driver, "serve", words, environment) as process:
            yield Served(self, _answer(process), process.pid)


@dataclass(frozen=True, slots=True)
class Served:
    """A peer's server that runs."""

    peer: Peer
    target: dict[str, Any]
    pid: int

    def ask(self, kind: str, **words: Any) -> int:
        """Have one client do something once; return the number that it gives."""
        load = Load(kind="query", clients=1, seconds=0.0001, processes=1)
        with self.running(load, kind=kind, **words) as outcome:
            return outcome().count

    @contextmanager
    def running(self, load: Load, **words: Any) -> Iterator[Callable[[], Outcome]]:
        """Start the clients when all are connected; yield what waits for the outcome.

        `words` go before those of `load`.
        """
        processes = min(load.processes, load.clients)
        shared = {name: value for name, value in asdict(load).items() if name in LOAD_WORDS}
        with ExitStack() as stack:
            started = []
            for index in range(processes):
                share = {"clients": len(range(index, load.clients, processes)), "first": index * 1000}
                of_process = shared | {"target": self.target} | share | words
                started.append(stack.enter_context(_started(self.peer.driver, "load", of_process, {})))
            for process in started:
                _answer(process)
            for process in started:
                assert process.stdin is not None
                process.stdin.write(b"go\n")
                process.stdin.flush()
            yield lambda: summed([Outcome(**_answer(process)) for process in started])


@contextmanager
def _started(
    driver: str, what: str, words: dict[str, Any], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    command = [str(python_of(driver)), "-m", f"benchmarks.peers.{driver}", what, json.dumps(words)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
    ) as process:
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answer(process: subprocess.Popen[bytes]) -> Any:
    """Return a driver's next line, within a bound of time."""
    assert process.stdout is not None
    text = b""
    deadline = time.monotonic() + LONGEST_SECONDS
    while not text.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(0, deadline - time.monotonic()))[0]:
            raise PeerFailed(f"no answer within {LONGEST_SECONDS} s")
        piece = os.read(process.stdout.fileno(), 1 << 20)
        if not piece:
            raise PeerFailed("its process ended without an answer")
        text += piece
    answer = json.loads(text)
    if isinstance(answer, dict) and "failed" in answer:
        raise PeerFailed(str(answer["failed"]))
    return answer
