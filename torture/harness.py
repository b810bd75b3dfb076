"""One database from its first server to its last: servers are killed, faults injected, and every round is checked.

Owns the processes of an epoch and their order. Must never decide what is right: see checker.py.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import ducktower

from .checker import KINDS, NAMED, TABLES, Checker, Violation
from .faults import THROUGH_PROXY, Harm, Scene, inflict
from .fsync import Fsync
from .plan import FAULTS, Round
from .processes import Client, Server, Servers
from .proxy import Proxy
from .tally import Tally
from .workload import FOUND, READER, settle

__all__ = ["Epoch"]

ANSWER_SECONDS = 20.0
EFFECT_SECONDS = 4.0
"""How long a round waits for its faults to take effect."""
RETURN_SECONDS = 20.0
"""How soon a write must be acknowledged after faults were taken back."""
STUCK_SECONDS = 60.0
"""How long a client's journal may stand still."""
LOOK_SECONDS = 0.02


class Epoch:
    """A fresh database, its clients and its servers, for as many rounds as it is given."""

    def __init__(self, directory: Path, library: Path | None, tally: Tally, kinds: Iterable[str] = KINDS) -> None:
        self._directory = directory
        self._database = directory / "torture.duckdb"
        self._fsync = None if library is None else Fsync(library, directory / "fsync")
        self._tally = tally
        self._kinds = tuple(kinds)
        self._checker = Checker(directory)
        more = {} if self._fsync is None else self._fsync.environment
        self._servers = Servers(self._database, directory / "server.log", **more)
        self._server = self._start_server(0)
        self._proxy = Proxy(self._server.port)
        self._clients: dict[str, Client] = {}
        self._judged = dict.fromkeys(KINDS, 0)  # errors of each client that were compared with the faults
        self._found = 0  # violations that clients noted and that were taken over
        self._explained: list[frozenset[str]] = []  # codes that the faults of the last two rounds explain
        with ducktower.connect(self._server.url) as client:
            client.execute(";".join(TABLES))

    def run(self, rounds: Iterator[Round], over: Callable[[], bool], most: int) -> None:
        """Run up to `most` rounds until it is over or there is a violation."""
        try:
            for kind in (*self._kinds, READER):
                self._start_client(kind)
            self._wait_for_clients()
            for _, one in zip(range(most), rounds, strict=False):
                self._round(one)
                if self._tally.violations or over():
                    break
            for client in self._clients.values():
                client.kill()
            self._check()
            self._end()
        except (RuntimeError, ducktower.DucktowerError) as error:
            self._violation("server", str(error))
        finally:
            for client in self._clients.values():
                client.kill()
            self._server.kill()
            self._servers.close()
            self._proxy.close()
            self._take_found()
            self._count()
            if self._fsync is not None:
                self._fsync.close()

    def _start_server(self, port: int) -> Server:
        if self._fsync is not None:
            self._fsync.order(0)
        return self._servers.start(port)

    def _start_client(self, kind: str) -> None:
        url = self._proxy.url if kind in THROUGH_PROXY else self._server.url
        self._clients[kind] = Client(kind, url, self._server.port, self._directory)

    def _wait_for_clients(self) -> None:
        """Wait until everybody writes: a fault before that hurts nobody."""
        deadline = time.monotonic() + STUCK_SECONDS
        ledgers = [self._checker.ledgers[kind] for kind in self._kinds]
        while not all(ledger.acknowledged for ledger in ledgers) and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)
            for ledger in ledgers:
                ledger.follow()

    def _round(self, one: Round) -> None:
        time.sleep(one.before_seconds)
        scene = Scene(self._server, self._proxy, self._fsync, self._clients, self._checker.ledgers, self._start_client)
        harms = [harm for fault in one.faults if (harm := inflict(scene, fault)) is not None]
        self._tally.faults.update(harm.kind for harm in harms)
        try:
            self._wait_for_effects(harms)
            time.sleep(one.after_seconds)
            if harms and one.heals:
                self._see_service_return(scene, harms)
            self._kill_server(scene)
        finally:
            for harm in harms:
                harm.heal()
        self._server = self._start_server(self._server.port)
        self._opened()
        self._check()
        self._judge_codes(frozenset().union(*(FAULTS[harm.kind].codes for harm in harms)))
        self._look_after_clients()
        self._take_found()

    def _wait_for_effects(self, harms: list[Harm]) -> None:
        waiting = list(harms)
        deadline = time.monotonic() + EFFECT_SECONDS
        while waiting and time.monotonic() < deadline:
            for harm in list(waiting):
                if harm.hurt():
                    self._tally.effects[harm.kind] += 1
                    waiting.remove(harm)
            if waiting:
                time.sleep(LOOK_SECONDS)

    def _see_service_return(self, scene: Scene, harms: list[Harm]) -> None:
        """Take the faults back: the same server must acknowledge a write again."""
        for harm in harms:
            harm.heal()
        self._wait_for_write(scene, scene.acknowledged(), ", ".join(harm.kind for harm in harms))
        self._tally.returned += 1

    def _wait_for_write(self, scene: Scene, before: int, after: str) -> None:
        """Wait until more writes than before are acknowledged: what hurts a server that is at rest hurts nobody."""
        deadline = time.monotonic() + RETURN_SECONDS
        while scene.acknowledged() <= before:
            if time.monotonic() > deadline:
                self._violation("server", f"no write was acknowledged for {RETURN_SECONDS:g} s after: {after}")
                return
            time.sleep(LOOK_SECONDS)

    def _kill_server(self, scene: Scene) -> None:
        told = scene.told()
        died = self._server.kill()
        self._tally.faults["kill server"] += 1
        if died and (scene.told() > told or any(ledger.open for ledger in scene.ledgers.values())):
            self._tally.effects["kill server"] += 1

    def _opened(self) -> None:
        """Note what the new server says of the file that the killed one left."""
        with ducktower.connect(self._server.url, timeout_seconds=ANSWER_SECONDS) as client:
            health = client.health()
        self._tally.openings += 1
        self._tally.replayed_commits += health["replayed_commits"]
        self._tally.torn += health["torn_bytes"] > 0
        self._tally.slowest_opening_seconds = max(self._tally.slowest_opening_seconds, health["open_seconds"])

    def _check(self) -> None:
        with ducktower.connect(self._server.url, timeout_seconds=ANSWER_SECONDS) as client:
            self._tally.violations += self._checker.check(client)
        self._tally.checks += 1

    def _judge_codes(self, explained: frozenset[str]) -> None:
        """Compare what clients were told with the faults of this round and, as some are told late, the one before."""
        self._explained = [*self._explained[-1:], explained]
        allowed = {"UNAVAILABLE"}.union(*self._explained)
        for kind, ledger in self._checker.ledgers.items():
            for told in ledger.told[self._judged[kind] :]:
                if told.code not in allowed or str(self._directory) in told.text:
                    self._violation("code", f"{kind} {told.write}: [{told.code}] {told.text}")
            self._judged[kind] = len(ledger.told)

    def _look_after_clients(self) -> None:
        for kind, client in list(self._clients.items()):
            if client.status is not None:
                self._violation("client", f"{kind} ended with {client.status}; see {kind}.log")
                self._start_client(kind)
        for kind in self._kinds:
            still = time.monotonic() - self._checker.ledgers[kind].changed_at
            if still > STUCK_SECONDS:
                self._violation("client", f"{kind} noted nothing for {still:.0f} s")

    def _end(self) -> None:
        """Settle open writes, stop in order, and look once more at what a new server finds in the file."""
        for kind in NAMED:
            settle(kind, self._server.url, self._directory)
        self._tally.violations += self._checker.left()
        self._server.signal(signal.SIGTERM)
        status = self._server.wait(ANSWER_SECONDS * 2)
        if status != 0:
            self._violation("server", f"exit status {status} after SIGTERM")
        self._server.kill()
        self._server = self._start_server(self._server.port)
        self._check()

    def _violation(self, kind: str, text: str) -> None:
        self._tally.violations.append(Violation(kind, text))

    def _take_found(self) -> None:
        """Take over the violations that clients noted."""
        with contextlib.suppress(FileNotFoundError):
            path = self._directory / FOUND
            found = path.read_text().splitlines()[self._found :]
            self._tally.violations += [Violation(**json.loads(line)) for line in found]
            self._found += len(found)

    def _count(self) -> None:
        for kind, ledger in self._checker.ledgers.items():
            ledger.follow()
            self._tally.sent[kind] += len(ledger.rows)
            self._tally.acknowledged[kind] += len(ledger.acknowledged)
            self._tally.codes.update(told.code for told in ledger.told)
