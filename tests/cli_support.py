"""Runs the real `ducktower` command in processes of its own, always with an end to it."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import ducktower

COMMAND = (sys.executable, "-m", "ducktower.cli")
EXAMPLES = Path(__file__).parent.parent / "examples"
SECONDS_MAX = 60


def environment(**more: str) -> dict[str, str]:
    """This process's environment without settings of ducktower's, and with `more`."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DUCKTOWER_")}
    return inherited | {"PYTHONUNBUFFERED": "1", "COLUMNS": "100"} | more


def run(
    *arguments: str, check: bool = True, seconds: float = SECONDS_MAX, stdin: bytes = b"", **env: str
) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    result = subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=seconds, env=environment(**env)
    )
    if check:
        assert result.returncode == 0, result.stderr.decode()
    return result


def fails(*arguments: str, code: str, status: int = 1, **env: str) -> str:
    """Run a command that must fail with one line that starts with `code`; return that line."""
    result = run(*arguments, check=False, **env)
    text = result.stderr.decode()
    assert result.returncode == status, text
    lines = [line for line in text.splitlines() if line.startswith(f"{code}: ")]
    assert len(lines) == 1, text
    assert "Traceback" not in text
    assert len(text.splitlines()) == 1, text
    return lines[0]


def on_terminal(
    *arguments: str, columns: int = 100, lines: int = 30, interrupt_at: str | None = None
) -> tuple[int, str]:
    """Run a command on a pseudo-terminal of that size; return its exit status and all that it showed.

    Arguments:
        interrupt_at: the text after which Ctrl-C is pressed.
    """
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # it is what Ctrl-C on this terminal reaches
        env=environment(TERM="xterm", COLUMNS=str(columns)),
    )
    os.close(child)
    shown = b""
    end = time.monotonic() + SECONDS_MAX
    try:
        while time.monotonic() < end:
            if select.select([parent], [], [], 0.1)[0]:
                try:
                    data = os.read(parent, 65536)
                except OSError:  # Linux: the other end was closed
                    break
                if not data:
                    break
                shown += data
            if interrupt_at is not None and interrupt_at.encode() in shown:
                os.write(parent, b"\x03")
                interrupt_at = None
        return process.wait(SECONDS_MAX), shown.decode()
    finally:
        process.kill()
        os.close(parent)


@contextmanager
def started(*arguments: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """Start a command, and kill it at the end when it is still there."""
    process = subprocess.Popen(
        [*COMMAND, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**env),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@contextmanager
def serving(*arguments: str, port: int = 0) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running `ducktower serve`: its URL, and its process."""
    with started("serve", *arguments, "--port", str(port), "--drain-seconds", "2") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready grpc://"), line + (process.stderr.read() if process.stderr else "")
        yield line.split()[1], process


def stopped(process: subprocess.Popen[str], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    """Send a signal; return the exit status and what is left of stdout and stderr."""
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS_MAX)
    return process.returncode, out, err


def last_json(output: bytes) -> dict[str, Any]:
    """The one JSON object that a command printed."""
    lines = output.decode().splitlines()
    assert len(lines) == 1, lines
    found: dict[str, Any] = json.loads(lines[0])
    return found


def query(url: str, sql: str) -> list[dict[str, Any]]:
    """Ask with the library, which is quicker than a process for each question."""
    with ducktower.connect(url) as client:
        rows: list[dict[str, Any]] = client.query(sql).to_pylist()
    return rows


def execute(url: str, sql: str) -> None:
    """Run SQL that writes, with the library."""
    with ducktower.connect(url) as client:
        client.execute(sql)


def is_gone(pid: int, seconds: float = SECONDS_MAX) -> bool:
    """Wait until no process has this id; False when one still has."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:  # nobody may be there to fetch its status
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.05)
    return False


def options_of(command: Any) -> Sequence[Any]:
    """The options of a typer command, without `--help`."""
    return [one for one in command.params if one.param_type_name == "option" and one.name != "help"]
