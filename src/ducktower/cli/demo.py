"""`ducktower demo`: one DuckDB, several writers and readers, each a process of its own, watched from here.

Owns the processes and the verdict. Must never write or read rows itself, but for the last count.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ..errors import CODES, DucktowerError, InternalError, TimedOut
from .demo_view import Picture, announced, print_summary, show
from .options import rate_of
from .scenarios import DEFAULT_TABLE, SCENARIOS, ScenarioName, count_query, make_table
from .terminal import leave
from .worker import READER, SERVER, WRITER

__all__ = ["command"]

_START_SECONDS_MAX = 60.0
_STOP_SECONDS_MAX = 60.0
_SECONDS_WITHOUT_TERMINAL = 10.0
_REFRESH_SECONDS = 0.1
_STDERR_LINES_MAX = 20
_WRITE_RATE = 5000.0
_READ_RATE = 20.0


class Child:
    """One process of the demo. A thread follows what it says; `report` is the last of its figures."""

    def __init__(self, role: str, number: int) -> None:
        self.role = role
        self.name = f"{role} {number}"
        self.report: dict[str, Any] = {}
        self.notes: deque[str] = deque(maxlen=_STDERR_LINES_MAX)
        self.failure: DucktowerError | None = None
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
        for follow in (self._follow_output, self._follow_errors):
            threading.Thread(target=follow, daemon=True).start()

    def _follow_output(self) -> None:
        for line in self._process.stdout or ():
            message = json.loads(line)
            kind = message.pop("event")
            if kind == "report":
                self.report = message
            elif kind == "note":
                self.notes.append(message["text"])
            with self._changed:
                self._events[kind] = message
                if kind == "failed":
                    self.failure = CODES.get(message["code"], InternalError)(message["message"])
                self._changed.notify_all()
        with self._changed:
            self._events["ended"] = {}
            if "done" not in self._events and self.failure is None:
                last = self.notes[-1] if self.notes else "without a word"
                self.failure = InternalError(f"{self.name} ended early: {last}")
            self._changed.notify_all()

    def _follow_errors(self) -> None:
        for line in self._process.stderr or ():
            if line.strip():
                self.notes.append(line.strip())

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
                raise TimedOut(f"{self.name} did not get {event} within {seconds:g} s")
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


def command(
    *,
    writers: Annotated[int, typer.Option(envvar="DUCKTOWER_DEMO_WRITERS", min=0, help="Writing processes.")] = 2,
    readers: Annotated[int, typer.Option(envvar="DUCKTOWER_DEMO_READERS", min=0, help="Reading processes.")] = 1,
    seconds: Annotated[
        float | None,
        typer.Option(
            envvar="DUCKTOWER_DEMO_SECONDS",
            min=0.1,
            help="How long. [default: until Ctrl-C on a terminal, else 10]",
        ),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_DEMO_RATE",
            metavar="N|max",
            help=f"Rows a second of each writer. [default: {_WRITE_RATE:g}]",
        ),
    ] = None,
    read_rate: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_DEMO_READ_RATE",
            metavar="N|max",
            help=f"Questions a second of each reader. [default: {_READ_RATE:g}]",
        ),
    ] = None,
    scenario: Annotated[
        ScenarioName,
        typer.Option(envvar="DUCKTOWER_DEMO_SCENARIO", help="The columns: (id, value), or a complex schema."),
    ] = ScenarioName.plain,
    table: Annotated[str, typer.Option(envvar="DUCKTOWER_DEMO_TABLE", help="The table.")] = DEFAULT_TABLE,
    query: Annotated[
        str | None,
        typer.Option(envvar="DUCKTOWER_DEMO_QUERY", help="What the readers ask. [default: the count of the table]"),
    ] = None,
    database: Annotated[
        Path | None,
        typer.Option(envvar="DUCKTOWER_DEMO_DATABASE", help="A file to keep. [default: a temporary one]"),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", envvar="DUCKTOWER_DEMO_JSON", help="Print one final JSON object instead."),
    ] = False,
) -> int:
    """Show one DuckDB with several writers and readers, each in a process of its own.

    Exits 1 when the rows in the table are not the rows acknowledged, or a reader saw the count go down.
    """
    for name in [name for name in os.environ if name.startswith("DUCKTOWER_")]:
        del os.environ[name]  # all read by now; the demo's processes talk to the demo's own server alone
    live = sys.stdout.isatty() and not as_json
    if seconds is None and not live:
        seconds = _SECONDS_WITHOUT_TERMINAL
    stop = threading.Event()
    _stop_on_signals(stop)
    orders: dict[str, Any] = {
        "table": table,
        "scenario": scenario.value,
        "query": count_query(table) if query is None else query,
        "is_count": query is None,
    }
    write_orders = orders | {"role": WRITER, "per_second": rate_of(rate, None, default=_WRITE_RATE)}
    read_orders = orders | {"role": READER, "per_second": rate_of(read_rate, None, default=_READ_RATE)}
    with _children(writers, readers) as (server, write_children, read_children):
        with announced("starting the processes", live=live):
            ready = _start(server, database)
            for child in (*write_children, *read_children):
                child.wait_for("loaded", _START_SECONDS_MAX)

        from ..client import connect

        with connect(ready["url"]) as client:
            make_table(client, SCENARIOS[scenario], table)
            rows_before = _count(client, table)
            picture = Picture(
                **ready,
                table=table,
                columns=SCENARIOS[scenario].columns,
                question=orders["query"],
                seconds=seconds,
                writers=write_children,
                readers=read_children,
                statistics=client.statistics,
            )
            _order(write_children, write_orders | {"url": ready["url"]})
            _order(read_children, read_orders | {"url": ready["url"]})
            show(picture, stop, [*write_children, *read_children], live=live, quiet=as_json)
            stop.set()
            _finish(write_children)
            _finish(read_children)  # they ask once more, after the last write
            spent = picture.spent()
            summary = picture.summary(spent, rows_before, _count(client, table))
            summary |= {"scenario": scenario.value, "table": table, "query": query}
        _finish([server])
    return _verdict(summary, as_json=as_json)


@contextmanager
def _children(writers: int, readers: int) -> Iterator[tuple[Child, list[Child], list[Child]]]:
    """Start the processes, and end them all whatever happens."""
    children: list[Child] = []

    def start(role: str, number: int) -> Child:
        child = Child(role, number)
        children.append(child)
        return child

    try:
        yield (
            start(SERVER, 1),
            [start(WRITER, number + 1) for number in range(writers)],
            [start(READER, number + 1) for number in range(readers)],
        )
    finally:
        for child in reversed(children):
            child.end()


def _start(server: Child, database: Path | None) -> dict[str, Any]:
    """Have the server serve; return its `url` and the `database` it opened."""
    server.wait_for("loaded", _START_SECONDS_MAX)
    server.order({"role": SERVER, "database": None if database is None else str(database)})
    return server.wait_for("ready", _START_SECONDS_MAX)


def _order(children: Sequence[Child], what: Any) -> None:
    for child in children:
        child.order(what)


def _finish(children: Sequence[Child]) -> None:
    _order(children, "stop")
    for child in children:
        child.wait_for("done", _STOP_SECONDS_MAX)


def _count(client: Any, table: str) -> int:
    return int(client.query(count_query(table)).column(0)[0].as_py())


def _verdict(summary: dict[str, Any], *, as_json: bool) -> int:
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        print_summary(summary)
    wrong = []
    if summary["rows_acknowledged"] != summary["rows_in_table"]:
        wrong.append(f"{summary['rows_acknowledged']:,} rows acknowledged, {summary['rows_in_table']:,} in the table")
    if summary["count_went_down"]:
        wrong.append(f"a reader's count went down {summary['count_went_down']} times")
    if wrong:
        raise InternalError("; ".join(wrong))
    return 0


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            leave(128 + number)  # the children notice
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
