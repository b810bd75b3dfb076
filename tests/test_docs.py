"""What the documentation says is so: README blocks run as written, every setting and code is in it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pytest

import ducktower
from ducktower.config import EngineConfig, ServerConfig
from ducktower.errors import CODES
from support.servers import environment
from support.waiting import until

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
PYTHON = [body for kind, body in BLOCKS if kind == "python"]
COMMANDS = [
    line.removeprefix("$ ")
    for kind, body in BLOCKS
    if kind == "console"
    for line in body.splitlines()
    if line.startswith("$ ")
]
FOR_EVER = [one for one in COMMANDS if one.startswith(("ducktower serve", "ducktower write", "ducktower read"))]
MADE_BY_OTHERS = ("make ", "python3 -m venv", "~/ducktower/bin/pip ", "export PATH=")


def outside(directory: Path, port: int = 0) -> dict[str, str]:
    """Return the environment of a person who has the commands, and whose usual port is another one."""
    found = environment() | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(directory),
    }
    return found | ({"DUCKTOWER_PORT": str(port), "DUCKTOWER_URL": f"grpc://127.0.0.1:{port}"} if port else {})


def test_the_readme_has_blocks_of_both_kinds() -> None:
    """What is tested below is there."""
    assert len(PYTHON) > 3
    assert len(FOR_EVER) >= 4
    assert {kind for kind, _ in BLOCKS} <= {"python", "console"}


def test_nothing_is_installed_by_hand_where_make_installs() -> None:
    """`make` does not see a copy of the package in its environment, and would run that one from then on."""
    makefile = (ROOT / "Makefile").read_text()
    assert "VENV   ?= .venv\n" in makefile
    assert [one for one in COMMANDS if re.search(r"(^|[ /])\.venv($|/bin/pip)", one)] == []


def test_the_extras_that_the_readme_names_exist() -> None:
    """What it installs by extra is an extra of the project."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = set(re.findall(r"(?:ducktower|\.|`)\[(\w+)\]", README))
    assert "ibis" in named
    assert named <= set(known)


def test_python_blocks_run_as_written(tmp_path: Path) -> None:
    """One after the other, in one namespace, as somebody would paste them."""
    script = tmp_path / "readme.py"
    script.write_text("\n".join(PYTHON))
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=tmp_path,
        env=outside(tmp_path),
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "SCHEMA_MISMATCH" in done.stdout


def test_the_four_terminals_run_as_written(tmp_path: Path) -> None:
    """serve, write, write and read, each in a process of its own; Ctrl-C ends them."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    with ExitStack() as stack:
        processes = []
        for command in FOR_EVER:
            log = stack.enter_context((tmp_path / f"terminal{len(processes)}.log").open("w+b"))
            process = subprocess.Popen(
                shlex.split(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=tmp_path,
                env=outside(tmp_path, port),
            )
            stack.callback(process.wait, 60)
            stack.callback(process.kill)
            processes.append((command, process, Path(log.name)))
            if " serve" in command:
                until(lambda: b"ready grpc://" in Path(log.name).read_bytes(), "the ready line", seconds=60)  # noqa: B023
                first = Path(log.name).read_text()
                promised = next(line for line in README.splitlines() if line.startswith("ready grpc://"))
                assert re.sub(r":\d+$", f":{port}", promised) in first
        with ducktower.connect(f"grpc://127.0.0.1:{port}", retry_seconds=30) as client:
            until(lambda: "concurrent_test" in client.tables()["table_name"].to_pylist(), "the table", seconds=60)
            count = "SELECT count(*) AS n FROM concurrent_test"
            until(lambda: client.query(count)["n"][0].as_py() > 10, "ten rows", seconds=60)
        until(lambda: processes[-1][2].stat().st_size > 0, "an answer of the reader", seconds=60)
        for command, process, log_file in reversed(processes):
            assert process.poll() is None, f"{command} ended: {log_file.read_text()}"
            process.send_signal(signal.SIGINT)
            process.wait(60)
            assert "Traceback" not in log_file.read_text()
    assert (tmp_path / "events.duckdb").exists()


def test_the_block_about_a_network_runs_as_written(tmp_path: Path) -> None:
    """A token, a server with a certificate of its own, a client that pins it; here on the loopback address."""
    after = README.partition("## Facing a network")[2]
    commands, python = re.findall(r"^```\n(.*?)^```$", after, re.DOTALL | re.MULTILINE)[:2]
    create, serve = (shlex.split(line, comments=True) for line in commands.splitlines())
    made = subprocess.run(create, capture_output=True, text=True, timeout=60, cwd=tmp_path, env=outside(tmp_path))
    assert made.returncode == 0, made.stderr
    serve[serve.index("0.0.0.0")] = "127.0.0.1"
    log = tmp_path / "stderr.log"
    with log.open("wb") as stderr:
        server = subprocess.Popen(
            [*serve, "--port", "0"], stdout=subprocess.PIPE, stderr=stderr, cwd=tmp_path, env=outside(tmp_path)
        )
    try:
        assert server.stdout is not None
        ready = server.stdout.readline().decode()
        assert ready.startswith("ready grpc+tls://"), log.read_text()
        found = re.search(r"fingerprint \(SHA-256\) ([0-9a-f:]+)", log.read_text())
        assert found is not None
        told = {"HOST": ready.strip().rpartition("//")[2], "token=...": f"token={made.stdout.strip()!r}"}
        told["tls_fingerprint=..."] = f"tls_fingerprint={found[1]!r}"
        for placeholder, value in told.items():
            assert placeholder in python
            python = python.replace(placeholder, value)
        names: dict[str, Any] = {"ducktower": ducktower}
        exec(python, names)
        with names["client"] as client:
            assert client.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0
    finally:
        server.kill()
        server.communicate()


@pytest.mark.parametrize(
    "command", [one for one in COMMANDS if one not in FOR_EVER and not one.startswith(MADE_BY_OTHERS)]
)
def test_the_other_commands_run_as_written(tmp_path: Path, command: str) -> None:
    """To their end, with exit status 0."""
    done = subprocess.run(
        shlex.split(command), capture_output=True, text=True, timeout=100, cwd=tmp_path, env=outside(tmp_path)
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_the_make_targets_exist() -> None:
    """Every `make ...` that a page names is a target, and `make help` tells all of them."""
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    said = (re.findall(r"(?:^\$ |`)make (\w+)", page.read_text(), re.MULTILINE) for page in PAGES)
    named = {name for names in said for name in names}
    assert named <= targets
    assert {"demo", "test"} <= named


@pytest.mark.parametrize("kind", [EngineConfig, ServerConfig])
def test_every_setting_is_documented(kind: type) -> None:
    """Each field of the configuration is in docs/settings.md."""
    page = (ROOT / "docs" / "settings.md").read_text()
    assert [field.name for field in fields(kind) if f"`{field.name}`" not in page] == []


def test_no_setting_is_documented_that_is_not_there() -> None:
    """Each name in the tables of docs/settings.md is a field."""
    known = {field.name for kind in (EngineConfig, ServerConfig) for field in fields(kind)}
    page = (ROOT / "docs" / "settings.md").read_text()
    first_cells = re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
    assert {name for cell in first_cells for name in re.findall(r"`(\w+)`", cell)} <= known


def test_every_code_is_documented_with_whether_to_retry() -> None:
    """docs/wire.md has a line for each code, and its `retryable` is right."""
    page = (ROOT / "docs" / "wire.md").read_text()
    lines = {code: line for line in page.splitlines() for code in re.findall(r"^\| `([A-Z_]+)`", line)}
    assert set(lines) == set(CODES)
    for code, kind in CODES.items():
        assert bool(re.search(r"\| (yes|retry)", lines[code])) is kind.retryable, lines[code]


def test_every_action_is_documented(raw: flight.FlightClient) -> None:
    """docs/wire.md names what ListActions tells."""
    page = (ROOT / "docs" / "wire.md").read_text()
    assert [action.type for action in raw.list_actions() if f"`{action.type}`" not in page] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link of a page is a file or a directory of the project."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if "://" not in link and not (page.parent / link).exists()] == []


def as_documented(name: str, value: float | None) -> str:
    """Return a limit's default as docs/limits.md writes it, in the unit that its name says."""
    if value is None:
        return "none"
    if "_bytes" in name:
        return f"{value // 2**20} MiB" if value % 2**20 == 0 else f"{value // 2**10} KiB"
    return f"{value:,.10g} s" if name.endswith("_seconds") else f"{value:,}"


def test_every_limit_is_documented_with_its_default_and_its_error() -> None:
    """docs/limits.md has one row for each limit, whose default, code and retry are those of the code."""
    limits = {
        field.name: field.default
        for kind in (EngineConfig, ServerConfig)
        for field in fields(kind)
        if field.name.endswith(("_max", "_min", "_seconds", "_bytes"))
    }
    page = (ROOT / "docs" / "limits.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(row[0].strip("`") for row in rows) == sorted(limits)
    for row in rows:
        name, default, what, code, retry, past = row
        assert default == as_documented(name.strip("`"), limits[name.strip("`")]), name
        assert what, name
        assert past, name
        expected = "-" if code == "-" else "yes" if CODES[code.strip("`")].retryable else "no"
        assert retry == expected, name
