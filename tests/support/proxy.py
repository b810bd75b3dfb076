"""A TCP proxy that can lose a connection half way, or the answers on it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading

_CHUNK_BYTES = 64 * 1024


class Proxy:
    """Forwards one port to another until it is told to cut. One thread serves all connections."""

    def __init__(self, target_port: int) -> None:
        self._target = ("127.0.0.1", target_port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.url = f"grpc://127.0.0.1:{self.port}"
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._upstream: set[socket.socket] = set()
        self._sent = 0
        self._cut_at: int | None = None
        self._loses_answers = False
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listening, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    @property
    def bytes_sent(self) -> int:
        """Bytes that went from clients to the server."""
        with self._lock:
            return self._sent

    def cut(self) -> None:
        """Reset every connection now, both ways."""
        with self._lock:
            self._cut()

    def cut_after(self, more_bytes: int) -> None:
        """Reset every connection once clients sent `more_bytes` further bytes."""
        with self._lock:
            self._cut_at = self._sent + more_bytes

    def lose_answers(self) -> None:
        """Forward nothing of what the server says from now on, until the connections are cut."""
        with self._lock:
            self._loses_answers = True

    def close(self) -> None:
        """End the proxy."""
        with self._lock:
            self._closing = True
            self._cut()
        self._thread.join(10)
        self._listening.close()
        self._selector.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _cut(self) -> None:
        for end in list(self._peers):
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(end)
            # A reset, as from a cable that was pulled and a peer that forgot: no orderly goodbye.
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            end.close()
        self._peers.clear()
        self._upstream.clear()
        self._cut_at = None
        self._loses_answers = False

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(0.05):
                end = key.fileobj
                if end is self._listening:
                    self._accept()
                else:
                    self._forward(end)

    def _accept(self) -> None:
        client, _ = self._listening.accept()
        try:
            server = socket.create_connection(self._target, 5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        with self._lock:
            self._peers[client] = server
            self._peers[server] = client
            self._upstream.add(client)
            for end in (client, server):
                self._selector.register(end, selectors.EVENT_READ)

    def _forward(self, end: socket.socket) -> None:
        with self._lock:
            peer = self._peers.get(end)
            upstream = end in self._upstream
        if peer is None:
            return
        try:
            data = end.recv(_CHUNK_BYTES)
            if data and (upstream or not self._loses_answers):
                peer.sendall(data)
        except OSError:
            data = b""
        with self._lock:
            if not data:
                self._drop(end)
                return
            if upstream:
                self._sent += len(data)
                if self._cut_at is not None and self._sent >= self._cut_at:
                    self._cut()

    def _drop(self, end: socket.socket) -> None:
        peer = self._peers.pop(end, None)
        for one in (end, peer):
            if one is not None:
                self._peers.pop(one, None)
                self._upstream.discard(one)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(one)
                one.close()
