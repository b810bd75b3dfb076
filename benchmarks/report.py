"""The report: a table for people, JSON for programs, and the page docs/benchmarks.md, all from the same words.

Owns how figures are shown, and where they are kept: one file for each part, which the next full run of that part
replaces. Must never measure or change them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .figures import Figure, plot_file
from .peers.environments import python_of

__all__ = ["PAGE", "RESULTS", "page_with_results", "plots_of", "print_report", "publish", "report_of", "write_json"]

RESULTS = Path(__file__).with_name("results")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"
_BEGIN, _END = "<!-- results -->", "<!-- end of results -->"
_HEADINGS = ("figure", "measured", "base", "ratio (lowest to highest)", "target", "", "p50 / p99 / p99.9 ms")

Told = dict[str, Any]
"""What `Figure.to_dict` returns, or a report's file holds."""


def report_of(figures: Sequence[Figure], machine: dict[str, object], *, judged: bool) -> Told:
    """Return everything that is known of a run."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "judged": judged,
        "machine": machine,
        "figures": [figure.to_dict() for figure in figures],
    }


def write_json(path: Path, report: Told) -> None:
    """Write a report."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


# -- for the terminal -------------------------------------------------------------------------------------


def print_report(console: Console, report: Told) -> None:
    """Print the machine, the table, the points of plots, and what fell short."""
    judged = report["judged"]
    for name, value in report["machine"].items():
        shown = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else value
        console.print(f"{name}: {shown}", highlight=False)
    figures = report["figures"]
    table = Table(title="Ducktower", title_justify="left")
    for number, heading in enumerate(_HEADINGS):
        table.add_column(heading, justify="right" if heading and number else "left")
    for figure in _lines(figures):
        table.add_row(*_row(figure, "\n  ", judged=judged))
    if table.row_count:
        console.print(table)
    for plot, (headings, rows) in plots_of(figures).items():
        table = Table(title=plot, title_justify="left")
        for heading in headings:
            table.add_column(heading, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    short = [figure for figure in figures if judged and figure.get("met") is False]
    for figure in short:
        console.print(f"SHORT: {figure['title']}: {_measured(figure)}, {_target(figure)} wanted", highlight=False)
    if judged and not short:
        console.print("Every target was met.")
    if not judged:
        console.print("A quick run: it shows that everything works; its figures are not judged.")


# -- for the page -----------------------------------------------------------------------------------------


def publish(parts: Iterable[str]) -> None:
    """Put the newest results of each part into the page, and draw the plots.

    Raises CalledProcessError when they cannot be drawn.
    """
    PAGE.write_text(page_with_results(PAGE.read_text(), parts))
    subprocess.run([str(python_of("plots")), "-m", "benchmarks.plots"], cwd=PAGE.parents[1], check=True)


def page_with_results(page: str, parts: Iterable[str]) -> str:
    """Return the page's text with what lies in the results between its two marks."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    sections = []
    for part in parts:
        path = RESULTS / f"{part}.json"
        if path.exists():
            sections.append(_section(part, json.loads(path.read_text())))
    return before + _BEGIN + "\n\n" + "\n".join(sections) + "\n" + _END + after


def _section(part: str, report: Told) -> str:
    machine = report["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"### {part}",
        "",
        f"{report['date']}: {machine['cores']} cores ({machine['cpu']}), {machine['memory_gb']} GB, "
        f"{machine['filesystem']}, fsync {machine['fsync_ms']['p50']} ms, load before {machine['load_before']}; "
        f"{versions}.",
        "",
    ]
    figures = report["figures"]
    if _lines(figures):
        lines += _markdown(_HEADINGS, [_row(figure, ", ", judged=True) for figure in _lines(figures)])
    for plot, (headings, rows) in plots_of(figures).items():
        lines += [f"**{plot}**, a second; p50 / p99 / p99.9 in ms where calls were timed:", ""]
        lines += _markdown(headings, rows)
        lines += [f"![{plot}](../benchmarks/results/plots/{plot_file(plot)}.svg)", ""]
    return "\n".join(lines)


def _markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    def line(cells: Iterable[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(headings), line("---" for _ in headings), *map(line, rows), ""]


# -- words ------------------------------------------------------------------------------------------------


def plots_of(figures: Iterable[Told]) -> dict[str, tuple[list[str], list[list[str]]]]:
    """Return each plot as headings and rows: a row for each place along it, a column for each line."""
    cells: dict[str, dict[str, dict[float, str]]] = {}
    for figure in figures:
        point = figure.get("point")
        if point:
            lines = cells.setdefault(point["plot"], {})
            latency = _latency(figure)
            lines.setdefault(point["line"], {})[point["x"]] = _number(figure["value"]) + (
                f" ({latency})" if latency else ""
            )
    tables = {}
    for plot, lines in cells.items():
        places = sorted({x for line in lines.values() for x in line})
        rows = [[f"{x:,.0f}", *(line.get(x, "") for line in lines.values())] for x in places]
        tables[plot] = ([plot.rpartition(": ")[2], *lines], rows)
    return tables


def _lines(figures: Iterable[Told]) -> list[Told]:
    return [figure for figure in figures if "point" not in figure]


def _row(figure: Told, separator: str, *, judged: bool) -> tuple[str, ...]:
    ratio = base = verdict = ""
    if "ratio" in figure:
        ratio = f"{figure['ratio']:.2f} ({min(figure['ratios']):.2f} to {max(figure['ratios']):.2f})"
        base = _number(figure["base_value"])
    if judged and figure.get("met") is not None:
        verdict = "met" if figure["met"] else "SHORT"
    of_base = f"of {figure['base']}" if "base" in figure else None
    title = separator.join(part for part in (figure["title"], of_base, figure.get("note")) if part)
    return title, _measured(figure), base, ratio, _target(figure), verdict, _latency(figure)


def _latency(figure: Told) -> str:
    spread = figure.get("latency_seconds")
    return " / ".join(f"{spread[name] * 1000:.2f}" for name in ("p50", "p99", "p999")) if spread else ""


def _measured(figure: Told) -> str:
    return "" if figure["value"] is None else f"{_number(figure['value'])} {figure['unit']}"


def _target(figure: Told) -> str:
    if "target" not in figure:
        return ""
    return f"<= {figure['target']:g}" if figure["at_most"] else f">= {figure['target']:g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
