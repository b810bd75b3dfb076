"""The torture run's judge finds what is planted: else a run without violations would mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from torture.checker import TABLES, Checker
from torture.journal import Journal
from torture.plan import rounds

import ducktower
from support.servers import running


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ducktower.FlightClient]:
    """A server with the tables of a run, for all tests here."""
    place = tmp_path_factory.mktemp("torture")
    with running(place / "torture.duckdb", place / "log") as server, ducktower.connect(server.url) as client:
        client.execute(";".join(TABLES))
        yield client


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
        ("INSERT INTO writes VALUES ('put', 9, 0, 1)", "unasked"),
        ("INSERT INTO latest VALUES (0, 1), (1, 1), (2, 1), (3, 2)", "upsert"),
    ],
)
def test_a_planted_violation_is_found(
    client: ducktower.FlightClient, journal: Journal, tmp_path: Path, planted: str, kind: str
) -> None:
    """Each rule can fail, and names what is wrong."""
    client.execute(planted)
    assert _kinds(client, tmp_path) == {kind}


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
    plans = [[one for one, _ in zip(rounds(seed), range(50), strict=False)] for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]
