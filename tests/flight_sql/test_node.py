"""The page for Node.js runs as it is written, where Node and its package are (`make test` fetches the package)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ducktower
from ducktower.server.token_file import TokenFile

PACKAGES = Path(sys.prefix) / "node" / "node_modules"
PAGE = Path(__file__).parents[2] / "docs" / "clients" / "node.md"
NODE = shutil.which("node")

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="there is no Node.js"),
    pytest.mark.skipif(not (PACKAGES / "@firetiger-oss").is_dir(), reason="the package is not there"),
]


def run(script: str, directory: Path) -> str:
    """Run JavaScript; return what it printed."""
    (directory / "node_modules").symlink_to(PACKAGES)
    (directory / "page.js").write_text(script)
    assert NODE is not None
    done = subprocess.run([NODE, "page.js"], capture_output=True, text=True, timeout=60, cwd=directory, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_runs(server: ducktower.FlightServer, client: ducktower.FlightClient, tmp_path: Path) -> None:
    """Its one block, on another port."""
    (script,) = re.findall(r"^```js\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert "port: 8815" in script
    assert run(script.replace("port: 8815", f"port: {server.port}"), tmp_path) == "a 1.5\nb 2.5\n"
    assert client.query("SELECT count(*) AS n FROM readings").to_pylist() == [{"n": 2}]


def test_a_server_that_asks(database: Path, tmp_path: Path) -> None:
    """By name and token, by token alone; a large result, a transaction in one text, and an error with its code."""
    token = TokenFile(f"{database}.tokens").create("ada", "owner", (), None)[1]
    with ducktower.serve(str(database), login_pause_seconds=0.05) as server:
        script = """
            const { FlightSQLClient } = require("@firetiger-oss/flight-sql-client");
            async function main() {
              for (const who of [{ username: "ada", password: TOKEN }, { token: TOKEN }]) {
                const client = new FlightSQLClient({ host: "localhost", port: PORT, plaintext: true, ...who });
                await client.execute("BEGIN; CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (7); COMMIT");
                console.log((await client.execute("SELECT i, repeat('x', 100) AS v FROM range(100000) r(i)")).numRows);
                console.log((await client.execute("DELETE FROM t RETURNING i")).toArray()[0].i);
                await client.execute("DROP TABLE t; SELECT 1");
                await client.execute("SELECT * FROM t").catch((error) => console.log(error.message));
                await client.close();
              }
              const stranger = new FlightSQLClient({ host: "localhost", port: PORT, plaintext: true });
              await stranger.execute("SELECT 1").catch((error) => console.log(error.message));
            }
            main();
        """
        said = run(script.replace("TOKEN", f'"{token}"').replace("PORT", str(server.port)), tmp_path).splitlines()
    assert said[:2] == said[3:5] == ["100000", "7"]
    assert all("[TABLE_NOT_FOUND]" in line for line in (said[2], said[5]))
    assert said[6:] == ["Authentication failed"]  # its own words
