"""The benchmarks run from end to end: a quick run of two figures, with real servers and client processes.

Nothing here looks at how fast anything was.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import report
from benchmarks.__main__ import MEASUREMENTS
from benchmarks.figures import Figure
from rich.console import Console

ROOT = Path(__file__).parent.parent
FIGURES = {
    "appenders": {"base_insert", "appenders_wait", "appenders_wait_apart", "appenders_flow"},
    "ledger": {"base_insert", "plain_64", "named_64", "plain_1", "named_1_plain", "named_1"},
    "bulk-read": {"base_bulk_read", "bulk_read"},
    "flight-sql": {
        *("base_plain_query", "sql_query_pyarrow", "sql_query_adbc"),
        *("base_sql_ingest", "sql_ingest", "sql_executemany", "sql_tables"),
    },
    "overload": {
        f"{room}_{kind}"
        for room in ("roomy", "crowded")
        for kind in ("put", "append_wait_apart", "insert_sql", "query")
    },
    "checkpoints": {"base_automatic_checkpoints", "checkpoints"},
}


@pytest.mark.parametrize("part", FIGURES)
def test_a_quick_run_counts_every_row_and_reports(tmp_path: Path, part: str) -> None:
    """A quick run of a part, without peers, ends with status 0, prints its table and writes its JSON."""
    written_to = tmp_path / "report.json"
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--only", part, "--json", written_to, "--directory", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    written = json.loads(written_to.read_text())
    assert {figure["name"] for figure in written["figures"]} == FIGURES[part]
    values = {figure["name"]: figure["value"] for figure in written["figures"]}
    # In so short a time a kind of clients may be refused only, where there is no room for all.
    assert all(value > 0 for name, value in values.items() if not name.startswith("crowded"))
    assert written["figures"][0]["title"][:20] in result.stdout
    assert {"cpu", "cores", "filesystem", "fsync_ms", "versions"} <= written["machine"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"], "a database was left behind"


def test_what_fell_short_is_told() -> None:
    """The machine, each ratio with its spread and target, and once more what did not reach it."""
    base = Figure(name="base", title="the base", unit="rows/s", values=[100.0, 100.0, 100.0])
    kept = {"base_title": base.title, "base": base.values, "target": 0.45}
    good = Figure(name="good", title="quick enough", unit="rows/s", values=[50.0, 60.0, 70.0], **kept)
    poor = Figure(name="poor", title="too slow", unit="rows/s", values=[10.0, 20.0, 30.0], **kept)
    console = Console(file=io.StringIO(), width=150)
    report.print_report(console, report.report_of([base, good, poor], {"cpu": "a machine"}, judged=True))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "cpu: a machine" in shown
    assert "0.60 (0.50 to 0.70)" in shown
    assert "0.20 (0.10 to 0.30)" in shown
    assert [line for line in shown.splitlines() if line.startswith("SHORT: ")] == [
        "SHORT: too slow: 20.00 rows/s, >= 0.45 wanted"
    ]
    assert "Every target was met." not in shown


def test_an_unknown_figure_is_bad_usage() -> None:
    """A name that is no measurement ends with status 2 and lists those that are."""
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--only", "nothing"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2
    assert "appenders" in result.stderr


def test_the_page_shows_the_results_that_are_kept() -> None:
    """docs/benchmarks.md is what the newest results of each part make of it."""
    page = report.PAGE.read_text()
    assert report.page_with_results(page, MEASUREMENTS) == page
    assert all(path.stem in MEASUREMENTS for path in report.RESULTS.glob("*.json"))
