"""What the vignette's writers write: tables, and endless rows that fit them.

Owns the two scenarios. Must never talk to a server, except to make a scenario's table.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..client import FlightClient

__all__ = [
    "DEFAULT_TABLE",
    "SCENARIOS",
    "Scenario",
    "ScenarioName",
    "count_query",
    "make_table",
    "quoted",
    "rows_of",
]

DEFAULT_TABLE = "concurrent_test"

Row = dict[str, Any]

_TAGS = ("red", "green", "blue", "fragile", "heavy", "fast")
_LEVELS = ("low", "medium", "high")


class ScenarioName(StrEnum):
    """The names that `--scenario` knows."""

    plain = "plain"
    complex = "complex"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of table, and the columns of a row beside its id."""

    columns: str
    """The columns as in CREATE TABLE."""
    values: Callable[[random.Random], Row]


def _plain(chance: random.Random) -> Row:
    return {"value": f"{chance.getrandbits(64):016x}"}


def _complex(chance: random.Random) -> Row:
    return {
        "value": f"{chance.getrandbits(64):016x}",
        "place": {"latitude": chance.uniform(-90, 90), "longitude": chance.uniform(-180, 180)},
        "tags": chance.sample(_TAGS, chance.randrange(4)),
        "price": Decimal(chance.randrange(1_000_000)).scaleb(-2),
        "happened_at": datetime.now(UTC),
        "level": chance.choice(_LEVELS),
    }


SCENARIOS = {
    ScenarioName.plain: Scenario("id BIGINT, value VARCHAR", _plain),
    ScenarioName.complex: Scenario(
        "id BIGINT, value VARCHAR, place STRUCT(latitude DOUBLE, longitude DOUBLE), tags VARCHAR[], "
        "price DECIMAL(18, 2), happened_at TIMESTAMPTZ, level ENUM ('low', 'medium', 'high')",
        _complex,
    ),
}


def rows_of(scenario: Scenario) -> Iterator[Row]:
    """Yield rows without end: `id` is the time in nanoseconds, and grows with each row."""
    chance = random.Random()  # noqa: S311 - sample data, no secret
    last = 0
    while True:
        last = max(last + 1, time.time_ns())
        yield {"id": last, **scenario.values(chance)}


def make_table(client: FlightClient, scenario: Scenario, table: str) -> None:
    """Make the scenario's table when it is missing; one that is there stays as it is."""
    client.execute(f"CREATE TABLE IF NOT EXISTS {quoted(table)} ({scenario.columns})")


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def count_query(table: str) -> str:
    """Return the question that the vignette's reader asks."""
    return f"SELECT count(*) AS count FROM {quoted(table)}"
