"""A TCP proxy that cuts, delays and half-closes the connections that pass through it.

Owns its sockets and two threads for each connection. Must never look into what passes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

__all__ = ["Counts", "Proxy"]

_CHUNK_BYTES = 64 * 1024


class Counts(NamedTuple):
    """Connections that came, pieces of answers that were held back, half-closed connections that the server ended."""

    accepted: int = 0
    answers_delayed: int = 0
    hung_up: int = 0


class Proxy:
    """Forwards a port of its own to another until it is closed."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"grpc://127.0.0.1:{self._listening.getsockname()[1]}"
        self.delay_seconds = 0.0
        """How long each piece of bytes is held back; any thread may set it."""
        # Guarded by _lock: the pairs (client's side, server's side) that are open, those of them that were half closed,
        # and what is counted.
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._half_closed: set[socket.socket] = set()
        self._counts = Counts()
        threading.Thread(target=self._accept, name="torture-proxy", daemon=True).start()

    @property
    def counts(self) -> Counts:
        """What happened so far."""
        with self._lock:
            return self._counts

    def cut(self) -> int:
        """Reset every connection, both ways, as a pulled cable and a peer that forgot; return how many there were."""
        with self._lock:
            cut = len(self._pairs)
            for end in (end for pair in self._pairs for end in pair):
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)
            return cut

    def half_close(self) -> int:
        """Tell the server that no client will send more, while it may still answer; return how many there were."""
        with self._lock:
            for _, server in self._pairs:
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_WR)
                    self._half_closed.add(server)
            return len(self._pairs)

    def close(self) -> None:
        """End the proxy and its connections."""
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target, 2)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            with self._lock:
                self._pairs.add((client, server))
                self._counts = self._counts._replace(accepted=self._counts.accepted + 1)
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._answer, args=(client, server), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        with self._lock:
            self._pairs.discard((client, server))
            self._half_closed.discard(server)
        client.close()
        server.close()

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        self._pump(server, client, self._answer_delayed)
        with self._lock:
            if server in self._half_closed:
                self._counts = self._counts._replace(hung_up=self._counts.hung_up + 1)

    def _answer_delayed(self) -> None:
        with self._lock:
            self._counts = self._counts._replace(answers_delayed=self._counts.answers_delayed + 1)

    def _pump(self, source: socket.socket, sink: socket.socket, delayed: Callable[[], None] = lambda: None) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                    delayed()
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
