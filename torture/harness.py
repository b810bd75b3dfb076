"""One database from its first server to its last: servers are killed, faults injected, and every round is checked.

Owns the processes of an epoch and their order. Must never decide what is right: see checker.py.
"""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import ducktower

from .checker import KINDS, TABLES, Checker, Violation
from .plan import FAULTS, Fault, Round
from .processes import Process, Server, start_client
from .proxy import Proxy
from .workload import FOUND, READER

__all__ = ["Epoch", "Tally"]

THROUGH_PROXY = {"put", "bulk", "upsert"}
"""Kinds whose connections pass through the proxy; the others call the server itself."""
ANSWER_SECONDS = 20.0


class Tally:
    """What a run has done so far. One thread uses it."""

    def __init__(self) -> None:
        self.faults: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.acknowledged: Counter[str] = Counter()
        self.codes: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.checks = 0


class Epoch:
    """A fresh database, its clients and its servers, for as many rounds as it is given."""

    def __init__(self, directory: Path, library: Path | None, tally: Tally) -> None:
        self._directory = directory
        self._database = directory / "torture.duckdb"
        self._fsync = self._database.with_suffix(".fsync")
        self._library = library
        self._tally = tally
        self._checker = Checker(directory)
        self._server = self._started(0)
        self._proxy = Proxy(self._server.port)
        self._clients: dict[str, Process] = {}
        with ducktower.connect(self._server.url) as client:
            client.execute(";".join(TABLES))

    def run(self, rounds: Iterator[Round], deadline: float, most: int) -> None:
        """Run up to `most` rounds until the deadline (of time.monotonic) or the first violation."""
        try:
            for kind in (*KINDS, READER):
                self._start_client(kind)
            for _, one in zip(range(most), rounds, strict=False):
                self._round(one)
                if self._tally.violations or time.monotonic() > deadline:
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
            self._proxy.close()
            self._count()

    def _started(self, port: int) -> Server:
        self._fsync.write_text("")
        return Server(self._database, port, self._directory / "server.log", self._library)

    def _start_client(self, kind: str) -> None:
        url = self._proxy.url if kind in THROUGH_PROXY else self._server.url
        self._clients[kind] = start_client(kind, url, self._directory)

    def _round(self, one: Round) -> None:
        time.sleep(one.before_seconds)
        for fault in one.faults:
            self._inject(fault)
        time.sleep(one.after_seconds)
        self._server.kill()
        self._tally.faults["kill server"] += 1
        for fault in one.faults:
            self._heal(fault)
        self._server = self._started(self._server.port)
        self._check()
        for kind, client in list(self._clients.items()):
            if client.process.poll() is not None:
                self._violation("client", f"{kind} ended with {client.process.returncode}; see {kind}.log")
                self._start_client(kind)

    def _inject(self, fault: Fault) -> None:
        assert fault.kind in FAULTS
        client = self._clients[fault.client]
        if fault.kind == "kill client":
            client.kill()
            self._start_client(fault.client)
        elif fault.kind == "stop client":
            client.signal(signal.SIGSTOP)
        elif fault.kind == "stop server":
            self._server.signal(signal.SIGSTOP)
            time.sleep(0.3 * fault.size)
            self._server.signal(signal.SIGCONT)
        elif fault.kind == "cut":
            self._proxy.cut()
        elif fault.kind == "delay":
            self._proxy.delay_seconds = 0.1 * fault.size
        elif fault.kind == "half-close":
            self._proxy.half_close()
        elif fault.kind == "disk full":
            self._server.fill_disk(int(100_000 * fault.size))
        elif self._library is None:
            return
        else:
            self._fsync.write_text("-1" if fault.kind == "failing fsync" else f"{20 + int(180 * fault.size)}")
        self._tally.faults[fault.kind] += 1

    def _heal(self, fault: Fault) -> None:
        if fault.kind == "stop client":
            self._clients[fault.client].signal(signal.SIGCONT)
        elif fault.kind == "delay":
            self._proxy.delay_seconds = 0.0

    def _check(self) -> None:
        with ducktower.connect(self._server.url, timeout_seconds=ANSWER_SECONDS) as client:
            self._tally.violations += self._checker.check(client)
        self._tally.checks += 1

    def _end(self) -> None:
        """Stop in order, then look once more at what a new server finds in the file."""
        self._server.signal(signal.SIGTERM)
        status = self._server.process.wait(ANSWER_SECONDS * 2)
        if status != 0:
            self._violation("server", f"exit status {status} after SIGTERM")
        self._server.kill()
        self._server = self._started(self._server.port)
        self._check()

    def _violation(self, kind: str, text: str) -> None:
        self._tally.violations.append(Violation(kind, text))

    def _count(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            found = (self._directory / FOUND).read_text().splitlines()
            self._tally.violations += [Violation(**json.loads(line)) for line in found]
        for kind, ledger in self._checker.ledgers.items():
            ledger.follow()
            self._tally.sent[kind] += len(ledger.rows)
            self._tally.acknowledged[kind] += len(ledger.acknowledged)
            self._tally.codes += ledger.codes
