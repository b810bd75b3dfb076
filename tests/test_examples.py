"""Every script in `examples/` runs as its first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import cli_support as cli

SCRIPTS = sorted(cli.EXAMPLES.glob("*.py"))


def example(path: Path, **env: str) -> str:
    """Run one script; return what it printed."""
    result = subprocess.run(
        [sys.executable, str(path)],
        capture_output=True,
        text=True,
        timeout=cli.SECONDS_MAX,
        env=cli.environment(**env),
    )
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout
    return result.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_by_itself(path: Path) -> None:
    """Without any setting it serves a database of its own."""
    if path.stem == "ibis_query":
        pytest.importorskip("ibis")
    example(path)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_an_example_runs_against_a_server(path: Path, tmp_path: Path) -> None:
    """With DUCKTOWER_URL it uses the server that is there, twice without harm."""
    if path.stem == "ibis_query":
        pytest.importorskip("ibis")
    with cli.serving(str(tmp_path / "examples.duckdb")) as (url, _):
        example(path, DUCKTOWER_URL=url)
        example(path, DUCKTOWER_URL=url)


def test_the_vignette_counts_what_it_wrote() -> None:
    """The rows that the two writers were told of are the rows in the table."""
    lines = example(cli.EXAMPLES / "one_duckdb_two_writers_one_reader.py").splitlines()
    told = sum(int(line.split()[2]) for line in lines if line.startswith("writer"))
    assert told > 0
    assert f"'rows': {told}," in lines[-1]
