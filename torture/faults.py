"""How each fault is done, seen to take effect, and taken back.

Owns one class for each kind of fault in a round. An injection is not an effect: a disk that is full while nobody writes
hurts nobody, so each says whether it did. Must never judge what the effect did to the data: see checker.py.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import ducktower

from .checker import KINDS
from .fsync import Fsync
from .journal import Ledger
from .plan import OF_FSYNC, Fault
from .processes import Client, Server
from .proxy import Proxy

__all__ = ["THROUGH_PROXY", "Harm", "Scene", "inflict"]

THROUGH_PROXY = frozenset({"put", "bulk", "upsert", "named", "resumed"})
"""Kinds whose connections pass through the proxy; the others call the server itself."""
_FULL = "Could not write"
"""What DuckDB says of a disk that takes no more."""
_HUNGRY = "SELECT len(list(i)) AS n FROM range(1_000_000_000) r(i)"
"""It takes more memory than DuckDB has, which cannot be written to disk, within a second."""
_HUNGRY_AT_ONCE = 2
_SLOW_MILLISECONDS = (20, 200)


@dataclass
class Scene:
    """What there is to be hurt, and where to see what came of it."""

    server: Server
    proxy: Proxy
    fsync: Fsync | None
    clients: dict[str, Client]
    ledgers: Mapping[str, Ledger]
    start_client: Callable[[str], None]

    def told(self, kinds: frozenset[str] | None = None) -> int:
        """Return how many errors clients (of these kinds) noted so far."""
        found = 0
        for kind, ledger in self.ledgers.items():
            if kinds is None or kind in kinds:
                ledger.follow()
                found += len(ledger.told)
        return found

    def acknowledged(self) -> int:
        """Return how many writes were acknowledged so far."""
        for ledger in self.ledgers.values():
            ledger.follow()
        return sum(len(ledger.acknowledged) for ledger in self.ledgers.values())


class Harm:
    """One fault that was done. `hurt` may be asked again and again; `heal` may come at any time, and twice."""

    kind: ClassVar[str]

    def __init__(self, scene: Scene, fault: Fault) -> None:
        self.scene = scene
        self.fault = fault
        self.do()

    def do(self) -> None:
        """Inject the fault."""
        raise NotImplementedError

    def hurt(self) -> bool:
        """Return whether it has taken effect."""
        raise NotImplementedError

    def heal(self) -> None:
        """Take the fault back, if that is not done."""


class _KillClient(Harm):
    kind = "kill client"

    def do(self) -> None:
        self._died = self.scene.clients[self.fault.client].kill()
        ledger = self.scene.ledgers[self.fault.client]
        ledger.follow()
        self._sent = len(ledger.rows), len(ledger.acknowledged)
        self.scene.start_client(self.fault.client)

    def hurt(self) -> bool:
        ledger = self.scene.ledgers[self.fault.client]
        ledger.follow()
        return self._died and (len(ledger.rows), len(ledger.acknowledged)) != self._sent


class _StopServer(Harm):
    kind = "stop server"

    def do(self) -> None:
        self._stood = False
        if self.scene.server.stop():
            try:
                with ducktower.connect(
                    self.scene.server.url, timeout_seconds=0.05 + 0.3 * self.fault.size, retry_seconds=0.0
                ) as client:
                    client.health()
            except (ducktower.TimedOut, ducktower.Unavailable):
                self._stood = True
        self.heal()

    def hurt(self) -> bool:
        return self._stood

    def heal(self) -> None:
        self.scene.server.signal(signal.SIGCONT)


class _StopClient(Harm):
    kind = "stop client"

    def do(self) -> None:
        self._client = self.scene.clients[self.fault.client]
        self._stopped = self._client.stop()

    def hurt(self) -> bool:
        return self._stopped and self._client.status is None

    def heal(self) -> None:
        self._client.signal(signal.SIGCONT)


class _ThroughProxy(Harm):
    def do(self) -> None:
        self._accepted = self.scene.proxy.counts.accepted
        self._told = self.scene.told(THROUGH_PROXY)
        self._connections = self.break_them()

    def break_them(self) -> int:
        """Break the connections and return how many there were."""
        raise NotImplementedError

    def hurt(self) -> bool:
        met = self.scene.proxy.counts.accepted > self._accepted or self.scene.told(THROUGH_PROXY) > self._told
        return self._connections > 0 and met


class _Cut(_ThroughProxy):
    kind = "cut"

    def break_them(self) -> int:
        return self.scene.proxy.cut()


class _HalfClose(_ThroughProxy):
    kind = "half-close"

    def break_them(self) -> int:
        self._hung_up = self.scene.proxy.counts.hung_up
        return self.scene.proxy.half_close()

    def hurt(self) -> bool:
        return self.scene.proxy.counts.hung_up > self._hung_up and super().hurt()


class _Delay(Harm):
    kind = "delay"

    def do(self) -> None:
        self._before = self.scene.proxy.counts.answers_delayed
        self.scene.proxy.delay_seconds = 0.01 + 0.1 * self.fault.size

    def hurt(self) -> bool:
        return self.scene.proxy.counts.answers_delayed > self._before

    def heal(self) -> None:
        self.scene.proxy.delay_seconds = 0.0


class _DiskFull(Harm):
    kind = "disk full"

    def do(self) -> None:
        for ledger in self.scene.ledgers.values():
            ledger.follow()
        self._before = {kind: len(ledger.told) for kind, ledger in self.scene.ledgers.items()}
        self.scene.server.fill_disk(int(20_000 * self.fault.size))

    def hurt(self) -> bool:
        for kind, ledger in self.scene.ledgers.items():
            ledger.follow()
            if any(_FULL in told.text for told in ledger.told[self._before[kind] :]):
                return True
        return False

    def heal(self) -> None:
        self.scene.server.empty_disk()


class _MemoryFull(Harm):
    kind = "memory full"

    def do(self) -> None:
        self._over = threading.Event()
        # Guarded by the GIL: each thread appends to it.
        self._refused: list[str] = []
        self._before = self.scene.acknowledged()
        self._threads = [threading.Thread(target=self._take) for _ in range(_HUNGRY_AT_ONCE)]
        for thread in self._threads:
            thread.start()

    def _take(self) -> None:
        while not self._over.is_set():
            try:
                with ducktower.connect(self.scene.server.url, timeout_seconds=3.0, retry_seconds=0.0) as client:
                    client.query(_HUNGRY)
            except (ducktower.LimitExceeded, ducktower.Overloaded) as error:
                self._refused.append(error.code)
            except ducktower.DucktowerError:
                self._over.wait(0.02)

    def hurt(self) -> bool:
        return len(self._refused) >= _HUNGRY_AT_ONCE and self.scene.acknowledged() > self._before

    def heal(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


class _OfFsync(Harm):
    def do(self) -> None:
        assert self.scene.fsync is not None
        self.fsync = self.scene.fsync
        self.order()

    def order(self) -> None:
        """Tell the library what to do."""
        raise NotImplementedError

    def heal(self) -> None:
        self.fsync.order(0)


class _SlowFsync(_OfFsync):
    kind = "slow fsync"

    def order(self) -> None:
        low, high = _SLOW_MILLISECONDS
        self._milliseconds = low + int((high - low) * self.fault.size)
        self._before = self.fsync.slowed, self.fsync.slowed_seconds
        self.fsync.order(self._milliseconds)

    def hurt(self) -> bool:
        calls, seconds = self._before
        slowed = self.fsync.slowed - calls
        return slowed > 0 and self.fsync.slowed_seconds - seconds >= slowed * self._milliseconds / 1000


class _FailingFsync(_OfFsync):
    kind = "failing fsync"

    def order(self) -> None:
        self._before = self.fsync.failed
        self.fsync.order(-1)

    def hurt(self) -> bool:
        return self.fsync.failed > self._before and self._reopened()

    def _reopened(self) -> bool:
        """Whether the database was given up and is there again. An opening needs fsyncs, too: then they pass."""
        try:
            with ducktower.connect(self.scene.server.url, timeout_seconds=1.0, retry_seconds=0.0) as client:
                health = client.health()
        except ducktower.DucktowerError:
            return False
        if health["fatal_errors"] == 0:
            return False
        self.heal()
        return bool(health["status"] == "serving")


_HARMS: dict[str, type[Harm]] = {
    harm.kind: harm
    for harm in (
        _KillClient,
        _StopServer,
        _StopClient,
        _Cut,
        _Delay,
        _HalfClose,
        _DiskFull,
        _MemoryFull,
        _SlowFsync,
        _FailingFsync,
    )
}


def inflict(scene: Scene, fault: Fault) -> Harm | None:
    """Do a fault. Returns None for one that this machine cannot do."""
    assert fault.client in KINDS
    if fault.kind in OF_FSYNC and scene.fsync is None:
        return None
    return _HARMS[fault.kind](scene, fault)
