"""The commands, as a user meets them: real processes, exit statuses, one clear line for what went wrong."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import typer.main

import cli_support as cli
import ducktower
from ducktower.cli.app import app
from ducktower.config import EngineConfig, ServerConfig
from support.waiting import until

ODD = 'a"; DROP TABLE b; --'


def storage_checksum(page: bytes | bytearray) -> int:
    """DuckDB's checksum of a header of its file."""
    found = 5381
    for (word,) in struct.iter_unpack("<Q", page):
        found ^= word * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one server that the tests of this module share."""
    database = tmp_path_factory.mktemp("cli") / "shared.duckdb"
    with cli.serving(str(database)) as (address, _):
        yield address


class TestServe:
    def test_a_signal_drains_checkpoints_and_exits_0(self, tmp_path: Path) -> None:
        """SIGTERM and SIGINT end a server in order: one ready line on stdout, no WAL left, exit status 0."""
        for number in (signal.SIGTERM, signal.SIGINT):
            database = tmp_path / f"{number.name}.duckdb"
            with cli.serving(str(database)) as (address, process):
                cli.run("write", "--count", "5", "--rate", "max", "--url", address)
                status, out, err = cli.stopped(process, number)
            assert (status, out) == (0, "")
            assert "Traceback" not in err
            assert database.exists()
            assert not database.with_name(database.name + ".wal").exists()

    def test_rows_are_there_after_a_restart(self, tmp_path: Path) -> None:
        """What was acknowledged before a stop is served after a start."""
        database = str(tmp_path / "kept.duckdb")
        with cli.serving(database) as (address, process):
            cli.run("write", "--count", "100", "--rate", "max", "--url", address)
            assert cli.stopped(process)[0] == 0
        with cli.serving(database) as (address, _):
            assert cli.query(address, "SELECT count(*) AS n FROM concurrent_test") == [{"n": 100}]

    def test_a_client_with_an_open_stream_does_not_hold_it(self, tmp_path: Path) -> None:
        """A writer that stays connected does not keep a stopping server from ending."""
        with (
            cli.serving(str(tmp_path / "held.duckdb")) as (address, process),
            cli.started("write", "--every", "0.1", "--url", address, "--retry-seconds", "1") as writer,
        ):
            assert writer.stdout is not None
            assert writer.stdout.readline()
            assert cli.stopped(process)[0] == 0

    def test_a_second_server_on_the_same_port(self, url: str) -> None:
        """The port is named, and nothing else happens to the first server."""
        port = url.rsplit(":", 1)[1]
        assert port in cli.fails("serve", "--port", port, code="UNAVAILABLE")
        assert cli.run("health", "--url", url).returncode == 0

    def test_a_second_server_on_the_same_file(self, tmp_path: Path) -> None:
        """The file is named, and the first server goes on."""
        database = str(tmp_path / "one.duckdb")
        with cli.serving(database) as (address, _):
            assert "one.duckdb" in cli.fails("serve", database, "--port", "0", code="UNAVAILABLE")
            cli.run("write", "--count", "1", "--url", address)

    def test_a_file_that_is_no_database(self, tmp_path: Path) -> None:
        """The file is named, and stays as it was."""
        path = tmp_path / "letter.txt"
        path.write_text("Dear reader, this is no database. " * 1000)
        assert "letter.txt" in cli.fails("serve", str(path), "--port", "0", code="INVALID_ARGUMENT")
        assert path.read_text().startswith("Dear reader")

    def test_a_directory_that_is_not_there(self, tmp_path: Path) -> None:
        """A path that cannot be opened is named."""
        result = cli.run("serve", str(tmp_path / "no" / "where.duckdb"), "--port", "0", check=False)
        assert result.returncode == 1
        assert b"where.duckdb" in result.stderr
        assert b"Traceback" not in result.stderr

    def test_a_path_that_is_no_file(self, tmp_path: Path) -> None:
        """A directory and a pipe are named, and not waited for."""
        pipe = tmp_path / "pipe.duckdb"
        os.mkfifo(pipe)
        for path in (pipe, tmp_path):
            assert str(path) in cli.fails("serve", str(path), "--port", "0", code="INVALID_ARGUMENT")

    @pytest.mark.parametrize("version", [1, 1000])
    def test_a_file_of_another_version(self, tmp_path: Path, version: int) -> None:
        """One that DuckDB cannot read yet, or no more, is named with its version, and stays as it was."""
        path = tmp_path / "other.duckdb"
        duckdb.connect(str(path)).close()
        page = bytearray(path.read_bytes())
        struct.pack_into("<Q", page, 12, version)
        struct.pack_into("<Q", page, 0, storage_checksum(page[8:4096]))
        path.write_bytes(page)
        line = cli.fails("serve", str(path), "--port", "0", code="INVALID_ARGUMENT")
        assert "other.duckdb" in line
        assert f"version number {version}" in line
        assert path.read_bytes() == page

    def test_an_address_of_another_machine(self) -> None:
        """It is named on one line, before a database is opened."""
        line = cli.fails("serve", "--host", "192.0.2.1", "--insecure", "--port", "0", code="INVALID_ARGUMENT")
        assert '"192.0.2.1" is no address of this machine' in line

    def test_an_open_address_needs_a_word(self) -> None:
        """A server that other machines reach is not started by mistake."""
        cli.fails("serve", "--host", "0.0.0.0", "--port", "0", code="FORBIDDEN")

    def test_settings_come_from_the_environment(self, tmp_path: Path) -> None:
        """An environment variable stands for an option, and the option wins."""
        database = str(tmp_path / "set.duckdb")
        with cli.started("serve", "--port", "0", DUCKTOWER_DATABASE=database, DUCKTOWER_PORT="1") as process:
            assert process.stdout is not None
            address = process.stdout.readline().split()[1]
            health = cli.last_json(cli.run("health", "--json", "--url", address).stdout)
        assert Path(str(health["database"])).stem == "set"


class TestUsage:
    @pytest.mark.parametrize(
        "arguments",
        [
            ("serve", "--port", "70000"),
            ("serve", "--port", "many"),
            ("serve", "--drain-seconds", "0"),
            ("serve", "--nonsense"),
            ("serve", "a.duckdb", "b.duckdb"),
            ("nonsense",),
            ("write", "--rate", "fast"),
            ("write", "--rate", "5", "--every", "1"),
            ("read", "--every", "-1"),
            ("query",),
            ("query", "SELECT 1", "--format", "xml"),
            ("query", "SELECT 1", "--output", "rows.xyz"),
            ("query", "SELECT 1", "--output", "rows.csv.gz"),
            ("ingest", "t"),
            ("ingest", "t", "x.csv", "--mode", "upsert"),
            ("demo", "--scenario", "nonsense"),
            ("demo", "--writers", "-1"),
            ("demo", "--writers", "1000000000"),
            ("demo", "--seconds", "nan"),
            ("demo", "--rate", "nan"),
            ("write", "--seconds", "inf"),
            ("write", "--every", "nan"),
            ("read", "--every", "1e-320"),
            ("read", "--rate", "1e308"),
            ("serve", "--drain-seconds", "nan"),
        ],
    )
    def test_bad_usage_exits_2_with_one_line(self, arguments: tuple[str, ...]) -> None:
        """Wrong flags are told on one line that names the help."""
        assert "--help" in cli.fails(*arguments, code="INVALID_ARGUMENT", status=2)

    def test_no_command_shows_the_help(self) -> None:
        """`ducktower` alone lists the commands and exits 2, as nothing was done."""
        result = cli.run(check=False)
        assert result.returncode == 2
        assert b"serve" in result.stdout
        assert not result.stderr

    def test_every_option_has_an_environment_variable(self) -> None:
        """Each option names a variable of its own that starts with DUCKTOWER_."""
        commands = dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
        names = {"serve", "write", "read", "demo", "query", "execute", "ingest", "tables", "health", "token"}
        names |= {"backup", "restore", "recover"}
        assert set(commands) == names
        commands |= {f"token {name}": command for name, command in commands.pop("token").commands.items()}
        shared = {"url", "token", "tls_ca", "tls_fingerprint", "tls_client_cert", "tls_client_key", "table"}
        shared |= {"token_file", "database"}  # of one server, to its commands
        seen: dict[str, str] = {}
        for name, command in commands.items():
            for option in cli.options_of(command):
                variable = option.envvar
                assert isinstance(variable, str), f"{name} {option.name}"
                assert variable.startswith("DUCKTOWER_")
                assert option.help, f"{name} {option.name}"
                if option.name not in shared or name == "demo":
                    assert variable not in seen, f"{name} {option.name} and {seen[variable]} share {variable}"
                seen[variable] = f"{name} {option.name}"

    def test_help_is_quick_to_load(self) -> None:
        """The help of a command imports neither DuckDB nor pandas."""
        code = "import sys, ducktower.cli; sys.exit(bool({'duckdb', 'pandas'} & set(sys.modules)))"
        assert subprocess.run([cli.COMMAND[0], "-c", code], timeout=60).returncode == 0

    def test_ctrl_c_while_the_commands_are_loaded(self) -> None:
        """It ends the process with 130 and without a word, as it does later."""
        code = """
import signal, sys
import ducktower.cli

class Interrupts:
    def find_spec(self, name, path=None, target=None):
        if name == "typer":
            signal.raise_signal(signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
ducktower.cli.run()
"""
        ended = subprocess.run([cli.COMMAND[0], "-c", code], capture_output=True, timeout=60, env=cli.environment())
        assert (ended.returncode, ended.stdout, ended.stderr) == (130, b"", b"")

    def test_serve_offers_the_settings_of_the_configuration(self) -> None:
        """A flag's name is that of the setting behind it."""
        commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
        settings = {one.name for config in (EngineConfig, ServerConfig) for one in fields(config)}
        own = {"log_level", "query_timeout", "upload_timeout", "allow_path", "allow_extension", "min_free_space"}
        own |= {"backup_every", "backup_keep", "principal_query_timeout"}
        assert {option.name for option in commands["serve"].params} - own - {"help"} <= settings

    def test_the_reference_is_up_to_date(self) -> None:
        """`docs/commands.md` is what its script makes of the commands: every option is in it."""
        project = Path(__file__).parent.parent
        script = project / "scripts" / "commands_reference.py"
        made = subprocess.run(
            [sys.executable, str(script)], capture_output=True, text=True, timeout=60, env=cli.environment()
        )
        assert made.returncode == 0, made.stderr
        assert made.stdout == (project / "docs" / "commands.md").read_text()


class TestWriteAndRead:
    def test_two_writers_and_a_reader(self, url: str) -> None:
        """What all this is for: every acknowledged row is counted, and the count never goes down."""
        table = "two_writers"
        with (
            cli.started("write", "--table", table, "--count", "2000", "--rate", "max", "--url", url) as one,
            cli.started("write", "--table", table, "--count", "2000", "--rate", "max", "--url", url) as two,
        ):
            read = cli.run("read", "--table", table, "--count", "20", "--rate", "20", "--url", url)
            for writer in (one, two):
                out, err = writer.communicate(timeout=cli.SECONDS_MAX)
                assert writer.returncode == 0, err
                assert "2,000 rows acknowledged" in out
        counts = [int(line.split()[1]) for line in read.stdout.decode().splitlines()]
        assert len(counts) == 20
        assert counts == sorted(counts)
        assert cli.query(url, f"SELECT count(*) AS n FROM {table}") == [{"n": 4000}]

    def test_a_reader_before_the_first_writer(self, url: str) -> None:
        """It says that it waits for the table, and counts once a writer has made it."""
        with cli.started("read", "--table", "awaited", "--count", "1", "--wait-seconds", "60", "--url", url) as reader:
            assert reader.stderr is not None
            assert 'no table "awaited" yet' in reader.stderr.readline()
            assert cli.query(url, "SELECT table_name FROM duckdb_tables() WHERE table_name = 'awaited'") == []
            cli.run("write", "--table", "awaited", "--count", "3", "--rate", "max", "--url", url)
            out, err = reader.communicate(timeout=cli.SECONDS_MAX)
            assert reader.returncode == 0, err
            assert out.startswith("count ")

    def test_a_reader_makes_no_table(self, url: str) -> None:
        """A name that is misspelt is told, and stays one that does not exist."""
        arguments = ("read", "--table", "mispelt", "--wait-seconds", "0", "--url", url)
        assert "mispelt" in cli.fails(*arguments, code="TABLE_NOT_FOUND")
        assert cli.query(url, "SELECT table_name FROM duckdb_tables() WHERE table_name = 'mispelt'") == []

    def test_seconds_end_it(self, url: str) -> None:
        """--seconds ends a writer and a reader, and what was under way is acknowledged."""
        out = cli.run("write", "--table", "timed", "--seconds", "1", "--rate", "200", "--url", url).stdout.decode()
        last = out.splitlines()[-1]
        rows = int(last.split()[0].replace(",", ""))
        assert rows > 50
        assert cli.query(url, "SELECT count(*) AS n FROM timed") == [{"n": rows}]
        cli.run("read", "--table", "timed", "--seconds", "0.5", "--url", url)

    def test_ctrl_c_ends_a_writer_with_its_sum(self, url: str) -> None:
        """Ctrl-C is a normal end for what runs for ever."""
        with cli.started("write", "--table", "stopped", "--every", "0.05", "--url", url) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline()
            status, out, err = cli.stopped(writer, signal.SIGINT)
        assert status == 0, err
        assert "rows acknowledged" in out
        assert "Traceback" not in err

    def test_another_question(self, url: str) -> None:
        """`read --query` asks it, and shows the answer."""
        out = cli.run("read", "--query", "SELECT 6 * 7 AS answer", "--count", "2", "--rate", "max", "--url", url).stdout
        assert [line.split()[:2] for line in out.decode().splitlines()] == [["answer", "42"]] * 2

    def test_an_answer_with_equal_names(self, url: str) -> None:
        """Every column is shown, whatever it is called."""
        out = cli.run("read", "--query", "SELECT 1 AS a, 2 AS a", "--count", "1", "--url", url).stdout
        assert out.startswith(b"a 1, a 2")

    def test_an_odd_table_name_is_a_name(self, url: str) -> None:
        """A name that looks like SQL makes a table of that name, and harms no other."""
        cli.execute(url, "CREATE TABLE b AS SELECT 1 AS id")
        cli.run("write", "--table", ODD, "--count", "3", "--rate", "max", "--url", url)
        assert b"count 3 " in cli.run("read", "--table", ODD, "--count", "1", "--url", url).stdout
        assert b"count 1 " in cli.run("read", "--table", "b", "--count", "1", "--url", url).stdout

    def test_a_writer_survives_a_restart(self, tmp_path: Path) -> None:
        """A writer and a reader go on when the server comes back, and say what happened in between."""
        database = str(tmp_path / "restart.duckdb")
        with cli.serving(database) as (address, process):
            port = int(address.rsplit(":", 1)[1])
            with (
                cli.started("write", "--rate", "200", "--url", address) as writer,
                cli.started("read", "--rate", "10", "--url", address) as reader,
            ):
                assert writer.stdout is not None
                assert writer.stdout.readline()
                assert cli.stopped(process, signal.SIGKILL)[0] == -signal.SIGKILL
                time.sleep(0.5)
                with cli.serving(database, port=port):
                    before = cli.query(address, "SELECT count(*) AS n FROM concurrent_test")[0]["n"]
                    end = time.monotonic() + 20
                    while time.monotonic() < end:
                        after = cli.query(address, "SELECT count(*) AS n FROM concurrent_test")[0]["n"]
                        if after > before + 20:
                            break
                    assert after > before + 20
                    status, out, err = cli.stopped(writer, signal.SIGINT)
                    assert status == 0, err
                    assert "UNAVAILABLE" in err
                    assert "writing again" in err
                    numbers = [line.split()[0].replace(",", "") for line in out.splitlines()[-2:]]
                    stored = cli.query(address, "SELECT count(*) AS n FROM concurrent_test")[0]["n"]
                    if "unacknowledged" in out:
                        assert sum(map(int, numbers)) == stored
                    else:
                        assert int(numbers[-1]) == stored
                    assert reader.stdout is not None
                    for line in reader.stdout:  # its connection comes back in its own time
                        if int(line.split()[1].replace(",", "")) >= after:
                            break
                    status, _, err = cli.stopped(reader, signal.SIGINT)
                    assert status == 0, err
                    assert "reading again" in err

    def test_a_reader_that_waits_for_a_table_survives_a_restart(self, tmp_path: Path) -> None:
        """The table may be made by the server that comes back."""
        database = str(tmp_path / "later.duckdb")
        with cli.serving(database) as (address, process):
            port = int(address.rsplit(":", 1)[1])
            with cli.started("read", "--count", "1", "--wait-seconds", "60", "--url", address) as reader:
                assert reader.stderr is not None
                assert "waiting 60 s" in reader.stderr.readline()
                assert cli.stopped(process)[0] == 0
                with cli.serving(database, port=port):
                    cli.run("write", "--count", "3", "--rate", "max", "--url", address)
                    out, err = reader.communicate(timeout=cli.SECONDS_MAX)
        assert reader.returncode == 0, err
        assert out.startswith("count ")

    def test_no_server(self) -> None:
        """Nobody listening is one clear line that names the address."""
        ask = ("read", "--query", "SELECT 1")
        for arguments in (("write",), ("read",), ask, ("query", "SELECT 1"), ("tables",), ("health",)):
            line = cli.fails(*arguments, "--url", "grpc://127.0.0.1:9", code="UNAVAILABLE")
            assert "127.0.0.1:9" in line

    def test_an_address_that_is_none(self) -> None:
        """A URL that cannot be one is refused."""
        cli.fails("health", "--url", "not a url", code="INVALID_ARGUMENT")

    def test_a_table_with_other_columns(self, url: str) -> None:
        """A writer whose columns the table lacks says so, and stores nothing."""
        cli.execute(url, "CREATE TABLE others AS SELECT 1 AS x")
        line = cli.fails("write", "--table", "others", "--count", "1", "--url", url, code="SCHEMA_MISMATCH")
        assert "id" in line
        assert cli.query(url, "SELECT count(*) AS n FROM others") == [{"n": 1}]


class TestQuery:
    SQL = (
        "SELECT i AS id, 'text \"' || i || ', é' AS s, CASE WHEN i % 2 = 0 THEN '' END AS e, "
        "CAST(i AS DECIMAL(10, 2)) / 4 AS d, TIMESTAMP '2026-01-02 03:04:05.678' + INTERVAL (i) DAY AS at, "
        "{'a': i, 'b': [1, NULL]} AS st, ['x', 'y'] AS l, CAST('x' AS ENUM ('x', 'y')) AS en, i / 3 AS f "
        "FROM range(2000) t(i)"
    )

    def test_text_formats(self, url: str) -> None:
        """csv has a header; json is one array; jsonl one object a line; piped output is csv."""
        sql = "SELECT 1 AS a, NULL AS b, 'x' AS c UNION ALL SELECT 2, 'q', '' ORDER BY a"
        assert cli.run("query", sql, "--url", url).stdout == b'"a","b","c"\n1,,"x"\n2,"q",""\n'
        rows = [{"a": 1, "b": None, "c": "x"}, {"a": 2, "b": "q", "c": ""}]
        assert json.loads(cli.run("query", sql, "--format", "json", "--url", url).stdout) == rows
        lines = cli.run("query", sql, "--format", "jsonl", "--url", url).stdout.splitlines()
        assert [json.loads(line) for line in lines] == rows

    def test_no_rows(self, url: str) -> None:
        """An empty result is a valid file of each format."""
        sql = "SELECT 1 AS a WHERE false"
        assert cli.run("query", sql, "--format", "csv", "--url", url).stdout == b'"a"\n'
        assert json.loads(cli.run("query", sql, "--format", "json", "--url", url).stdout) == []
        assert cli.run("query", sql, "--format", "jsonl", "--url", url).stdout == b""
        assert (
            pa.ipc.open_stream(cli.run("query", sql, "--format", "arrow", "--url", url).stdout).read_all().num_rows == 0
        )

    @pytest.mark.parametrize("kind", ["csv", "json", "jsonl", "parquet", "arrow"])
    def test_a_file_of_each_format_comes_back_the_same(self, url: str, tmp_path: Path, kind: str) -> None:
        """What `query --output` writes, `ingest` stores again: every row, every type."""
        path = tmp_path / f"rows.{kind}"
        copy = f"copy_{kind}"
        cli.execute(url, f"CREATE TABLE {copy} AS {self.SQL}")
        cli.run("query", f"SELECT * FROM {copy} ORDER BY id", "--output", str(path), "--url", url)
        out = cli.run("ingest", copy, str(path), "--mode", "append", "--url", url).stdout
        assert out.startswith(f"2,000 rows into {copy} ".encode())
        both = f"SELECT count(*) AS n FROM (SELECT DISTINCT * FROM {copy})"
        assert cli.query(url, both) == [{"n": 2000}]
        assert cli.query(url, f"SELECT count(*) AS n FROM {copy}") == [{"n": 4000}]

    def test_binary_formats_through_a_pipe(self, url: str) -> None:
        """Parquet and Arrow are written to stdout too."""
        sql = "SELECT * FROM range(100000) t(i)"
        parquet = cli.run("query", sql, "--format", "parquet", "--url", url).stdout
        assert pq.read_table(pa.BufferReader(parquet)).num_rows == 100_000
        arrow = cli.run("query", sql, "--format", "arrow", "--url", url).stdout
        assert pa.ipc.open_stream(arrow).read_all().num_rows == 100_000

    def test_a_failing_query_leaves_the_old_file(self, url: str, tmp_path: Path) -> None:
        """An output file is replaced by a complete one or not at all."""
        path = tmp_path / "out.csv"
        path.write_text("old")
        late = "SELECT CASE WHEN i = 900000 THEN error('late') ELSE i END AS i FROM range(1000000) t(i)"
        cli.fails("query", late, "--output", str(path), "--url", url, code="INVALID_SQL")
        assert path.read_text() == "old"
        assert [one.name for one in tmp_path.iterdir()] == ["out.csv"]

    def test_errors_are_one_line(self, url: str, tmp_path: Path) -> None:
        """A broken query, a missing table, SQL that writes and a hopeless output file each say what is wrong."""
        cli.fails("query", "SELEC 1", "--url", url, code="INVALID_SQL")
        assert "nowhere" in cli.fails("query", "SELECT * FROM nowhere", "--url", url, code="TABLE_NOT_FOUND")
        cli.execute(url, "CREATE TABLE kept AS SELECT 1 AS id")
        result = cli.run("query", "DROP TABLE kept", "--url", url, check=False)
        assert result.returncode == 1
        assert b"Traceback" not in result.stderr
        assert cli.query(url, "SELECT count(*) AS n FROM kept") == [{"n": 1}]
        missing = str(tmp_path / "no" / "out.csv")
        assert missing in cli.fails("query", "SELECT 1", "--output", missing, "--url", url, code="INVALID_ARGUMENT")

    def test_columns_of_equal_names(self, url: str) -> None:
        """JSON, whose objects have one of each name, is refused; the other formats have both."""
        sql = "SELECT 1 AS a, 2 AS b, 3 AS a"
        for kind in ("json", "jsonl"):
            assert '"a"' in cli.fails("query", sql, "--format", kind, "--url", url, code="INVALID_ARGUMENT")
        assert cli.run("query", sql, "--url", url).stdout == b'"a","b","a"\n1,2,3\n'
        parquet = cli.run("query", sql, "--format", "parquet", "--url", url).stdout
        assert pq.ParquetFile(pa.BufferReader(parquet)).schema_arrow.names == ["a", "b", "a"]

    @pytest.mark.parametrize(
        ("kind", "column"), [("json", "date_array"), ("csv", "date_array"), ("parquet", "interval")]
    )
    def test_values_that_do_not_fit_the_format(self, url: str, tmp_path: Path, kind: str, column: str) -> None:
        """Every type that Arrow can hold, at its bounds: the first column that the format cannot hold is named."""
        path = tmp_path / f"rows.{kind}"
        sql = "SELECT * EXCLUDE (uhugeint) FROM test_all_types()"
        line = cli.fails("query", sql, "--output", str(path), "--url", url, code="INVALID_ARGUMENT")
        assert f'column "{column}" of type ' in line
        assert list(tmp_path.iterdir()) == []
        status, text = cli.on_terminal("query", sql, "--url", url)
        assert status == 1
        assert "INVALID_ARGUMENT" in text

    def test_output_to_stdout(self, url: str, tmp_path: Path) -> None:
        """`--output -` is stdout, and no file of that name; a name without an ending is csv."""
        assert cli.run("query", "SELECT 5 AS five", "--output", "-", "--url", url).stdout == b'"five"\n5\n'
        path = tmp_path / "rows"
        cli.run("query", "SELECT 5 AS five", "--output", str(path), "--url", url)
        assert path.read_text() == '"five"\n5\n'

    def test_head_leaves_early(self, url: str) -> None:
        """`ducktower query ... | head -3` ends quietly, and long before the whole result was sent."""
        command = " ".join((*cli.COMMAND, "query", "'SELECT * FROM range(500000000)'", "--url", url))
        result = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command} | head -3"],
            capture_output=True,
            timeout=cli.SECONDS_MAX,
            env=cli.environment(),
        )
        assert (result.returncode, result.stdout, result.stderr) == (0, b'"range"\n0\n1\n', b"")

    def test_ctrl_c_is_heard_during_a_long_query(self, url: str, tmp_path: Path) -> None:
        """Ctrl-C ends the command at once, leaves no half file and no running query."""
        slow = "SELECT count(*) FROM range(100000000) a, range(100000) b"
        path = tmp_path / "never.csv"
        with cli.started("query", slow, "--output", str(path), "--url", url) as process:
            time.sleep(2)
            status, _, err = cli.stopped(process, signal.SIGINT)
        assert status == 130
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []

    def test_sql_from_stdin(self, url: str) -> None:
        """`-` reads the SQL from stdin."""
        assert cli.run("query", "-", "--url", url, stdin=b"SELECT 5 AS five").stdout == b'"five"\n5\n'

    def test_a_table_on_a_terminal(self, url: str) -> None:
        """A terminal gets a table, and control characters in the data stay harmless."""
        sql = "SELECT 'red ' || chr(27) || '[31m' AS word, NULL AS nothing FROM range(300)"
        status, text = cli.on_terminal("query", sql, "--url", url)
        assert status == 0
        assert "word" in text
        assert "red \\x1b[31m" in text
        assert "200 rows shown; there are more" in text

    def test_parquet_is_kept_from_a_terminal(self, url: str) -> None:
        """Binary output on a terminal is refused as bad usage."""
        status, text = cli.on_terminal("query", "SELECT 1", "--format", "parquet", "--url", url)
        assert status == 2
        assert "--output" in text


class TestExecute:
    def test_rows_and_commit(self, url: str) -> None:
        """A statement says how many rows it changed, and its commit; one that counts none says that it is done."""
        out = cli.run("execute", "CREATE TABLE told (id BIGINT); INSERT INTO told VALUES (1), (2)", "--url", url).stdout
        assert re.fullmatch(rb"2 rows changed \(commit \d+\)\n", out)
        out = cli.run("execute", "-", "--url", url, stdin=b"ALTER TABLE told ADD COLUMN v VARCHAR").stdout
        assert re.fullmatch(rb"(done|0 rows changed) \(commit \d+\)\n", out)
        assert cli.query(url, "SELECT count(*) AS n FROM told WHERE v IS NULL") == [{"n": 2}]

    def test_returning(self, url: str) -> None:
        """The rows go to stdout in the format asked for, as a table on a terminal; what was done to stderr."""
        cli.execute(url, "CREATE TABLE given (id BIGINT)")
        sql = "INSERT INTO given VALUES (7) RETURNING id"
        result = cli.run("execute", sql, "--url", url)
        assert result.stdout == b'"id"\n7\n'
        assert re.fullmatch(rb"1 rows changed \(commit \d+\)\n", result.stderr)
        result = cli.run("execute", sql, "--format", "json", "--url", url)
        assert json.loads(result.stdout) == [{"id": 7}]
        status, text = cli.on_terminal("execute", sql, "--url", url)
        assert status == 0
        assert "1 rows changed" in text

    def test_errors_are_one_line(self, url: str) -> None:
        """A script that fails stores nothing of it; `query` names this command for what it does not run."""
        cli.execute(url, "CREATE TABLE whole (id BIGINT)")
        script = "INSERT INTO whole VALUES (1); INSERT INTO whole VALUES ('x')"
        cli.fails("execute", script, "--url", url, code="INVALID_SQL")
        assert cli.query(url, "SELECT count(*) AS n FROM whole") == [{"n": 0}]
        line = cli.fails("query", "INSERT INTO whole VALUES (1)", "--url", url, code="FORBIDDEN")
        assert "`execute`" in line


class TestIngest:
    def test_several_files_are_one_write(self, url: str, tmp_path: Path) -> None:
        """All files or nothing: a broken one among them leaves the table as it was."""
        for number in range(3):
            (tmp_path / f"{number}.csv").write_text("id,value\n" + "".join(f"{i},v\n" for i in range(50_000)))
        files = [str(tmp_path / f"{number}.csv") for number in range(3)]
        out = cli.run("ingest", "several", *files, "--mode", "create_append", "--url", url).stdout
        assert out.startswith(b"150,000 rows into several ")
        (tmp_path / "1.csv").write_text("id,value\n" + "".join(f"{i},v\n" for i in range(400_000)) + "oops,v\n")
        line = cli.fails("ingest", "several", *files, "--url", url, code="SCHEMA_MISMATCH")
        assert line.endswith("""1.csv: column "id": found 'oops', wanted BIGINT""")
        assert cli.query(url, "SELECT count(*) AS n FROM several") == [{"n": 150_000}]

    def test_progress_on_a_terminal(self, url: str, tmp_path: Path) -> None:
        """A bar says how much of the files was read; piped output has none of it."""
        path = tmp_path / "long.csv"
        path.write_text("id,value\n" + "1,x\n" * 3_000_000)
        status, shown = cli.on_terminal("ingest", "long", str(path), "--mode", "create", "--url", url)
        assert status == 0, shown
        assert re.search(r"reading .*━.*[1-9][\d.]*/12\.0 MB", shown), shown
        assert "3,000,000 rows into long" in shown
        assert cli.run("ingest", "long", str(path), "--url", url).stderr == b""

    def test_compressed_and_piped(self, url: str, tmp_path: Path) -> None:
        """A compressed file is read as what it holds; `-` is stdin."""
        path = tmp_path / "rows.jsonl.gz"
        path.write_bytes(gzip.compress(b'{"id": 1, "value": "a"}\n{"id": 2}\n'))
        cli.run("ingest", "packed", str(path), "--mode", "create", "--url", url)
        cli.run("ingest", "packed", "-", "--format", "csv", "--url", url, stdin=b"value,id\nb,3\n")
        rows = cli.query(url, "SELECT * FROM packed ORDER BY id")
        assert rows == [{"id": 1, "value": "a"}, {"id": 2, "value": None}, {"id": 3, "value": "b"}]

    def test_an_array_of_json_objects(self, url: str) -> None:
        """A JSON array is read like lines, however it is laid out."""
        text = json.dumps([{"id": i, "s": "a\n]},{"} for i in range(1000)], indent=2).encode()
        cli.run("ingest", "json_array", "-", "--format", "json", "--mode", "create", "--url", url, stdin=text)
        assert cli.query(url, "SELECT count(*) AS n, max(id) AS last, any_value(s) AS s FROM json_array") == [
            {"n": 1000, "last": 999, "s": "a\n]},{"}
        ]

    def test_ctrl_c_stores_nothing(self, url: str) -> None:
        """An upload that is interrupted half way leaves no row and no table."""
        with subprocess.Popen(["yes", "1,x"], stdout=subprocess.PIPE) as endless:
            arguments = ("ingest", "half", "-", "--format", "csv", "--mode", "create", "--url", url)
            with subprocess.Popen(
                [*cli.COMMAND, *arguments], stdin=endless.stdout, stderr=subprocess.PIPE, env=cli.environment()
            ) as process:
                with ducktower.connect(url) as client:
                    until(lambda: any(call["kind"] == "upload" for call in client.sessions()), "the upload")
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=cli.SECONDS_MAX)
            endless.kill()
        assert (process.returncode, err) == (130, b"")
        time.sleep(1)
        assert cli.query(url, "SELECT table_name FROM duckdb_tables() WHERE table_name = 'half'") == []

    def test_modes(self, url: str, tmp_path: Path) -> None:
        """create refuses a table that is there, replace replaces, upsert updates by key."""

        def load(mode: str, text: bytes, *more: str) -> tuple[str, ...]:
            cli.run("ingest", "moded", "-", "--format", "csv", "--mode", mode, "--url", url, *more, stdin=text)
            return tuple(f"{row['id']}{row['v']}" for row in cli.query(url, "SELECT * FROM moded ORDER BY id"))

        assert load("create", b"id,v\n1,a\n2,b\n") == ("1a", "2b")
        assert load("upsert", b"id,v\n2,c\n3,d\n", "--key", "id") == ("1a", "2c", "3d")
        assert load("replace", b"id,v\n9,z\n") == ("9z",)
        path = tmp_path / "again.csv"
        path.write_text("id,v\n1,a\n")
        cli.fails("ingest", "moded", str(path), "--mode", "create", "--url", url, code="TABLE_EXISTS")

    def test_errors_are_one_line(self, url: str, tmp_path: Path) -> None:
        """A missing file, table, format or column, and a file that is not what its name says."""
        (tmp_path / "odd.xyz").write_text("?")
        (tmp_path / "bad.parquet").write_text("this is no parquet file")
        (tmp_path / "rows.csv").write_text("id,colour\n1,red\n")
        (tmp_path / "empty.csv").write_text("")
        cli.execute(url, "CREATE TABLE strict AS SELECT 1 AS id, 'a' AS value")

        def fails(name: str, code: str, table: str = "strict") -> str:
            return cli.fails("ingest", table, str(tmp_path / name), "--url", url, code=code)

        assert "missing.csv" in fails("missing.csv", "INVALID_ARGUMENT")
        assert "--format" in fails("odd.xyz", "INVALID_ARGUMENT")
        assert "bad.parquet" in fails("bad.parquet", "INVALID_ARGUMENT")
        assert "empty.csv" in fails("empty.csv", "INVALID_ARGUMENT")
        assert "colour" in fails("rows.csv", "SCHEMA_MISMATCH")
        assert "nowhere" in fails("rows.csv", "TABLE_NOT_FOUND", "nowhere")
        assert cli.query(url, "SELECT count(*) AS n FROM strict") == [{"n": 1}]

    MISFITS = (
        ("a.csv", "small,word,big\n1,x,2\n300,x,2\n", ('"small"', "'300'", "TINYINT")),
        ("b.csv", '"word","big","small"\nx,oops,1\n', ('"big"', "'oops'", "BIGINT")),
        ("c.csv", "at\nyesterday\n", ('"at"', "VARCHAR", "TIMESTAMP", "yesterday")),
        ("d.jsonl", '{"small": 1}\n{"small": "x"}\n', ('"small"', "string", "TINYINT")),
        ("e.jsonl", '{"small": 300, "big": 300}\n', ('"small"', "'300'", "TINYINT")),
        ("f.json", '[{"big": 1, "other": 1},\n {"big": 1, "other": 1.5}]', ('"other"', "'1.5'", "BIGINT")),
        ("g.json", '[{"at": 5}]', ('"at"', "a number")),
        ("h.json", '[{"price": "cheap"}]', ('"price"', "'cheap'")),
    )

    @pytest.mark.parametrize(("name", "text", "said"), MISFITS, ids=[name for name, _, _ in MISFITS])
    def test_a_value_that_does_not_fit(
        self, url: str, tmp_path: Path, name: str, text: str, said: tuple[str, ...]
    ) -> None:
        """The file, the column, what was found and what was wanted are named, and nothing is stored."""
        columns = 'small TINYINT, word VARCHAR, big BIGINT, other BIGINT, "at" TIMESTAMP, price DECIMAL(9, 2)'
        cli.execute(url, f"CREATE TABLE IF NOT EXISTS fitting ({columns})")
        (tmp_path / name).write_text(text)
        line = cli.fails("ingest", "fitting", str(tmp_path / name), "--url", url, code="SCHEMA_MISMATCH")
        for word in (name, *said):
            assert word in line
        assert cli.query(url, "SELECT count(*) AS n FROM fitting") == [{"n": 0}]

    @pytest.mark.parametrize(("name", "text"), [("wide.csv", "word\n{}\n"), ("wide.jsonl", '{{"word": "{}"}}\n')])
    def test_a_row_that_is_too_long(self, url: str, tmp_path: Path, name: str, text: str) -> None:
        """The limit is told, and nothing is stored."""
        cli.execute(url, "CREATE TABLE IF NOT EXISTS wide (word VARCHAR)")
        (tmp_path / name).write_text(text.format("x" * 9_000_000))
        line = cli.fails("ingest", "wide", str(tmp_path / name), "--url", url, code="INVALID_ARGUMENT")
        assert name in line
        assert "a row is longer than 4 MiB" in line
        assert cli.query(url, "SELECT count(*) AS n FROM wide") == [{"n": 0}]

    @pytest.mark.parametrize(
        ("text", "rows"),
        [
            ('id,word\n1,"a\nb"\n2,"say ""hi"""', 2),
            ('id,word\n1,5" wide\n\n', 1),
            ('\n\nword\n"a"\n\n', 1),
            ("id,word", 0),
            ('id,word\n1,a\n2,"b', None),
            ('id,word\n1,a\n2,"b""\n3,c\n', None),
            ('word\n"', None),
            ('word,id\nb,"2\n', None),
            ('id,word\n1,a\n"2', None),
            ("id,word\n" + "1,a\n" * 2_000_000 + '2,"b\n', None),
        ],
        ids=lambda value: repr(value)[-20:],
    )
    @pytest.mark.parametrize("mode", ["append", "create"])
    def test_where_a_csv_file_ends(self, url: str, tmp_path: Path, mode: str, text: str, rows: int | None) -> None:
        """One that ends inside a quoted value was cut off: it is refused, and nothing of it stored."""
        table = f"quoted_{tmp_path.name}"
        if mode == "append":
            cli.execute(url, f"CREATE TABLE {table} (id BIGINT, word VARCHAR)")
        path = tmp_path / "quoted.csv"
        path.write_text(text)
        arguments = ("ingest", table, str(path), "--mode", mode, "--url", url)
        if rows is not None:
            cli.run(*arguments)
            assert cli.query(url, f"SELECT count(*) AS n FROM {table}") == [{"n": rows}]
            return
        line = cli.fails(*arguments, code="INVALID_ARGUMENT")
        assert line.endswith("quoted.csv as csv: it ends inside a quoted value")
        stored = "SELECT table_name, estimated_size AS n FROM duckdb_tables() WHERE table_name = '" + table + "'"
        assert cli.query(url, stored) == ([{"table_name": table, "n": 0}] if mode == "append" else [])

    def test_a_type_that_does_not_hold_to_the_end(self, url: str, tmp_path: Path) -> None:
        """A new table's types come from the first rows and the first file: what does not fit them later is named."""
        late = tmp_path / "late.csv"
        late.write_text("id,v\n" + "".join(f"{i},{i}\n" for i in range(500_000)) + "1,x\n")
        line = cli.fails("ingest", "made", str(late), "--mode", "create", "--url", url, code="SCHEMA_MISMATCH")
        assert line.endswith("""late.csv: column "v": found 'x', wanted BIGINT""")
        files = [tmp_path / "one.parquet", tmp_path / "two.parquet"]
        pq.write_table(pa.table({"v": [1]}), files[0])
        pq.write_table(pa.table({"v": ["x"]}), files[1])
        arguments = ("ingest", "made", *map(str, files), "--mode", "create", "--url", url)
        line = cli.fails(*arguments, code="SCHEMA_MISMATCH")
        assert 'two.parquet: column "v": found VARCHAR, wanted BIGINT' in line
        assert cli.query(url, "SELECT table_name FROM duckdb_tables() WHERE table_name = 'made'") == []

    def test_a_value_from_stdin_that_could_be_of_two_columns(self, url: str) -> None:
        """What cannot be read a second time is told with the columns that it may be of."""
        cli.execute(url, "CREATE TABLE pair (a BIGINT, b BIGINT, c VARCHAR)")
        result = cli.run(
            "ingest", "pair", "-", "--format", "jsonl", "--url", url, stdin=b'{"a": 1, "b": 1.5}\n', check=False
        )
        assert result.returncode == 1
        assert result.stderr == b"""SCHEMA_MISMATCH: -: column "a" or "b": found '1.5', wanted BIGINT\n"""


class TestStatus:
    def test_tables(self, url: str) -> None:
        """Each table is listed with its rows."""
        cli.execute(url, "CREATE TABLE listed AS FROM range(7)")
        rows = json.loads(cli.run("tables", "--format", "json", "--url", url).stdout)
        (found,) = (row for row in rows if row["table_name"] == "listed")
        assert found["rows"] == 7

    def test_health(self, url: str) -> None:
        """Health is text for people, or one JSON object."""
        assert b"serving" in cli.run("health", "--url", url).stdout
        assert cli.last_json(cli.run("health", "--json", "--url", url).stdout)["status"] == "serving"
