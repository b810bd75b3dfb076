"""The processes of a measurement: servers, and functions that run in a process of their own.

Owns starting and ending them, each by its own id and within a bound of time. Must never measure.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import psutil

from .clocked import STARTING_SECONDS

__all__ = ["Server", "apart", "receive", "serving", "started"]

STOPPING_SECONDS = 60.0
IDLE_LOOK_SECONDS = 0.2
LONGEST_SECONDS = 600.0
"""No single function or load may take longer."""

P = ParamSpec("P")
T = TypeVar("T")

_spawn = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of Arrow and gRPC


class Server:
    """A running server: where it listens, which process it is, and how long it took to start."""

    def __init__(self, url: str, pid: int, seconds_to_start: float) -> None:
        self.url = url
        self.pid = pid
        self.seconds_to_start = seconds_to_start


@contextmanager
def serving(database: Path, *flags: str, environment: dict[str, str] | None = None) -> Iterator[Server]:
    """Run `ducktower serve` on a free port of the loopback, and end it by a SIGTERM to its own id.

    `environment` is added to ours.
    """
    command = [
        str(Path(sys.executable).with_name("ducktower")),
        "serve",
        str(database),
        "--port",
        "0",
        "--log-level",
        "warning",
        *flags,
    ]
    started_at = time.monotonic()
    kept = {key: value for key, value in os.environ.items() if not key.startswith("DUCKTOWER_")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=kept | (environment or {})) as process:
        try:
            url = _ready_url(process)
            taken = time.monotonic() - started_at
            _wait_until_idle(process.pid)
            yield Server(url, process.pid, taken)
        finally:
            process.terminate()
            try:
                process.wait(STOPPING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _ready_url(process: subprocess.Popen[bytes]) -> str:
    """Wait for the line `ready grpc://HOST:PORT`."""
    assert process.stdout is not None
    deadline = time.monotonic() + STARTING_SECONDS
    text = b""
    while (left := deadline - time.monotonic()) > 0:
        if not select.select([process.stdout], [], [], left)[0]:
            break
        piece = os.read(process.stdout.fileno(), 4096)
        text += piece
        for line in text.split(b"\n")[:-1]:
            if line.startswith(b"ready "):
                return line.split()[1].decode()
        if not piece:
            break
    raise RuntimeError(f"the server did not say that it is ready: {text!r}")


def _wait_until_idle(pid: int) -> None:
    """Wait until the server's own start is over: it goes on in the background once calls are accepted."""
    process = psutil.Process(pid)
    for _ in range(int(STARTING_SECONDS / IDLE_LOOK_SECONDS)):
        before = sum(process.cpu_times()[:2])
        time.sleep(IDLE_LOOK_SECONDS)
        if sum(process.cpu_times()[:2]) - before < IDLE_LOOK_SECONDS / 10:
            return


def apart(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a module's function in a fresh process and return its result."""
    with started(_without_pipe, function, args, kwargs) as (_, result):
        outcome: T = result()
        return outcome


def _without_pipe(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    del pipe
    return function(*args, **kwargs)


@contextmanager
def started(
    function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
) -> Iterator[tuple[Connection, Callable[[], T]]]:
    """Start a module's function in a fresh process; yield a pipe to it, and what waits for its result.

    The function's first argument is the other end of the pipe.
    """
    ours, theirs = _spawn.Pipe()
    process = _spawn.Process(target=_call, args=(theirs, function, args, kwargs), daemon=True)
    process.start()
    theirs.close()

    def result() -> T:
        kind, value = receive(ours)
        if kind == "failed":
            raise RuntimeError(value)
        outcome: T = value
        return outcome

    try:
        yield ours, result
    finally:
        ours.close()
        _end(process)


def receive(pipe: Connection) -> Any:
    """Return the next message of a process that was started, within a bound of time."""
    if not pipe.poll(LONGEST_SECONDS):
        raise TimeoutError(f"no answer within {LONGEST_SECONDS} s")
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError("a process of the measurement ended without a result") from None


def _call(pipe: Connection, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Run in the new process: call, and send back what came of it."""
    try:
        answer = ("returned", function(pipe, *args, **kwargs))
    except Exception as error:
        answer = ("failed", f"{type(error).__name__}: {error}")
    with contextlib.suppress(BrokenPipeError):
        pipe.send(answer)


def _end(process: BaseProcess) -> None:
    """Give the process time to end by itself: it does when its pipe is closed."""
    process.join(STOPPING_SECONDS)
    if process.is_alive():
        process.kill()
        process.join(STOPPING_SECONDS)
