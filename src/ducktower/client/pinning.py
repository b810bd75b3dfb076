"""One certificate, trusted by its fingerprint: what a server has that signed its own.

The certificate is fetched over a connection that trusts anybody, compared, and then it is the only one that the real
connection trusts. So whoever answers the first connection in the server's place gains nothing.

Owns that fetching and comparing. Must never send anything but a TLS handshake.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import re
import socket
import ssl
from typing import NamedTuple

from ..errors import InvalidArgument, Unauthenticated, Unavailable
from .handshake import host_and_port

__all__ = ["Pinned", "fingerprint_of", "pin"]

_CONNECT_SECONDS = 10.0
_HEX = re.compile(r"[0-9a-f]{64}")


class Pinned(NamedTuple):
    """What the real connection is given."""

    certificate: bytes
    """In PEM."""
    name: str
    """What the certificate calls its server: the name to look for, since the fingerprint says who it is."""


def fingerprint_of(text: str) -> str:
    """Return a fingerprint, with or without colons, as 64 digits. Raises InvalidArgument."""
    digits = text.strip().lower().removeprefix("sha256:").replace(":", "")
    if not _HEX.fullmatch(digits):
        raise InvalidArgument(f'fingerprint "{text}" is not the 64 hexadecimal digits of a SHA-256')
    return digits


def pin(
    location: str, fingerprint: str, client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
) -> Pinned:
    """Fetch the certificate of the server at `grpc+tls://HOST:PORT` and return it when it is the one that is meant.

    Raises Unauthenticated when it is another, Unavailable when there is none to be had.
    """
    host, port = host_and_port(location)
    found = _fetch(host, port, client_certificate)
    digest = hashlib.sha256(found).hexdigest()
    if digest != fingerprint:
        raise Unauthenticated(f"the certificate of {host}:{port} has another fingerprint: {digest}")
    return Pinned(ssl.DER_cert_to_PEM_cert(found).encode(), _name(found, host))


def _fetch(
    host: str, port: int, client_certificate: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
) -> bytes:
    trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    trusting.set_alpn_protocols(["h2"])
    if client_certificate is not None:
        trusting.load_cert_chain(*client_certificate)
    try:
        with (
            socket.create_connection((host, port), timeout=_CONNECT_SECONDS) as plain,
            trusting.wrap_socket(plain, server_hostname=host) as secured,
        ):
            found = secured.getpeercert(binary_form=True)
    except OSError as error:
        raise Unavailable(
            f"{host}:{port} shows no certificate; `ducktower serve` may not be running there, or without TLS "
            f"({error.strerror or type(error).__name__})"
        ) from error
    assert found is not None  # noqa: S101 - a server always has one
    return found


def _name(certificate: bytes, host: str) -> str:
    """Return a name that the certificate has, the host's own if it is among them."""
    from cryptography import x509  # whoever pins nothing does without it

    read = x509.load_der_x509_certificate(certificate)
    try:
        names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return host
    known = [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    with contextlib.suppress(ValueError):
        host = str(ipaddress.ip_address(host))
    return host if host in known or not known else known[0]
