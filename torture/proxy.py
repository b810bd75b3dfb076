"""A TCP proxy that cuts, delays and half-closes the connections that pass through it.

Owns its sockets and two threads for each connection. Must never look into what passes.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time

__all__ = ["Proxy"]

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards a port of its own to another until it is closed."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"grpc://127.0.0.1:{self._listening.getsockname()[1]}"
        self.delay_seconds = 0.0
        """How long each piece of bytes is held back; any thread may set it."""
        # Guarded by _lock: the pairs (client's side, server's side) that are open.
        self._lock = threading.Lock()
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        threading.Thread(target=self._accept, name="torture-proxy", daemon=True).start()

    def cut(self) -> None:
        """Reset every connection, both ways, as a pulled cable and a peer that forgot."""
        with self._lock:
            for end in (end for pair in self._pairs for end in pair):
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    end.shutdown(socket.SHUT_RDWR)

    def half_close(self) -> None:
        """Tell the server that no client will send more, while it may still answer."""
        with self._lock:
            for _, server in self._pairs:
                with contextlib.suppress(OSError):
                    server.shutdown(socket.SHUT_WR)

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
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        back = threading.Thread(target=self._pump, args=(server, client), daemon=True)
        back.start()
        self._pump(client, server)
        back.join()
        with self._lock:
            self._pairs.discard((client, server))
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK_BYTES):
                time.sleep(self.delay_seconds)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
