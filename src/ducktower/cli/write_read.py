"""`ducktower write` and `ducktower read`: the vignette's writer and reader, each in a terminal of its own.

Owns what they print. Must never hold a loop of its own over rows or reads: those are in `vignette`.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TableNotFound, Unavailable
from .options import Connection, connected, rate_of
from .scenarios import DEFAULT_TABLE, SCENARIOS, ScenarioName, count_query, make_table, rows_of
from .terminal import counted, leave, milliseconds, one_line, run_interruptibly, warm_up
from .vignette import CLIENT_RETRY_SECONDS, Reader, Writer

if TYPE_CHECKING:
    import pyarrow as pa

    from ..client import FlightClient

__all__ = ["read_command", "write_command"]

_REPORT_SECONDS = 1.0
_PER_SECOND = 1.0
_ANSWER_ROWS_MAX = 20
_LOOK_SECONDS = 0.1

_Table = Annotated[str, typer.Option("--table", envvar="DUCKTOWER_TABLE", help="The table.")]


@connected
def write_command(
    *,
    connection: Connection,
    table: _Table = DEFAULT_TABLE,
    scenario: Annotated[
        ScenarioName,
        typer.Option(envvar="DUCKTOWER_WRITE_SCENARIO", help="The columns: (id, value), or a complex schema."),
    ] = ScenarioName.plain,
    count: Annotated[
        int | None, typer.Option(envvar="DUCKTOWER_WRITE_COUNT", min=1, help="Stop after so many rows.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(envvar="DUCKTOWER_WRITE_SECONDS", min=0, help="Stop after so many seconds."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(envvar="DUCKTOWER_WRITE_RATE", help="Rows a second, or `max`. [default: 1]", metavar="N|max"),
    ] = None,
    every: Annotated[
        float | None, typer.Option(envvar="DUCKTOWER_WRITE_EVERY", help="Seconds from one row to the next.")
    ] = None,
    retry_seconds: Annotated[
        float,
        typer.Option(envvar="DUCKTOWER_WRITE_RETRY_SECONDS", min=0, help="How long to go on without the server."),
    ] = 60.0,
) -> None:
    """Write rows: the time as `id`, a random `value`. Makes the table when it is missing.

    Goes on for ever, or until --count or --seconds, and through a restart of the server, which must be there at first.
    """
    per_second = rate_of(rate, every, default=_PER_SECOND)
    stop = threading.Event()
    with connection.client(retry_seconds=CLIENT_RETRY_SECONDS) as client:
        run_interruptibly(lambda: make_table(client, SCENARIOS[scenario], table))
        warm_up()
        writer = Writer(
            client,
            table,
            rows_of(SCENARIOS[scenario]),
            per_second=per_second,
            count=count,
            stop=stop,
            tell=_tell,
            retry_seconds=retry_seconds,
        )
        started = time.monotonic()

        def report() -> None:
            spent = max(time.monotonic() - started, 1e-9)
            p50, p99 = (milliseconds(writer.latency.percentile(fraction)) for fraction in (0.5, 0.99))
            _print(
                f"{writer.acknowledged:,} rows acknowledged, {writer.acknowledged / spent:,.0f} a second, "
                f"p50 {p50}, p99 {p99}" + (f", last id {writer.last_row['id']}" if writer.last_row else "")
            )

        _run_until_stopped(writer.run, stop, seconds, report)
        report()
        if writer.found or writer.lost:
            _print(f"{writer.found:,} more rows are stored, unacknowledged; {writer.lost:,} are not stored")


@connected
def read_command(
    *,
    connection: Connection,
    table: _Table = DEFAULT_TABLE,
    query: Annotated[
        str | None,
        typer.Option(envvar="DUCKTOWER_READ_QUERY", help="What to ask. [default: the count of --table]"),
    ] = None,
    count: Annotated[
        int | None, typer.Option(envvar="DUCKTOWER_READ_COUNT", min=1, help="Stop after so many answers.")
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(envvar="DUCKTOWER_READ_SECONDS", min=0, help="Stop after so many seconds.")
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(envvar="DUCKTOWER_READ_RATE", help="Questions a second, or `max`. [default: 1]", metavar="N|max"),
    ] = None,
    every: Annotated[
        float | None,
        typer.Option(envvar="DUCKTOWER_READ_EVERY", help="Seconds from one question to the next."),
    ] = None,
    retry_seconds: Annotated[
        float,
        typer.Option(envvar="DUCKTOWER_READ_RETRY_SECONDS", min=0, help="How long to go on without the server."),
    ] = 60.0,
    wait_seconds: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_READ_WAIT_SECONDS", min=0, help="How long to wait for a table that a writer is to make."
        ),
    ] = 10.0,
) -> None:
    """Ask for the count of a table, or something else, again and again; print each answer.

    Goes on for ever, or until --count or --seconds, and through a restart of the server, which must be there at first.
    Makes no table: one that is missing is waited for, as a reader may be started before the first writer.
    """
    per_second = rate_of(rate, every, default=_PER_SECOND)
    stop = threading.Event()
    with connection.client(retry_seconds=CLIENT_RETRY_SECONDS) as client:
        reader = Reader(
            client,
            count_query(table) if query is None else query,
            per_second=per_second,
            count=count,
            stop=stop,
            tell=_tell,
            on_answer=lambda answer, spent: _print(f"{_answer_text(answer)}  ({milliseconds(spent)})"),
            retry_seconds=retry_seconds,
        )

        def run() -> None:
            if query is None:
                _wait_for(client, table, wait_seconds, stop)
            else:
                client.health()  # raises when nobody is there at first; later on that is waited for
            reader.run()

        _run_until_stopped(run, stop, seconds, lambda: None)
    _tell(f"{counted(reader.reads, 'read')}, {counted(reader.errors, 'error')}")


def _wait_for(client: FlightClient, table: str, seconds: float, stop: threading.Event) -> None:
    """Wait until the table is there, or `stop` is set. A server that was there may go and come back meanwhile.

    Raises:
        TableNotFound: it is not, after so many seconds.
        Unavailable: there is no server at first, or after so many seconds.
    """
    end = time.monotonic() + seconds
    told = False
    while not stop.is_set():
        try:
            client.table_schema(table)
        except (TableNotFound, Unavailable) as error:
            if time.monotonic() >= end or not (told or isinstance(error, TableNotFound)):
                raise
            if not told:
                _tell(f'no table "{one_line(table)}" yet; waiting {seconds:g} s for a writer to make it')
            told = True
            stop.wait(_LOOK_SECONDS)
        else:
            return


def _answer_text(answer: pa.Table) -> str:
    """Return a result as short text: the bare value of a single one, else one line for each row."""
    if answer.num_rows == 1 and answer.num_columns == 1:
        return one_line(f"{answer.column_names[0]} {answer.column(0)[0].as_py()}")
    columns = [column.to_pylist() for column in answer.slice(0, _ANSWER_ROWS_MAX).columns]  # names may be equal
    rows = zip(*columns, strict=True)
    lines = [one_line(", ".join(f"{name} {value}" for name, value in zip(answer.column_names, row, strict=True)))
             for row in rows]  # fmt: skip
    if answer.num_rows > len(lines):
        lines.append(f"and {answer.num_rows - len(lines):,} more rows")
    return "\n".join(lines) if lines else "no rows"


def _run_until_stopped(
    work: Callable[[], None], stop: threading.Event, seconds: float | None, report: Callable[[], None]
) -> None:
    """Run `work` in a thread, and `report` now and then, until `work` ends; signals and time set `stop`.

    Raises:
        DucktowerError: what `work` raised.
        BrokenPipeError: whoever reads the output has left.
    """
    failures: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            leave(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    started = reported = time.monotonic()
    thread = threading.Thread(target=run, name="vignette", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.05)
        now = time.monotonic()
        if seconds is not None and now - started >= seconds:
            stop.set()
        if now - reported >= _REPORT_SECONDS:
            reported = now
            report()
    if failures:
        raise failures[0]


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _tell(line: str) -> None:
    typer.echo(line, err=True)
