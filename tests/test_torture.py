"""The torture run's judge finds what is planted: else a run without violations would mean nothing."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.flight as flight
import pytest
from torture import workload
from torture.checker import TABLES, VIOLATIONS, Checker
from torture.faults import Scene, inflict
from torture.harness import Epoch
from torture.journal import Journal
from torture.plan import FAULTS, Fault, Round, rounds
from torture.proxy import Proxy
from torture.tally import Tally

import ducktower
from support.servers import running
from support.waiting import until


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightClient]:
    """A server with the tables of a run, for all tests here."""
    place = tmp_path_factory.mktemp("torture")
    with running(place / "torture.duckdb", place / "log") as server, ducktower.connect(server.url) as client:
        client.execute(";".join(TABLES))
        yield client


class Liar(flight.FlightServerBase):
    """A server that acknowledges each DoPut and forwards it `times`, or refuses it and forwards it all the same."""

    def __init__(self, honest: ducktower.FlightClient, times: int, *, refuses: bool = False) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._honest = honest
        self._times = times
        self._refuses = refuses
        self._commit = 0

    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        rows = reader.read_all()
        for _ in range(self._times):
            self._honest.ingest("writes", rows)
        if self._refuses:
            raise flight.FlightUnavailableError("[OVERLOADED] no place")
        self._commit += 1
        writer.write(json.dumps({"rows": rows.num_rows, "commit": self._commit}).encode())


@pytest.fixture
def journal(client: ducktower.FlightClient, tmp_path: Path) -> Journal:
    """Put 0, of two rows, was acknowledged and is there; nothing else is."""
    client.execute("DELETE FROM writes; DELETE FROM writes_too; DELETE FROM latest")
    journal = Journal(tmp_path / "put.journal")
    _put(client, journal, 0)
    return journal


def _put(client: ducktower.FlightClient, journal: Journal, write: int) -> None:
    journal.sending(write, 2)
    client.execute(f"INSERT INTO writes VALUES ('put', {write}, 0, 2), ('put', {write}, 1, 2)")
    journal.acknowledged(write)


def _kinds(client: ducktower.FlightClient, directory: Path) -> set[str]:
    return {violation.kind for violation in Checker(directory).check(client)}


def test_what_was_kept_is_no_violation(client: ducktower.FlightClient, journal: Journal, tmp_path: Path) -> None:
    """An acknowledged write that is there, and an open one that is not, are as they should be."""
    journal.sending(1, 2)
    journal.unknown(1, "UNAVAILABLE")
    assert _kinds(client, tmp_path) == set()


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        ("DELETE FROM writes", "lost"),
        ("INSERT INTO writes VALUES ('put', 0, 1, 2)", "doubled"),
        ("DELETE FROM writes WHERE part = 1", "partial"),
        ("UPDATE writes SET part = 1 WHERE part = 0", "doubled partial"),
        ("INSERT INTO writes VALUES ('put', 9, 0, 1)", "unasked"),
        ("DELETE FROM latest; INSERT INTO latest VALUES (0, 1), (1, 1), (2, 1)", "upsert"),
        ("INSERT INTO latest VALUES (0, 1), (1, 1), (2, 1), (3, 2)", "upsert"),
    ],
)
def test_a_planted_violation_is_found(
    client: ducktower.FlightClient, journal: Journal, tmp_path: Path, planted: str, kind: str
) -> None:
    """Each rule can fail, and names what is wrong."""
    client.execute(planted)
    assert _kinds(client, tmp_path) == set(kind.split())


def test_a_refused_write_must_not_be_there(client: ducktower.FlightClient, journal: Journal, tmp_path: Path) -> None:
    """An error that says nothing was stored is a promise, too."""
    _put(client, journal, 1)
    journal.not_stored(1, "CONFLICT")
    assert _kinds(client, tmp_path) == {"unasked"}


def test_what_a_reader_saw_must_stay(client: ducktower.FlightClient, journal: Journal, tmp_path: Path) -> None:
    """Rows that were seen stay seen, even when their write was not acknowledged."""
    journal.sending(1, 1)
    client.execute("INSERT INTO writes VALUES ('put', 1, 0, 1)")
    checker = Checker(tmp_path)
    assert checker.check(client) == []
    client.execute("DELETE FROM writes WHERE id = 1")
    assert [violation.kind for violation in checker.check(client)] == ["vanished"]


def test_an_acknowledged_upsert_and_table_are_missed(client: ducktower.FlightClient, tmp_path: Path) -> None:
    """Acknowledged, and not done: a value of an upsert, and a table."""
    for name in ("upsert", "ddl"):
        journal = Journal(tmp_path / f"{name}.journal")
        journal.sending(0, 1)
        journal.acknowledged(0)
    client.execute("DELETE FROM writes; DELETE FROM latest")
    assert _kinds(client, tmp_path) == {"upsert", "ddl"}


def test_a_writer_with_a_hole_or_an_open_write(client: ducktower.FlightClient, tmp_path: Path) -> None:
    """A named writer's second write is there and its first is not; what it never heard of is told at the end."""
    client.execute("DELETE FROM writes; DELETE FROM writes_too; DELETE FROM latest")
    journal = Journal(tmp_path / "named.journal")
    for write in (1, 2):
        journal.sending(write, 1)
    client.execute("INSERT INTO writes VALUES ('named', 2, 0, 1)")
    journal.acknowledged(2)
    checker = Checker(tmp_path)
    assert {violation.kind for violation in checker.check(client)} == {"hole"}
    assert [violation.kind for violation in checker.left()] == ["left"]


def test_an_appender_that_resumes(client: ducktower.FlightClient, tmp_path: Path) -> None:
    """Of four writes of a process that died one was acknowledged, one more stored: all are there once in the end."""
    client.execute("DELETE FROM writes; DELETE FROM writes_too; DELETE FROM latest")
    journal = Journal(tmp_path / "resumed.journal")
    assert workload.resumed(client, journal, 1, last=1) == 2
    for write in (2, 3, 4):
        journal.sending(write, 1 + write % 3)
    client.ingest("writes", workload.rows_of("resumed", 2, 3), writer="resumed", sequence=2)
    checker = Checker(tmp_path)
    assert [violation.text for violation in checker.left()] == [f"resumed {write}" for write in (2, 3, 4)]
    workload.settle("resumed", client.url, tmp_path)
    assert checker.check(client) == []
    assert checker.left() == []
    assert client.writer("resumed")[:2] == (4, 2 + 3 + 1 + 2)


@pytest.mark.parametrize(
    ("times", "refuses", "kind"), [(0, False, "lost"), (1, False, None), (2, False, "doubled"), (1, True, "unasked")]
)
def test_a_server_that_lies(
    client: ducktower.FlightClient, tmp_path: Path, times: int, refuses: bool, kind: str | None
) -> None:
    """The run's own client writes to one that stores nothing, stores once, stores twice, or refuses and stores."""
    client.execute("DELETE FROM writes; DELETE FROM writes_too; DELETE FROM latest")
    journal = Journal(tmp_path / "put.journal")
    with Liar(client, times, refuses=refuses) as liar:
        threading.Thread(target=liar.serve, daemon=True).start()
        with ducktower.connect(f"grpc://127.0.0.1:{liar.port}", retry_seconds=0.0) as fooled:
            for write in range(3):
                if refuses:
                    with pytest.raises(ducktower.Overloaded):
                        workload.put(fooled, journal, write)
                else:
                    workload.put(fooled, journal, write)
    assert _kinds(client, tmp_path) == ({kind} if kind else set())


def test_a_repeat_with_another_receipt(client: ducktower.FlightClient, tmp_path: Path) -> None:
    """A server that answers a repeat of a named write with another commit is found out by the run's client."""
    journal = Journal(tmp_path / "named.journal")
    with Liar(client, 0) as liar:
        threading.Thread(target=liar.serve, daemon=True).start()
        with ducktower.connect(f"grpc://127.0.0.1:{liar.port}", retry_seconds=0.0) as fooled:
            workload.named(fooled, journal, 4)
    (line,) = (tmp_path / workload.FOUND).read_text().splitlines()
    assert json.loads(line)["kind"] == "receipt"


class Saboteur(Epoch):
    """A run in which rows go behind the server's back, a client dies, a strange error is told, and no server starts."""

    def _kill_server(self, scene: Scene) -> None:
        with ducktower.connect(scene.server.url) as client:
            client.execute("DELETE FROM writes")
        self._clients["put"].kill()
        Journal(self._directory / "put.journal").unknown(0, "SCHEMA_MISMATCH", "planted")
        super()._kill_server(scene)

    def _end(self) -> None:
        self._servers._process.kill()
        super()._end()


def test_a_sabotaged_run_reports_it(tmp_path: Path) -> None:
    """The whole machinery, with real servers and clients, for one round: each planted violation is in the tally."""
    tally = Tally()
    plan = iter([Round(0.0, [], 0.0, heals=True)])
    Saboteur(tmp_path, None, tally, kinds=["put"]).run(plan, lambda: False, 1)
    found = {violation.kind for violation in tally.violations}
    assert {"lost", "client", "code", "server"} <= found <= VIOLATIONS.keys()
    assert tally.faults["kill server"] == 1
    assert tally.effects["kill server"] <= 1  # it is one when a write was under way at that moment
    assert tally.acknowledged["put"] > 0


@pytest.mark.parametrize("kind", ["cut", "half-close", "delay"])
def test_a_fault_that_hurts_nobody_is_not_counted(client: ducktower.FlightClient, tmp_path: Path, kind: str) -> None:
    """Without a connection through the proxy nothing takes effect; with one it does, once its client comes back."""
    proxy = Proxy(int(client.url.rpartition(":")[2]))
    scene = Scene(None, proxy, None, {}, Checker(tmp_path).ledgers, lambda kind: None)
    try:
        harm = inflict(scene, Fault(kind, "put", 0.0))
        assert harm is not None
        assert not harm.hurt()
        harm.heal()
        with ducktower.connect(proxy.url) as far:
            far.health()
            harm = inflict(scene, Fault(kind, "put", 0.0))
            assert harm is not None
            assert not harm.hurt()
            far.health()
            until(harm.hurt, "the effect")
    finally:
        proxy.close()


def test_half_a_line_is_not_taken_for_a_whole_one(tmp_path: Path, client: ducktower.FlightClient) -> None:
    """A reader that meets a journal while its line is being written waits for the rest."""
    checker = Checker(tmp_path)
    path = tmp_path / "put.journal"
    path.write_bytes(b"S 1")
    checker.ledgers["put"].follow()
    assert checker.ledgers["put"].rows == {}
    path.write_bytes(b"S 17 2\n")
    checker.ledgers["put"].follow()
    assert checker.ledgers["put"].rows == {17: 2}


def test_a_seed_repeats_the_plan() -> None:
    """The same seed gives the same faults; another seed others."""
    plans = [list(islice(rounds(seed), 50)) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_a_dozen_rounds_have_every_fault() -> None:
    """A short run need not be lucky to meet them all."""
    for seed in range(20):
        kinds = {fault.kind for one in islice(rounds(seed), 12) for fault in one.faults}
        assert kinds | {"kill server"} == FAULTS.keys()
