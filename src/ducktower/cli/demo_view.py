"""What the demo looks like: live on a terminal, a line a second elsewhere, and the summary.

Owns the figures of the whole and how they are shown. Must never start, stop or order a process.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import typer

from ..errors import DucktowerError
from .terminal import block_chart, counted, milliseconds, one_line, sparkline

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .crew import Child

__all__ = ["Picture", "announced", "print_summary", "show"]

_SAMPLE_SECONDS = 0.15
_SMOOTHED_SAMPLES = 6
_LIVE_REFRESH_SAMPLES = 2
_SAMPLES_MAX = 4096
_LINE_SECONDS = 1.0
_CHART_LINES = 7
_WIDTH_MAX = 100
_SPARK_WIDTH_MAX = 18
_BESIDE_SPARK_WIDTH = 72
"""What the other columns of a process take, and its rate: a narrow terminal has less left for the curve."""
_MANY_PROCESSES = 20


@dataclass
class Picture:
    """The figures of one run, and where they come from. One thread samples and shows."""

    url: str
    database: str
    table: str
    columns: str
    question: str
    seconds: float | None
    writers: Sequence[Child]
    readers: Sequence[Child]
    statistics: Callable[[], dict[str, Any]]
    started: float = field(default_factory=time.monotonic)
    server: dict[str, Any] = field(default_factory=dict)
    _points: list[deque[tuple[float, int]]] = field(default_factory=list)
    rates: list[deque[float]] = field(default_factory=list)
    """Rows a second of each writer over time."""
    totals: deque[float] = field(default_factory=lambda: deque(maxlen=_SAMPLES_MAX))
    """Rows a second of all writers together over time."""

    def __post_init__(self) -> None:
        self._points = [deque(maxlen=_SMOOTHED_SAMPLES + 1) for _ in self.writers]
        self.rates = [deque(maxlen=_SAMPLES_MAX) for _ in self.writers]

    def spent(self) -> float:
        """Return the seconds since the start."""
        return time.monotonic() - self.started

    def over(self) -> bool:
        """Return whether the time is up."""
        return self.seconds is not None and self.spent() >= self.seconds

    def acknowledged(self) -> int:
        """Return the rows that all writers together know to be stored."""
        return sum(writer.report.get("rows", 0) for writer in self.writers)

    def sample(self) -> None:
        """Take one point of each curve, and ask the server for its own figures."""
        self.server = self.statistics()
        for writer, points, curve in zip(self.writers, self._points, self.rates, strict=True):
            # Each point has the time of the report that it comes from: reports and samples keep no step.
            if writer.report:
                points.append((writer.report["at"], writer.report["rows"]))
            (then, before), (now, after) = (points[0], points[-1]) if points else ((0.0, 0), (0.0, 0))
            curve.append((after - before) / (now - then) if now > then else 0.0)
        self.totals.append(sum(curve[-1] for curve in self.rates))

    def rate(self) -> float:
        """Return the rows acknowledged a second, over the last second."""
        return self.totals[-1] if self.totals else 0.0

    def group_size(self) -> float:
        """Return how many writes one commit held, on average."""
        return float(self.server.get("group_writes", 0) / max(1, self.server.get("groups", 0)))

    def group_rows(self) -> float:
        """Return how many rows one commit held, on average."""
        return float(self.server.get("rows", 0) / max(1, self.server.get("groups", 0)))

    def commit_latency(self) -> tuple[float, float]:
        """Return the median and the 99th percentile of the server's commits, in seconds."""
        figures = self.server.get("commit_seconds", {})
        return figures.get("p50", 0.0), figures.get("p99", 0.0)

    def summary(self, seconds: float, rows_before: int, rows_after: int) -> dict[str, Any]:
        """Return the figures of the finished run."""
        self.server = self.statistics()
        p50, p99 = self.commit_latency()
        rows = self.acknowledged()
        return {
            "rows_acknowledged": rows,
            "rows_in_table": rows_after,
            "rows_before": rows_before,
            "reads": sum(reader.report.get("reads", 0) for reader in self.readers),
            "read_errors": sum(reader.errors for reader in self.readers),
            "write_errors": sum(writer.errors for writer in self.writers),
            "count_went_down": sum(reader.report.get("went_down", 0) for reader in self.readers),
            "seconds": round(seconds, 3),
            "rows_per_second": round(rows / seconds, 1),
            "writes": self.server.get("group_writes", 0),
            "writes_per_second": round(self.server.get("group_writes", 0) / seconds, 1),
            "writes_per_group": round(self.group_size(), 2),
            "commit_ms_p50": round(p50 * 1000, 3),
            "commit_ms_p99": round(p99 * 1000, 3),
            "writers": [_latencies(writer, "rows") for writer in self.writers],
            "readers": [_latencies(reader, "reads") for reader in self.readers],
            "failed": [child.name for child in (*self.writers, *self.readers) if child.failure is not None],
            "database": self.database,
        }


def _latencies(child: Child, unit: str) -> dict[str, Any]:
    report = child.report
    return {
        unit: report.get(unit, 0),
        "ms_p50": round(report.get("p50", 0.0) * 1000, 3),
        "ms_p99": round(report.get("p99", 0.0) * 1000, 3),
    }


def show(picture: Picture, stop: threading.Event, crew: Sequence[Child], *, live: bool, quiet: bool) -> None:
    """Show the picture until its time is up, `stop` is set, or one of the processes failed."""
    screen = _LiveScreen(picture) if live else _Quiet() if quiet else _Lines(picture)
    with screen:
        while not (stop.is_set() or picture.over() or any(child.failure is not None for child in crew)):
            _sample(picture, stop)
            screen.update()
            left = _SAMPLE_SECONDS if picture.seconds is None else picture.seconds - picture.spent()
            stop.wait(max(0.0, min(_SAMPLE_SECONDS, left)))
        screen.draw()


def _sample(picture: Picture, stop: threading.Event) -> None:
    try:
        picture.sample()
    except DucktowerError as error:
        if not error.retryable or stop.is_set():
            raise


@contextmanager
def announced(*, live: bool, processes: int) -> Iterator[Callable[[int], None]]:
    """Say how many of the processes are ready, each time that the given function is told.

    On a terminal that is one line, and gone at the end; elsewhere only many processes are worth telling of.
    """
    if not live:
        yield lambda ready: _told_of_many(ready, processes)
        return
    from rich.console import Console

    with Console().status(_starting(0, processes), spinner="dots") as status:
        yield lambda ready: status.update(_starting(ready, processes))


def _told_of_many(ready: int, processes: int) -> None:
    if processes > _MANY_PROCESSES and ready % _MANY_PROCESSES == 1:
        typer.echo(_starting(ready, processes), err=True)


def _starting(ready: int, processes: int) -> str:
    return f"starting the processes: {ready} of {processes} are ready"


class _Quiet:
    """Shows nothing: for `--json`."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None

    def update(self) -> None:
        """Do nothing."""

    def draw(self) -> None:
        """Do nothing."""


class _Lines(_Quiet):
    """One line a second, for a log or a pipe."""

    def __init__(self, picture: Picture) -> None:
        self._picture = picture
        self._told = time.monotonic()

    def update(self) -> None:
        """Print a line when a second has gone by."""
        if time.monotonic() - self._told < _LINE_SECONDS:
            return
        self._told = time.monotonic()
        picture = self._picture
        answers = ", ".join(str(reader.report.get("answer", "-")) for reader in picture.readers)
        p50, p99 = picture.commit_latency()
        typer.echo(
            f"{picture.spent():5.1f} s  {picture.acknowledged():>12,} rows acknowledged  "
            f"{picture.rate():>9,.0f}/s  {picture.group_size():5.1f} writes a commit  "
            f"commit p50 {milliseconds(p50)} p99 {milliseconds(p99)}  "
            f"answers: {answers or 'none'}"
        )
        sys.stdout.flush()


class _LiveScreen(_Quiet):
    """A picture on a terminal, drawn again and again in its place."""

    def __init__(self, picture: Picture) -> None:
        from rich.console import Console
        from rich.live import Live

        self._picture = picture
        self._updates = 0
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def __enter__(self) -> None:
        self._live.start()

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self) -> None:
        """Draw the picture as it is now, each second time."""
        self._updates += 1
        if self._updates % _LIVE_REFRESH_SAMPLES == 0:
            self.draw()

    def draw(self) -> None:
        """Draw the picture as it is now."""
        self._live.update(_drawn(self._picture, self._console.width), refresh=True)


def _drawn(picture: Picture, width: int) -> RenderableType:
    from rich.console import Group

    width = min(width - 2, _WIDTH_MAX)  # room for the ^C that a terminal echoes: a new line would shift the picture
    return Group(_head(picture, width), _figures(picture, width), _processes(picture, width), _chart(picture, width))


def _head(picture: Picture, width: int) -> RenderableType:
    from rich.table import Table
    from rich.text import Text

    head = Table.grid(expand=True, padding=(0, 1))
    head.width = width
    head.add_column()
    head.add_column(justify="right")
    head.add_row(
        Text.assemble(
            ("▌ducktower ", "bold yellow"),
            f"one DuckDB, {counted(len(picture.writers), 'writer')}, {counted(len(picture.readers), 'reader')}",
        ),
        Text(
            f"{picture.spent():.1f} s" + (f" of {picture.seconds:g} s" if picture.seconds else ""),
            style="bold",
        ),
    )
    head.add_row(Text(f"▌{picture.table} ({picture.columns})", style="dim"), Text(picture.url, style="dim"))
    return head


def _figures(picture: Picture, width: int) -> RenderableType:
    from rich.box import ROUNDED
    from rich.table import Table
    from rich.text import Text

    p50, p99 = picture.commit_latency()
    spent = max(picture.spent(), 1e-9)
    figures = Table(box=ROUNDED, border_style="bright_black", header_style="dim", width=width, padding=0)
    values = {
        "rows": f"{picture.acknowledged():,}",
        "rows/s": f"{picture.rate():,.0f}",
        "writes/s": f"{picture.server.get('group_writes', 0) / spent:,.0f}",
        "group size": f"{picture.group_size():.1f}",
        "group rows": f"{picture.group_rows():,.0f}",
        "commit p50": milliseconds(p50),
        "commit p99": milliseconds(p99),
    }
    for name in values:
        figures.add_column(name, justify="center", ratio=1, no_wrap=True)
    figures.add_row(*(Text(value, style="bold cyan") for value in values.values()))
    return figures


def _processes(picture: Picture, width: int) -> RenderableType:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, header_style="dim", width=width, pad_edge=False, border_style="bright_black")
    table.add_column("process", no_wrap=True)
    table.add_column("pid", justify="right", style="dim")
    table.add_column("does", ratio=1, no_wrap=True, overflow="ellipsis")
    table.add_column("done", justify="right", no_wrap=True)
    table.add_column("p50", justify="right", no_wrap=True)
    table.add_column("p99", justify="right", no_wrap=True)
    table.add_column("errors", justify="right", no_wrap=True)
    spark_width = max(1, min(_SPARK_WIDTH_MAX, width - _BESIDE_SPARK_WIDTH))
    for child, curve in zip(picture.writers, picture.rates, strict=True):
        told = child.report
        table.add_row(
            Text(child.name, style="green"),
            str(child.pid),
            Text(f"{curve[-1] if curve else 0:>6,.0f}/s {sparkline(curve, spark_width)}", style="green"),
            f"{told.get('rows', 0):,} rows",
            *_shared_cells(child),
        )
    for child in picture.readers:
        told = child.report
        table.add_row(
            Text(child.name, style="magenta"),
            str(child.pid),
            _answer(picture.question, str(told.get("answer", ""))),
            f"{told.get('reads', 0):,} reads",
            *_shared_cells(child),
        )
    return table


def _answer(question: str, answer: str) -> RenderableType:
    from rich.text import Text

    shown = f"{int(answer):,}" if answer.isdecimal() else one_line(answer)
    return Text.assemble((shown, "bold magenta"), (f" ← {one_line(question)}", "dim"))


def _shared_cells(child: Child) -> tuple[Any, ...]:
    from rich.text import Text

    told, errors = child.report, child.errors
    return (
        milliseconds(told.get("p50", 0.0)),
        milliseconds(told.get("p99", 0.0)),
        Text(f"{errors:,}", style="bold red" if errors else "dim"),
    )


def _chart(picture: Picture, width: int) -> RenderableType:
    from rich.panel import Panel
    from rich.text import Text

    inner = width - 4
    lines = block_chart(picture.totals, inner, _CHART_LINES)
    top = max(list(picture.totals)[-inner:], default=0.0)
    return Panel(
        Text("\n".join(lines), style="yellow", no_wrap=True),
        title=Text(f"durable rows a second, at most {top:,.0f}", style="dim"),
        title_align="left",
        subtitle=Text("Ctrl-C ends", style="dim"),
        subtitle_align="right",
        border_style="bright_black",
        width=width,
    )


def print_summary(summary: dict[str, Any]) -> None:
    """Print what came out of the run, in a few lines."""
    before = f", {summary['rows_before']:,} of them from before" if summary["rows_before"] else ""
    lines = (
        f"{summary['rows_acknowledged']:,} rows acknowledged in {summary['seconds']:.1f} s, "
        f"{summary['rows_per_second']:,.0f} a second; {summary['rows_in_table']:,} in the table{before}: "
        + _agreement(summary),
        f"{summary['writes']:,} writes, {summary['writes_per_group']:.1f} to a commit; "
        f"commit p50 {summary['commit_ms_p50']:.2f} ms, p99 {summary['commit_ms_p99']:.2f} ms; "
        + counted(summary["write_errors"], "error"),
        f"{counted(summary['reads'], 'read')}, {counted(summary['read_errors'], 'error')}" + _went(summary),
    )
    for line in lines:
        typer.echo(line)


def _agreement(summary: dict[str, Any]) -> str:
    more = summary["rows_in_table"] - summary["rows_before"] - summary["rows_acknowledged"]
    if more == 0:
        return "they agree"
    dead = [name for name in summary["failed"] if name.startswith("writer")]
    if more > 0 and dead:
        return f"{more:,} of {', '.join(dead)}, which could not tell of them any more"
    return "THEY DIFFER"


def _went(summary: dict[str, Any]) -> str:
    if summary["query"] is not None or not summary["reads"]:
        return ""
    if summary["count_went_down"]:
        return f"; THE COUNT WENT DOWN {summary['count_went_down']:,} times"
    return "; the count never went down"
