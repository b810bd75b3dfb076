"""TCP connections: tells which are open; cuts those left when a server ends, and those of clients that read no more.

pyarrow can neither cancel a call nor give `shutdown` a deadline, so one client that holds a stream open would
keep its cursor, and the process. A connection that is shut down below gRPC ends its calls at once.

Owns nothing. Must only ever touch sockets of this process whose local port is the server's.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from urllib.parse import unquote

__all__ = ["connected", "cut", "endpoint"]

_DESCRIPTORS = Path("/dev/fd")  # Linux and macOS


def cut(port: int, peer: str | None = None) -> int:
    """Shut down the accepted connections of the server on `port`, or only `peer`'s; return how many there were.

    `peer` is what gRPC calls the other side, such as `ipv4:127.0.0.1:50412`.
    """
    count = 0
    if not _DESCRIPTORS.is_dir():
        return count
    for name in os.listdir(_DESCRIPTORS):
        # Descriptors come and go meanwhile: one that is gone says so by an OSError.
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode) and _cut_one(os.dup(int(name)), port, peer):
                count += 1
    return count


def endpoint(peer: str) -> tuple[str, int] | None:
    """Return address and port of what gRPC calls the other side; None when it is no TCP connection."""
    kind, _, rest = unquote(peer).partition(":")
    address, _, port = rest.rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdigit():
        return None
    return _plain(address.strip("[]")), int(port)


def connected(port: int) -> set[tuple[str, int]] | None:
    """Return address and port of every client connected to the server on `port`; None when it cannot be seen."""
    if not _DESCRIPTORS.is_dir():
        return None
    found = set()
    for name in os.listdir(_DESCRIPTORS):
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                with socket.socket(fileno=os.dup(int(name))) as one:
                    if one.family in (socket.AF_INET, socket.AF_INET6) and one.getsockname()[1] == port:
                        address, other_port = one.getpeername()[:2]
                        found.add((_plain(address), other_port))
    return found


def _plain(address: str) -> str:
    """Return an address as one of its own family: gRPC listens on both with one socket."""
    return address.removeprefix("::ffff:").partition("%")[0]


def _cut_one(descriptor: int, port: int, peer: str | None) -> bool:
    """Shut down one socket when it is a connection of ours, and close the descriptor, a duplicate."""
    try:
        ours = socket.socket(fileno=descriptor)
    except OSError:
        os.close(descriptor)
        return False
    with ours:
        if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.getsockname()[1] != port:
            return False
        address, other_port = ours.getpeername()[:2]  # fails for the listening socket
        address = address.removeprefix("::ffff:")  # gRPC listens on both families with one socket
        if peer is not None and not (peer.endswith(f":{other_port}") and address in unquote(peer)):
            return False
        ours.shutdown(socket.SHUT_RDWR)
        return True
