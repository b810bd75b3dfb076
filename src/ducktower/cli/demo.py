"""`ducktower demo`: one DuckDB, several writers and readers, each a process of its own, watched from here.

Owns the order of events and the verdict. Must never write or read rows itself, but for the two counts.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer

from ..errors import InternalError
from .crew import READER, SERVER, WRITER, Child, children, finish, order
from .demo_view import Picture, announced, print_summary, show
from .options import rate_of
from .scenarios import DEFAULT_TABLE, SCENARIOS, ScenarioName, count_query, make_table
from .terminal import leave

__all__ = ["command"]

_START_SECONDS_MAX = 60.0
_START_SECONDS_MAX_PER_PROCESS = 2.0
_SECONDS_WITHOUT_TERMINAL = 10.0
_WRITE_RATE = 5000.0
_READ_RATE = 20.0
_SHOW_CURSOR = b"\x1b[?25h\n"
_PROCESSES_MAX = 500
"""Of each kind: every one takes tens of megabytes, and a slip of the hand must not take the machine."""


def command(
    *,
    writers: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_DEMO_WRITERS", min=0, max=_PROCESSES_MAX, help="Writing processes."),
    ] = 2,
    readers: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_DEMO_READERS", min=0, max=_PROCESSES_MAX, help="Reading processes."),
    ] = 1,
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

    Exits 1 when the rows in the table are not those that were there before and those acknowledged, when a reader saw
    the count go down, or when a process failed: its summary comes all the same.
    """
    for name in [name for name in os.environ if name.startswith("DUCKTOWER_")]:
        del os.environ[name]  # all read by now; the demo's processes talk to the demo's own server alone
    live = sys.stdout.isatty() and not as_json
    if seconds is None and not live:
        seconds = _SECONDS_WITHOUT_TERMINAL
    stop, started = threading.Event(), threading.Event()
    _stop_on_signals(stop, started)
    orders: dict[str, Any] = {
        "table": table,
        "scenario": scenario.value,
        "query": count_query(table) if query is None else query,
        "is_count": query is None,
    }
    write_orders = orders | {"role": WRITER, "per_second": rate_of(rate, None, default=_WRITE_RATE)}
    read_orders = orders | {
        "role": READER,
        "per_second": rate_of(read_rate, None, default=_READ_RATE, flag="--read-rate"),
    }
    with children(writers, readers) as (server, write_children, read_children):
        crew = [*write_children, *read_children]
        with announced(live=live, processes=1 + len(crew)) as tell:
            ready = _start(server, database, crew, tell)

        from ..client import connect

        token = ready.pop("token")
        with connect(ready["url"], token=token) as client:
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
            order(write_children, write_orders | {"url": ready["url"], "token": token})
            order(read_children, read_orders | {"url": ready["url"], "token": token})
            started.set()
            show(picture, stop, [server, *crew], live=live, quiet=as_json)
            stop.set()
            if server.failure is not None:
                raise server.failure
            finish(write_children)
            finish(read_children)  # they ask once more, after the last write
            spent = picture.spent()
            summary = picture.summary(spent, rows_before, _count(client, table))
            summary |= {"scenario": scenario.value, "table": table, "query": query}
        finish([server])
    return _verdict(summary, [child for child in (*crew, server) if child.failure is not None], as_json=as_json)


def _start(server: Child, database: Path | None, crew: Sequence[Child], tell: Callable[[int], None]) -> dict[str, Any]:
    """Have the server serve; return its `url`, the `database` it opened, and the `token` it asks for, if it does.

    Arguments:
        tell: called with how many processes are ready.
    """
    longest = _START_SECONDS_MAX + _START_SECONDS_MAX_PER_PROCESS * len(crew)
    server.wait_for("loaded", longest)
    server.order({"role": SERVER, "database": None if database is None else str(database)})
    ready = server.wait_for("ready", longest)
    for number, child in enumerate(crew, 1):
        tell(number)
        child.wait_for("loaded", longest)
    return ready


def _count(client: Any, table: str) -> int:
    return int(client.query(count_query(table)).column(0)[0].as_py())


def _verdict(summary: dict[str, Any], failed: Sequence[Child], *, as_json: bool) -> int:
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        print_summary(summary)
    wrong = []
    failures = [child.failure for child in failed if child.failure is not None]
    if failures:
        others = ", ".join(child.name for child in failed[1:])
        wrong.append(failures[0].message + (f" (and {others})" if others else ""))
    missing = summary["rows_before"] + summary["rows_acknowledged"] - summary["rows_in_table"]
    if missing > 0 or (missing < 0 and not any(child.role == WRITER for child in failed)):
        wrong.append(
            f"{summary['rows_before']:,} rows before and {summary['rows_acknowledged']:,} acknowledged, "
            f"{summary['rows_in_table']:,} in the table"
        )
    if summary["count_went_down"]:
        wrong.append(f"a reader's count went down {summary['count_went_down']} times")
    if wrong:
        raise (type(failures[0]) if failures else InternalError)("; ".join(wrong))
    return 0


def _stop_on_signals(stop: threading.Event, started: threading.Event) -> None:
    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() or not started.is_set():
            if sys.stdout.isatty():
                os.write(1, _SHOW_CURSOR)
            leave(128 + number)  # the children notice
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, on_signal)
