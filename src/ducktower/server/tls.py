"""The server's certificate: the operator's, or one that signs itself and is kept beside the database.

A client trusts a certificate that signs itself by its fingerprint, the SHA-256 of the certificate, so the file is kept:
a new one would look like another server.

Owns reading and making certificates. Must never listen.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..config import ServerConfig
from ..errors import InvalidArgument

__all__ = ["Tls", "tls_of"]

_DAYS = 3650
_CLOCK_DAYS = 1
"""How far the clock of a client may be behind."""
_COMMON_NAME = "ducktower"


@dataclass(frozen=True, slots=True)
class Tls:
    """What a server shows and asks for, in PEM."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the certificate, as `ab:cd:...`."""
        return x509.load_pem_x509_certificate(self.certificate).fingerprint(hashes.SHA256()).hex(":")


def tls_of(config: ServerConfig, kept: Path | None) -> Tls:
    """Return the certificate that `config` asks for; one that signs itself is read from `kept`, or made and put there.

    The config must be one that encrypts. Raises InvalidArgument for files that cannot be used.
    """
    client_ca = _certificates(config.tls_client_ca, "CA of the clients") if config.tls_client_ca else None
    if config.tls == "auto":
        pair = _kept(kept) if kept is not None and kept.exists() else _made(config.host, kept)
    else:
        assert config.tls_cert and config.tls_key  # noqa: S101, PT018 - it encrypts
        pair = _certificates(config.tls_cert, "certificate"), _read(config.tls_key, "key")
    _check(*pair)
    return Tls(*pair, client_ca)


def _read(path: str | Path, what: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f'TLS {what} "{path}" cannot be read: {error.strerror}') from error


def _certificates(path: str, what: str) -> bytes:
    raw = _read(path, what)
    try:
        x509.load_pem_x509_certificates(raw)
    except ValueError as error:
        raise InvalidArgument(f'TLS {what} "{path}" holds no certificate in PEM') from error
    return raw


def _check(certificate: bytes, key: bytes) -> None:
    """Refuse a pair that does not belong together, or whose time is over: gRPC would say so to the clients alone."""
    first = x509.load_pem_x509_certificate(certificate)
    try:
        private = serialization.load_pem_private_key(key, None)
    except (ValueError, TypeError) as error:
        raise InvalidArgument("the TLS key is no private key in PEM without a password") from error
    form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    if private.public_key().public_bytes(*form) != first.public_key().public_bytes(*form):
        raise InvalidArgument("the TLS key is not that of the certificate")
    if first.not_valid_after_utc < datetime.datetime.now(datetime.UTC):
        raise InvalidArgument(f"the TLS certificate was good until {first.not_valid_after_utc:%Y-%m-%d}")


def _kept(path: Path) -> tuple[bytes, bytes]:
    raw = _read(path, "file")
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidArgument(f'TLS file "{path}" may be used by other users; chmod 600 it')
    key, marker, certificate = raw.partition(b"-----BEGIN CERTIFICATE-----")
    if not marker:
        raise InvalidArgument(f'TLS file "{path}" holds no certificate in PEM')
    return marker + certificate, key


def _made(host: str, path: Path | None) -> tuple[bytes, bytes]:
    """Make a certificate that signs itself, and keep it at `path`."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _COMMON_NAME)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=_CLOCK_DAYS))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(_names(host)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pair = (
        certificate.public_bytes(serialization.Encoding.PEM),
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    if path is not None:
        _keep(path, pair[1] + pair[0])
    return pair


def _names(host: str) -> list[x509.GeneralName]:
    """Return what a client may call the server, the name of the machine among it."""
    found: dict[str, x509.GeneralName] = {}
    for name in ("localhost", "127.0.0.1", "::1", host, socket.gethostname()):
        try:
            found[name] = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            if name and name.isascii():
                found[name] = x509.DNSName(name)
    return list(found.values())


def _keep(path: Path, content: bytes) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InvalidArgument(f'TLS file "{path}" cannot be written: {error.strerror}') from error
