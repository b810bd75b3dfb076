"""Cuts the connections of strangers who send much: of callers whom nobody knows yet, or not any more.

Whoever calls is asked who he is before anything is done for him, but not before the body of his call is in memory: gRPC
receives a request as a whole first, pyarrow gives its server no limit for one, and its middleware runs when it is
there. So a few strangers could fill the memory. What can be seen from outside is how many bytes the kernel took in on
each connection. A connection on which somebody with a good token called may bring what it likes, for as long as that
token is good; any other may bring no more than the little that a first call needs.

Owns which connections are known, and the thread that looks. Must never read what is sent.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from ..config import ServerConfig
from ..malloc import give_back_freed_memory
from .connections import Endpoint, cut_these, endpoint, received
from .logins import Tenure

__all__ = ["Strangers"]

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_LOOK_SHARE_MAX = 0.05
"""Share of a core that looking may take: with thousands of connections it is done less often."""
_FLOOD_LOOK_SECONDS = 0.01
_FLOOD_LOOK_SHARE_MAX = 0.25
"""The same while strangers bring so much that within a second it would be all that they may: what comes in between two
looks is in memory before anybody can be cut."""
_GIVE_BACK_SECONDS = 0.25
_GIVE_BACK_FOR_SECONDS = 5.0
"""How often what strangers sent is given back to the system, and for how long after the last was cut."""


@dataclass(slots=True)
class _Connection:
    """One that is open. `until_now` are the bytes that came in before it was a stranger's."""

    received: int = 0
    until_now: int = 0


class Strangers:
    """Safe from any thread, until `close`. Where nobody is asked, nobody is a stranger."""

    def __init__(self, config: ServerConfig, asks: Callable[[], bool]) -> None:
        self._bytes_max = config.stranger_bytes_max
        self._all_bytes_max = config.all_strangers_bytes_max
        self._asks = asks
        self.flooded = False
        """Whether they bring so much now that none of it should be kept for a moment longer than it must."""
        # What gRPC calls the other side, and whose token called last from there. Calls add to it, and the looking
        # thread takes away, both by one dict operation at a time.
        self._known: dict[str, Tenure] = {}
        # Of the looking thread: everything below.
        self._open: dict[Endpoint, _Connection] = {}
        self._missed: set[str] = set()
        self._port = 0
        self._give_back_until = 0.0
        self._given_back = 0.0
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def listening_on(self, port: int) -> None:
        """Begin to look at the connections to that port."""
        self._port = port
        self._thread = threading.Thread(target=self._run, name="ducktower-strangers", daemon=True)
        self._thread.start()

    def is_known(self, peer: str, tenure: Tenure) -> None:
        """Say that somebody with a good token calls from `peer`."""
        self._known[peer] = tenure

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        pause = _LOOK_SECONDS
        while not self._closing.wait(pause):
            began, brought = time.thread_time(), 0
            try:
                brought = self._look()
            except Exception:
                log.exception("cannot look for strangers")
            spent = time.thread_time() - began
            self._give_back()
            least, share = _LOOK_SECONDS, _LOOK_SHARE_MAX
            self.flooded = brought > self._all_bytes_max * pause
            if self.flooded:
                least, share = _FLOOD_LOOK_SECONDS, _FLOOD_LOOK_SHARE_MAX
            pause = max(least, spent / share)

    def _give_back(self) -> None:
        """Give back the memory of what was cut: it is freed, but scattered, and would stay as large as it ever was."""
        now = time.monotonic()
        if self._given_back + _GIVE_BACK_SECONDS < now < self._give_back_until:
            self._given_back = now
            give_back_freed_memory()

    def _look(self) -> int:
        """Cut whom there is to be cut; return how much strangers brought since the last look."""
        now = received(self._port)
        if now is None:
            return 0
        # Asked afterwards: what was taken in until then may be of somebody who proved meanwhile who he is.
        known = {endpoint(peer): tenure for peer, tenure in list(self._known.items())}
        self._forget(now)
        self._open = {client: self._open.get(client) or _Connection() for client in now}
        strangers, brought = [], 0
        for client, connection in self._open.items():
            if now[client] < connection.received:  # another connection from the same port
                connection.received = connection.until_now = 0
            came, connection.received = now[client] - connection.received, now[client]
            tenure = known.get(client)
            if tenure is not None and tenure.over_since is None:
                connection.until_now = now[client]
            else:
                strangers.append((now[client] - connection.until_now, client))
                brought += came
        if not self._asks():
            return 0
        self._cut(sorted(strangers, reverse=True))
        return brought

    def _cut(self, strangers: list[tuple[int, Endpoint]]) -> None:
        """Cut those past the limit of one, and the largest until all are within the limit of all."""
        left = sum(nbytes for nbytes, _ in strangers)
        largest: dict[Endpoint, int] = {}
        for nbytes, client in strangers:
            if nbytes <= self._bytes_max and left <= self._all_bytes_max:
                break
            left -= nbytes
            largest[client] = nbytes
        if largest:
            self._give_back_until = time.monotonic() + _GIVE_BACK_FOR_SECONDS
            for client in cut_these(self._port, largest):  # the others ended by themselves
                log.warning(
                    "cut the connection of %s:%d, which sent %d bytes before it proved who it is",
                    *client,
                    largest[client],
                )

    def _forget(self, now: dict[Endpoint, int]) -> None:
        """Forget whoever left. A call that came in meanwhile is on a connection that the next look sees."""
        missed = {peer for peer in list(self._known) if endpoint(peer) not in now}
        for peer in missed & self._missed:
            del self._known[peer]
        self._missed = missed
