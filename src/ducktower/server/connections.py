"""Cuts the TCP connections that are left when a server ends.

pyarrow's `shutdown` waits for every call in flight and cannot be given a deadline, so one client that holds a
stream open would keep the process. A connection that is shut down below gRPC ends its calls at once.

Owns nothing. Must only ever touch sockets of this process whose local port is the server's.
"""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

__all__ = ["cut"]

_DESCRIPTORS = Path("/dev/fd")  # Linux and macOS


def cut(port: int) -> int:
    """Shut down every accepted connection of the server on `port`; return how many there were."""
    count = 0
    if not _DESCRIPTORS.is_dir():
        return count
    for name in os.listdir(_DESCRIPTORS):
        # Whatever is no socket, or was closed meanwhile, says so by an OSError.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(int(name))) as ours:
            if ours.family not in (socket.AF_INET, socket.AF_INET6) or ours.getsockname()[1] != port:
                continue
            ours.getpeername()  # fails for the listening socket
            ours.shutdown(socket.SHUT_RDWR)
            count += 1
    return count
