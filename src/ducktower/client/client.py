"""The client: one connection to a server, usable from several threads.

Owns the connection, and says of each call how it may be tried again. Must never send a write twice whose first outcome
is unknown, unless it has a writer and a sequence.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.flight as flight

from ..config import DEFAULT_PORT
from ..errors import (
    DucktowerError,
    InvalidArgument,
    SchemaMismatch,
    TableExists,
    Unavailable,
    unknown,
)
from ..malloc import keep_freed_memory
from ..protocol.commands import Exchange, Put, Query, to_json
from ..row_groups import MESSAGE_BYTES, messages, messages_of_stream
from .appender import Appender
from .backup import Backup, check_destination, receive
from .data import query_sql, to_arrow
from .handshake import Server
from .pending import Receipt, Stream, WriterState
from .pinning import fingerprint_of, pin
from .retrying import if_named, if_reading, if_refused, retried, translated
from .write_stream import WriteStreams
from .writer_stream import WriterStream

__all__ = ["Backup", "Executed", "FlightClient", "Receipt", "WriterState", "connect"]

_NAMED_WRITES_IN_FLIGHT_MAX = 1_024
"""As many outcomes as a server remembers of each writer, unless it was told otherwise."""
_CHANNEL_OPTIONS = [
    # How much the server may send ahead of what was read, for each stream: two messages. gRPC's own guess begins at
    # 64 KiB and is too low for a loopback.
    ("grpc.http2.lookahead_bytes", 2 * MESSAGE_BYTES),
    # A restarted server is found again within a second; gRPC's own back-off grows to two minutes. Its
    # `min_reconnect_backoff_ms` stays as it is: it is the deadline of connecting as well.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A server that is gone without a word is noticed; servers refuse pings more often than every 5 minutes.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


class Executed(NamedTuple):
    """What a statement did: rows changed (-1 when DuckDB does not count), its commit, returned rows if any."""

    rows: int
    commit: int
    table: pa.Table | None


class FlightClient:
    """A connection. Every method raises the errors of `ducktower`. What is safe is tried again for `retry_seconds` in
    all, with growing pauses, and not before the server's hint when to come back (`retry_after_seconds` of the error):
    reads, writes that were refused before they did anything, and writes with a writer and a sequence. When nobody can
    tell whether another write was stored, its error is `outcome_unknown`.
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        tls_ca: str | os.PathLike[str] | None = None,
        tls_fingerprint: str | None = None,
        tls_client_cert: str | os.PathLike[str] | None = None,
        tls_client_key: str | os.PathLike[str] | None = None,
        timeout_seconds: float | None = None,
        retry_seconds: float = 10.0,
    ) -> None:
        self.url = _location(url)
        self._retry_seconds = retry_seconds
        self._write_streams = WriteStreams()
        headers = [(b"authorization", _bearer(token))] if token else []
        self._options = flight.FlightCallOptions(timeout=timeout_seconds, headers=headers)
        # A stream of writes is open for as long as its user wants.
        self._stream_options = flight.FlightCallOptions(headers=headers)
        asked = (tls_ca, tls_fingerprint, tls_client_cert, tls_client_key)
        if any(one is not None for one in asked) and not self.url.startswith("grpc+tls://"):
            raise InvalidArgument(f'"{url}" is without TLS; write grpc+tls://HOST:PORT')
        if tls_ca is not None and tls_fingerprint is not None:
            raise InvalidArgument("give tls_ca or tls_fingerprint, not both")
        tls: dict[str, Any] = {}
        if tls_ca is not None:
            tls["tls_root_certs"] = _pem(tls_ca, "CA file")
        if (tls_client_cert is None) != (tls_client_key is None):
            raise InvalidArgument("tls_client_cert and tls_client_key belong together")
        own = (tls_client_cert, tls_client_key) if tls_client_cert is not None and tls_client_key is not None else None
        if own is not None:
            tls |= {"cert_chain": _pem(own[0], "certificate"), "private_key": _pem(own[1], "key")}
        if tls_fingerprint is not None:
            tls |= self._pinned(fingerprint_of(tls_fingerprint), own)
        self._server = Server(self.url, tls.get("tls_root_certs"), tls.get("override_hostname"), own)
        keep_freed_memory()
        try:
            self._flight = flight.connect(self.url, generic_options=_CHANNEL_OPTIONS, **tls)
        except pa.ArrowException as error:
            raise InvalidArgument(f'"{url}" is no Flight URL: {error}') from error

    def _pinned(
        self, fingerprint: str, own: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None
    ) -> dict[str, Any]:
        """Return what makes the connection trust that one certificate, which is fetched now."""
        pinned = retried(lambda: pin(self.url, fingerprint, own), if_reading, self._retry_seconds)
        return {"tls_root_certs": pinned.certificate, "override_hostname": pinned.name}

    # -- writing --------------------------------------------------------------------------------------

    def create_table(
        self, table: str, schema: pa.Schema, *, schema_name: str | None = None, if_not_exists: bool = False
    ) -> Receipt:
        """Create an empty table with the columns of `schema`; fields that are not nullable become NOT NULL.

        Raises TableExists unless `if_not_exists`.
        """
        try:
            return self.ingest(table, pa.Table.from_batches([], schema=schema), schema_name=schema_name, mode="create")
        except TableExists:
            if not if_not_exists:
                raise
            return Receipt(0, int(self.health()["commit"]))

    def ingest(
        self,
        table: str,
        data: Any,
        *,
        schema_name: str | None = None,
        mode: str = "append",
        key: Sequence[str] | None = None,
        writer: str | None = None,
        sequence: int | None = None,
    ) -> Receipt:
        """Store `data` in one durable, atomic write.

        `data` is a pyarrow Table, RecordBatch, RecordBatchReader, Dataset or Scanner, a pandas or polars frame,
        a list of dicts, a dict of columns, an iterable of batches or dicts, or anything with
        `__arrow_c_stream__`. Readers and iterables are streamed in bounded memory; when one raises, nothing is
        stored. Columns match by name. `mode` is append, create, replace, create_append or upsert (with `key`).

        With `writer` and `sequence`, 1 for a writer's first write and then one more each time, the write takes effect
        once, however often it is sent: a repeat returns the first receipt, and data that is in memory is sent again
        when the connection breaks. Raises InvalidArgument for a sequence that is not the next one or that was stored
        with other data.
        """
        safe = _safe(writer, sequence)
        put = Put(table, schema_name or "main", mode, _key(key), writer, sequence or 0)
        arrow = to_arrow(data)
        if isinstance(arrow, pa.Table):
            return retried(lambda: self._put(put, arrow), safe, self._retry_seconds)
        return self._stream(put, arrow)

    def writer(self, name: str) -> WriterState:
        """Return how far this caller's writer of that name came; zeros when it never wrote."""
        return self._writer({"writer": name})

    def execute(
        self,
        sql: str,
        parameters: Sequence[Any] | dict[str, Any] | None = None,
        *,
        writer: str | None = None,
        sequence: int | None = None,
    ) -> Executed:
        """Run SQL that writes: one statement or a script, all or nothing.

        Parameters go to the last statement, and `rows` are those that it changed or returned.

        With `writer` and `sequence` it takes effect once, as in `ingest`, and is sent again when the connection breaks.
        Raises InvalidSQL then for what changes no tables of the database, and for RETURNING.
        """
        if not isinstance(sql, str):
            raise InvalidArgument(f"SQL is text, not {type(sql).__name__}")
        safe = _safe(writer, sequence)
        body = Query(sql, _parameters(parameters), writer, sequence or 0).to_bytes()
        results = retried(lambda: self._action("execute", body, writes=True), safe, self._retry_seconds)
        done = json.loads(results[0])
        return Executed(int(done["rows"]), int(done["commit"]), _ipc_table(results[1:]))

    def appender(
        self,
        table: str,
        *,
        schema_name: str | None = None,
        columns: Sequence[str] | None = None,
        linger_seconds: float = 0.004,
        rows_per_write: int = 1_000,
        writes_in_flight: int = 64,
        writer: str | None = None,
        resume_seconds: float = 60.0,
    ) -> Appender:
        """Open a stream of small writes to a table. See Appender. Raises TableNotFound.

        Appenders of one client that write the same columns of a table share a stream: their writes travel together
        and are acknowledged together, and each is stored or refused by itself.

        With the name of a `writer` each write is stored once, in the order of appending. The appender goes on where the
        writer stopped, which `resumed` tells; after a restart of the server or a broken connection it sends again what
        was not acknowledged, until that failed for `resume_seconds`. A refused write ends it. What was opened for the
        writer before, in whatever process, is refused from then on.
        """
        schema = self.table_schema(table, schema_name)
        put = Put(table, schema_name or "main", writer=writer)
        resumed = None

        def start() -> tuple[Any, Any]:
            descriptor = flight.FlightDescriptor.for_command(Exchange("append", put).to_bytes())
            started: tuple[Any, Any] = self._flight.do_exchange(descriptor, self._stream_options)
            return started

        def begin(columns: pa.Schema) -> tuple[Any, Any]:
            with translated(self._server):
                sending, reading = start()
                sending.begin(columns)
                return sending, reading

        def join(columns: pa.Schema) -> Stream:
            if writer is not None and resumed is not None:
                return WriterStream(writer, columns, begin, resumed.sequence, resume_seconds)
            with translated(self._server):
                return self._write_streams.join(put, columns, start)

        if writer is not None:
            if writes_in_flight > _NAMED_WRITES_IN_FLIGHT_MAX or resume_seconds < 0:
                raise InvalidArgument(
                    f"with a writer, writes_in_flight is at most {_NAMED_WRITES_IN_FLIGHT_MAX}, which a server "
                    "remembers, and resume_seconds is not below 0"
                )
            resumed = self._writer({"writer": writer, "resume": True})

        return Appender(
            join,
            schema,
            list(columns) if columns is not None else None,
            label=table if schema_name is None else f"{schema_name}.{table}",
            linger_seconds=linger_seconds,
            rows_per_write=rows_per_write,
            writes_in_flight=writes_in_flight,
            resumed=resumed,
        )

    # -- reading --------------------------------------------------------------------------------------

    def query(self, query: Any, parameters: Sequence[Any] | dict[str, Any] | None = None) -> pa.Table:
        """Run a query, SQL or an Ibis expression, and return its whole result."""
        ticket = _ticket(query, parameters)

        def run() -> pa.Table:
            with translated(self._server):
                return self._flight.do_get(ticket, self._options).read_all()

        return retried(run, if_reading, self._retry_seconds)

    def reader(self, query: Any, parameters: Sequence[Any] | dict[str, Any] | None = None) -> pa.RecordBatchReader:
        """Run a query and return its result as a stream, in bounded memory, of one snapshot.

        Dropping the reader ends the query on the server; `close` alone does not, because Arrow does not pass it
        on. Who stops half way and keeps the reader uses `batches`.
        """
        return pa.RecordBatchReader.from_batches(*self.batches(query, parameters))

    def batches(
        self, query: Any, parameters: Sequence[Any] | dict[str, Any] | None = None
    ) -> tuple[pa.Schema, Generator[pa.RecordBatch, None, None]]:
        """Run a query and return its schema and a generator of its batches.

        Closing the generator ends the query on the server.
        """
        ticket = _ticket(query, parameters)

        def start() -> tuple[Any, pa.Schema]:
            with translated(self._server):
                stream = self._flight.do_get(ticket, self._options)
                return stream, stream.schema

        stream, schema = retried(start, if_reading, self._retry_seconds)
        return schema, _batches(self._server, stream)

    def table(self, table: str, schema_name: str | None = None) -> Any:
        """Return a table of the server's as an unbound Ibis table, for expressions that `query` runs.

        Needs the extra `ducktower[ibis]`.
        """
        import ibis

        schema = self.table_schema(table, schema_name)
        return ibis.table(ibis.Schema.from_pyarrow(schema), name=table, database=schema_name)

    # -- looking --------------------------------------------------------------------------------------

    def tables(self) -> pa.Table:
        """Return all tables and views: schema_name, table_name, table_type, rows (NULL for views), columns."""
        table = _ipc_table(self._read_action("tables"))
        assert table is not None  # noqa: S101 - the action always answers with one
        return table

    def table_schema(self, table: str, schema_name: str | None = None) -> pa.Schema:
        """Return a table's or view's columns. Raises TableNotFound."""
        path = [table] if schema_name is None else [schema_name, table]

        def run() -> pa.Schema:
            with translated(self._server):
                descriptor = flight.FlightDescriptor.for_path(*path)
                return self._flight.get_schema(descriptor, self._options).schema

        return retried(run, if_reading, self._retry_seconds)

    def health(self) -> dict[str, Any]:
        """Return the server's state: `status` (serving, reopening, stopping), `commit`, versions and more."""
        return self._read_object("health")

    def statistics(self) -> dict[str, Any]:
        """Return the server's counters and latencies (seconds) since its start."""
        return self._read_object("statistics")

    def sessions(self) -> list[dict[str, Any]]:
        """Return the calls that run on the server now; `id` is what `cancel` takes."""
        sessions: list[dict[str, Any]] = self._read_object("sessions")["sessions"]
        return sessions

    def cancel(self, call_id: int) -> bool:
        """End a running call; False when it had ended already."""
        return bool(json.loads(self._action("cancel", to_json({"id": call_id}))[0])["cancelled"])

    def checkpoint(self) -> dict[str, Any]:
        """Have the server write its WAL into the database file."""
        results = retried(lambda: self._action("checkpoint"), if_refused, self._retry_seconds)
        done: dict[str, Any] = json.loads(results[0])
        return done

    def backup(self, destination: str | os.PathLike[str]) -> Backup:
        """Copy the whole database, as it is at one moment, into a new file of this machine; writers go on.

        The server verifies the copy first; the file is complete under its name, or not there. Raises InvalidArgument
        for a file that exists or cannot be made, Forbidden for all but owners, Overloaded while another backup is made
        or when the server's disk has no room, Unavailable when it failed or this machine's disk is full.
        """
        path = Path(destination)
        check_destination(path)
        return receive(self._parts("backup"), path)

    def close(self) -> None:
        """Close the connection. Twice is harmless."""
        with contextlib.suppress(pa.ArrowException):
            self._flight.close()

    def __enter__(self) -> FlightClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- within ---------------------------------------------------------------------------------------

    def _put(self, put: Put, table: pa.Table) -> Receipt:
        """One DoPut: its rows are in memory, so nothing but the end of this process can cut it short."""
        with translated(self._server, writes=True):
            descriptor = flight.FlightDescriptor.for_command(to_json(put.to_json()))
            writer, reader = self._flight.do_put(descriptor, table.schema, self._options)
            try:
                for batch in messages(table):
                    writer.write_batch(batch)
                writer.done_writing()
                answer = reader.read()
            finally:
                # When the server refused the stream, close has the reason, and its error is the one to raise.
                writer.close()
        return _receipt(answer)

    def _stream(self, put: Put, batches: pa.RecordBatchReader) -> Receipt:
        """One DoExchange: unlike a DoPut it can be called off when the source raises half way."""
        with translated(self._server):
            descriptor = flight.FlightDescriptor.for_command(Exchange("ingest", put).to_bytes())
            writer, reader = self._flight.do_exchange(descriptor, self._options)
        try:
            with translated(self._server):
                writer.begin(batches.schema)
            complete = self._send(writer, batches)
            with translated(self._server, writes=True):
                writer.done_writing()
                answer = reader.read_chunk().app_metadata
            if not complete:
                raise unknown(Unavailable("the stream broke; whether the rows were stored is not known"))
            return _receipt(answer)
        except StopIteration:
            raise _ended() from None
        except BaseException:
            reader.cancel()  # whatever it was: nothing of this write may be stored
            raise
        finally:
            with contextlib.suppress(pa.ArrowException, OSError):
                writer.close()  # else Arrow says on stderr that nobody did

    def _send(self, writer: Any, batches: pa.RecordBatchReader) -> bool:
        """Send all of `batches`, or return False when the server stopped listening: it has an answer then.

        What the source of the batches raises passes as it is.
        """
        sent = False
        for batch in messages_of_stream(_of_one_schema(batches)):
            try:
                writer.write_batch(batch)
            except (pa.ArrowException, OSError):
                return False
            sent = True
        if not sent:  # the schema travels with the first batch, even of a stream that has no rows
            empty = [pa.nulls(0, field.type) for field in batches.schema]
            with translated(self._server):
                writer.write_batch(pa.RecordBatch.from_arrays(empty, schema=batches.schema))
        return True

    def _writer(self, body: dict[str, Any]) -> WriterState:
        found = retried(lambda: self._action("writer", to_json(body)), if_reading, self._retry_seconds)
        state = json.loads(found[0])
        return WriterState(int(state["sequence"]), int(state["rows"]), int(state["commit"]))

    def _action(self, name: str, body: bytes = b"", *, writes: bool = False) -> list[bytes]:
        with translated(self._server, writes=writes):
            results = self._flight.do_action(flight.Action(name, body), self._options)
            return [result.body.to_pybytes() for result in results]

    def _parts(self, name: str) -> Iterator[bytes]:
        """Give an action's answers one by one, however long they take."""
        with translated(self._server):
            for result in self._flight.do_action(flight.Action(name, b""), self._stream_options):
                yield result.body.to_pybytes()

    def _read_action(self, name: str) -> list[bytes]:
        return retried(lambda: self._action(name), if_reading, self._retry_seconds)

    def _read_object(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._read_action(name)[0])
        return found


def connect(
    url: str | None = None,
    *,
    token: str | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_fingerprint: str | None = None,
    tls_client_cert: str | os.PathLike[str] | None = None,
    tls_client_key: str | os.PathLike[str] | None = None,
    timeout_seconds: float | None = None,
    retry_seconds: float = 10.0,
) -> FlightClient:
    """Return a client of the server at `url`, such as `grpc://localhost:8815` or, with TLS, `grpc+tls://...`.

    A server with a certificate of a known authority needs nothing more; with one of your own authority `tls_ca`, a
    file in PEM; with one that signs itself `tls_fingerprint`, its SHA-256, which the server tells when it starts. A
    server that asks clients for certificates is shown `tls_client_cert`.

    What is not given comes from DUCKTOWER_URL, DUCKTOWER_TOKEN, DUCKTOWER_TLS_CA, DUCKTOWER_TLS_FINGERPRINT,
    DUCKTOWER_TLS_CLIENT_CERT and DUCKTOWER_TLS_CLIENT_KEY. Nothing is sent yet, but a certificate to be pinned is
    fetched. `timeout_seconds` bounds each call, `retry_seconds` what is tried again. Raises InvalidArgument, and with a
    fingerprint Unavailable, or Unauthenticated for another certificate.
    """
    return FlightClient(
        url or os.environ.get("DUCKTOWER_URL") or f"grpc://127.0.0.1:{DEFAULT_PORT}",
        token=token or os.environ.get("DUCKTOWER_TOKEN") or None,
        tls_ca=tls_ca or os.environ.get("DUCKTOWER_TLS_CA") or None,
        tls_fingerprint=tls_fingerprint or os.environ.get("DUCKTOWER_TLS_FINGERPRINT") or None,
        tls_client_cert=tls_client_cert or os.environ.get("DUCKTOWER_TLS_CLIENT_CERT") or None,
        tls_client_key=tls_client_key or os.environ.get("DUCKTOWER_TLS_CLIENT_KEY") or None,
        timeout_seconds=timeout_seconds,
        retry_seconds=retry_seconds,
    )


def _batches(server: Server, stream: Any) -> Generator[pa.RecordBatch, None, None]:
    """Give a stream's batches; whatever ends the generator ends the query on the server."""
    try:
        while True:
            with translated(server):
                try:
                    batch = stream.read_chunk().data
                except StopIteration:
                    return
            if batch is not None:
                yield batch
    finally:
        with contextlib.suppress(pa.ArrowException):
            stream.cancel()


def _location(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    if not separator:
        scheme, rest = "grpc", url
    if scheme not in ("grpc", "grpc+tcp", "grpc+tls", "grpc+unix") or not rest:
        raise InvalidArgument(f'"{url}" is no Flight URL; write grpc://HOST:PORT or grpc+tls://HOST:PORT')
    if scheme != "grpc+unix" and ":" not in rest.rpartition("]")[2]:
        rest = f"{rest.rstrip('/')}:{DEFAULT_PORT}"
    return f"{scheme}://{rest.rstrip('/')}"


def _bearer(token: str) -> bytes:
    if not (token.isascii() and token.isprintable()):
        raise InvalidArgument("the token has a character that no token has")  # and is not repeated here
    return f"Bearer {token}".encode()


def _pem(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        found = Path(path).read_bytes()
    except OSError as error:
        raise InvalidArgument(f'{what} "{path}" cannot be read: {error.strerror}') from error
    if (b"PRIVATE KEY" if what == "key" else b"BEGIN CERTIFICATE") not in found:
        raise InvalidArgument(f'{what} "{path}" holds no {"key" if what == "key" else "certificate"} in PEM')
    return found


def _safe(writer: str | None, sequence: int | None) -> Callable[[DucktowerError], bool]:
    """Return when a write is tried again. Raises InvalidArgument for half a name."""
    if (writer is None) != (sequence is None):
        raise InvalidArgument("writer and sequence belong together")
    return if_refused if writer is None else if_named


def _key(key: Sequence[str] | None) -> tuple[str, ...]:
    return (key,) if isinstance(key, str) else tuple(key or ())


def _ticket(query: Any, parameters: Sequence[Any] | dict[str, Any] | None) -> Any:
    return flight.Ticket(Query(query_sql(query), _parameters(parameters)).to_bytes())


def _parameters(parameters: Sequence[Any] | dict[str, Any] | None) -> list[Any] | dict[str, Any] | None:
    return parameters if parameters is None or isinstance(parameters, dict) else list(parameters)


def _of_one_schema(batches: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    """Yield the batches. Raises SchemaMismatch when one has other columns than the reader said."""
    for batch in batches:
        if batch.schema != batches.schema:
            raise SchemaMismatch(
                f"a batch has the columns {batch.schema.names}, the first one had {batches.schema.names}"
            )
        yield batch


def _ended() -> Unavailable:
    return unknown(Unavailable("the server ended the stream; whether the rows were stored is not known"))


def _receipt(answer: Any) -> Receipt:
    if answer is None:
        raise _ended()
    body = json.loads(answer.to_pybytes())
    return Receipt(int(body["rows"]), int(body["commit"]))


def _ipc_table(pieces: list[bytes]) -> pa.Table | None:
    if not pieces:
        return None
    with pa.ipc.open_stream(pa.py_buffer(b"".join(pieces))) as reader:
        return reader.read_all()
