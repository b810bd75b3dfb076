"""The benchmarks run from end to end: a quick run of two figures, with real servers and client processes.

Nothing here looks at how fast anything was.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import report
from benchmarks.__main__ import MEASUREMENTS

ROOT = Path(__file__).parent.parent
FIGURES = {
    "base_insert",
    "appenders_wait",
    "appenders_wait_apart",
    "appenders_flow",
    "plain_64",
    "named_64",
    "plain_1",
    "named_1_plain",
    "named_1",
    "base_bulk_read",
    "bulk_read",
    "base_plain_query",
    "sql_query_pyarrow",
    "sql_query_adbc",
    "base_sql_ingest",
    "sql_ingest",
    "sql_executemany",
    "sql_tables",
    "base_open",
    "token",
    "tls",
    "base_no_backup",
    "during_backups",
    "backup",
}


@pytest.mark.timeout(300)  # it starts a hundred processes
def test_a_quick_run_counts_every_row_and_reports(tmp_path: Path) -> None:
    """A quick run of cheap figures ends with status 0, prints its table and writes its JSON."""
    report = tmp_path / "report.json"
    chosen = ["--only", "appenders", "--only", "bulk-read", "--only", "flight-sql", "--only", "security"]
    chosen += ["--only", "backup", "--only", "ledger"]
    result = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", *chosen, "--json", report, "--directory", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "16 appenders, rows flow" in result.stdout
    written = json.loads(report.read_text())
    assert {figure["name"] for figure in written["figures"]} == FIGURES
    assert all(figure["value"] > 0 for figure in written["figures"])
    assert {"cpu", "cores", "filesystem", "fsync_ms", "versions"} <= written["machine"].keys()
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"], "a database was left behind"


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
