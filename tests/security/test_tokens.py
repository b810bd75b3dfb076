"""Tokens: made, shown once, accepted as bearer and as password, and over when they are over."""

from __future__ import annotations

import ast
import base64
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as adbc
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from adbc_driver_flightsql import DatabaseOptions

import cli_support as cli
import ducktower
from ducktower.cli import main
from ducktower.protocol.flight_sql import messages as m
from ducktower.server.token_file import TokenFile
from support.flight_sql import RawFlightSql
from support.waiting import until

Grant = Callable[..., str]
Connect = Callable[..., ducktower.FlightClient]

LONG = "SELECT count(*) AS n FROM range(1_000_000_000_000)"


def basic(name: str, password: str) -> str:
    """Return an authorization header."""
    return f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


class TestTheFile:
    def test_only_a_hash_is_kept_in_a_file_of_mode_0600(self, tokens: TokenFile, grant: Grant) -> None:
        """Whoever reads the file learns no secret, and nobody else may read it."""
        text = grant("ada", "reader", "sales_*")
        assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
        kept = tokens.path.read_text()
        assert text not in kept
        assert text.split("_", 2)[2] not in kept
        (one,) = tokens.read()
        assert (one.name, one.role, one.tables, one.expires) == ("ada", "reader", ("sales_*",), None)

    def test_a_token_is_256_random_bits(self, grant: Grant) -> None:
        """That is why a fast hash is enough."""
        secrets = {base64.urlsafe_b64decode(grant(f"user{i}").split("_", 2)[2] + "=") for i in range(20)}
        assert {len(secret) for secret in secrets} == {32}
        assert len(secrets) == 20

    def test_changes_of_several_processes_at_once_are_all_kept(self, tokens: TokenFile) -> None:
        """Each replaces the file as a whole, one after the other."""
        threads = [threading.Thread(target=tokens.create, args=(f"user{i}", "reader")) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert {one.name for one in tokens.read()} == {f"user{i}" for i in range(16)}
        assert [path.name for path in tokens.path.parent.iterdir()] == [tokens.path.name]

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            "{}",
            "\x00",
            '{"version": 2, "tokens": []}',
            '{"version": 1, "tokens": [{"id": 1}]}',
            '{"version": 1, "tokens": [{"id": "a", "name": "b", "role": "god", "tables": [], "hash": "c", '
            '"created": 1, "expires": null}]}',
            '{"version": 1, "tokens": null}',
        ],
    )
    def test_a_server_does_not_start_with_a_file_of_another_form(
        self, tokens: TokenFile, database: Path, content: str
    ) -> None:
        """A file that is there and cannot be read opens nothing."""
        tokens.path.write_text(content)
        tokens.path.chmod(0o600)
        with pytest.raises(ducktower.InvalidArgument, match="no token file"):
            ducktower.serve(str(database))

    @pytest.mark.parametrize("mode", [0o620, 0o602])
    def test_a_file_that_others_may_write_is_refused(
        self, tokens: TokenFile, owner: str, database: Path, mode: int
    ) -> None:
        """They could let themselves in."""
        tokens.path.chmod(mode)
        with pytest.raises(ducktower.InvalidArgument, match="chmod 600"):
            ducktower.serve(str(database))

    def test_a_named_file_must_be_there(self, tmp_path: Path) -> None:
        """A misspelt name does not open the server."""
        with pytest.raises(ducktower.InvalidArgument, match="does not exist"):
            ducktower.serve(token_file=str(tmp_path / "nosuch"))


class Command:
    """The command in this process, which has what it needs loaded already."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *arguments: str) -> tuple[str, str]:
        """Run it to its good end; return what it said on stdout and stderr."""
        assert main(["token", *arguments]) == 0
        said = self._capsys.readouterr()
        return said.out, said.err

    def fails(self, *arguments: str, status: int = 1) -> str:
        """Run it; return its one line on stderr."""
        assert main(["token", *arguments]) == status
        (line,) = self._capsys.readouterr().err.splitlines()
        assert line.startswith("INVALID_ARGUMENT: ")
        return line


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Return `ducktower token`."""
    return Command(capsys)


class TestTheCommand:
    def test_create_list_and_revoke(self, command: Command, database: Path) -> None:
        """The secret is on stdout, once; a list shows everything else."""
        where = ("--database", str(database))
        created = command.run("create", "ada", "--role", "writer", "--expires", "30d", "--tables", "a_*,b", *where)
        text = created[0].strip()
        assert text.startswith("dtk_")
        assert text not in created[1]
        listed = command.run("list", "--json", *where)[0]
        (one,) = json.loads(listed)
        assert (one["name"], one["role"], one["tables"], one["expired"]) == ("ada", "writer", ["a_*", "b"], False)
        assert text.split("_", 2)[2] not in listed
        shown = command.run("list", *where)[0]
        assert shown.splitlines()[1].split()[:4] == ["ada", "writer", "a_*", "b"]
        command.run("revoke", "ada", *where)
        assert json.loads(command.run("list", "--json", *where)[0]) == []

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("create", "a b", "--role", "reader"), 'name "a b"'),
            (("create", "", "--role", "reader"), 'name ""'),
            (("create", "x" * 65, "--role", "reader"), "1 to 64"),
            (("create", "a:b", "--role", "reader"), 'name "a:b"'),
            (("revoke", "nobody"), '"nobody" has no token'),
        ],
    )
    def test_a_name_that_cannot_be(
        self, command: Command, tmp_path: Path, arguments: tuple[str, ...], said: str
    ) -> None:
        """One line says what is wrong."""
        assert said in command.fails(*arguments, "--token-file", str(tmp_path / "t"))

    @pytest.mark.parametrize("expires", ["30", "d", "0d", "-1d", "1y", "1.5h", ""])
    def test_a_time_that_cannot_be(self, command: Command, tmp_path: Path, expires: str) -> None:
        """Bad usage, and no token is made."""
        path = tmp_path / "t"
        arguments = ("create", "a", "--role", "reader", "--expires", expires, "--token-file", str(path))
        command.fails(*arguments, status=2)
        assert not path.exists()

    def test_which_server_must_be_said(self, command: Command) -> None:
        """Neither a database nor a file is bad usage."""
        assert "--database" in command.fails("list", status=2)

    def test_a_second_token_of_a_name_must_be_meant(self, command: Command, tmp_path: Path) -> None:
        """`--replace` ends the first."""
        arguments = ("create", "ada", "--role", "reader", "--token-file", str(tmp_path / "t"))
        first = command.run(*arguments)[0]
        command.fails(*arguments)
        assert command.run(*arguments, "--replace")[0] != first
        assert len(TokenFile(tmp_path / "t").read()) == 1


class TestLoggingIn:
    def test_as_bearer(self, as_: Connect, owner: str) -> None:
        """The client's `token=`."""
        assert as_(owner).query("SELECT 1 AS n")["n"].to_pylist() == [1]

    def test_as_password_of_its_name(self, closed: ducktower.FlightServer, owner: str) -> None:
        """So every driver can log in, whose Handshake hands out a session's token."""
        options = {"username": "olga", "password": owner}
        with adbc.connect(closed.url, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TABLE t (n INTEGER)")
            cursor.execute("SELECT count(*) FROM t")
            assert cursor.fetchall() == [(0,)]
        (described,) = [one for one in closed.engine.sessions.describe() if one["principal"] == "olga"] or [None]
        assert described is None  # the driver closed its session

    def test_as_bearer_of_the_driver(self, closed: ducktower.FlightServer, owner: str) -> None:
        """Without a Handshake: the driver goes on with the session that the first answer hands out."""
        options = {DatabaseOptions.AUTHORIZATION_HEADER.value: f"Bearer {owner}"}
        with adbc.connect(closed.url, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute("CREATE TEMP TABLE mine AS SELECT 42 AS n")
            cursor.execute("SELECT n FROM mine")
            assert cursor.fetchall() == [(42,)]

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"username": "olga", "password": "wrong"},
            {DatabaseOptions.AUTHORIZATION_HEADER.value: "Bearer wrong"},
        ],
        ids=["nothing", "password", "bearer"],
    )
    def test_the_driver_is_refused(self, closed: ducktower.FlightServer, options: dict[str, str]) -> None:
        """By name, while it connects or with its first statement."""
        with (
            pytest.raises(adbc.ProgrammingError, match=r"\[UNAUTHENTICATED\]"),
            adbc.connect(closed.url, db_kwargs=options, autocommit=True) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute("SELECT 1")

    def test_as_header_of_a_foreign_client(self, closed: ducktower.FlightServer, owner: str) -> None:
        """Basic and Bearer, for each call."""
        for authorization in (f"Bearer {owner}", f"bearer  {owner} ", basic("olga", owner)):
            with RawFlightSql(closed.url, authorization=authorization) as raw:
                assert raw.query("SELECT 1 AS n").num_rows == 1

    def test_what_is_not_good(self, closed: ducktower.FlightServer, owner: str, grant: Grant) -> None:
        """Each is refused with UNAUTHENTICATED on every call, and the refusal tells nothing of what was wrong."""
        other = grant("otto")
        prefix, identity, secret = owner.split("_", 2)
        bad = [
            None,
            "",
            "Bearer",
            "Bearer x",
            f"Bearer {owner}x",
            f"Bearer {owner[:-1]}",
            f"Bearer {prefix}_{identity}_{other.split('_', 2)[2]}",
            f"Bearer {prefix}__{secret}",
            f"Digest {owner}",
            basic("olga", other),
            basic("otto", owner),
            basic("", owner),
            basic("olga", ""),
            "Basic !!!",
            "Bearer " + "a" * 5_000,
            "Bearer ducktower.x.y",
            "Bearer ducktower.e30.e30",
        ]
        for authorization in bad:
            with RawFlightSql(closed.url, authorization=authorization) as raw:
                with pytest.raises(flight.FlightUnauthenticatedError, match=r"\[UNAUTHENTICATED\]") as caught:
                    raw.flight.do_get(flight.Ticket(b"SELECT 1")).read_all()
                assert secret not in str(caught.value)
                assert "Traceback" not in str(caught.value)

    def test_every_call_asks(self, closed: ducktower.FlightServer, owner: str) -> None:
        """No RPC and no action answers somebody who is not known, not even `health`."""
        with flight.connect(closed.url) as raw:
            table = pa.table({"n": [1]})
            path = flight.FlightDescriptor.for_path("t")
            command = flight.FlightDescriptor.for_command(b'{"append": {"table": "t"}}')

            def put(descriptor: Any) -> None:
                writer, reader = raw.do_put(descriptor, table.schema)
                with writer:
                    writer.done_writing()
                    reader.read()

            def exchange() -> None:
                writer, reader = raw.do_exchange(command)
                with writer:
                    writer.begin(table.schema)
                    writer.done_writing()
                    reader.read_chunk()

            calls = [
                lambda: raw.do_get(flight.Ticket(b"SELECT 1")).read_all(),
                lambda: raw.get_flight_info(path),
                lambda: raw.get_schema(path),
                lambda: list(raw.list_flights()),
                lambda: list(raw.list_actions()),
                lambda: put(path),
                exchange,
            ]
            with flight.connect(closed.url) as known:
                options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {owner}".encode())])
                names = [action.type for action in known.list_actions(options)]
            calls += [lambda name=name: list(raw.do_action(flight.Action(name, b""))) for name in names]
            for call in calls:
                # pyarrow's client turns the status of some calls into others; the code is always there.
                with pytest.raises((flight.FlightError, pa.ArrowException), match=r"\[UNAUTHENTICATED\]"):
                    call()
            with pytest.raises(flight.FlightUnauthenticatedError):
                raw.authenticate_basic_token("olga", "wrong")

    def test_a_failure_is_counted_and_the_good_are_not_held_up(
        self, closed: ducktower.FlightServer, as_: Connect, owner: str
    ) -> None:
        """Whoever shows a bad token waits; whoever shows a good one, from the same address, does not."""
        good = as_(owner)
        before = good.statistics()["failed_logins"]
        done = threading.Event()

        def fail() -> None:
            with ducktower.connect(closed.url, token="dtk_x_y", retry_seconds=0.1) as bad:
                while not done.is_set():
                    with pytest.raises(ducktower.Unauthenticated):
                        bad.query("SELECT 1")

        threads = [threading.Thread(target=fail) for _ in range(6)]
        for thread in threads:
            thread.start()
        until(lambda: good.statistics()["failed_logins"] >= before + 6, "six failures")
        with ducktower.connect(closed.url, token=owner, retry_seconds=0) as another:
            assert another.query("SELECT 1 AS n").num_rows == 1
        done.set()
        for thread in threads:
            thread.join()

    @pytest.mark.parametrize("waiting_max", [1_024, 2])
    def test_a_flood_of_failures_holds_nobody_up(self, database: Path, owner: str, waiting_max: int) -> None:
        """Each waits, up to a bound, so that few are answered; the good go on, and all are told the same."""
        answers: list[str] = []
        over = threading.Event()

        def fail(url: str) -> None:
            while not over.is_set():
                with ducktower.connect(url, token="dtk_x_y", retry_seconds=0) as bad:
                    try:
                        bad.query("SELECT 1")
                    except ducktower.DucktowerError as error:
                        answers.append(error.code)

        with (
            ducktower.serve(str(database), login_pause_seconds=60, logins_waiting_max=waiting_max) as server,
            ducktower.connect(server.url, token=owner, retry_seconds=0) as good,
        ):
            threads = [threading.Thread(target=fail, args=(server.url,)) for _ in range(40)]
            for thread in threads:
                thread.start()
            until(lambda: good.statistics()["failed_logins"] >= 40, "forty failures")
            for _ in range(20):
                assert good.query("SELECT 1 AS n").num_rows == 1
            if waiting_max > len(threads):  # the first few waits of an address are short
                assert good.statistics()["failed_logins"] <= 60
            over.set()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert set(answers) <= {"UNAUTHENTICATED", "UNAVAILABLE"}
        assert "UNAUTHENTICATED" in answers

    def test_a_session_of_another_is_not_to_be_had(
        self, closed: ducktower.FlightServer, owner: str, grant: Grant
    ) -> None:
        """Neither its cookie nor its handles are of use with another token."""
        other = grant("otto")
        until(lambda: _known(closed.url, other), "the new token")
        with (
            RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {owner}") as mine,
            RawFlightSql(closed.url, authorization=f"Bearer {other}") as theirs,
        ):
            transaction = mine.begin()
            with pytest.raises(pa.ArrowInvalid, match="unknown"):
                theirs.update("CREATE TABLE t (n INTEGER)", transaction)
            theirs.headers.send["cookie"] = mine.headers.send["cookie"]
            with pytest.raises(flight.FlightUnauthenticatedError, match="somebody else"):
                theirs.query("SELECT 1")
            del theirs.headers.send["authorization"]
            with pytest.raises(flight.FlightUnauthenticatedError, match="give a token"):
                theirs.query("SELECT 1")
            info = mine.info(m.CommandStatementQuery(query="SELECT 1 AS n"))
            theirs.headers.send = {"authorization": f"Bearer {other}"}
            with pytest.raises(pa.ArrowInvalid, match="ticket"):
                theirs.fetch(info)


def _known(url: str, token: str) -> bool:
    try:
        with ducktower.connect(url, token=token, retry_seconds=0) as client:
            client.health()
    except ducktower.Unauthenticated:
        return False
    return True


def _finish(upload: Any, answer: Any, batch: pa.RecordBatch) -> None:
    upload.write_batch(batch)
    upload.done_writing()
    answer.read()
    upload.close()


class TestTheEnd:
    def test_a_new_token_is_noticed(self, closed: ducktower.FlightServer, grant: Grant) -> None:
        """Without a restart."""
        late = grant("late")
        until(lambda: _known(closed.url, late), "the new token", seconds=5)

    def test_a_token_made_for_an_open_server_closes_it(self, database: Path, grant: Grant) -> None:
        """From then on everybody is asked, also whoever was served before, whose sessions end."""
        with (
            ducktower.serve(str(database), token_look_seconds=0.05) as server,
            ducktower.connect(server.url, retry_seconds=0) as client,
            RawFlightSql(server.url, keep_cookies=True) as raw,
        ):
            assert not server.asks
            client.execute("CREATE TABLE t (n INTEGER)")
            raw.update("INSERT INTO t VALUES (1)", raw.begin())
            token = grant("ada")
            until(lambda: server.asks, "the token file")
            with pytest.raises(ducktower.Unauthenticated):
                client.query("SELECT 1")
            with pytest.raises(flight.FlightUnauthenticatedError):
                raw.query("SELECT 1")
            until(lambda: server.engine.sessions.describe() == [], "the end of the session")
            with ducktower.connect(server.url, token=token) as known:
                assert known.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]

    def test_a_removed_file_lets_nobody_in(
        self, closed: ducktower.FlightServer, tokens: TokenFile, as_: Connect, owner: str
    ) -> None:
        """A server that asked goes on asking."""
        client = as_(owner)
        client.health()
        tokens.path.unlink()
        until(lambda: not _known(closed.url, owner), "the end of the token")
        assert closed.asks
        with pytest.raises(ducktower.Unauthenticated):
            client.query("SELECT 1")

    def test_half_an_edit_throws_nobody_out(self, tokens: TokenFile, as_: Connect, owner: str) -> None:
        """A file that cannot be read leaves the tokens what they were."""
        client = as_(owner)
        client.health()
        good = tokens.path.read_bytes()
        tokens.path.write_bytes(good[:20])
        time.sleep(0.3)  # the server looks several times meanwhile; that nothing happens cannot be waited for
        client.health()
        tokens.path.write_bytes(good)
        client.health()

    @pytest.mark.parametrize("end", ["revoked", "expired", "replaced"])
    def test_what_runs_with_a_token_that_is_over_ends(
        self, closed: ducktower.FlightServer, tokens: TokenFile, as_: Connect, owner: str, end: str
    ) -> None:
        """A query, a stream that is being read, an open stream of writes, a session's transaction and its token."""
        boss = as_(owner)
        boss.execute("CREATE TABLE t (n BIGINT)")
        expires = time.time() + 4 if end == "expired" else None
        token = tokens.create("otto", "owner", (), expires)[1]
        until(lambda: _known(closed.url, token), "the new token")
        otto = as_(token)
        failures: dict[str, BaseException] = {}

        def query() -> None:
            try:
                otto.query(LONG)
            except ducktower.DucktowerError as error:
                failures["query"] = error

        asking = threading.Thread(target=query)
        asking.start()
        with RawFlightSql(closed.url, keep_cookies=True, authorization=f"Bearer {token}") as raw:
            raw.update("INSERT INTO t VALUES (1)", raw.begin())
            raw.headers.send = {"authorization": f"Bearer {raw.headers.send['cookie'].partition('=')[2]}"}
            assert raw.query("SELECT 1 AS n").num_rows == 1  # the session's own token is as good
            stream = otto.reader("SELECT * FROM range(2_000_000_000)")
            stream.read_next_batch()
            rows = otto.appender("t")
            rows.append({"n": 2}).result()
            until(lambda: len(boss.sessions()) >= 2, "the running calls")
            if end == "revoked":
                tokens.revoke("otto")
            elif end == "replaced":
                tokens.create("otto", "owner", replace=True)
            asking.join(15)
            assert not asking.is_alive()
            assert isinstance(failures["query"], ducktower.Unauthenticated), failures
            with pytest.raises((pa.ArrowException, OSError, ducktower.DucktowerError)):
                stream.read_all()
            with pytest.raises(ducktower.DucktowerError):
                until(lambda: rows.append({"n": 3}).result() and False, "the refusal of a row", seconds=15)
            with pytest.raises(ducktower.Unauthenticated):
                rows.append({"n": 4}).result()  # a new stream is not to be had either
            rows.close()  # every write's outcome was told
            with pytest.raises(flight.FlightUnauthenticatedError, match="revoked or has expired"):
                raw.query("SELECT 1")
        until(lambda: [one["text"] for one in boss.sessions()] == [], "the end of every call", seconds=15)
        until(lambda: closed.engine.sessions.describe() == [], "the end of the session")
        with pytest.raises(ducktower.Unauthenticated):
            otto.query("SELECT 1")
        assert 1 not in boss.query("SELECT n FROM t")["n"].to_pylist()

    def test_a_client_that_does_not_listen_loses_its_connection(
        self, closed: ducktower.FlightServer, tokens: TokenFile, as_: Connect, owner: str
    ) -> None:
        """An idle stream and half an upload end too; of the upload nothing is stored."""
        boss = as_(owner)
        boss.execute("CREATE TABLE t (n BIGINT)")
        token = tokens.create("otto", "writer")[1]
        until(lambda: _known(closed.url, token), "the new token")
        batch = pa.record_batch({"n": [1]})
        options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
        with flight.connect(closed.url) as raw:
            command = flight.FlightDescriptor.for_command(b'{"append": {"table": "t"}}')
            writer, reader = raw.do_exchange(command, options)
            writer.begin(batch.schema)
            writer.write_batch(batch)
            reader.read_chunk()
            upload, _ = raw.do_put(flight.FlightDescriptor.for_path("t"), batch.schema, options)
            upload.write_batch(batch)
            tokens.revoke("otto")
            farewell = json.loads(reader.read_chunk().app_metadata.to_pybytes())
            assert farewell["error"]["code"] == "UNAUTHENTICATED"
            with pytest.raises((flight.FlightError, pa.ArrowException)):
                reader.read_chunk()
            for one in (writer, upload):
                with pytest.raises((flight.FlightError, pa.ArrowException, OSError)):
                    one.close()
        assert boss.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [1]

    @pytest.mark.parametrize("rows", [1, 200_000])
    def test_an_upload_is_not_finished_with_a_token_that_is_over(
        self, closed: ducktower.FlightServer, tokens: TokenFile, as_: Connect, owner: str, rows: int
    ) -> None:
        """Nothing is stored, however soon its rest comes after the end."""
        boss = as_(owner)
        boss.execute("CREATE TABLE t (n BIGINT)")
        token = tokens.create("otto", "writer")[1]
        until(lambda: _known(closed.url, token), "the new token")
        batch = pa.record_batch({"n": pa.array(range(rows))})
        options = flight.FlightCallOptions(headers=[(b"authorization", f"Bearer {token}".encode())])
        with flight.connect(closed.url) as raw:
            upload, answer = raw.do_put(flight.FlightDescriptor.for_path("t"), batch.schema, options)
            upload.write_batch(batch)
            tokens.revoke("otto")
            until(lambda: not _known(closed.url, token), "the end of the token")
            with pytest.raises((flight.FlightError, pa.ArrowException, OSError)):
                _finish(upload, answer, batch)
        until(lambda: boss.sessions() == [], "the end of every call")
        assert boss.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [0]

    def test_others_go_on(
        self, closed: ducktower.FlightServer, tokens: TokenFile, grant: Grant, as_: Connect, owner: str
    ) -> None:
        """Somebody else's streams and sessions do not notice that a token is revoked."""
        boss = as_(owner)
        boss.execute("CREATE TABLE t (n BIGINT)")
        grant("otto")
        with boss.appender("t") as rows:
            rows.append({"n": 1}).result()
            stream = boss.reader("SELECT * FROM range(10_000_000)")
            stream.read_next_batch()
            until(lambda: len(closed._logins._book.logins) == 2, "the new token")  # type: ignore[union-attr]
            tokens.revoke("otto")
            until(lambda: len(closed._logins._book.logins) == 1, "its end")  # type: ignore[union-attr]
            rows.append({"n": 2}).result()
            assert sum(batch.num_rows for batch in stream) > 0
        assert boss.query("SELECT count(*) AS n FROM t")["n"].to_pylist() == [2]


class TestNothingLeaks:
    def test_a_secret_is_in_no_log_and_no_description(self, database: Path, tmp_path: Path, owner: str) -> None:
        """At the level that tells most."""
        from support.servers import running

        with running(database, tmp_path / "log", "--log-level", "debug") as server:
            with ducktower.connect(server.url, token=owner) as client:
                client.execute("CREATE TABLE t (n INTEGER)")
                client.query("SELECT 1")
                told = json.dumps([client.health(), client.statistics(), client.sessions()])
            with (
                ducktower.connect(server.url, token=owner + "x", retry_seconds=0) as bad,
                pytest.raises(ducktower.Unauthenticated) as caught,
            ):
                bad.query("SELECT 1")
            with RawFlightSql(server.url, authorization=basic("olga", owner)) as raw:
                raw.query("SELECT 1")
            secret = owner.split("_", 2)[2]
            assert secret not in told + server.stderr + str(caught.value)
            command_line = Path(f"/proc/{server.pid}/cmdline")
            assert not command_line.exists() or secret.encode() not in command_line.read_bytes()
            assert server.terminate() == 0
            assert secret not in server.stderr
        kept = b"".join(path.read_bytes() for path in database.parent.iterdir() if path.is_file())
        assert secret.encode() not in kept

    def test_a_token_with_a_strange_letter_is_not_repeated(self) -> None:
        """The client refuses it without showing it."""
        with pytest.raises(ducktower.InvalidArgument) as caught:
            ducktower.connect("grpc://127.0.0.1:1", token="geheim\n")
        assert "geheim" not in str(caught.value)

    def test_the_token_can_come_from_a_file(self, closed: ducktower.FlightServer, owner: str, tmp_path: Path) -> None:
        """So that it is on no command line."""
        file = tmp_path / "token"
        file.write_text(owner + "\n")
        os.chmod(file, 0o600)
        cli.run("health", "--url", closed.url, "--token", f"@{file}")
        cli.run("health", "--url", closed.url, DUCKTOWER_TOKEN=owner)
        cli.fails("health", "--url", closed.url, code="UNAUTHENTICATED")


SECRETS = re.compile(r"secret|hash|signature|digest|password|credentials|token_bytes")
COMPARED = {("token_file.py", "matches"), ("tokens.py", "_verified")}
"""Where a secret's hash, or a signature, is compared."""
EARLY = {"startswith", "endswith", "find", "index", "count", "fullmatch", "match", "search"}


def test_secrets_are_compared_in_constant_time_alone() -> None:
    """By `hmac.compare_digest`, in two places; nowhere in the server by an operator or a method that stops early.

    Of times nothing is asserted: what is compared is what the source says.
    """
    found, early = set(), []
    for path in sorted((Path(ducktower.__file__).parent / "server").rglob("*.py")):
        tree = ast.parse(path.read_text())
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for node in ast.walk(function):
                if isinstance(node, ast.Attribute) and node.attr == "compare_digest":
                    found.add((path.name, function.name))
                compared = _compared(node)
                if any(SECRETS.search(one) for one in compared):
                    early.append((path.name, function.name, ast.unparse(node)))
    assert early == []
    assert found == COMPARED


def _compared(node: ast.AST) -> list[str]:
    """Return the names in what an operator or a method compares, piece by piece."""
    sides: list[ast.expr] = []
    if isinstance(node, ast.Compare) and not all(isinstance(one, ast.Is | ast.IsNot) for one in node.ops):
        sides = [node.left, *node.comparators]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in EARLY:
        sides = [node.func.value, *node.args]
    return [
        one.id if isinstance(one, ast.Name) else one.attr
        for side in sides
        for one in ast.walk(side)
        if isinstance(one, ast.Name | ast.Attribute)
    ]
