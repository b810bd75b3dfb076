"""(writer, sequence) -> outcome: what makes a write that is sent again take effect once.

The rows of the ledger are appended in the transaction of the writes they speak of, so both are durable or neither
is. There is no index, because nobody looks anything up in the table: what it says is held in memory too, and the
table is read when it is asked for first after the database was opened. Nor are there columns: a row is one text of
JSON, since each column costs a commit of DuckDB's about 60 us (docs/decisions, ledger of one column).

A writer's sequences are 1, 2, 3 and so on. A write that is refused does not take its sequence, so what its writer
has in flight behind it is refused as well: of a writer's writes, those that are stored are the first ones.

Owns the table, its hidden schema and the memory, guarded by one lock. Must never begin or end a transaction of rows,
and changes the memory only after COMMIT returned.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from ..arrow_types import plain_schema
from ..config import EngineConfig
from ..errors import Conflict, DucktowerError, InvalidArgument, LimitExceeded, Overloaded
from .access import Principal
from .inserts import quoted
from .packing import packed
from .parameters import Parameters, Rows
from .words import Claim, Named, Outcome, PlanKey, Receipt, Target, Write

__all__ = [
    "LEDGER",
    "SCHEMA",
    "Ledger",
    "Row",
    "Turn",
    "WriterState",
    "claimed",
    "fingerprint",
    "fingerprint_of_sql",
]

SCHEMA = "_ducktower"
"""The schema that is in no listing and that no client's SQL may name."""

_ARROW = pa.schema([("line", pa.string())])
LEDGER = PlanKey(Target("ledger", SCHEMA), _ARROW)
"""The ledger as a target of group commit's plans."""

_written = json.JSONEncoder(separators=(",", ":")).encode
_PRUNE_ROWS_MIN = 4_096
_HASH_BYTES = 8

Key = tuple[str, str]
"""A principal's name and its writer's: nobody meets the writers of others."""


class Row(NamedTuple):
    """What is kept of one write. A line of the table is a JSON array of it, in this order."""

    principal: str
    writer: str
    sequence: int
    fingerprint: int
    rows: int
    """-1 when they were not counted."""
    rows_total: int
    """Of the writer, with these."""
    commit: int
    at: int
    """Microseconds since 1970, UTC."""

    @property
    def key(self) -> Key:
        """Whose it is."""
        return self.principal, self.writer

    def line(self) -> str:
        """Return it as it is stored."""
        return _written(self)

    @classmethod
    def of(cls, line: str) -> Row:
        """Return what was stored so."""
        return cls(*json.loads(line))


class WriterState(NamedTuple):
    """How far a writer came: its last sequence, the rows of all of its writes, the commit of the last one."""

    sequence: int
    rows: int
    commit: int


class _Stored(NamedTuple):
    fingerprint: int
    rows: int
    commit: int


@dataclass(slots=True)
class _Writer:
    last: int = 0
    rows: int = 0
    at: int = 0
    outcomes: dict[int, _Stored] = field(default_factory=dict)


class Admitted(NamedTuple):
    """What became of a group: writes to be stored now, those to be looked at after them, and the writers held."""

    ready: list[Write]
    later: list[Write]
    held: set[Key]


class Turn:
    """One write's turn to have a transaction of its own. Used by the thread of its call."""

    def __init__(self, ledger: Ledger, claim: Claim | None, commits: Callable[[], int], first: Receipt | None) -> None:
        self.first = first
        """The receipt of a write that was stored before: there is nothing to be done."""
        self.lines: list[Row] = []
        self._ledger = ledger
        self._claim = claim
        self._commits = commits

    def before_commit(self, cursor: Any, rows: int) -> None:
        """Write down within the transaction what it is about to store; again when it is tried again."""
        if self._claim is not None:
            self.lines = self._ledger.lines([(self._claim, rows)], self._commits())
            self._ledger.store(cursor, self.lines[0])

    def commit(self) -> int:
        """Return the number of the commit that took place."""
        return self.lines[0].commit if self.lines else self._commits()


def claimed(config: EngineConfig, principal: Principal, named: Named, seen: int | None = None) -> Claim:
    """Return the claim of a write that the principal names so, with the fingerprint `seen` of its content, if known.

    Raises InvalidArgument for what is no name or no sequence, Forbidden for those who may not write.
    """
    principal.require("writer", "use a writer's name")
    longest = config.writer_name_chars_max
    if not 1 <= len(named.writer) <= longest:
        raise InvalidArgument(f"a writer's name has 1 to {longest} characters, not {len(named.writer)}")
    if named.sequence < 1:
        raise InvalidArgument(f"the sequences of a writer begin with 1, not {named.sequence}")
    return Claim(principal.name, named.writer, named.sequence, seen)


def fingerprint(target: Target, schema: Any, batches: Sequence[Any]) -> int:
    """Return 64 bits that tell this content from other content: the target, the columns, the bytes of the rows.

    However the rows are cut into batches, and whatever they travelled with, it is the same.
    """
    return _digested(repr((target.schema, target.table, target.mode, target.key)), schema, batches)


def fingerprint_of_sql(sql: str, parameters: Parameters | Rows) -> int:
    """Return 64 bits that tell a text of SQL and its parameters from others."""
    if isinstance(parameters, Rows):
        schema = plain_schema(parameters.table.schema)
        return _digested(sql, schema, parameters.table.cast(schema).to_batches())
    if isinstance(parameters, dict):
        return _digested(repr((sql, sorted(parameters.items()))), None, ())
    return _digested(repr((sql, parameters)), None, ())


def _digested(said: str, schema: Any, batches: Sequence[Any]) -> int:
    digest = hashlib.blake2b(said.encode(), digest_size=_HASH_BYTES)
    if schema is not None:
        digest.update(schema.serialize())
    if batches:  # joined even when it is one: a slice's bitmaps have its neighbours' bits in them
        digest.update(pa.concat_batches(batches).serialize())
    return int.from_bytes(digest.digest(), "little", signed=True)


class Ledger:
    """Safe from any thread; each call that needs DuckDB uses the cursor that it is given, outside a transaction."""

    def __init__(self, config: EngineConfig, catalog: str) -> None:
        self._config = config
        self._table = f"{quoted(catalog)}.{quoted(SCHEMA)}.ledger"
        self._schema = f"{quoted(catalog)}.{quoted(SCHEMA)}"
        # Guarded by _free's lock: everything below. Waiters on it: those whose writer has a write under way.
        self._free = threading.Condition()
        self._writers: dict[Key, _Writer] | None = None  # None: to be read from the table
        self._made = False
        self._held: dict[Key, int] = {}  # writers with a write under way, and the rows of those before it
        self._rows = 0  # of the table, those to be pruned among them
        self._prune_at = 0  # rows before which it is not worth a look

    # -- what a write is answered with ------------------------------------------------------------------

    def admit(self, cursor: Any, writes: Sequence[Write], outcomes: dict[int, Outcome]) -> Admitted:
        """Tell what of a group is to be stored, and answer what needs not be. Never waits for another write.

        A writer whose next write is stored by another transaction gets Conflict. `held` must be given to `release`.
        """
        ready: list[Write] = []
        later: list[Write] = []
        expected: dict[Key, int] = {}
        before: dict[Key, int] = {}
        put_off: set[Key] = set()
        with self._free:
            self._known(cursor)  # at once: what cannot be read now is nobody's answer
            for write in writes:
                if not write.claims:
                    ready.append(write)
                    continue
                claim = write.claims[0]
                key = claim.key
                if key in put_off:
                    later.append(write)
                elif key in expected:
                    if claim.sequence == expected[key]:
                        ready.append(write)
                        expected[key] += len(write.claims)
                    else:  # a twin of one that is stored now, or nonsense: the answer is known after it
                        put_off.add(key)
                        later.append(write)
                elif key in self._held:
                    outcomes[id(write)] = Conflict("another write of this writer is under way; nothing was stored")
                else:
                    answer = self._answer(cursor, claim, expected)
                    if answer is None:
                        ready.append(write)
                        expected[key] = claim.sequence + len(write.claims)
                        before[key] = self._rows_of(key)
                    elif len(write.claims) > 1:
                        put_off.add(key)
                        later.append(write)
                    else:
                        outcomes[id(write)] = answer
            self._held |= before
        return Admitted(ready, later, set(before))

    @contextmanager
    def turn(self, cursor: Any, claim: Claim | None, commits: Callable[[], int]) -> Iterator[Turn]:
        """Keep a writer's other writes out while this one has a transaction of its own.

        `commits` gives the number of a new commit. Raises what `admit` answers, and Overloaded when another write
        of the writer takes longer than `lease_wait_seconds`.
        """
        if claim is None:
            yield Turn(self, None, commits, None)
            return
        wait_seconds = self._config.lease_wait_seconds
        with self._free:
            if not self._free.wait_for(lambda: claim.key not in self._held, wait_seconds):
                raise Overloaded(
                    f'another write of writer "{claim.writer}" is under way; nothing was stored',
                    retry_after_seconds=1.0,
                )
            answer = self._answer(cursor, claim)
            if isinstance(answer, DucktowerError):
                raise answer
            if answer is None:
                self._held[claim.key] = self._rows_of(claim.key)
        turn = Turn(self, claim, commits, answer)
        if answer is not None:
            yield turn
            return
        try:
            yield turn
            self.stored(turn.lines)
        except BaseException:
            if turn.lines:  # a COMMIT was asked for, and may have stored it
                self.forget()
            raise
        finally:
            self.release({claim.key})

    def release(self, held: set[Key]) -> None:
        """Let others write for these writers again."""
        if held:
            with self._free:
                for key in held:
                    del self._held[key]
                self._free.notify_all()

    def state(self, cursor: Any, key: Key) -> WriterState:
        """Return how far a writer came; zeros for one that never wrote."""
        with self._free:
            writer = self._known(cursor, make=False).get(key)
            if writer is None:
                return WriterState(0, 0, 0)
            return WriterState(writer.last, writer.rows, writer.outcomes[writer.last].commit)

    # -- what is written down -------------------------------------------------------------------------

    def lines(self, claims: Iterable[tuple[Claim, int]], commit: int) -> list[Row]:
        """Return the rows to be stored for claims, each with how many rows it stores, of writers that are held."""
        now = time.time_ns() // 1_000
        totals: dict[Key, int] = {}
        found: list[Row] = []
        with self._free:
            for claim, rows in claims:
                key = claim.key
                if key not in totals:
                    totals[key] = self._held[key]
                totals[key] += max(rows, 0)  # -1: not counted
                assert claim.fingerprint is not None  # noqa: S101 - the content has arrived by now
                found.append(Row(*key, claim.sequence, claim.fingerprint, rows, totals[key], commit, now))
        return found

    @staticmethod
    def batch(lines: Sequence[Row]) -> Any:
        """Return the rows as one pyarrow.RecordBatch."""
        return pa.RecordBatch.from_arrays([packed([line.line() for line in lines], pa.string())], schema=_ARROW)

    def store(self, cursor: Any, line: Row) -> None:
        """Append one row in the cursor's transaction."""
        cursor.execute(f"INSERT INTO {self._table} VALUES (?)", [line.line()])

    def stored(self, lines: list[Row]) -> None:
        """Learn that these rows were committed."""
        with self._free:
            if self._writers is None:
                return  # whoever asks next reads them from the table
            self._rows += len(lines)
            for line in lines:
                self._learn(self._writers, line)

    def forget(self) -> None:
        """Have the table read again: the database is another one, or it is not known whether a COMMIT took place."""
        with self._free:
            self._writers = None
            self._made = False

    def prune(self, cursor: Any) -> None:
        """Delete what is older than the kept outcomes, and writers that were silent for too long, if that is worth it.

        Called by the committing thread alone, between transactions.
        """
        with self._free:
            if self._writers is None or self._held or self._rows < self._prune_at:
                return
            kept = sum(len(writer.outcomes) for writer in self._writers.values())
            self._prune_at = 2 * kept + min(_PRUNE_ROWS_MIN, self._config.writer_outcomes_max)
            if self._rows >= self._prune_at:
                self._delete_old(cursor)

    # -- within, with the lock held -------------------------------------------------------------------

    def _known(self, cursor: Any, *, make: bool = True) -> dict[Key, _Writer]:
        """Return the writers, read from the table if need be, which is made when there is none."""
        if make and not self._made:
            cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
            cursor.execute(f"CREATE TABLE IF NOT EXISTS {self._table} (line VARCHAR)")
            self._made = True
        if self._writers is None:
            writers: dict[Key, _Writer] = {}
            try:
                lines = self._read(cursor)
            except duckdb.CatalogException:
                lines = {}  # nobody wrote with a name yet
            for line in lines.values():
                self._learn(writers, line)
            self._writers, self._rows = writers, len(lines)
        return self._writers

    def _read(self, cursor: Any) -> dict[str, Row]:
        """Return the whole table, its rows by their texts, each writer's in their order."""
        found = [(line, Row.of(line)) for (line,) in cursor.execute(f"SELECT line FROM {self._table}").fetchall()]
        return dict(sorted(found, key=lambda one: one[1].sequence))

    def _rows_of(self, key: Key) -> int:
        """Return the rows of a writer so far. Kept while it is held: the memory may be read again meanwhile."""
        writer = (self._writers or {}).get(key)
        return 0 if writer is None else writer.rows

    def _delete_old(self, cursor: Any) -> None:
        lines = self._read(cursor)
        newest = {line.key: line for line in lines.values()}
        since, outcomes_max = self._silent_since(), self._config.writer_outcomes_max
        old = [
            text
            for text, line in lines.items()
            if line.sequence <= newest[line.key].sequence - outcomes_max or newest[line.key].at < since
        ]
        # By their texts, each of which there is once: a checkpoint may give rows other ids meanwhile.
        cursor.execute(f"DELETE FROM {self._table} WHERE line IN (SELECT unnest(?::VARCHAR[]))", [old]).fetchall()
        self._writers = None

    def _silent_since(self) -> int:
        return time.time_ns() // 1_000 - int(self._config.writer_silent_seconds * 1_000_000)

    def _is_full(self, cursor: Any, coming: Iterable[Key]) -> bool:
        """Whether there is no room for one more writer beside those that are known and those that begin right now."""
        writers = self._known(cursor)
        beginning = len({*self._held, *coming} - writers.keys())
        room = self._config.writers_max - beginning
        if len(writers) >= room and min((writer.at for writer in writers.values()), default=0) < self._silent_since():
            self._delete_old(cursor)
            writers = self._known(cursor)
        return len(writers) >= room

    def _learn(self, writers: dict[Key, _Writer], line: Row) -> None:
        writer = writers.setdefault(line.key, _Writer())
        if line.sequence <= writer.last:
            return  # read from the table meanwhile
        writer.last, writer.rows, writer.at = line.sequence, line.rows_total, line.at
        writer.outcomes[line.sequence] = _Stored(line.fingerprint, line.rows, line.commit)
        writer.outcomes.pop(line.sequence - self._config.writer_outcomes_max, None)

    def _answer(self, cursor: Any, claim: Claim, coming: Iterable[Key] = ()) -> Receipt | DucktowerError | None:
        """Return what a claim is answered with, None when its write is to be stored beside `coming` writers."""
        writer = self._known(cursor).get(claim.key)
        last = writer.last if writer is not None else 0
        if claim.sequence == last + 1:
            if writer is None and self._is_full(cursor, coming):
                return LimitExceeded(f"there are {self._config.writers_max} writers, which is the limit")
            return None
        which = f'sequence {claim.sequence} of writer "{claim.writer}"'
        if claim.sequence > last:
            return InvalidArgument(
                f"{which} cannot be stored: {last + 1} comes next, and was skipped or refused; nothing was stored"
            )
        assert writer is not None  # noqa: S101 - it has a last sequence
        stored = writer.outcomes.get(claim.sequence)
        if stored is None:
            oldest = min(writer.outcomes)
            return InvalidArgument(f"{which} is too old to tell whether it is the same write: {oldest} is kept first")
        if stored.fingerprint != claim.fingerprint:
            return InvalidArgument(f"{which} was stored with other content; nothing was stored now")
        return Receipt(stored.rows, stored.commit)
