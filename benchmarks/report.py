"""The report: one table for people, one JSON file for programs.

Owns how figures are shown. Must never measure or change them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .figures import Figure, percentiles

__all__ = ["print_report", "write_json"]


def print_report(console: Console, figures: Sequence[Figure], machine: dict[str, object], *, judged: bool) -> None:
    """Print the machine, the table, and what fell short."""
    for name, value in machine.items():
        shown = ", ".join(f"{key} {part}" for key, part in value.items()) if isinstance(value, dict) else value
        console.print(f"{name}: {shown}", highlight=False)
    table = Table(title="Ducktower", title_justify="left")
    table.add_column("figure")
    for heading in ("measured", "base", "ratio (lowest to highest)", "target", "", "p50 / p99 / p99.9 ms"):
        table.add_column(heading, justify="right" if heading else "left")
    for figure in figures:
        table.add_row(*_row(figure, judged=judged))
    console.print(table)
    short = [figure for figure in figures if judged and figure.met is False]
    for figure in short:
        console.print(f"SHORT: {figure.title}: {_measured(figure)}, {_target(figure)} wanted", highlight=False)
    if judged and not short:
        console.print("Every target was met.")
    if not judged:
        console.print("A quick run: it shows that everything works; its figures are not judged.")


def _row(figure: Figure, *, judged: bool) -> tuple[str, ...]:
    ratio = base = verdict = latency = ""
    if figure.ratio is not None and figure.base_value is not None:
        ratio = f"{figure.ratio:.2f} ({min(figure.ratios):.2f} to {max(figure.ratios):.2f})"
        base = f"{_number(figure.base_value)}"
    if judged and figure.met is not None:
        verdict = "met" if figure.met else "SHORT"
    if figure.latencies:
        spread = percentiles(figure.latencies)
        latency = " / ".join(f"{spread[name] * 1000:.2f}" for name in ("p50", "p99", "p999"))
    title = "\n  ".join(
        part
        for part in (
            figure.title,
            f"of {figure.base_title}" if figure.base_title else None,
            figure.note,
        )
        if part
    )
    return title, _measured(figure), base, ratio, _target(figure), verdict, latency


def _measured(figure: Figure) -> str:
    return f"{_number(figure.value)} {figure.unit}"


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    return f"<= {figure.target:g}" if figure.at_most else f">= {figure.target:g}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def write_json(path: Path, figures: Sequence[Figure], machine: dict[str, object], *, judged: bool) -> None:
    """Write everything that was printed, and each round's values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "judged": judged,
        "machine": machine,
        "figures": [figure.to_dict() for figure in figures],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
