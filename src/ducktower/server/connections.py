"""Cuts TCP connections: those left when a server ends, and that of a client which no longer reads.

pyarrow can neither cancel a call nor give `shutdown` a deadline, so one client that holds a stream open would
keep its cursor, and the process. A connection that is shut down below gRPC ends its calls at once.

Owns nothing. Must only ever touch sockets of this process whose local port is the server's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from urllib.parse import unquote

__all__ = ["cut"]

_DESCRIPTORS = Path("/dev/fd")  # Linux and macOS


def cut(port: int, peer: str | None = None) -> int:
    """Shut down the accepted connections of the server on `port`, or only `peer`'s; return how many there were.

    `peer` is what gRPC calls the other side, such as `ipv4:127.0.0.1:50412`.
    """
    count = 0
    if not _DESCRIPTORS.is_dir():
        return count
    for name in os.listdir(_DESCRIPTORS):
        # Whatever is no socket, or was closed meanwhile, says so by an OSError.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as ours:
            if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.getsockname()[1] != port:
                continue
            address, other_port = ours.getpeername()[:2]  # fails for the listening socket
            address = address.removeprefix("::ffff:")  # gRPC listens on both families with one socket
            if peer is not None and not (peer.endswith(f":{other_port}") and address in unquote(peer)):
                continue
            ours.shutdown(socket.SHUT_RDWR)
            count += 1
    return count
