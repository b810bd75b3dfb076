"""The processes of the demo, as the demo sees them: its server, its writers and its readers.

Owns how they are started, followed and ended, and why one of them failed. Must never write or read rows.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ..errors import CODES, DucktowerError, InternalError, TimedOut

__all__ = ["READER", "SERVER", "WRITER", "Child", "children", "finish", "order"]

SERVER = "server"
WRITER = "writer"
READER = "reader"

_STOP_SECONDS_MAX = 60.0
_LAST_WORDS_SECONDS_MAX = 5.0
_STDERR_LINES_MAX = 20


class Child:
    """One process of the demo. A thread follows what it says; `report` is the last of its figures."""

    def __init__(self, role: str, number: int) -> None:
        self.role = role
        self.name = role if role == SERVER else f"{role} {number}"
        self.report: dict[str, Any] = {}
        self.failure: DucktowerError | None = None
        self._is_dead = False
        self._stderr: deque[str] = deque(maxlen=_STDERR_LINES_MAX)
        self._events: dict[str, dict[str, Any]] = {}
        self._changed = threading.Condition()  # guards _events and failure
        # A session of its own: Ctrl-C on the terminal is for the demo, which then stops the rest in order.
        self._process = subprocess.Popen(  # noqa: S603 - our own module, our own arguments
            [sys.executable, "-m", "ducktower.cli.worker", role],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._errors = threading.Thread(target=self._follow_errors, daemon=True)
        self._errors.start()
        threading.Thread(target=self._follow_output, daemon=True).start()

    @property
    def errors(self) -> int:
        """The errors that it reported, and its own death."""
        return max(int(self.report.get("errors", 0)) + self._is_dead, self.failure is not None)

    def _follow_output(self) -> None:
        for line in self._process.stdout or ():
            message = json.loads(line)
            kind = message.pop("event")
            if kind == "report":
                self.report = message
            with self._changed:
                self._events[kind] = message
                if kind == "failed":
                    self.failure = CODES.get(message["code"], InternalError)(self._named(message["message"]))
                self._changed.notify_all()
        cause = self._cause_of_death()
        with self._changed:
            self._events["ended"] = {}
            if "done" not in self._events and self.failure is None:
                self._is_dead = True
                self.failure = InternalError(f"{self.name} ended early: {cause}")
            self._changed.notify_all()

    def _named(self, text: str) -> str:
        return text if self.role == SERVER else f"{self.name}: {text}"

    def _follow_errors(self) -> None:
        for line in self._process.stderr or ():
            if line.strip():
                self._stderr.append(line.strip())

    def _cause_of_death(self) -> str:
        """Say why the process ended: the signal that killed it, else its last words, else its exit status."""
        try:
            status = self._process.wait(_LAST_WORDS_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            return "it closed its output"
        self._errors.join(_LAST_WORDS_SECONDS_MAX)
        if status < 0:
            return f"killed by {_signal_name(-status)}"
        return self._stderr[-1] if self._stderr else f"exit status {status}"

    def order(self, what: Any) -> None:
        """Send one order; a child that is gone is noticed elsewhere."""
        try:
            assert self._process.stdin is not None  # noqa: S101 - it was opened as a pipe above
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            return

    def wait_for(self, event: str, seconds: float) -> dict[str, Any]:
        """Return what the child told with `event`.

        Raises:
            DucktowerError: it failed, or said nothing for so many seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: event in self._events or self.failure is not None, seconds):
                raise TimedOut(f"{self.name} was not {event} within {seconds:g} s")
            if event not in self._events and self.failure is not None:
                raise self.failure
            return self._events[event]

    def end(self) -> None:
        """Close the child's stdin, which ends it, and wait; kill it when it does not go."""
        try:
            if self._process.stdin is not None:
                self._process.stdin.close()
        except BrokenPipeError:
            pass
        try:
            self._process.wait(_STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def children(writers: int, readers: int) -> Iterator[tuple[Child, list[Child], list[Child]]]:
    """Start the processes, and end them all whatever happens."""
    started: list[Child] = []

    def start(role: str, number: int) -> Child:
        child = Child(role, number)
        started.append(child)
        return child

    try:
        yield (
            start(SERVER, 1),
            [start(WRITER, number + 1) for number in range(writers)],
            [start(READER, number + 1) for number in range(readers)],
        )
    finally:
        for child in reversed(started):
            child.end()


def order(crew: Sequence[Child], what: Any) -> None:
    """Send one order to each."""
    for child in crew:
        child.order(what)


def finish(crew: Sequence[Child]) -> None:
    """Have each come to its end; one that does not has a `failure` then."""
    order(crew, "stop")
    for child in crew:
        try:
            child.wait_for("done", _STOP_SECONDS_MAX)
        except DucktowerError as error:
            child.failure = child.failure or error


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
