"""What a server that faces a network gives away: nothing of its machine, and to no single caller all of its places."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

import cli_support as cli
import ducktower
from ducktower.protocol.flight_sql import messages as m
from ducktower.server.token_file import TokenFile
from support.flight_sql import RawFlightSql
from support.servers import running
from support.waiting import until

Grant = Callable[..., str]

LONG = "SELECT count(*) AS n FROM range(1_000_000_000_000)"
SECRET_OF_THE_PROCESS = pa.table({"secret": ["in a variable of the server's process"]})


class TestPlaces:
    def test_one_token_cannot_take_every_place(self, owner: str, grant: Grant, database: Path) -> None:
        """Past its own limit it gets OVERLOADED, and others are served; `health` is answered all the same."""
        greedy = grant("greedy", "reader")
        with (
            ducktower.serve(str(database), principal_calls_in_flight_max=2) as server,
            ducktower.connect(server.url, token=owner, retry_seconds=0) as other,
            ducktower.connect(server.url, token=greedy, retry_seconds=0) as client,
        ):
            failures: list[ducktower.DucktowerError] = []

            def ask() -> None:
                try:
                    client.query(LONG)
                except ducktower.DucktowerError as error:
                    failures.append(error)

            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
            until(lambda: len(other.sessions()) == 2, "two queries")
            with pytest.raises(ducktower.Overloaded, match='2 calls of "greedy"') as caught:
                client.query("SELECT 1")
            assert caught.value.retryable
            assert client.health()["status"] == "serving"
            assert other.query("SELECT 1 AS n").num_rows == 1
            for one in client.sessions():
                assert client.cancel(one["id"])
            for thread in threads:
                thread.join(30)
            assert [type(error) for error in failures] == [ducktower.Cancelled] * 2
            assert client.query("SELECT 1 AS n").num_rows == 1

    def test_who_writes_little_is_not_behind_who_writes_much(self, owner: str, grant: Grant, database: Path) -> None:
        """Hundreds of writes of another wait in the queue when one comes: it is in one of the next groups."""
        greedy = grant("greedy", "writer")
        with (
            ducktower.serve(str(database), group_writes_max=2, login_pause_seconds=0.05) as server,
            ducktower.connect(server.url, token=owner, retry_seconds=0) as other,
            ducktower.connect(server.url, token=greedy, retry_seconds=0) as client,
        ):
            other.execute("CREATE TABLE t (n BIGINT, slow INTEGER DEFAULT (sleep_ms(10)))")
            command = flight.FlightDescriptor.for_command(b'{"append": {"table": "t"}}')
            options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {greedy}".encode())])
            with flight.connect(server.url) as raw:
                writer, reader = raw.do_exchange(command, options)
                batch = pa.record_batch({"n": pa.array([1], pa.int64())})
                with writer:
                    writer.begin(batch.schema)
                    for number in range(1, 201):
                        writer.write_with_metadata(batch, b"%d" % number)
                    waiting = until(lambda: all_queued(other.statistics()), "a queue")
                    mine = other.ingest("t", pa.table({"n": [2]})).commit
                    writer.done_writing()
                    commits = [json.loads(reader.read_chunk().app_metadata.to_pybytes())["commit"] for _ in range(200)]
            # All of them came before it, and so many were not in commit yet when it set out.
            assert waiting > 20
            assert sum(commit > mine for commit in commits) > waiting // 2
            assert other.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [201]
            assert client.health()["status"] == "serving"

    def test_several_greedy_ones_leave_places(self, owner: str, grant: Grant, database: Path) -> None:
        """Of calls in flight, however many they could have alone."""
        with (
            ducktower.serve(str(database), calls_in_flight_max=6, principal_calls_in_flight_max=6) as server,
            ducktower.connect(server.url, token=owner, retry_seconds=0) as other,
            ExitStack() as stack,
        ):
            other.create_table("t", pa.schema([("n", pa.int64())]))
            for name, most in (("greedy", 3), ("large", 2)):
                token = grant(name, "writer")
                until(lambda token=token: known(server.url, token), "the token")
                clients = [
                    stack.enter_context(ducktower.connect(server.url, token=token, retry_seconds=0))
                    for _ in range(most + 1)
                ]
                for client in clients[:-1]:
                    stack.enter_context(client.appender("t")).append({"n": 1}).result()
                with pytest.raises(ducktower.Overloaded, match=f'{most} calls of "{name}"'):
                    clients[-1].ingest("t", pa.table({"n": [1]}))
            assert other.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [5]

    def test_an_open_server_counts_nobody(self, database: Path) -> None:
        """There all callers are one, and only the limit of all applies."""
        with (
            ducktower.serve(str(database), principal_calls_in_flight_max=1) as server,
            ducktower.connect(server.url, retry_seconds=0) as client,
        ):
            client.create_table("t", pa.schema([("n", pa.int64())]))
            with client.appender("t") as rows:
                rows.append({"n": 1}).result()
                assert client.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [1]


def all_queued(statistics: dict[str, Any]) -> int:
    """Return how many small writes wait once 200 came; 0 before that. Two may be in commit."""
    waiting = statistics["queue_writes"]
    return waiting if statistics["group_writes"] + waiting >= 198 else 0


def known(url: str, token: str) -> bool:
    """Whether the server has noticed the token."""
    with ducktower.connect(url, token=token, retry_seconds=0) as client, suppress(ducktower.Unauthenticated):
        return client.health()["status"] == "serving"
    return False


def asked(url: str, token: str, sql: str) -> list[str]:
    """Run SQL in every way that the wire has; return the refusals and whatever came back, as text."""
    found = []
    with (
        ducktower.connect(url, token=token, retry_seconds=0) as client,
        RawFlightSql(url, authorization=f"Bearer {token}") as raw,
    ):
        ways: list[Callable[[], object]] = [
            lambda: client.query(sql).to_pylist(),
            lambda: client.execute(sql),
            lambda: raw.query(sql).to_pylist(),
            lambda: raw.update(sql),
            lambda: raw.schema(m.CommandStatementQuery(query=sql)),
            lambda: raw.prepare(sql),
            lambda: raw.flight.get_flight_info(flight.FlightDescriptor.for_command(sql.encode())),
        ]
        for way in ways:
            try:
                found.append(f"answer: {way()!r}")
            except (ducktower.DucktowerError, flight.FlightError, pa.ArrowException) as error:
                found.append(f"refusal: {error}")
    return found


@pytest.mark.parametrize("role", ["reader", "writer", "owner"])
def test_nothing_of_the_machine_is_reached(
    database: Path, tmp_path: Path, tokens: TokenFile, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file, variable, setting or secret, in whatever role; and no refusal tells a path of the server's."""
    monkeypatch.setenv("PRIVATE_VARIABLE", "private-variable")
    ducktower.serve(str(database), tls="auto").close()
    token = tokens.create("ada", role)[1]
    (tmp_path / "private.csv").write_text("word\nprivate-content\n")
    hidden = [tokens.read()[0].hash, "private-content", "private-variable", "in a variable", "PRIVATE KEY", "root:x:0"]
    tries = [
        f"SELECT * FROM read_text('{tokens.path}')",
        f"FROM '{tmp_path}/private.csv'",
        f"SELECT * FROM read_blob('{database}.tls')",
        f"SELECT * FROM read_blob('{database}')",
        f"SELECT * FROM read_text('{tmp_path}/aud*')",
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT getenv('PRIVATE_VARIABLE')",
        "SELECT current_setting('home_directory'), current_setting('temp_directory')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM SECRET_OF_THE_PROCESS",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/other.duckdb'",
        f"EXPORT DATABASE '{tmp_path}/export'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SELECT * FROM read_csv('http://127.0.0.1:1/x')",
    ]
    with ducktower.serve(str(database), audit_log=str(tmp_path / "audit")) as server:
        before = set(tmp_path.iterdir())
        for sql in tries:
            for text in asked(server.url, token, sql):
                given = text.replace(sql, "")  # what the client sent may be said to it
                assert not any(one in given for one in hidden), (sql, text)
                assert "Traceback" not in text
                # An owner may ask DuckDB for its settings; nobody else is told a path, and nobody by a refusal.
                if str(tmp_path) not in sql and (role != "owner" or text.startswith("refusal")):
                    assert str(tmp_path) not in text
                    assert str(Path.home()) not in text
        assert set(tmp_path.iterdir()) == before | ({Path(f"{database}.wal")} & set(tmp_path.iterdir()))


class TestOpened:
    def test_exactly_the_directory_that_was_opened(self, database: Path, tmp_path: Path) -> None:
        """Its files can be read; those beside it cannot."""
        opened = tmp_path / "opened"
        opened.mkdir()
        (opened / "in.csv").write_text("n\n1\n")
        (tmp_path / "out.csv").write_text("n\n2\n")
        with (
            running(database, tmp_path / "log", "--allow-path", str(opened)) as server,
            ducktower.connect(server.url) as client,
        ):
            assert client.query(f"SELECT n FROM read_csv('{opened}/in.csv')")["n"].to_pylist() == [1]
            for outside in (tmp_path / "out.csv", f"{opened}/../out.csv", "/etc/passwd"):
                with pytest.raises((ducktower.Forbidden, ducktower.InvalidSQL)):
                    client.query(f"SELECT * FROM read_csv('{outside}')")

    @pytest.mark.parametrize("what", ["--audit-log", "--token-file"])
    def test_not_a_directory_that_has_the_servers_own_files(self, database: Path, tmp_path: Path, what: str) -> None:
        """It is refused at the start, and the file in it is named."""
        opened = tmp_path / "opened"
        opened.mkdir()
        own = opened / "own"
        if what == "--token-file":
            TokenFile(own).create("ada", "owner")
        arguments = ("serve", str(database), "--port", "0", "--allow-path", str(opened), what, str(own))
        assert str(own) in cli.fails(*arguments, code="INVALID_ARGUMENT")

    def test_not_the_databases_own_directory(self, database: Path) -> None:
        """The database, its tokens and its key are there."""
        arguments = ("serve", str(database), "--port", "0", "--allow-path", str(database.parent))
        cli.fails(*arguments, code="INVALID_ARGUMENT")


def test_no_refusal_tells_which_file_is_served(database: Path, tokens: TokenFile) -> None:
    """A path as a table: the served file, another one that is there and one that is not, all in the same words."""
    token = tokens.create("ada", "reader")[1]
    other = database.with_name("other.duckdb")
    other.write_text("no database")
    missing = database.with_name("missing.duckdb")
    roundabout = f"{database.parent}/nosuch/../{database.name}"
    with ducktower.serve(str(database)) as server:
        for form in ("FROM '{}'", 'SELECT * FROM "{}"', "DESCRIBE '{}'", "SELECT * FROM query_table('{}')"):
            told = {
                tuple(asked(server.url, token, form.format(path)))
                for path in (database, other, missing, roundabout, "*.duckdb")
            }
            assert len(told) == 1, told
            assert all("the file is not open to SQL on this server" in text for text in told.pop())
