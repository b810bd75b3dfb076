"""Why there is no connection: gRPC tells that none came about, but not that a certificate is the reason.

So when it failed, the same is tried once more by Python's own TLS, which says what it does not like. Owns that one try.
Must never send anything but a TLS handshake, nor trust anybody whom the connection itself would not.
"""

from __future__ import annotations

import os
import socket
import ssl
from dataclasses import dataclass

__all__ = ["Server", "host_and_port"]

_SECONDS = 2.0

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Server:
    """A server as a client means it: where it is, and how it is known."""

    url: str
    roots: bytes | None = None
    """Certificates in PEM that are trusted; None: those of the known authorities."""
    name: str | None = None
    """What its certificate must call it; None: the host in the URL."""
    own: tuple[Path, Path] | None = None
    """Files of the client's certificate and its key."""

    def refusal(self) -> str | None:
        """Return why no connection to it can be made, when TLS is the reason; None otherwise."""
        if not self.url.startswith(("grpc://", "grpc+tcp://", "grpc+tls://")):
            return None
        host, port = host_and_port(self.url)
        try:
            with socket.create_connection((host, port), timeout=_SECONDS) as plain:
                return self._of_tls(plain, host) if self.url.startswith("grpc+tls:") else _of_plain(plain)
        except (OSError, ValueError):
            return None  # nobody is there, or somebody who says nothing

    def _of_tls(self, plain: socket.socket, host: str) -> str | None:
        context = ssl.create_default_context(cadata=None if self.roots is None else self.roots.decode())
        # As gRPC does: a certificate that is itself among the trusted ones needs no authority above it.
        context.verify_flags = ssl.VERIFY_X509_PARTIAL_CHAIN
        context.set_alpn_protocols(["h2"])
        if self.own is not None:
            context.load_cert_chain(*self.own, password="")  # rather than to ask the terminal for one
        try:
            with context.wrap_socket(plain, server_hostname=self.name or host) as secured:
                if secured.recv(1):
                    return None  # it speaks HTTP/2 with us
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not trusted here: {error.verify_message.rstrip('.')}"
        except ssl.SSLError as error:
            return "it is without TLS there; write grpc://" if error.reason == "WRONG_VERSION_NUMBER" else None
        # The server has read our side of the handshake by now.
        if self.own is None:
            return "it hangs up on a client that shows no certificate of its own"
        return "it hangs up: the certificate of the client's that it was shown may not be one that it trusts"


def host_and_port(url: str) -> tuple[str, int]:
    """Return what a URL of the form `SCHEME://HOST:PORT` leads to. Raises ValueError for a port that is no number."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


def _of_plain(plain: socket.socket) -> str | None:
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE  # whoever answers in TLS at all has answered
    try:
        asking.wrap_socket(plain).close()
    except ssl.SSLError:
        return None
    return "it is with TLS there; write grpc+tls://"
