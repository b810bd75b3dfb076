"""Tickets, descriptors and messages of plain Flight: written by the client, read by the server.

    ticket       SQL in UTF-8, or {"query": SQL, "parameters": [...] | {...}}
                 Values that JSON lacks travel as {"arrow_parameters": base64 of an Arrow IPC stream of one row}.
    put          descriptor path [table] or [schema, table]: append; or a command:
                 {"table": T, "schema": S, "mode": M, "key": [...], "writer": W, "sequence": n}
    execute      as a ticket, or with "writer": W, "sequence": n
    exchange     {"append": {"table": T, "schema": S, "writer": W}}: each batch is a write of its own, answered by a
                 message; with a writer its metadata has its sequence among those of the writer
                 {"ingest": {... as put ...}}: the whole stream is one write, answered by one message
    metadata     of a batch in an append stream: {"sequence": n} or n
    answers      {"rows": n, "commit": c}; with "sequence" in an append stream; or "error" in their place

    headers      of the writing calls of Flight SQL: x-ducktower-writer: W, x-ducktower-sequence: n

Owns these forms and nothing else: reading one gives plain values or InvalidArgument, never anything run.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from ..errors import CODES, DucktowerError, InternalError, InvalidArgument, unknown

__all__ = [
    "NAMING_HEADERS",
    "WRITES_PER_BATCH_MAX",
    "Exchange",
    "Put",
    "Query",
    "ack",
    "error_body",
    "error_from_body",
    "parse_ack",
    "parse_exchange",
    "parse_json",
    "parse_naming",
    "parse_path",
    "parse_put",
    "parse_query",
    "parse_writer",
    "parse_writes",
    "rejection",
    "to_json",
    "writes_metadata",
]

Parameters = list[Any] | dict[str, Any] | None

NAMING_HEADERS = ("x-ducktower-writer", "x-ducktower-sequence")
"""Headers that name a write of Flight SQL, whose commands have no place for it."""
_NAMING_FIELDS = {"writer", "sequence"}
_PUT_FIELDS = {"table", "schema", "mode", "key"} | _NAMING_FIELDS
_QUERY_FIELDS = {"query", "sql", "parameters", "arrow_parameters"}
WRITES_PER_BATCH_MAX = 256
"""Writes that a batch of an open stream may carry whatever the server's limits are: clients send no more."""
_SEQUENCE_DIGITS_MAX = 19
_METADATA_BYTES_MAX = 64 * 1024
_ACK = re.compile(rb'\{"sequence":(\d+)(?:,"last":(\d+))?,"rows":\d+,"commit":(\d+)\}')


@dataclass(frozen=True, slots=True)
class Query:
    """A ticket."""

    sql: str
    parameters: Parameters = None
    writer: str | None = None
    sequence: int = 0
    """With a writer, as in `Put`: of SQL that writes."""

    def to_bytes(self) -> bytes:
        """Return the shortest form: bare SQL when there is nothing else."""
        if self.parameters is None and self.writer is None and not self.sql.lstrip().startswith("{"):
            return self.sql.encode()
        return to_json({"query": self.sql, **_parameters_to_json(self.parameters), **_naming(self)})


@dataclass(frozen=True, slots=True)
class Put:
    """Where rows go and how."""

    table: str
    schema: str = "main"
    mode: str = "append"
    key: tuple[str, ...] = ()
    writer: str | None = None
    sequence: int = 0
    """With a writer: the number of this write among those of the writer, from 1. Of a stream of writes 0: each batch
    has its own."""

    def to_json(self) -> dict[str, Any]:
        """Return the command's object."""
        body: dict[str, Any] = {"table": self.table, "schema": self.schema, "mode": self.mode}
        if self.key:
            body["key"] = list(self.key)
        return body | _naming(self)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a DoExchange carries: many small writes (`append`) or one write (`ingest`)."""

    kind: str
    put: Put = field(default_factory=lambda: Put(""))

    def to_bytes(self) -> bytes:
        """Return the command."""
        return to_json({self.kind: self.put.to_json()})


def _naming(named: Query | Put) -> dict[str, Any]:
    """Return the fields that name a write."""
    body: dict[str, Any] = {} if named.writer is None else {"writer": named.writer}
    return body | {"sequence": named.sequence} if named.sequence else body


def to_json(body: Any) -> bytes:
    """Return compact JSON in UTF-8."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()


def parse_json(raw: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object in `raw`. Raises InvalidArgument, naming `what`."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"the {what} is not JSON in UTF-8") from error
    if not isinstance(body, dict):
        raise InvalidArgument(f"the {what} must be a JSON object")
    return body


def parse_query(raw: bytes, what: str = "ticket", *, writes: bool = False) -> Query:
    """Read a ticket or a query command, or with `writes` SQL that may have a writer. Raises InvalidArgument."""
    if raw.lstrip()[:1] != b"{":
        try:
            return Query(raw.decode())
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"the {what} is neither SQL in UTF-8 nor JSON") from error
    body = parse_json(raw, what)
    _known(body, _QUERY_FIELDS | (_NAMING_FIELDS if writes else set()), what)
    sql = body.get("query", body.get("sql"))
    if not isinstance(sql, str):
        raise InvalidArgument(f'the {what} needs "query": a string')
    _text(sql, f'"query" in the {what}')
    return Query(sql, _parameters_from_json(body, what), *_named(body, what))


def parse_path(path: Sequence[bytes]) -> tuple[str, str]:
    """Return (schema, table) of a descriptor's path. Raises InvalidArgument."""
    try:
        names = [part.decode() for part in path]
    except UnicodeDecodeError as error:
        raise InvalidArgument("the descriptor's path is not UTF-8") from error
    match names:
        case [table]:
            return "main", table
        case [schema, table]:
            return schema, table
        case _:
            raise InvalidArgument(f"the descriptor's path must be [table] or [schema, table], not {names}")


def parse_put(raw: bytes) -> Put:
    """Read a DoPut command. Raises InvalidArgument."""
    return _put(parse_json(raw, "command"), "command")


def parse_exchange(raw: bytes) -> Exchange:
    """Read a DoExchange command. Raises InvalidArgument."""
    body = parse_json(raw, "command")
    if len(body) != 1 or next(iter(body)) not in ("append", "ingest"):
        raise InvalidArgument('the command must be {"append": {...}} or {"ingest": {...}}')
    ((kind, inner),) = body.items()
    if not isinstance(inner, dict):
        raise InvalidArgument(f'"{kind}" must be a JSON object')
    put = _put(inner, f'"{kind}"', of_stream=kind == "append")
    if kind == "append" and put.mode != "append":
        raise InvalidArgument('"append" has the one mode "append"')
    return Exchange(kind, put)


def parse_writes(raw: bytes) -> tuple[int, tuple[int, ...]]:
    """Return the sequence in a batch's metadata, and the rows of each write when the batch is several.

    Their sequences follow on from the first. Raises InvalidArgument.
    """
    if raw.isdigit() and len(raw) < _SEQUENCE_DIGITS_MAX:  # as our own client writes it: the hot path
        return int(raw), ()
    if len(raw) > _METADATA_BYTES_MAX:
        raise InvalidArgument(f"a batch's metadata has {len(raw)} bytes, the limit is {_METADATA_BYTES_MAX}")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("a batch's metadata is not JSON") from error
    writes: Any = ()
    sequence = body
    if isinstance(body, dict):
        sequence, writes = body.get("sequence"), body.get("writes", ())
    if not isinstance(sequence, int) or isinstance(sequence, bool) or not 0 <= sequence < 2**63:
        raise InvalidArgument('a batch\'s metadata must be {"sequence": n} with n from 0 to 2^63 - 1')
    if not isinstance(writes, (list, tuple)) or not all(type(rows) is int and rows >= 0 for rows in writes):
        raise InvalidArgument('"writes" in a batch\'s metadata must be a list of numbers of rows')
    return sequence, tuple(writes)


def writes_metadata(sequence: int, writes: Sequence[int]) -> bytes:
    """Return a batch's metadata: its sequence, and the rows of each write when it carries more than one."""
    if len(writes) == 1:
        return b"%d" % sequence
    return b'{"sequence":%d,"writes":[%s]}' % (sequence, ",".join(map(str, writes)).encode())


def ack(sequence: int, rows: int, commit: int, last: int | None = None) -> bytes:
    """Return the message that acknowledges a write of a stream, or those from `sequence` to `last` together.

    `rows` is the sum. Written by hand: it is on the hot path.
    """
    if last is None or last == sequence:
        return b'{"sequence":%d,"rows":%d,"commit":%d}' % (sequence, rows, commit)
    return b'{"sequence":%d,"last":%d,"rows":%d,"commit":%d}' % (sequence, last, rows, commit)


def parse_ack(raw: bytes) -> tuple[int, int, int] | None:
    """Return (sequence, last, commit) of a message that `ack` wrote, or None for any other message."""
    match = _ACK.fullmatch(raw)
    if match is None:
        return None
    sequence = int(match[1])
    return sequence, int(match[2] or sequence), int(match[3])


def rejection(sequence: int | None, error: DucktowerError) -> bytes:
    """Return the message that refuses one write of a stream, or without a sequence, ends the stream."""
    body: dict[str, Any] = {} if sequence is None else {"sequence": sequence}
    return to_json({**body, "error": error_body(error)})


def error_body(error: DucktowerError) -> dict[str, Any]:
    """Return an error as JSON, with `retry_after_seconds` when it has a hint, and `outcome_unknown` when it is."""
    body: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if error.retryable and error.retry_after_seconds is not None:
        body["retry_after_seconds"] = round(error.retry_after_seconds, 3)
    if error.outcome_unknown:
        body["outcome_unknown"] = True
    return body


def error_from_body(body: Any) -> DucktowerError:
    """Return the error that `error_body` wrote; InternalError when its code is unknown here."""
    if not isinstance(body, Mapping):
        return InternalError(str(body))
    hint = body.get("retry_after_seconds")
    error = CODES.get(str(body.get("code")), InternalError)(
        str(body.get("message")), retry_after_seconds=float(hint) if isinstance(hint, (int, float)) else None
    )
    return unknown(error) if body.get("outcome_unknown") is True else error


def _put(body: dict[str, Any], what: str, *, of_stream: bool = False) -> Put:
    _known(body, _PUT_FIELDS, what)
    table, schema, mode, key = (
        default if body.get(name) is None else body[name]
        for name, default in (("table", None), ("schema", "main"), ("mode", "append"), ("key", []))
    )
    if not isinstance(table, str) or not table:
        raise InvalidArgument(f'the {what} needs "table": a string')
    if not isinstance(schema, str) or not isinstance(mode, str):
        raise InvalidArgument(f'"schema" and "mode" in the {what} must be strings')
    if not isinstance(key, list) or not all(isinstance(column, str) for column in key):
        raise InvalidArgument(f'"key" in the {what} must be a list of strings')
    for name in (table, schema, *key):
        _text(name, f"a name in the {what}")
    if not of_stream:
        return Put(table, schema, mode, tuple(key), *_named(body, what))
    if body.get("sequence") is not None:
        raise InvalidArgument(f'"sequence" goes into the metadata of each batch, not into the {what}')
    writer = body.get("writer")
    return Put(table, schema, mode, tuple(key), None if writer is None else parse_writer(writer, what))


def _named(body: dict[str, Any], what: str) -> tuple[str | None, int]:
    """Return the writer and the sequence, (None, 0) when there is neither."""
    writer, sequence = body.get("writer"), body.get("sequence")
    if (writer is None) != (sequence is None):
        raise InvalidArgument(f'"writer" and "sequence" in the {what} belong together')
    if writer is None:
        return None, 0
    if type(sequence) is not int or not 1 <= sequence < 2**63:
        raise InvalidArgument(f'"sequence" in the {what} must be a number from 1 to 2^63 - 1')
    return parse_writer(writer, what), sequence


def parse_naming(headers: Mapping[str, Sequence[str | bytes]]) -> tuple[str, int] | None:
    """Return the writer and the sequence of a call's headers, None when it has neither. Raises InvalidArgument."""
    found = []
    for name in NAMING_HEADERS:
        values = headers.get(name, ())
        if len(values) > 1:
            raise InvalidArgument(f"{name} came {len(values)} times; take back its last value before giving the next")
        found += [value if isinstance(value, str) else bytes(value).decode(errors="replace") for value in values]
    if not found:
        return None
    if len(found) < len(NAMING_HEADERS):
        raise InvalidArgument(f"{' and '.join(NAMING_HEADERS)} belong together")
    writer, sequence = found
    if not writer:
        raise InvalidArgument(f"{NAMING_HEADERS[0]} must not be empty")
    fits = sequence.isascii() and sequence.isdigit() and len(sequence) <= _SEQUENCE_DIGITS_MAX
    number = int(sequence) if fits else 0
    if not 1 <= number < 2**63:
        raise InvalidArgument(f"{NAMING_HEADERS[1]} must be a number from 1 to 2^63 - 1")
    return writer, number


def parse_writer(name: Any, what: str) -> str:
    """Return a writer's name as it came in JSON. Raises InvalidArgument, naming `what`."""
    if not isinstance(name, str) or not name:
        raise InvalidArgument(f'"writer" in the {what} must be a string')
    _text(name, f"a name in the {what}")
    return name


def _text(text: str, what: str) -> None:
    """Refuse half a surrogate pair, which JSON can spell and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"{what} is no Unicode text") from error


def _known(body: dict[str, Any], known: set[str], what: str) -> None:
    for name in body.keys() - known:
        raise InvalidArgument(f'"{name}" in the {what} is none of {", ".join(sorted(known))}')


def _parameters_to_json(parameters: Parameters) -> dict[str, Any]:
    if parameters is None:
        return {}
    if _is_plain(parameters):
        return {"parameters": parameters}
    names = list(parameters) if isinstance(parameters, dict) else [str(i) for i in range(len(parameters))]
    values = list(parameters.values()) if isinstance(parameters, dict) else parameters
    try:
        batch = pa.record_batch([pa.array([value]) for value in values], names=names)
    except (pa.ArrowException, TypeError) as error:
        raise InvalidArgument(f"a parameter has a type that Arrow cannot carry: {error}") from error
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    body: dict[str, Any] = {"arrow_parameters": base64.b64encode(sink.getvalue()).decode()}
    # Names that are positions would look the same as a list: say which it was.
    return body if isinstance(parameters, dict) else {**body, "parameters": []}


def _parameters_from_json(body: dict[str, Any], what: str) -> Parameters:
    plain = body.get("parameters")
    if plain is not None and not isinstance(plain, (list, dict)):
        raise InvalidArgument(f'"parameters" in the {what} must be a list or an object')
    encoded = body.get("arrow_parameters")
    if encoded is None:
        return plain
    try:
        with pa.ipc.open_stream(base64.b64decode(encoded, validate=True)) as reader:
            (row,) = reader.read_all().to_pylist()
    except (ValueError, TypeError, OSError, pa.ArrowException) as error:
        raise InvalidArgument(f'"arrow_parameters" in the {what} is no Arrow IPC stream of one row') from error
    return list(row.values()) if isinstance(plain, list) else row


def _is_plain(value: Any) -> bool:
    """Whether JSON carries the value as it is (an int beyond 64 bits included: Python's JSON is exact)."""
    match value:
        case None | bool() | int() | str():
            return True
        case float():
            return value == value and abs(value) != float("inf")
        case list():
            return all(_is_plain(item) for item in value)
        case dict():
            return all(isinstance(name, str) and _is_plain(item) for name, item in value.items())
        case _:
            return False
