"""Why there is no connection: gRPC tells that none came about, but not that a certificate is the reason.

So when it failed, the same is tried once more by Python's own TLS, which says what it does not like. Owns that one try.
Must never send anything but a TLS handshake, nor trust anybody whom the connection itself would not.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Server", "host_and_port"]

_SECONDS = 2.0
_RECEIVED_MAX = 65_536
_RECEIVED_TIMES_MAX = 64

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
        shaking = _Handshake(plain, context, self.name or host)
        try:
            shaking.run(shaking.tls.do_handshake)
        except ssl.SSLCertVerificationError as error:
            return f"its certificate is not trusted here: {error.verify_message.rstrip('.')}"
        except ssl.SSLError as error:
            return "it is without TLS there; write grpc://" if error.reason == "WRONG_VERSION_NUMBER" else None
        try:
            shaking.run(lambda: shaking.tls.read(1))
        except ssl.SSLError:  # the server has read our side of the handshake by now
            if self.own is None:
                return "it hangs up on a client that shows no certificate of its own"
            return "it hangs up: the certificate of the client's that it was shown may not be one that it trusts"
        return None  # it speaks HTTP/2 with us


class _Handshake:
    """TLS over a socket that stays whose it is: Python's own forgets to close one that is reset meanwhile."""

    def __init__(self, plain: socket.socket, context: ssl.SSLContext, name: str | None = None) -> None:
        self._plain = plain
        self._coming, self._going = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._coming, self._going, server_hostname=name)

    def run(self, step: Callable[[], object]) -> None:
        """Take a step, with all that has to be sent and received for it. Raises OSError, ssl.SSLError among them."""
        for _ in range(_RECEIVED_TIMES_MAX):
            try:
                step()
            except ssl.SSLWantReadError:
                self._plain.sendall(self._going.read())
                received = self._plain.recv(_RECEIVED_MAX)
                if received:
                    self._coming.write(received)
                else:
                    self._coming.write_eof()
            else:
                self._plain.sendall(self._going.read())
                return
        raise TimeoutError


def host_and_port(url: str) -> tuple[str, int]:
    """Return what a URL of the form `SCHEME://HOST:PORT` leads to. Raises ValueError for a port that is no number."""
    host, _, port = url.partition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


def _of_plain(plain: socket.socket) -> str | None:
    asking = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    asking.check_hostname = False
    asking.verify_mode = ssl.CERT_NONE  # whoever answers in TLS at all has answered
    shaking = _Handshake(plain, asking)
    try:
        shaking.run(shaking.tls.do_handshake)
    except ssl.SSLError:
        return None
    return "it is with TLS there; write grpc+tls://"
