"""TCP connections: tells which are open and how much came in on each; cuts those that hold up an end, or everybody.

pyarrow can neither cancel a call nor give `shutdown` a deadline, so one client that holds a stream open would
keep its cursor, and the process. A connection that is shut down below gRPC ends its calls at once.

Owns nothing. Must only ever touch sockets of this process whose local port is the server's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from urllib.parse import unquote

__all__ = ["Endpoint", "connected", "cut", "cut_these", "endpoint", "received"]

Endpoint = tuple[str, int]
"""Address and port of a client."""

_DESCRIPTORS = Path("/dev/fd")  # Linux and macOS
_TCP_INFO_BYTES = 136
_RECEIVED = slice(128, 136)
"""Where Linux, from 4.1 on, says in TCP_INFO how many bytes came in (tcpi_bytes_received)."""


def cut(port: int, peer: str | None = None) -> int:
    """Shut down the accepted connections of the server on `port`, or only `peer`'s; return how many there were.

    `peer` is what gRPC calls the other side, such as `ipv4:127.0.0.1:50412`.
    """
    if peer is None:
        return len(_cut(port, None))
    only = endpoint(peer)
    return 0 if only is None else len(_cut(port, {only}))


def cut_these(port: int, clients: Collection[Endpoint]) -> list[Endpoint]:
    """Shut down the connections of these clients, in one look at all there are; return those that were there."""
    return _cut(port, clients)


def endpoint(peer: str) -> Endpoint | None:
    """Return address and port of what gRPC calls the other side; None when it is no TCP connection."""
    kind, _, rest = unquote(peer).partition(":")
    address, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return _plain(address.strip("[]")), int(port)


def connected(port: int) -> set[Endpoint] | None:
    """Return the clients that are connected to the server on `port`; None when it cannot be seen."""
    if not _DESCRIPTORS.is_dir():
        return None
    return {client for client, _ in _accepted(port)}


def received(port: int) -> dict[Endpoint, int] | None:
    """Return how many bytes came in on each connection to the server on `port`; None when it cannot be seen."""
    if not hasattr(socket, "TCP_INFO"):  # Linux has it
        return None
    found = {}
    for client, one in _accepted(port):
        with contextlib.suppress(OSError):
            info = one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            if len(info) < _TCP_INFO_BYTES:
                return None
            found[client] = int.from_bytes(info[_RECEIVED], sys.byteorder)
    return found


def _accepted(port: int) -> Iterator[tuple[Endpoint, socket.socket]]:
    """Yield each connection, whose socket is only to be asked, and not after the next was yielded.

    It is gRPC's descriptor, no duplicate: that would keep a connection open which gRPC closes meanwhile. So it may be
    another one by now: whoever asks gets at worst an answer about the wrong connection, or none.
    """
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):  # no socket, gone meanwhile, or the one that listens
            # Of whichever family it is: an address of this one is as long as any that is asked for here.
            one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM, 0, fileno=int(name))
            try:
                here = one.getsockname()
                if isinstance(here, tuple) and here[1] == port:
                    there = one.getpeername()
                    yield (_plain(there[0]), there[1]), one
            finally:
                one.detach()


def _plain(address: str) -> str:
    """Return an address as one of its own family: gRPC listens on both with one socket."""
    return address.removeprefix("::ffff:").partition("%")[0]


def _cut(port: int, only: Collection[Endpoint] | None) -> list[Endpoint]:
    found: list[Endpoint] = []
    if not _DESCRIPTORS.is_dir():
        return found
    for name in os.listdir(_DESCRIPTORS):
        # Descriptors come and go meanwhile: one that is gone says so by an OSError.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                client = _cut_one(os.dup(int(name)), port, only)
                if client is not None:
                    found.append(client)
    return found


def _cut_one(descriptor: int, port: int, only: Collection[Endpoint] | None) -> Endpoint | None:
    """Shut down one socket when it is a connection of ours, and close the descriptor, a duplicate."""
    try:
        ours = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return None
    with ours:
        if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.getsockname()[1] != port:
            return None
        address, other_port = ours.getpeername()[:2]  # fails for the listening socket
        client = _plain(address), other_port
        if only is not None and client not in only:
            return None
        ours.shutdown(socket.SHUT_RDWR)
        return client
