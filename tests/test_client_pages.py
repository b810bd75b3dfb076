"""The pages of docs/clients: their Python runs as it is written, against a server on another port."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ducktower
from support.servers import environment

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "docs" / "clients"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PAGES = [page for page in sorted(CLIENTS.glob("*.md")) if BLOCK.search(page.read_text())]
USUAL = "localhost:8815"


def test_there_are_pages_to_run() -> None:
    """Those of Python tools, and the one about the lock."""
    assert {"python.md", "ibis.md", "lock.md"} <= {page.name for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs(server: ducktower.FlightServer, tmp_path: Path, page: Path) -> None:
    """All blocks in one program, as somebody would paste them; only the port is another."""
    text = "\n".join(BLOCK.findall(page.read_text()))
    assert USUAL in text
    script = tmp_path / "page.py"
    script.write_text(text.replace(USUAL, f"localhost:{server.port}"))
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", str(script)],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr, done.stderr


@pytest.mark.parametrize("page", ["jdbc.md", "odbc.md"])
def test_what_was_not_run_says_so(page: str) -> None:
    """A page about a tool that does not run here is marked."""
    assert "**Untested" in (CLIENTS / page).read_text()


def test_every_page_can_be_found() -> None:
    """docs/flight_sql.md links to each of them."""
    overview = (ROOT / "docs" / "flight_sql.md").read_text()
    assert [page.name for page in CLIENTS.glob("*.md") if f"(clients/{page.name})" not in overview] == []
