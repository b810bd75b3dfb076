"""Plain Flight: what each ticket, descriptor and action asks of the engine.

Owns the translation between the words of `protocol` and those of the engine. Must never listen, and holds no
SQL of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.flight as flight

from ..config import ServerConfig
from ..engine import Appending, Caller, Engine, Named, Principal, Receipt, Target
from ..engine.words import Divided, Outcome
from ..errors import (
    Cancelled,
    DucktowerError,
    InternalError,
    InvalidArgument,
    LimitExceeded,
    Unauthenticated,
    Unavailable,
)
from ..protocol import commands
from .acks import AckPump, Outbox
from .health import Health
from .idle_streams import IdleStreams

__all__ = ["ALWAYS_ADMITTED", "STREAMED", "PlainFlight"]

log = logging.getLogger(__name__)

ALWAYS_ADMITTED = frozenset({"health", "sessions", "cancel"})
"""Actions that an operator needs most when everything is taken; they take no time."""

STREAMED = frozenset({"backup"})
"""Actions whose answers do not fit into memory: all but the first are made while they are sent."""

_IPC_PIECE_BYTES = 2 * 1024 * 1024


class _Action(NamedTuple):
    description: str
    run: Callable[[dict[str, Any], Caller], Iterator[bytes]]


class PlainFlight:
    """The handlers. Each runs in the thread of its call and raises errors of `ducktower.errors`."""

    def __init__(
        self, engine: Engine, config: ServerConfig, health: Health, counts: Callable[[], dict[str, int]]
    ) -> None:
        """`counts` gives what the server itself counts."""
        self._engine = engine
        self._counts = counts
        self._health_of = health
        self._config = config
        self._acks = AckPump(workers_max=config.calls_in_flight_max)
        self.idle = IdleStreams(config.stream_idle_seconds)
        self._lock = threading.Lock()  # guards _open_streams
        self._open_streams: dict[Outbox, Caller] = {}
        self._actions: dict[str, _Action] = {
            "health": _Action("State of the server and its database.", self._health),
            "execute": _Action(
                'SQL that writes: {"query": SQL, "parameters": [...], "writer": W, "sequence": n}; answers '
                '{"rows", "commit"}, then the returned rows as an Arrow IPC stream in pieces.',
                self._execute,
            ),
            "tables": _Action("All tables and views, as an Arrow IPC stream in pieces.", self._tables),
            "statistics": _Action("Counters and latencies since the start.", self._statistics),
            "sessions": _Action("Calls that run now, and the sessions of Flight SQL.", self._sessions),
            "cancel": _Action('End a running call: {"id": n}.', self._cancel),
            "writer": _Action('How far a writer came: {"writer": name}; {"sequence", "rows", "commit"}.', self._writer),
            "checkpoint": _Action("Write the WAL into the database file.", self._checkpoint),
            "backup": _Action("A verified copy: what it holds, then its bytes in pieces.", self._backup),
        }

    # -- reading --------------------------------------------------------------------------------------

    def get(self, ticket: bytes, caller: Caller) -> Any:
        """DoGet: return a native pyarrow.RecordBatchReader."""
        query = commands.parse_query(ticket)
        return self._engine.read(query.sql, query.parameters, caller)

    def info(self, descriptor: Any, caller: Caller) -> Any:
        """GetFlightInfo of a query or of a table."""
        if descriptor.descriptor_type == flight.DescriptorType.CMD:
            return _flight_info(self.schema(descriptor, caller), descriptor, descriptor.command, rows=-1)
        schema_name, table = commands.parse_path(descriptor.path)
        return self._table_info(Target(table, schema_name), descriptor, caller)

    def schema(self, descriptor: Any, caller: Caller) -> Any:
        """GetSchema of a query or of a table, without counting anything."""
        if descriptor.descriptor_type == flight.DescriptorType.CMD:
            query = commands.parse_query(descriptor.command, "command")
            return self._engine.describe(query.sql, query.parameters, caller)
        schema_name, table = commands.parse_path(descriptor.path)
        return self._engine.table_schema(Target(table, schema_name), caller)

    def infos(self, caller: Caller) -> Iterator[Any]:
        """ListFlights: every table that the caller sees."""
        for row in self._engine.tables(caller).to_pylist():
            target = Target(row["table_name"], row["schema_name"])
            try:
                descriptor = flight.FlightDescriptor.for_path(target.schema, target.table)
                yield self._table_info(target, descriptor, caller)
            except DucktowerError as error:
                log.info("table %s is left out of the list: %s", target.label, error)

    def _table_info(self, target: Target, descriptor: Any, caller: Caller) -> Any:
        schema, rows = self._engine.table_info(target, caller)
        return _flight_info(schema, descriptor, self._engine.table_query(target).encode(), rows)

    # -- writing --------------------------------------------------------------------------------------

    def put(self, descriptor: Any, reader: Any, caller: Caller) -> bytes:
        """DoPut: store the stream, return the one answer."""
        if descriptor.descriptor_type == flight.DescriptorType.CMD:
            put = commands.parse_put(descriptor.command)
        else:
            schema_name, table = commands.parse_path(descriptor.path)
            put = commands.Put(table, schema_name)
        return self._store(put, reader, caller)

    def _store(self, put: commands.Put, reader: Any, caller: Caller) -> bytes:
        source = _native(reader)
        return _receipt(self._engine.put(_target(put), source, caller, _named(put)))

    def exchange(self, descriptor: Any, reader: Any, writer: Any, caller: Caller) -> None:
        """DoExchange: one stream of many small writes, or one write that its client can still call off."""
        if descriptor.descriptor_type != flight.DescriptorType.CMD:
            raise InvalidArgument("DoExchange needs a command, not a path")
        command = commands.parse_exchange(descriptor.command)
        if command.kind == "ingest":
            with self.idle.watch(caller) as watched:
                writer.write_metadata(self._store(command.put, reader, watched))
        else:
            outbox = Outbox(self._acks, writer)
            with self._lock:
                self._open_streams[outbox] = caller
            try:
                with self.idle.watch(caller, lambda why: outbox.tell(commands.rejection(None, why))) as watched:
                    self._append(command.put, reader, outbox, watched)
            finally:
                outbox.close()
                with self._lock:
                    self._open_streams.pop(outbox, None)

    def _append(self, put: commands.Put, reader: Any, outbox: Outbox, caller: Caller) -> None:
        """Queue each batch as a write of its own; answers go out as their commits return."""
        appending = self._engine.appending(_target(put), _schema_of(reader), caller, writer=put.writer)
        last = 0
        while True:
            try:
                chunk = reader.read_chunk()
            except StopIteration:
                break
            except (pa.ArrowException, OSError) as error:
                raise Cancelled("the client went away during its stream") from error
            if chunk.data is None:
                continue
            metadata = chunk.app_metadata
            if metadata is None and put.writer is not None:
                raise InvalidArgument("a batch of a writer's stream needs its sequence in its metadata")
            sequence, parts = commands.parse_writes(metadata.to_pybytes()) if metadata is not None else (last + 1, ())
            last = sequence + max(0, len(parts) - 1)
            self._check_parts(parts, chunk.data.num_rows)
            if not outbox.owe(len(parts) or 1, self._config.stream_writes_in_flight_max):
                raise Cancelled("the client went away during its stream")
            self._submit(appending, chunk.data, sequence, parts, outbox)
            caller.heard()
        caller.taken()
        if not outbox.settle() or caller.gone():
            raise Cancelled("the client went away during its stream")

    def _check_parts(self, parts: tuple[int, ...], rows: int) -> None:
        most = max(commands.WRITES_PER_BATCH_MAX, self._config.stream_writes_in_flight_max)
        if len(parts) > most:
            raise LimitExceeded(f"a batch carries {len(parts)} writes, the limit is {most}")
        if parts and sum(parts) != rows:
            raise InvalidArgument(f'"writes" in a batch\'s metadata sum up to {sum(parts)} rows, the batch has {rows}')

    @staticmethod
    def _submit(appending: Appending, batch: Any, sequence: int, parts: tuple[int, ...], outbox: Outbox) -> None:
        """Queue a batch; its answer is one message, or one for each of its writes when they fared differently."""
        writes = len(parts) or 1

        def done(outcome: Outcome) -> None:
            if isinstance(outcome, Receipt):
                outbox.post(commands.ack(sequence, outcome.rows, outcome.commit, sequence + writes - 1), writes)
            elif isinstance(outcome, Divided):
                for offset, of_part in enumerate(outcome.outcomes):
                    outbox.post(_answer(sequence + offset, of_part))
            else:
                for offset in range(writes):
                    outbox.post(commands.rejection(sequence + offset, outcome))

        try:
            appending.submit(batch, done, parts, sequence)
        except DucktowerError as error:
            done(error)
        except Exception as error:  # the write is owed an answer whatever happens
            log.exception("cannot queue a write")
            done(InternalError(f"the server failed ({type(error).__name__})"))

    # -- actions --------------------------------------------------------------------------------------

    def actions(self) -> list[tuple[str, str]]:
        """ListActions: names and descriptions."""
        return [(name, action.description) for name, action in self._actions.items()]

    def has_action(self, name: str) -> bool:
        """Whether an action is one of plain Flight's."""
        return name in self._actions

    def act(self, name: str, body: bytes, caller: Caller) -> Iterator[bytes]:
        """DoAction: yield the results' bodies."""
        action = self._actions[name]
        if len(body) > self._config.action_bytes_max:
            raise LimitExceeded(
                f"the action's body has {len(body)} bytes, the limit is {self._config.action_bytes_max}"
            )
        arguments = {} if name == "execute" or not body else commands.parse_json(body, "action's body")
        if name == "execute":
            arguments = {"raw": body}
        yield from action.run(arguments, caller)

    def _health(self, _arguments: dict[str, Any], _caller: Caller) -> Iterator[bytes]:
        yield commands.to_json(self._health_of.describe())

    def _statistics(self, _arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        yield commands.to_json(self._engine.statistics(caller) | self._counts())

    def _sessions(self, _arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        sessions = self._engine.sessions.describe(caller)
        yield commands.to_json({"sessions": self._engine.running(caller), "flight_sql": sessions})

    def _execute(self, arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        query = commands.parse_query(arguments["raw"], "action's body", writes=True)
        done = self._engine.execute(query.sql, query.parameters, caller, _named(query))
        yield commands.to_json({"rows": done.rows, "commit": done.commit})
        if done.table is not None:
            yield from _ipc_pieces(done.table)

    def _tables(self, _arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        yield from _ipc_pieces(self._engine.tables(caller))

    def _cancel(self, arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        number = arguments.get("id")
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidArgument('"cancel" needs {"id": n}, an id that "sessions" shows')
        yield commands.to_json({"cancelled": self._engine.cancel(number, caller)})

    def _writer(self, arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        name = commands.parse_writer(arguments.get("writer"), "action's body")
        resume = arguments.get("resume", False)
        if not isinstance(resume, bool):
            raise InvalidArgument('"resume" in the action\'s body must be true or false')
        yield commands.to_json(self._engine.writer(name, caller, resume=resume)._asdict())

    def _checkpoint(self, _arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        self._engine.checkpoint(caller)
        yield commands.to_json({"commit": self._engine.commit})

    def _backup(self, arguments: dict[str, Any], caller: Caller) -> Iterator[bytes]:
        if arguments:
            raise InvalidArgument('"backup" takes nothing: its bytes are sent to whoever asks')
        with self._engine.backups.sent(caller) as (made, pieces):
            yield commands.to_json(made.to_json())
            yield from pieces

    def part_with(self, whose: Callable[[Principal], bool]) -> None:
        """Tell the open streams of the principals that `whose` names, once, that they are over."""
        farewell = commands.rejection(None, Unauthenticated("the token was revoked or has expired"))
        with self._lock:
            streams = [outbox for outbox, caller in self._open_streams.items() if whose(caller.principal)]
            for outbox in streams:
                del self._open_streams[outbox]
        for outbox in streams:
            outbox.tell(farewell)

    def close(self) -> None:
        """Ask the clients of open streams to end them, and end the acknowledging threads."""
        farewell = commands.rejection(None, Unavailable("the server is stopping"))
        with self._lock:
            streams = list(self._open_streams)
        for outbox in streams:
            outbox.tell(farewell)
        self.idle.close()
        self._acks.close()


def _target(put: commands.Put) -> Target:
    return Target(put.table, put.schema, put.mode, put.key)  # type: ignore[arg-type]  # Target checks the mode


def _named(command: commands.Put | commands.Query) -> Named | None:
    return None if command.writer is None else Named(command.writer, command.sequence)


def _answer(sequence: int, outcome: Receipt | DucktowerError) -> bytes:
    if isinstance(outcome, Receipt):
        return commands.ack(sequence, outcome.rows, outcome.commit)
    return commands.rejection(sequence, outcome)


def _receipt(receipt: Receipt) -> bytes:
    return b'{"rows":%d,"commit":%d}' % receipt


def _schema_of(reader: Any) -> Any:
    try:
        return reader.schema
    except (pa.ArrowException, OSError) as error:
        raise InvalidArgument("the stream has no Arrow schema") from error


def _native(reader: Any) -> Any:
    _schema_of(reader)
    return reader.to_reader()


def _flight_info(schema: Any, descriptor: Any, ticket: bytes, rows: int) -> Any:
    return flight.FlightInfo(
        schema,
        descriptor,
        [flight.FlightEndpoint(flight.Ticket(ticket), [])],
        total_records=rows,
        total_bytes=-1,
    )


def _ipc_pieces(table: Any) -> Iterator[bytes]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    buffer = sink.getvalue()
    for start in range(0, buffer.size, _IPC_PIECE_BYTES):
        yield buffer.slice(start, min(_IPC_PIECE_BYTES, buffer.size - start)).to_pybytes()
