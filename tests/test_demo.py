"""The demo: its verdict, its ends, and that nothing of it stays behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import cli_support as cli
import ducktower
from support.waiting import until

FIGURES = {
    "rows_acknowledged",
    "rows_in_table",
    "reads",
    "read_errors",
    "write_errors",
    "seconds",
    "count_went_down",
}


@pytest.mark.parametrize("scenario", ["plain", "complex"])
def test_the_demo_counts_every_row(scenario: str) -> None:
    """Both scenarios end with as many rows in the table as were acknowledged, and no error."""
    out = cli.run("demo", "--seconds", "2", "--scenario", scenario, "--rate", "500", "--json").stdout
    found = cli.last_json(out)
    assert set(found) >= FIGURES
    assert found["rows_acknowledged"] == found["rows_in_table"] > 500
    assert found["rows_acknowledged"] <= 2 * (500 * found["seconds"] + 1)  # of each writer, and no more
    assert found["read_errors"] == found["write_errors"] == found["count_went_down"] == 0
    assert found["reads"] > 5
    assert found["seconds"] >= 2


def test_many_writers_and_readers_at_full_speed(tmp_path: Path) -> None:
    """More processes than cores, unthrottled, on a file that is kept."""
    database = tmp_path / "kept.duckdb"
    arguments = ("--writers", "3", "--readers", "3", "--seconds", "2", "--rate", "max", "--read-rate", "max")
    found = cli.last_json(cli.run("demo", *arguments, "--database", str(database), "--json").stdout)
    assert found["rows_acknowledged"] == found["rows_in_table"] > 0
    assert found["count_went_down"] == 0
    assert len(found["writers"]) == len(found["readers"]) == 3
    with cli.serving(str(database)) as (url, _):
        assert cli.query(url, "SELECT count(*) AS n FROM concurrent_test") == [{"n": found["rows_in_table"]}]
    again = cli.last_json(cli.run("demo", "--seconds", "1", "--database", str(database), "--json").stdout)
    assert again["rows_before"] == found["rows_in_table"]
    assert again["rows_before"] + again["rows_acknowledged"] == again["rows_in_table"] > again["rows_before"]
    with cli.serving(str(database)) as (url, _):
        assert cli.query(url, "SELECT count(*) AS n FROM concurrent_test") == [{"n": again["rows_in_table"]}]


def test_a_file_that_has_tokens(tmp_path: Path) -> None:
    """The demo asks for a token of its own: those of the file are others', and stay as they are."""
    database = tmp_path / "closed.duckdb"
    cli.run("token", "create", "ada", "--role", "reader", "--database", str(database))
    tokens = database.with_name("closed.duckdb.tokens").read_bytes()
    found = cli.last_json(cli.run("demo", "--seconds", "1", "--database", str(database), "--json").stdout)
    assert found["rows_acknowledged"] == found["rows_in_table"] > 0
    assert "token" not in found
    assert database.with_name("closed.duckdb.tokens").read_bytes() == tokens


def test_many_processes_are_told_of() -> None:
    """Where nothing is drawn, it says how many of the processes are ready."""
    result = cli.run("demo", "--seconds", "0.5", "--writers", "0", "--readers", "21", "--read-rate", "1", "--json")
    assert result.stderr.decode().splitlines() == [
        "starting the processes: 1 of 22 are ready",
        "starting the processes: 21 of 22 are ready",
    ]
    assert len(cli.last_json(result.stdout)["readers"]) == 21


def test_the_columns_of_the_complex_scenario(tmp_path: Path) -> None:
    """A struct, a list, a decimal, a time with its zone and an enum, with values in them."""
    database = tmp_path / "complex.duckdb"
    cli.run("demo", "--seconds", "1", "--scenario", "complex", "--database", str(database), "--json")
    with cli.serving(str(database)) as (url, _):
        kinds = {row["column_name"]: row["column_type"] for row in cli.query(url, "DESCRIBE concurrent_test")}
        stored = "count(*) AS n, count(place.latitude) AS s, count(tags) AS l, count(price) AS d"
        (row,) = cli.query(url, f"SELECT {stored}, count(happened_at) AS t, count(level) AS e FROM concurrent_test")
    assert kinds["place"].startswith("STRUCT(")
    assert kinds["tags"] == "VARCHAR[]"
    assert kinds["price"] == "DECIMAL(18,2)"
    assert kinds["happened_at"] == "TIMESTAMP WITH TIME ZONE"
    assert kinds["level"].startswith("ENUM(")
    assert set(row.values()) == {row["n"]}
    assert row["n"] > 0


def test_another_question() -> None:
    """--query replaces the count: its answer is what is shown."""
    out = cli.run("demo", "--seconds", "3", "--query", "SELECT 40 + 2").stdout.decode()
    answers = [line.rpartition("answers: ")[2] for line in out.splitlines() if "answers: " in line]
    assert answers
    assert set(answers) <= {"42", "-"}
    assert answers[-1] == "42"
    assert "they agree" in out


def test_rows_that_vanish_are_told() -> None:
    """Somebody else deletes rows meanwhile: neither do the figures agree, nor did the count stay up."""
    with cli.started("demo", "--seconds", "60", "--rate", "1000", "--json") as process:
        child = writing_demo(process.pid, "reader")
        (connection,) = [one for one in child.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]
        with ducktower.connect(f"grpc://127.0.0.1:{connection.raddr.port}") as client:

            def count_again() -> None:
                reads = client.statistics()["reads"]
                until(lambda: client.statistics()["reads"] > reads + 1, "the reader's next count")

            until(lambda: client.statistics()["rows"] > 4000, "some rows")
            count_again()
            client.execute("DELETE FROM concurrent_test")
            count_again()
        status, out, err = cli.stopped(process, signal.SIGINT)
    assert status == 1
    assert re.fullmatch(r"INTERNAL: .* acknowledged, .* in the table; a reader's count went down 1 times\n", err)
    found = cli.last_json(out.encode())
    assert found["rows_in_table"] < found["rows_acknowledged"]
    assert found["count_went_down"] == 1


def test_a_broken_question_is_one_line() -> None:
    """A question that cannot be asked ends the demo with the reader and the reason; the figures come all the same."""
    result = cli.run("demo", "--seconds", "5", "--query", "SELECT nonsense FROM nowhere", "--json", check=False)
    assert result.returncode == 1
    lines = result.stderr.decode().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("TABLE_NOT_FOUND: reader 1: ")
    found = cli.last_json(result.stdout)
    assert found["read_errors"] == 1
    assert found["failed"] == ["reader 1"]
    assert found["rows_acknowledged"] == found["rows_in_table"]


def test_a_worker_says_nothing_by_itself() -> None:
    """`python -m` of a worker warns of nothing: its stderr is for what went wrong."""
    command = [sys.executable, "-m", "ducktower.cli.worker", "writer"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, env=cli.environment())
    assert done.stderr == b""


def test_a_database_that_is_none(tmp_path: Path) -> None:
    """A file that is no database is named, and left as it is."""
    path = tmp_path / "letter.txt"
    path.write_text("no database " * 1000)
    assert "letter.txt" in cli.fails("demo", "--seconds", "1", "--database", str(path), code="INVALID_ARGUMENT")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(number: signal.Signals) -> None:
    """Ctrl-C ends the demo in order: the summary comes, the processes and the temporary file go."""
    with cli.started("demo", "--seconds", "60") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "rows acknowledged" in line
        children = psutil.Process(process.pid).children()
        assert len(children) == 4
        status, out, err = cli.stopped(process, number)
    assert status == 0, err
    assert "they agree" in out
    assert "Traceback" not in err
    assert all(cli.is_gone(child.pid) for child in children)


def drawn(shown: str) -> list[str]:
    """Return the lines that a terminal was sent, without what moves its cursor and colours them."""
    return [line.rstrip() for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "").splitlines()]


@pytest.mark.parametrize(("columns", "lines"), [(100, 30), (80, 24), (20, 6), (1, 1)])
def test_on_a_terminal(columns: int, lines: int) -> None:
    """It draws what fits, with the writers' curves where there is room, and the summary stays."""
    status, shown = cli.on_terminal("demo", "--seconds", "2", columns=columns, lines=lines)
    assert status == 0, shown
    assert "they agree" in shown
    assert "Traceback" not in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0
    curves = [line for line in drawn(shown) if "writer 1" in line and "█" in line]
    assert bool(curves) == (columns >= 80)
    if columns >= 80:
        for word in ("rows/s", "writes/s", "group size", "commit p50", "commit p99", "durable rows a second", "reads"):
            assert word in shown, word
        assert any(re.search(r"reader 1 +\d+ +[1-9][\d,]* ←", line) for line in drawn(shown))


def test_ctrl_c_on_a_terminal() -> None:
    """What was drawn stays, and the summary comes below it."""
    status, shown = cli.on_terminal("demo", interrupt_at="durable rows a second")
    assert status == 0, shown
    assert "they agree" in drawn(shown)[-3]
    assert "Traceback" not in shown
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0


def test_without_writers_or_readers() -> None:
    """Either may be none: what is not there has done nothing, and all agrees."""
    arguments = ("--seconds", "0.5", "--writers", "0", "--readers", "0", "--json")
    found = cli.last_json(cli.run("demo", *arguments).stdout)
    assert found["rows_acknowledged"] == found["rows_in_table"] == found["reads"] == 0
    assert found["writers"] == found["readers"] == found["failed"] == []


def test_ctrl_c_while_the_processes_start() -> None:
    """It ends the demo at once, as there is nothing to sum up, and its processes with it."""
    with cli.started("demo", "--seconds", "60") as process:
        children = until(psutil.Process(process.pid).children, "the first process")
        status, out, err = cli.stopped(process, signal.SIGINT)
    assert (status, out, err) == (130, "", "")
    assert all(cli.is_gone(child.pid) for child in children)


def test_its_processes_die_with_it(tmp_path: Path) -> None:
    """kill -9 of the demo leaves no process and no temporary directory."""
    with cli.started("demo", "--seconds", "60", TMPDIR=str(tmp_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        children = psutil.Process(process.pid).children()
        assert len(children) == 4
        assert len(os.listdir(tmp_path)) == 1
        os.kill(process.pid, signal.SIGKILL)
        assert all(cli.is_gone(child.pid) for child in children)
    end = time.monotonic() + 10
    while os.listdir(tmp_path) and time.monotonic() < end:
        time.sleep(0.05)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("role", ["writer", "reader"])
@pytest.mark.parametrize("as_json", [False, True])
def test_a_child_that_dies_is_told(role: str, as_json: bool) -> None:
    """A process that is killed ends the demo with one line that says so; what the others did is summed up."""
    with cli.started("demo", "--seconds", "60", *(("--json",) if as_json else ())) as process:
        victim = writing_demo(process.pid, role)
        children = psutil.Process(process.pid).children()
        victim.kill()
        out, err = process.communicate(timeout=cli.SECONDS_MAX)
        assert process.returncode == 1, out
        assert re.fullmatch(rf"INTERNAL: {role} \d ended early: killed by SIGKILL\n", err)
        assert all(cli.is_gone(child.pid) for child in children)
    if as_json:
        found = cli.last_json(out.encode())
        assert set(found) >= FIGURES
        assert found["rows_in_table"] >= found["rows_acknowledged"]
        assert (found["write_errors"], found["read_errors"]) == ((1, 0) if role == "writer" else (0, 1))
        assert found["failed"] == [err.split(": ")[1].removesuffix(" ended early")]
    else:
        assert "rows acknowledged in" in out
        assert "THEY DIFFER" not in out


def writing_demo(pid: int, role: str) -> psutil.Process:
    """Wait until a demo's processes have connected, and return the first of a role."""
    found: list[psutil.Process] = []

    def connected() -> bool:
        children = psutil.Process(pid).children()
        found[:] = [child for child in children if child.cmdline()[-1:] == [role]]
        # To the server, as the others do: orders have come, and rows or questions flow.
        return bool(found) and all(child.net_connections("tcp") for child in children)

    until(connected, "the processes' connections", seconds=cli.SECONDS_MAX)
    return found[0]
