"""The facade: read, write, execute, look, cancel, close. What a server needs of a database, without Flight.

Owns the parts and how they are joined. Must never hold SQL of its own; each part keeps what it decides.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import duckdb
import pyarrow as pa

from ..arrow_types import plain_schema
from ..config import EngineConfig
from ..errors import (
    Cancelled,
    Conflict,
    DucktowerError,
    InvalidArgument,
    TimedOut,
    Unauthenticated,
    unknown,
)
from ..monitor import Counter
from ..row_groups import messages_of_stream
from . import catalog, keys, metadata, statements
from .access import Principal
from .appending import Appending
from .backup import Backups
from .backup_schedule import BackupSchedule
from .block_cache import BlockCache
from .calls import Caller, Calls
from .carried import schema_of
from .checkpoints import Checkpoints
from .checks import Check, checks_of
from .commit_queue import CommitQueue
from .database import Database
from .describing import Describer
from .disk import Disk
from .failures import translate
from .group_commit import GroupCommitter
from .guard import BEGIN_READ_ONLY, Guard, trail_of, who
from .inserts import table_exists, table_name
from .known_tables import KnownTables
from .leasing import Cursors
from .ledger import Ledger, WriterState, claimed, fingerprint, fingerprint_of_sql
from .loads import Load
from .packing import packed
from .parameters import Parameters
from .reading import stream
from .scripts import Scripts
from .session import Session
from .session_parts import Parts
from .sessions import Sessions
from .shares import Share
from .sight import seen_of
from .sql_facts import SqlFacts, sql_facts
from .trails import add_rows, note_rows
from .uploads import Arriving, Came, UploadLimit, counted_bytes
from .wal import real_path
from .words import Claim, Executed, Named, Outcome, PlanKey, Receipt, SlowWrite, Target, Write
from .writers import Terms

__all__ = ["Engine"]

log = logging.getLogger(__name__)


class Engine:
    """One database in use. Every method is safe from any thread; all raise the errors of `ducktower.errors`."""

    def __init__(self, config: EngineConfig | None = None) -> None:
        self.config = _behind_links(config or EngineConfig())
        self.started = time.time()
        self._small_bytes_max = min(self.config.small_write_bytes_max, self.config.row_bytes_max)
        self._commits = Counter()
        self._rows = Counter()
        self._reads = Counter()
        self._database = Database(self.config)
        self._calls = Calls(self.config.watch_interval_seconds)
        self._database.before_reopen(lambda: self._calls.end_all("reopening"))
        self._ledger = Ledger(self.config, self._database.catalog)
        self._database.before_reopen(self._ledger.forget)
        self._terms = Terms()
        self._committer = GroupCommitter(
            self._database, self._calls, self.config, self._commits, self._rows, self._ledger
        )
        self._checkpoints = Checkpoints(self._database)
        self._disk = Disk(self.config, lambda: self._calls.end_kind("upload", "full"), self._checkpoints.due)
        self._queue = CommitQueue(self.config, self._committer.commit, self._disk.admit)
        self._arriving = Arriving(self.config)
        self._cache = BlockCache(self._database, self.config)
        self._cursors = Cursors(self._database, self._calls, self._cache, self.config)
        self.backups = Backups(self.config, self._database, self._cursors, lambda: self.commit)
        self._schedule = BackupSchedule(self.config, self.backups, lambda kind: self._calls.end_kind(kind, "stopping"))
        self._guard = Guard(self.config, self._database.catalog)
        self._scripts = Scripts(
            *(self.config, self._disk.admit, self._tables_changed, self._ledger),
            commits=self._commits.add,
            headroom=self._database.headroom,
        )
        self._known_tables = KnownTables(self._cursors)
        self._describer = Describer()
        self._sql_facts: SqlFacts | None = None  # the same for ever; found out by whoever asks first
        self.sessions = Sessions(
            Parts(
                config=self.config,
                catalog=self._database.catalog,
                cursors=self._cursors,
                guard=self._guard,
                scripts=self._scripts,
                describer=self._describer,
                put=self._put_once,
                committed=self._commits.add,
                was_read=self._reads.add,
                known_tables=self._known_tables,
                tables_changed=self._tables_changed,
            )
        )
        self._schedule.start()

    # -- reading --------------------------------------------------------------------------------------

    def read(self, sql: str, parameters: Parameters = None, caller: Caller | None = None) -> Any:
        """Run one query; return a native pyarrow.RecordBatchReader over one snapshot.

        Dropping the reader, at any point, gives the cursor back. A failure within the stream is reported with
        `[CODE]` at the head of its text. Batches stay within `batch_bytes_max`.
        """
        with self._cursors.open("read", "query", sql, caller, leave=True) as (lease, call):
            lease.cursor.execute(BEGIN_READ_ONLY)
            statement = self._guard.one_query(lease.cursor, sql, who(caller), trail_of(caller))

            def release() -> None:
                self._calls.finish(call)
                lease.close()

            self._reads.add()
            streamed = stream(lease.cursor, statement, parameters, call, self.config, release, self._cache)
            add_rows(trail_of(caller), streamed.rows)
            return streamed.reader

    def when_reads_wait(self, make_room: Callable[[], None]) -> None:
        """Have `make_room` called again and again while a read waits for a place, by its thread."""
        self._database.when_waiting("read", make_room)

    def describe(self, sql: str, parameters: Parameters = None, caller: Caller | None = None) -> Any:
        """Return the pyarrow.Schema of a query's result without running it."""
        with self._cursors.open("read", "description", sql, caller) as (lease, _):
            cursor = lease.cursor
            cursor.execute(BEGIN_READ_ONLY)
            statement = self._guard.one_query(cursor, sql, who(caller), trail_of(caller))
            return schema_of(cursor.sql(statement, params=parameters))

    def tables(self, caller: Caller | None = None) -> Any:
        """Return a pyarrow.Table: schema_name, table_name, table_type, rows (NULL for views), columns."""
        with self._cursors.open("internal", "list of tables", "", caller) as (lease, _):
            found = catalog.list_tables(lease.cursor, self._database.catalog)
            return self._guard.seen(lease.cursor, found, who(caller), 0)

    # -- Flight SQL's metadata: what a session sees, or what is there for everybody -----------------------

    def catalogs(self, session: Session | None = None, caller: Caller | None = None) -> Any:
        """Return a pyarrow.Table of the catalogs."""
        with self._looking("catalogs", session, caller) as cursor:
            return metadata.catalogs(cursor, self._database.catalog)

    def db_schemas(
        self,
        catalog: str | None = None,
        pattern: str | None = None,
        session: Session | None = None,
        caller: Caller | None = None,
    ) -> Any:
        """Return a pyarrow.Table of the schemas whose name is like `pattern`."""
        with self._looking("schemas", session, caller) as cursor:
            found = metadata.db_schemas(cursor, self._database.catalog, catalog, pattern)
            if not who(caller).limited:
                return found
            tables = self._guard.seen(cursor, metadata.names_of(cursor, self._database.catalog), who(caller), 1)
        schemas = {"main", *tables.column(1).to_pylist()}
        return found.filter(packed([name in schemas for name in found.column(1).to_pylist()], pa.bool_()))

    def tables_of(
        self,
        catalog: str | None = None,
        schema_pattern: str | None = None,
        table_pattern: str | None = None,
        types: Sequence[str] | None = None,
        *,
        include_schema: bool = False,
        session: Session | None = None,
        caller: Caller | None = None,
    ) -> Any:
        """Return a pyarrow.Table of tables and views, with their Arrow schemas if asked for."""
        with self._looking("tables", session, caller) as cursor:
            found = metadata.tables_of(
                cursor,
                self._describer,
                self._database.catalog,
                catalog,
                schema_pattern,
                table_pattern,
                types,
                include_schema=include_schema,
            )
            return self._guard.seen(cursor, found, who(caller), 1)

    def table_types(self) -> Any:
        """Return a pyarrow.Table of the kinds of tables."""
        return metadata.table_types()

    def primary_keys(
        self,
        catalog: str | None,
        schema: str | None,
        table: str,
        session: Session | None = None,
        caller: Caller | None = None,
    ) -> Any:
        """Return a pyarrow.Table of a table's primary key."""
        with self._looking("primary keys", session, caller) as cursor:
            found = keys.primary_keys(cursor, self._database.catalog, keys.Named(catalog, schema, table))
        return seen_of(found, who(caller), (1, 2))

    def exported_keys(
        self,
        catalog: str | None,
        schema: str | None,
        table: str,
        session: Session | None = None,
        caller: Caller | None = None,
    ) -> Any:
        """Return a pyarrow.Table of the foreign keys that refer to a table."""
        primary = keys.Named(catalog, schema, table)
        return self._foreign_keys(primary, keys.Named(), session, caller, by_primary=False)

    def imported_keys(
        self,
        catalog: str | None,
        schema: str | None,
        table: str,
        session: Session | None = None,
        caller: Caller | None = None,
    ) -> Any:
        """Return a pyarrow.Table of a table's foreign keys."""
        foreign = keys.Named(catalog, schema, table)
        return self._foreign_keys(keys.Named(), foreign, session, caller, by_primary=True)

    def cross_reference(
        self,
        pk_catalog: str | None,
        pk_schema: str | None,
        pk_table: str,
        fk_catalog: str | None,
        fk_schema: str | None,
        fk_table: str,
        session: Session | None = None,
        caller: Caller | None = None,
    ) -> Any:
        """Return a pyarrow.Table of the foreign keys from one table to another."""
        primary = keys.Named(pk_catalog, pk_schema, pk_table)
        foreign = keys.Named(fk_catalog, fk_schema, fk_table)
        return self._foreign_keys(primary, foreign, session, caller, by_primary=False)

    def sql_facts(self) -> SqlFacts:
        """Return the keywords and functions of DuckDB's SQL."""
        facts = self._sql_facts
        if facts is None:
            with self._looking("functions", None, None) as cursor:
                facts = self._sql_facts = sql_facts(cursor)
        return facts

    def table_query(self, target: Target) -> str:
        """Return the SQL that reads a whole table."""
        return f"FROM {table_name(self._database.catalog, target)}"

    def table_schema(self, target: Target, caller: Caller | None = None) -> Any:
        """Return a table's or view's pyarrow.Schema. Raises TableNotFound."""
        with self._cursors.open("read", "description", target.label, caller) as (lease, _):
            self._guard.admit_table(lease.cursor, who(caller), target)
            return catalog.table_schema(lease.cursor, self._database.catalog, target)

    def table_info(self, target: Target, caller: Caller | None = None) -> tuple[Any, int]:
        """Return a table's or view's pyarrow.Schema and its number of rows. Raises TableNotFound."""
        with self._cursors.open("read", "description", target.label, caller) as (lease, _):
            self._guard.admit_table(lease.cursor, who(caller), target)
            schema = catalog.table_schema(lease.cursor, self._database.catalog, target)
            return schema, catalog.table_rows(lease.cursor, self._database.catalog, target)

    # -- writing --------------------------------------------------------------------------------------

    def put(self, target: Target, reader: Any, caller: Caller | None = None, named: Named | None = None) -> Receipt:
        """Store what `reader` (pyarrow.RecordBatchReader) gives, all or nothing, and return after COMMIT.

        Up to `small_write_bytes_max` it is collected and committed with its group, beyond that it streams into
        a transaction of its own. When it is `named` it takes effect once however often it is sent: a repeat returns the
        first receipt. Raises InvalidArgument for a sequence that is not the writer's next, and for one that had other
        content.
        """
        claim = None if named is None else claimed(self.config, who(caller), named)
        return self._put_once(target, reader, caller, claim)

    def _put_once(self, target: Target, reader: Any, caller: Caller | None, claim: Claim | None) -> Receipt:
        caller = caller or Caller()
        if caller.trail is not None:
            note_rows(caller.trail, target)
        self._admit_rows(target, caller)
        limit = UploadLimit(self.config)
        if self.config.upload_bytes_max is None:
            receipt = self._put(target, reader, limit, caller, claim)
        else:
            with limit.told():
                receipt = self._put(target, limit.bounded(reader), limit, caller, claim)
        add_rows(caller.trail, receipt.rows)
        return receipt

    def writer(self, name: str, caller: Caller | None = None, *, resume: bool = False) -> WriterState:
        """Return how far the caller's writer of that name came, what was queued before being stored or refused.

        With `resume` the streams that are open for it queue nothing more.
        """
        principal = who(caller)
        principal.require("writer", "ask for a writer")
        key = claimed(self.config, principal, Named(name, 1)).key
        if resume:
            self._terms.end(key)
        self._queue.flush(self._cursors.shares.of(principal), self.config.lease_wait_seconds)
        with self._cursors.open("internal", "look at a writer", "", caller) as (lease, _):
            return self._ledger.state(lease.cursor, key)

    def _put(self, target: Target, reader: Any, limit: UploadLimit, caller: Caller, claim: Claim | None) -> Receipt:
        schema = plain_schema(reader.schema)
        if schema != reader.schema.remove_metadata():
            reader = reader.cast(schema)
        with _receiving(caller), Came(self._arriving, caller.principal.name) as came:
            ahead, nbytes = self._collected(reader, caller, came)
            caller.taken()  # from here on `upload_timeout_seconds` counts
            if nbytes > self._small_bytes_max:
                claim = _of_content(claim, target, schema, ahead)
                rows = limit.rows(itertools.chain(ahead, reader))
                with limit.told():
                    return self._put_stream(target, schema, rows, caller, claim, came)
        if caller.gone():
            raise Cancelled("the client went away during its upload; nothing was stored")
        if caller.over():
            raise Unauthenticated("the token was revoked or has expired; nothing was stored")
        batches = [batch.replace_schema_metadata(None) for batch in ahead]
        claim = _of_content(claim, target, schema, batches)
        return self._put_small(target, schema, batches, nbytes, caller, claim)

    def _collected(self, reader: Any, caller: Caller, came: Came) -> tuple[list[Any], int]:
        """Return the batches that came until the end, or until they are no small write; and their bytes."""
        ahead: list[Any] = []
        for batch in reader:
            caller.heard()
            if not batch.num_rows:
                continue
            came.add(counted_bytes(batch))
            ahead.append(batch)
            if came.nbytes > self._small_bytes_max:
                break
        return ahead, came.nbytes

    def appending(
        self, target: Target, schema: Any, caller: Caller | None = None, *, writer: str | None = None
    ) -> Appending:
        """Open a stream of small writes to `target`, whose batches have the pyarrow.Schema `schema`.

        With the name of a `writer` each of them has a sequence and takes effect once.
        """
        trail = trail_of(caller)
        if trail is not None:
            note_rows(trail, target)
        self._admit_rows(target, caller)
        term = None
        if writer is not None:
            term = self._terms.current(claimed(self.config, who(caller), Named(writer, 1)).key)
        share = self._cursors.shares.of(who(caller))
        return Appending(self._queue, self.config, target, schema, self._arriving, share, trail, term)

    def execute(
        self,
        sql: str,
        parameters: Parameters = None,
        caller: Caller | None = None,
        named: Named | None = None,
    ) -> Executed:
        """Run SQL that writes: one statement or a script, all or nothing.

        Parameters go to the last statement, whose changed or returned rows alone are counted. A conflict is tried
        again for `conflict_retry_seconds`. What is `named` takes effect once, and returns no rows.
        """
        principal = who(caller)
        claim = None
        if named is not None:
            claim = claimed(self.config, principal, named, fingerprint_of_sql(sql, parameters))
        with self._cursors.open("execute", "statement", sql, caller) as (lease, call):
            script = self._guard.script(lease.cursor, sql, principal, trail_of(caller))
            if claim is not None:
                receipt = self._scripts.once(lease.cursor, script, parameters, call, claim)
                add_rows(trail_of(caller), receipt.rows)
                return Executed(*receipt, None)
            rows, table = self._scripts.run(lease.cursor, script, parameters, call, read_only=principal.only_reads)
            add_rows(trail_of(caller), rows)
            stored = not principal.only_reads and not all(map(statements.changes_nothing, script))
            return Executed(rows, self._commits.add() if stored else self.commit, table)

    # -- operating ------------------------------------------------------------------------------------

    @property
    def commit(self) -> int:
        """The number of the last commit; it counts from 0 when the database is opened."""
        return self._commits.value

    def health(self) -> dict[str, Any]:
        """Return the state and what an operator asks first. Never waits for DuckDB."""
        fatal_errors, last_fatal = self._database.fatal_errors
        health: dict[str, Any] = {
            "status": self._database.state,
            "database": self._database.catalog,
            "duckdb_version": duckdb.__version__,
            "uptime_seconds": round(time.time() - self.started, 3),
            "commit": self.commit,
            "fatal_errors": fatal_errors,
            **self._database.opening(),
            **self._disk.health(),
            **self._checkpoints.health(),
            **self._schedule.health(),
        }
        if last_fatal:
            health["last_fatal_error"] = last_fatal
        return health

    def checks(self) -> list[Check]:
        """Return the named checks of what may be wrong. Never waits for DuckDB."""
        return checks_of(self._queue, self._database, self._disk, self.config.stuck_seconds)

    def statistics(self, caller: Caller | None = None) -> dict[str, Any]:
        """Return counters and the latency of group commits in seconds."""
        who(caller).require("owner", "see the statistics of everybody")
        waiting, waiting_bytes = self._queue.depth()
        return {
            "commits": self.commit,
            "rows": self._rows.value,
            "reads": self._reads.value,
            "groups": self._queue.groups.value,
            "group_writes": self._queue.writes.value,
            "refused_writes": self._queue.refused.value,
            "queue_writes": waiting,
            "queue_bytes": waiting_bytes,
            "cursors": self._database.leases_out(),
            **self._database.opening(),
            **self._disk.health(),
            **self._checkpoints.health(),
            **self._schedule.health(),
            "checkpoint_seconds": self._checkpoints.seconds.snapshot(),
            "commit_seconds": self._queue.commit_seconds.snapshot(),
        }

    def running(self, caller: Caller | None = None) -> list[dict[str, Any]]:
        """Describe the calls that run now: to an owner of all tables all, to everybody else its own."""
        return self._calls.describe(who(caller))

    def cancel(self, number: int, caller: Caller | None = None) -> bool:
        """End the running call of that id; False when there is none that the caller may end."""
        return self._calls.cancel(number, who(caller))

    def end_calls(self, whose: Callable[[Principal], bool]) -> int:
        """End the running calls of the principals that `whose` names: their tokens count no more. Return how many."""
        return self._calls.end_of(whose)

    def checkpoint(self, caller: Caller | None = None) -> None:
        """Write the WAL's contents into the database file."""
        who(caller).require("owner", "write a checkpoint")
        try:
            self._database.checkpoint()
        except duckdb.Error as error:
            raise translate(error) from error

    def close(self, drain_seconds: float = 10.0) -> None:
        """Commit what waits, let running calls finish within `drain_seconds`, checkpoint, close."""
        deadline = time.monotonic() + drain_seconds
        self._schedule.close()
        if not self._queue.close(drain_seconds):
            log.warning("writes were still waiting for their commit after %g seconds", drain_seconds)
        self._committer.close()
        self._cache.close()
        self._disk.close()
        self._checkpoints.close()
        self.sessions.close_idle()
        while (self._database.leases_out() or self.backups.busy) and time.monotonic() < deadline:
            time.sleep(0.01)
        self._calls.end_all("stopping")
        self.sessions.close_all()
        self.backups.close()
        self._database.close()
        self._calls.close()

    # -- within ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _looking(self, what: str, session: Session | None, caller: Caller | None) -> Iterator[Any]:
        """Give a cursor that sees what the session sees, or what is there for everybody."""
        if session is not None:
            with session.looking(what, caller=caller) as cursor:
                yield cursor
        else:
            with self._cursors.open("read", what, "", caller) as (lease, _):
                yield lease.cursor

    def _foreign_keys(
        self,
        primary: keys.Named,
        foreign: keys.Named,
        session: Session | None,
        caller: Caller | None,
        *,
        by_primary: bool,
    ) -> Any:
        with self._looking("foreign keys", session, caller) as cursor:
            found = keys.foreign_keys(cursor, self._database.catalog, primary, foreign, by_primary=by_primary)
        return seen_of(found, who(caller), (1, 2), (5, 6))

    def _admit_rows(self, target: Target, caller: Caller | None) -> None:
        principal = who(caller)
        self._guard.admit_rows(principal, target.schema, target.table, target.mode)
        if principal.limited:
            with self._cursors.open("internal", "look at keys", target.label, caller) as (lease, _):
                self._guard.admit_ties(lease.cursor, principal, target)

    def _tables_changed(self) -> None:
        """Forget what is known of tables: one was made, dropped or altered, and that was committed."""
        self._committer.forget_plans()
        self._guard.forget()
        self._known_tables.forget()

    def _put_small(
        self,
        target: Target,
        schema: Any,
        batches: list[Any],
        nbytes: int,
        caller: Caller,
        claim: Claim | None,
    ) -> Receipt:
        if not len(schema) and claim is not None:
            raise InvalidArgument("a write with a writer and a sequence needs columns")
        if not len(schema) and target.mode in ("append", "upsert"):
            self.table_schema(target, caller)  # nothing at all was sent: the table must be there all the same
            return Receipt(0, self.commit)
        if target.mode == "create_append":
            with self._cursors.open("read", "look at a table", target.label, caller) as (lease, _):
                there = table_exists(lease.cursor, self._database.catalog, target)
            if there:
                target = Target(target.table, target.schema)
        if target.mode in ("append", "upsert") and len(schema) <= self.config.queue_columns_max:
            outcome = self._queued(target, schema, batches, nbytes, self._cursors.shares.of(caller.principal), claim)
            if not isinstance(outcome, (Conflict, SlowWrite)):
                if isinstance(outcome, DucktowerError):
                    raise outcome
                assert isinstance(outcome, Receipt)  # noqa: S101 - it has no parts
                return outcome
            # A long transaction holds the rows, or these rows take long: wait beside the queue, not in it.
        table = pa.Table.from_batches(batches, schema=schema)
        return self._put_alone(target, schema, caller, claim, lambda load, retry: load.table(table, retry))

    def _queued(
        self,
        target: Target,
        schema: Any,
        batches: list[Any],
        nbytes: int,
        share: Share | None,
        claim: Claim | None,
    ) -> Outcome:
        outcomes: list[Outcome] = []
        # A bare lock is the cheapest way to wake one waiter: an Event or a Future wakes through a Condition.
        answered = threading.Lock()
        answered.acquire()

        def done(outcome: Outcome) -> None:
            outcomes.append(outcome)
            answered.release()

        rows = sum(batch.num_rows for batch in batches)
        claims = () if claim is None else (claim,)
        self._queue.submit(Write(PlanKey(target, schema), batches, rows, nbytes, done, share=share, claims=claims))
        limit = self.config.query_timeout_seconds
        if not answered.acquire(timeout=-1 if limit is None else limit):
            return unknown(TimedOut(f"the commit took more than {limit:g} seconds; whether it was stored is not known"))
        return outcomes[0]

    def _put_stream(
        self, target: Target, schema: Any, batches: Iterable[Any], caller: Caller, claim: Claim | None, came: Came
    ) -> Receipt:
        reader = pa.RecordBatchReader.from_batches(schema, messages_of_stream(batches))
        asked = False

        def store(load: Load, retry_seconds: float) -> int:
            nonlocal asked
            asked = True
            came.end()  # it has its place, and flows
            return load.stream(reader, retry_seconds)

        receipt = self._put_alone(target, schema, caller, claim, store)
        # A repeat's client sends all of it before it listens.
        if not asked and sum(batch.num_rows for batch in reader) != receipt.rows:
            raise InvalidArgument("this sequence of the writer was stored with other rows; nothing was stored now")
        return receipt

    def _put_alone(
        self,
        target: Target,
        schema: Any,
        caller: Caller,
        claim: Claim | None,
        store: Callable[[Load, float], int],
    ) -> Receipt:
        if not len(schema):
            raise InvalidArgument(f'table "{target.label}" needs at least one column')
        self._disk.admit()
        with self._cursors.open("large write", "upload", target.label, caller) as (lease, call):
            with self._ledger.turn(lease.cursor, claim, self._commits.add) as turn:
                if turn.first is not None:
                    return turn.first
                load = Load(
                    *(lease, self._database.catalog, target, schema, call, turn.before_commit),
                    headroom=self._database.headroom,
                )
                with self._cache.streaming():
                    rows = store(load, self.config.conflict_retry_seconds)
            if target.mode not in ("append", "upsert"):
                self._tables_changed()
            self._rows.add(rows)
            return Receipt(rows, turn.commit())


def _behind_links(config: EngineConfig) -> EngineConfig:
    """Return the settings with the database's file in place of a link to it: its WAL is one, and at one place."""
    return replace(config, database=real_path(config.database)) if os.path.islink(config.database) else config


def _of_content(claim: Claim | None, target: Target, schema: Any, batches: list[Any]) -> Claim | None:
    """Return the claim with the fingerprint of rows, unless it has one: that of the SQL which they came with."""
    if claim is None or claim.fingerprint is not None:
        return claim
    return claim._replace(fingerprint=fingerprint(target, schema, batches))


@contextlib.contextmanager
def _receiving(caller: Caller) -> Iterator[None]:
    """Translate what fails while a client sends rows."""
    try:
        yield
    except pa.ArrowException as error:
        if caller.gone():
            raise Cancelled("the client went away during its upload; nothing was stored") from error
        raise translate(error) from error
