"""The judge: what clients were told against one snapshot of the database.

Owns every rule. A check reads the journals, asks the database, and reads the journals again: what was acknowledged
before the question must be there, whole and once (P3: also for a reader while writers go on); what is there must have
been sent before the answer came. So it needs no rest, and readers run it all the time. Must never change the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from .journal import Ledger

__all__ = ["KINDS", "NAMED", "ROWS", "TABLES", "VIOLATIONS", "Checker", "Violation"]

KINDS = ("put", "append", "bulk", "pair", "named", "resumed", "upsert", "ddl")
ROWS = KINDS[:6]
"""Whose writes are rows that carry their write's id, their part of it, and the number of parts."""
NAMED = ("named", "resumed")
"""Whose writes have a writer and a sequence, 1, 2, 3 and so on, and are sent again until their outcome is known: by the
client itself, or by an appender, and by the next process from where the server says that its writer is."""
TABLES = (
    "CREATE TABLE writes (kind VARCHAR, id BIGINT, part INTEGER, parts INTEGER)",
    "CREATE TABLE writes_too (kind VARCHAR, id BIGINT, part INTEGER, parts INTEGER)",
    "CREATE TABLE latest (k INTEGER PRIMARY KEY, v BIGINT)",
)
LATEST_KEYS = 4
"""Keys that each upsert sets to one value, all together."""
VIOLATIONS = {
    "lost": "an acknowledged write is not there",
    "doubled": "rows of a write are there twice",
    "partial": "a write is there in part",
    "unasked": "a write is there that nobody sent, or that an error said was not stored",
    "vanished": "what a reader saw is gone",
    "hole": "a writer's write is there, and one before it is not",
    "receipt": "a repeat was answered otherwise than the first time, or a writer's state is not what it was told",
    "left": "a write with a writer and a sequence was not acknowledged in the end, however often it was sent",
    "upsert": "a key holds less than its last acknowledged value, or keys set together differ",
    "ddl": "an acknowledged CREATE or DROP TABLE did not happen",
    "code": "a client was told an error that no fault of the round explains, or where the database is",
    "server": "the server did not start, answer, return to service or stop",
    "client": "a client ended by itself, or came no further",
}

# To count the distinct parts of each write takes many times as long as to add their hashes, and after minutes there are
# tens of millions of rows: only writes whose sum is not that of 0, 1, ... parts - 1 are counted.
_ROWS_SQL = """
WITH stored AS (FROM writes UNION ALL FROM writes_too),
found AS (
    SELECT kind, id, count(*) AS rows, max(parts) AS parts, sum(hash(part)) AS print FROM stored GROUP BY ALL
),
whole AS (
    SELECT parts, count(*) AS rows, sum(hash(part::INTEGER)) AS print
    FROM (SELECT parts, unnest(range(parts)) AS part FROM (SELECT DISTINCT parts FROM found)) GROUP BY ALL
),
other AS (
    SELECT kind, id, count(DISTINCT part) AS parts
    FROM stored SEMI JOIN (FROM found ANTI JOIN whole USING (parts, rows, print)) USING (kind, id) GROUP BY ALL
)
SELECT kind, id, found.rows, coalesce(other.parts, found.rows) AS distinct_parts, found.parts
FROM found LEFT JOIN other USING (kind, id)
"""
_LATEST_SQL = "SELECT count(*) AS keys, min(v) AS low, max(v) AS high FROM latest"
_DDL_SQL = "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'made_%'"


class Violation(NamedTuple):
    """A promise that was not kept."""

    kind: str
    text: str


class Checker:
    """Compares the journals in a directory with the database, again and again. One thread uses it."""

    def __init__(self, directory: Path) -> None:
        self.ledgers = {kind: Ledger(directory / f"{kind}.journal") for kind in KINDS}
        self._seen: dict[str, set[int]] = {kind: set() for kind in ROWS}

    def check(self, client: Any) -> list[Violation]:
        """Return what is wrong in what the client's server says now. Raises what the client raises."""
        return [*self._check_rows(client), *self._check_latest(client), *self._check_ddl(client)]

    def left(self) -> list[Violation]:
        """Return the writes of named writers whose outcome was never told. To be asked once they were sent again."""
        self._follow(NAMED)
        return [
            Violation("left", f"{kind} {write}")
            for kind in NAMED
            for write in sorted(self.ledgers[kind].rows.keys() - self.ledgers[kind].acknowledged)
        ]

    def _follow(self, kinds: Iterable[str]) -> dict[str, set[int]]:
        for kind in kinds:
            self.ledgers[kind].follow()
        return {kind: set(self.ledgers[kind].acknowledged) for kind in kinds}

    def _check_rows(self, client: Any) -> list[Violation]:
        before = self._follow(ROWS)
        found = client.query(_ROWS_SQL).to_pylist()
        self._follow(ROWS)
        wrong = []
        there: dict[str, set[int]] = {kind: set() for kind in ROWS}
        for row in found:
            kind, write = row["kind"], row["id"]
            there[kind].add(write)
            ledger = self.ledgers[kind]
            name = f"{kind} {write}: {row['rows']} rows, {row['distinct_parts']} distinct, of {row['parts']}"
            if write not in ledger.rows:
                wrong.append(Violation("unasked", f"{name}, was never sent"))
            elif write in ledger.not_stored:
                wrong.append(Violation("unasked", f"{name}, was said not to be stored"))
            if row["rows"] > row["distinct_parts"]:
                wrong.append(Violation("doubled", name))
            if row["distinct_parts"] < row["parts"]:
                wrong.append(Violation("partial", name))
        for kind in ROWS:
            wrong += [Violation("lost", f"{kind} {write}") for write in sorted(before[kind] - there[kind])]
            wrong += [Violation("vanished", f"{kind} {write}") for write in sorted(self._seen[kind] - there[kind])]
            self._seen[kind] = there[kind]
        for kind in NAMED:
            missing = set(range(1, max(there[kind], default=0))) - there[kind]
            wrong += [Violation("hole", f"{kind} {write}") for write in sorted(missing)]
        return wrong

    def _check_latest(self, client: Any) -> list[Violation]:
        before = max(self._follow(["upsert"])["upsert"], default=None)
        (row,) = client.query(_LATEST_SQL).to_pylist()
        self._follow(["upsert"])
        ledger = self.ledgers["upsert"]
        name = f"latest: {row['keys']} keys hold {row['low']} to {row['high']}; acknowledged before: {before}"
        whole = row["keys"] in (0, LATEST_KEYS) and row["low"] == row["high"]
        fresh = before is None or (row["low"] is not None and row["low"] >= before)
        asked = row["low"] is None or (row["low"] in ledger.rows and row["low"] not in ledger.not_stored)
        return [] if whole and fresh and asked else [Violation("upsert", name)]

    def _check_ddl(self, client: Any) -> list[Violation]:
        # Write 2n makes the table made_n, write 2n + 1 drops it.
        before = self._follow(["ddl"])["ddl"]
        there = {int(name.removeprefix("made_")) for name in client.query(_DDL_SQL)["table_name"].to_pylist()}
        self._follow(["ddl"])
        sent = self.ledgers["ddl"].rows
        missing = {n // 2 for n in before if n % 2 == 0 and n + 1 not in sent} - there
        left = {n for n in there if 2 * n + 1 in before or 2 * n not in sent or 2 * n in self.ledgers["ddl"].not_stored}
        return [
            *(Violation("ddl", f"table made_{n} is missing") for n in sorted(missing)),
            *(Violation("ddl", f"table made_{n} should not be there") for n in sorted(left)),
        ]
