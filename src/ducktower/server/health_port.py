"""HTTP for those who watch over the process: `/health/live` and `/health/ready`, on a port of their own.

One thread serves a bounded number of connections, each with one request and a time to send it; the oldest gives way
to one too many. So nobody can take more from the server here than a little of one core.

Owns the port and its thread. Must never answer anything else, and never tells a name or a figure of the data: whoever
reaches the port may ask.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus

from ..config import ServerConfig
from ..errors import Unavailable
from .health import Health

__all__ = ["HealthPort"]

log = logging.getLogger(__name__)

_REQUEST_BYTES_MAX = 8 * 1024
_NO_DESCRIPTOR_SECONDS = 0.1
_Look = Callable[[], tuple[bool, dict[str, str]]]


class _Connection:
    """One client; used by the port's thread alone."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self.sock = sock
        self.until = until
        self.received = b""


class HealthPort:
    """Listens from the start to `close`. Raises Unavailable when the port is taken."""

    def __init__(self, config: ServerConfig, port: int, health: Health) -> None:
        self._connections_max = config.health_connections_max
        self._request_seconds = config.health_request_seconds
        self._looks: dict[bytes, tuple[str, _Look]] = {
            b"/health/live": ("live", health.live),
            b"/health/ready": ("ready", health.ready),
        }
        self._listening = _listen(config.health_host, port)
        self._woken, self._wake = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ, self._accept)
        self._selector.register(self._woken, selectors.EVENT_READ)
        # Of the thread alone; in the order of their arrival, which is that of their ends.
        self._connections: dict[socket.socket, _Connection] = {}
        self.port = int(self._listening.getsockname()[1])
        self._thread = threading.Thread(target=self._run, name="ducktower-health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening and drop what is connected."""
        self._wake.close()
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._serve():
                pass
        finally:
            for sock in (*self._connections, self._listening, self._woken):
                sock.close()
            self._selector.close()

    def _serve(self) -> bool:
        """Wait for something to do and do it; True when that is to end."""
        oldest = next(iter(self._connections.values()), None)
        ready = self._selector.select(None if oldest is None else max(0.0, oldest.until - time.monotonic()))
        for key, _ in ready:
            if key.fileobj is self._woken:
                return True
            try:
                key.data()
            except OSError as error:  # a client that left, or no descriptor for one more
                log.debug("a health check failed: %s", error)
        for late in [one for one in self._connections.values() if one.until <= time.monotonic()]:
            self._drop(late)
        return False

    def _accept(self) -> None:
        if len(self._connections) >= self._connections_max:
            self._drop(next(iter(self._connections.values())))
        try:
            sock, _ = self._listening.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                time.sleep(_NO_DESCRIPTOR_SECONDS)  # it would be told again at once
            raise
        sock.settimeout(0)
        connection = _Connection(sock, time.monotonic() + self._request_seconds)
        self._connections[sock] = connection
        self._selector.register(sock, selectors.EVENT_READ, lambda: self._read(connection))

    def _read(self, connection: _Connection) -> None:
        if connection.sock not in self._connections:  # it gave way a moment ago
            return
        try:
            piece = connection.sock.recv(_REQUEST_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        connection.received += piece
        whole = b"\r\n\r\n" in connection.received or b"\n\n" in connection.received
        if piece and not whole and len(connection.received) < _REQUEST_BYTES_MAX:
            return
        try:
            if whole:
                connection.sock.send(self._answer(connection.received.split(None, 3)))
                connection.sock.shutdown(socket.SHUT_WR)
        finally:
            self._drop(connection)

    def _answer(self, words: list[bytes]) -> bytes:
        if len(words) < 3 or not words[2].startswith(b"HTTP/1."):
            return _response(HTTPStatus.BAD_REQUEST)
        method, path = words[0], words[1].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n")
        if path not in self._looks:
            return _response(HTTPStatus.NOT_FOUND, head=method == b"HEAD")
        what, look = self._looks[path]
        well, checks = look()
        body = {what: well, "checks": checks}
        status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
        return _response(status, body, head=method == b"HEAD")

    def _drop(self, connection: _Connection) -> None:
        del self._connections[connection.sock]
        with contextlib.suppress(OSError):
            self._selector.unregister(connection.sock)
        connection.sock.close()


def _response(
    status: HTTPStatus, body: dict[str, object] | None = None, *, head: bool = False, extra: str = ""
) -> bytes:
    text = json.dumps({"error": status.phrase} if body is None else body) + "\n"
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Content-Type: application/json\r\n"
        f"Content-Length: {len(text)}\r\n"
        "Cache-Control: no-store\r\n"
        f"{extra}"
        "Connection: close\r\n\r\n"
        f"{'' if head else text}"
    ).encode()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=64)
    except OSError as error:
        raise Unavailable(f"cannot listen for health checks on {host}:{port}: {error.strerror}") from error
    listening.settimeout(0)
    return listening
