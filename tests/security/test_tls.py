"""TLS: a certificate of one's own, one that signs itself, clients that trust it, and clients that must have one."""

from __future__ import annotations

import hashlib
import itertools
import ssl
import stat
from pathlib import Path

import adbc_driver_flightsql.dbapi as adbc
import pyarrow.flight as flight
import pytest
from adbc_driver_flightsql import DatabaseOptions

import cli_support as cli
import ducktower
from ducktower.server.token_file import TokenFile
from support.certificates import Authority
from support.waiting import until


def answers(url: str, **tls: object) -> bool:
    """Whether a client with these options is served."""
    with ducktower.connect(url, retry_seconds=0, **tls) as client:  # type: ignore[arg-type]
        return client.query("SELECT 1 AS n").num_rows == 1


class TestACertificateOfItsOwn:
    def test_it_is_made_once_kept_and_pinned(self, database: Path) -> None:
        """The fingerprint is the same after a restart, and is all that a client needs."""
        with ducktower.serve(str(database), tls="auto") as server:
            first = server.tls_fingerprint
            assert first is not None
            assert server.url.startswith("grpc+tls://")
            assert answers(server.url, tls_fingerprint=first)
            assert answers(server.url, tls_fingerprint=first.replace(":", "").upper())
            assert answers(server.url.replace("127.0.0.1", "localhost"), tls_fingerprint=f"sha256:{first}")
        kept = Path(f"{database}.tls")
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        with ducktower.serve(str(database), tls="auto") as server:
            assert server.tls_fingerprint == first
            assert answers(server.url, tls_fingerprint=first)

    def test_another_one_is_refused(self) -> None:
        """With the fingerprint that was found, before anything is sent: the token least of all."""
        with ducktower.serve(tls="auto") as server, ducktower.serve(tls="auto") as other:
            with pytest.raises(ducktower.Unauthenticated, match="another fingerprint"):
                ducktower.connect(server.url, token="x", tls_fingerprint=other.tls_fingerprint)
            assert server.engine.statistics()["reads"] == 0

    def test_nobody_else_is_trusted_after_pinning(self, tmp_path: Path) -> None:
        """A server that comes in the place of the pinned one, with the same name, gets no call."""
        first, second = tmp_path / "first.duckdb", tmp_path / "second.duckdb"
        server = ducktower.serve(str(first), tls="auto")
        with ducktower.connect(server.url, tls_fingerprint=server.tls_fingerprint, retry_seconds=0) as client:
            assert client.query("SELECT 1 AS n").num_rows == 1
            port = server.port
            server.close()
            with (
                ducktower.serve(str(second), port=port, tls="auto") as impostor,
                pytest.raises(ducktower.Unavailable),
            ):
                until(lambda: client.query("SELECT 1") is None, "an answer of the impostor", seconds=5)
            assert impostor

    def test_without_the_fingerprint_it_is_not_trusted(self) -> None:
        """Neither by a client that trusts the known authorities, nor by one without TLS."""
        with ducktower.serve(tls="auto") as server:
            with pytest.raises(ducktower.Unavailable, match="not trusted here: self-signed certificate"):
                answers(server.url)
            with pytest.raises(ducktower.Unavailable, match=r"with TLS there; write grpc\+tls"):
                answers(server.url.replace("grpc+tls", "grpc"))

    def test_a_kept_file_that_others_may_read_is_refused(self, database: Path) -> None:
        """The key is in it."""
        ducktower.serve(str(database), tls="auto").close()
        Path(f"{database}.tls").chmod(0o640)
        with pytest.raises(ducktower.InvalidArgument, match="chmod 600"):
            ducktower.serve(str(database), tls="auto")

    def test_a_kept_file_of_another_form_is_refused(self, database: Path) -> None:
        """It is not replaced: clients know the old one."""
        kept = Path(f"{database}.tls")
        kept.write_text("nothing")
        kept.chmod(0o600)
        with pytest.raises(ducktower.InvalidArgument, match="no certificate"):
            ducktower.serve(str(database), tls="auto")
        assert kept.read_text() == "nothing"


class TestACertificateOfAnAuthority:
    def test_with_a_ca_file(self, authority: Authority) -> None:
        """A client of ours and a foreign driver trust the authority, and it alone."""
        pair = authority.signed()
        with ducktower.serve(tls_cert=str(pair.certificate), tls_key=str(pair.key)) as server:
            url = server.url.replace("127.0.0.1", "localhost")
            assert answers(url, tls_ca=authority.file)
            with pytest.raises(ducktower.Unavailable, match=r"127\.0\.0\.1"):
                answers(server.url, tls_ca=authority.file)  # the certificate is for another name
            other = Authority(authority.file.parent, "other")
            with pytest.raises(ducktower.Unavailable, match="not trusted here: unable to get local issuer"):
                answers(url, tls_ca=other.file)
            options = {DatabaseOptions.TLS_ROOT_CERTS.value: authority.file.read_text()}
            with adbc.connect(url, db_kwargs=options, autocommit=True) as connection, connection.cursor() as cursor:
                cursor.execute("SELECT 42")
                assert cursor.fetchall() == [(42,)]

    def test_it_can_be_pinned_too(self, authority: Authority) -> None:
        """By its own fingerprint, under any name that leads to it."""
        pair = authority.signed("example.org")
        der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
        with ducktower.serve(tls_cert=str(pair.certificate), tls_key=str(pair.key)) as server:
            assert answers(server.url, tls_fingerprint=hashlib.sha256(der).hexdigest())

    def test_what_does_not_belong_together_does_not_start(self, authority: Authority, tmp_path: Path) -> None:
        """Each is refused in one sentence, before the port is opened."""
        one, other = authority.signed(), authority.signed("other")
        past = authority.signed("past", days=-2)
        wrong = tmp_path / "wrong.pem"
        wrong.write_text("nothing")
        pairs = [
            (one.certificate, other.key, "not that of the certificate"),
            (past.certificate, past.key, "was good until"),
            (one.certificate, wrong, "no private key"),
            (wrong, one.key, "no certificate in PEM"),
            (tmp_path / "nosuch", one.key, "cannot be read"),
            (one.certificate, tmp_path / "nosuch", "cannot be read"),
        ]
        for certificate, key, said in pairs:
            with pytest.raises(ducktower.InvalidArgument, match=said):
                ducktower.serve(tls_cert=str(certificate), tls_key=str(key))

    @pytest.mark.parametrize(
        "settings",
        [
            {"tls_cert": "a"},
            {"tls_key": "a"},
            {"tls": "yes"},
            {"tls": "auto", "tls_cert": "a", "tls_key": "b"},
            {"tls_client_ca": "a"},
        ],
    )
    def test_settings_that_contradict(self, settings: dict[str, str]) -> None:
        """Half a pair, two certificates, or clients' certificates without TLS."""
        with pytest.raises(ducktower.InvalidArgument, match="tls"):
            ducktower.ServerConfig(**settings)  # type: ignore[arg-type]


class TestMutual:
    def test_a_client_must_have_a_certificate_of_the_authority(self, authority: Authority, tmp_path: Path) -> None:
        """One without, and one of somebody else's, get no answer; the token is asked for all the same."""
        clients = Authority(tmp_path, "clients")
        mine, theirs = clients.signed("me"), Authority(tmp_path, "others").signed("them")
        pair = authority.signed()
        with ducktower.serve(
            tls_cert=str(pair.certificate), tls_key=str(pair.key), tls_client_ca=str(clients.file)
        ) as server:
            url = server.url.replace("127.0.0.1", "localhost")
            own = {"tls_client_cert": mine.certificate, "tls_client_key": mine.key}
            assert answers(url, tls_ca=authority.file, **own)
            assert answers(url, tls_fingerprint=server.tls_fingerprint, **own)
            with pytest.raises(ducktower.Unavailable, match="hangs up on a client that shows no certificate"):
                answers(url, tls_ca=authority.file)
            with pytest.raises(ducktower.Unavailable, match="hangs up: the certificate of the client's"):
                answers(url, tls_ca=authority.file, tls_client_cert=theirs.certificate, tls_client_key=theirs.key)
            with flight.connect(
                url,
                tls_root_certs=authority.file.read_bytes(),
                cert_chain=mine.certificate.read_bytes(),
                private_key=mine.key.read_bytes(),
            ) as raw:
                assert raw.do_get(flight.Ticket(b"SELECT 1 AS n")).read_all().num_rows == 1


class TestClientSettings:
    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"tls_fingerprint": "ab:cd"}, "64 hexadecimal"),
            ({"tls_fingerprint": "a" * 64, "tls_ca": __file__}, "not both"),
            ({"tls_client_cert": __file__}, "belong together"),
            ({"tls_ca": "/nosuch"}, "cannot be read"),
            ({"tls_ca": __file__}, "no certificate in PEM"),
            ({"tls_client_cert": __file__, "tls_client_key": __file__}, "no certificate in PEM"),
        ],
    )
    def test_what_cannot_be(self, settings: dict[str, str], said: str) -> None:
        """One sentence, before anything is sent."""
        with pytest.raises(ducktower.InvalidArgument, match=said):
            ducktower.connect("grpc+tls://127.0.0.1:1", **settings)  # type: ignore[arg-type]

    @pytest.mark.parametrize("settings", [{"tls_fingerprint": "a" * 64}, {"tls_ca": __file__}])
    def test_trust_without_tls(self, settings: dict[str, str]) -> None:
        """Whoever names what to trust means TLS: it is not left out in silence."""
        with pytest.raises(ducktower.InvalidArgument, match=r"grpc\+tls"):
            ducktower.connect("grpc://127.0.0.1:1", **settings)  # type: ignore[arg-type]

    def test_tls_where_there_is_none(self) -> None:
        """Said as it is, and not that nobody answers."""
        with ducktower.serve() as server, pytest.raises(ducktower.Unavailable, match=r"without TLS there; write grpc:"):
            answers(server.url.replace("grpc:", "grpc+tls:"))

    def test_nobody_there(self) -> None:
        """Pinning a server that is not there says so."""
        with pytest.raises(ducktower.Unavailable, match="shows no certificate"):
            ducktower.connect("grpc+tls://127.0.0.1:1", tls_fingerprint="a" * 64, retry_seconds=0)


class TestTheAddress:
    def test_others_reach_it_with_tokens_and_tls_alone(self, tmp_path: Path) -> None:
        """Each of the two that is missing is named; `insecure` does without both."""
        database = str(tmp_path / "a.duckdb")
        with pytest.raises(ducktower.Forbidden, match=r"tokens .* and TLS .*--insecure"):
            ducktower.serve(database, host="0.0.0.0")
        with pytest.raises(ducktower.Forbidden, match=r"needs tokens .*--insecure"):
            ducktower.serve(database, host="0.0.0.0", tls="auto")
        TokenFile(f"{database}.tokens").create("ada", "owner")
        with pytest.raises(ducktower.Forbidden, match=r"needs TLS .*--insecure"):
            ducktower.serve(database, host="0.0.0.0")
        with ducktower.serve(database, host="0.0.0.0", tls="auto") as server:
            assert server.asks
        with ducktower.serve(host="0.0.0.0", insecure=True) as server:
            assert answers(server.url)

    def test_the_command_says_what_it_does(self, database: Path, tmp_path: Path) -> None:
        """On stderr: the fingerprint, and that nobody is asked; on stdout one line that says grpc+tls."""
        with cli.started("serve", str(database), "--port", "0", "--tls", "auto") as process:
            assert process.stdout is not None
            assert process.stderr is not None
            url = process.stdout.readline().split()[1]
            lines = [*itertools.takewhile(lambda line: not line.startswith("open: "), process.stderr)]
            assert url.startswith("grpc+tls://127.0.0.1:")
            (fingerprint,) = [line.split()[-1] for line in lines if "fingerprint" in line]
            cli.run("health", "--url", url, "--tls-fingerprint", fingerprint)
            cli.fails("health", "--url", url, code="UNAVAILABLE")
            assert "another fingerprint" in cli.fails(
                "health", "--url", url, "--tls-fingerprint", "0" * 64, code="UNAUTHENTICATED"
            )
