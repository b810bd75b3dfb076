"""What reads bytes of a client's: each target takes any bytes, and raises nothing but errors of ours.

Used by the seeded tests and by `make fuzz`, which tries a million inputs, guided by what they reach.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.flight as flight

from ducktower.config import ServerConfig
from ducktower.engine import Engine
from ducktower.errors import DucktowerError, Unauthenticated, from_coded_text
from ducktower.protocol import commands
from ducktower.protocol.flight_sql import flight_messages, is_packed, messages, pack, parse, type_name, unpack
from ducktower.server.auth import Authenticator
from ducktower.server.logins import Logins
from ducktower.server.token_file import TokenFile, parts_of
from ducktower.server.visits import Visits

__all__ = ["SEEDS", "Targets"]

_KINDS = [one for module in (messages, flight_messages) for one in vars(module).values() if hasattr(one, "FromString")]

SEEDS: list[bytes] = [
    b"SELECT 1",
    b'{"query": "SELECT ?", "parameters": [1, "a", null, {"b": [true, 1.5]}]}',
    b'{"query": "SELECT 1", "arrow_parameters": "AAAA", "parameters": []}',
    b'{"table": "t", "schema": "main", "mode": "upsert", "key": ["id"]}',
    b'{"append": {"table": "t", "schema": "main"}}',
    b'{"ingest": {"table": "t", "mode": "create"}}',
    b'{"sequence": 3, "writes": [1, 2, 3]}',
    b"17",
    b'{"sequence": 1, "last": 3, "rows": 6, "commit": 9}',
    b"[INVALID_SQL] no. Detail: x",
    b"loader\x0017",
    b"loader\x00" + b"0" * 12 + b"8" + b"1" * 30,
    b"Bearer dtk_0123456789_" + b"a" * 43,
    b"Bearer ducktower.YSAxIGIgYw.c2ln",
    b"Basic b2xnYTpkdGtfMDEyMzQ1Njc4OV9h",
    b"arrow_flight_session_id=ducktower.YSAxIGIgYw.c2ln; other=1",
    pack(messages.CommandStatementQuery(query="SELECT 1", transaction_id=b"a.b")),
    pack(messages.CommandStatementIngest(table="t", schema="main", options={"a": "b"})),
    pack(messages.CommandGetTables(catalog="a", table_types=["TABLE"], include_schema=True)),
    pack(messages.TicketStatementQuery(statement_handle=b"0123456789abcdef")),
    pack(messages.ActionCreatePreparedStatementRequest(query="SELECT ?")),
]


_TOLD_MAX = 1_000_000


def _told(target: Callable[[bytes], object], raw: bytes) -> str:
    try:
        target(raw)
    except DucktowerError as error:
        return str(error)
    return ""


class Source(NamedTuple):
    """What the factory of Flight's middleware is told of a call."""

    method: Any


class Targets:
    """The targets, over one engine in memory and a token file that has one token."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        file = TokenFile(Path(self._folder.name) / "tokens")
        file.create("olga", "owner")
        self._engine = Engine()
        self._logins = Logins(file, 1.0, lambda: None)
        config = ServerConfig(client_lost_seconds=None, login_pause_seconds=0.001)
        self._visits = Visits(self._engine, Authenticator(self._logins), config)
        self.all: list[Callable[[bytes], object]] = [
            commands.parse_query,
            commands.parse_put,
            commands.parse_exchange,
            commands.parse_writes,
            commands.parse_ack,
            lambda raw: commands.parse_json(raw, "body"),
            lambda raw: commands.parse_path([raw]),
            lambda raw: commands.parse_path(raw.split(b"\0")),
            lambda raw: parts_of(raw.decode(errors="replace")),
            lambda raw: from_coded_text(raw.decode(errors="replace")),
            self._naming,
            self._messages,
            self._headers,
            self._cookie,
        ]

    def try_all(self, raw: bytes) -> None:
        """Give the bytes to each target. Raises what no client may cause."""
        for target in self.all:
            told = _told(target, raw)
            assert len(told) < _TOLD_MAX
            assert "Traceback" not in told

    def close(self) -> None:
        """End the engine."""
        self._visits.stop()
        self._logins.close()
        self._engine.close(1)
        self._folder.cleanup()

    @staticmethod
    def _naming(raw: bytes) -> None:
        """The headers that name a write: both from the bytes, as text and as they are; and the number alone."""
        writer, _, sequence = raw.partition(b"\0")
        texts = writer.decode("latin-1"), sequence.decode("latin-1")
        for named in ((writer, sequence), texts, (b"loader", raw)):
            headers = {name: [value] for name, value in zip(commands.NAMING_HEADERS, named, strict=True)}
            with contextlib.suppress(DucktowerError):
                found = commands.parse_naming(headers)
                assert found is not None
                assert 1 <= found[1] < 2**63
        commands.parse_naming({commands.NAMING_HEADERS[0]: raw.split(b"\0")})

    @staticmethod
    def _messages(raw: bytes) -> None:
        is_packed(raw)
        for kind in _KINDS:
            try:
                parse(kind, raw)
            except DucktowerError:
                continue
        type_name(unpack(raw, "ticket"))

    def _headers(self, raw: bytes) -> None:
        self._refused({"authorization": [raw.decode("latin-1")]})
        self._refused({"authorization": [raw]})

    def _cookie(self, raw: bytes) -> None:
        self._refused({"cookie": [raw.decode("latin-1"), raw]})

    def _refused(self, headers: dict[str, list[Any]]) -> None:
        """Nobody is let in by bytes that are not a token."""
        self._visits.start_call(Source(flight.FlightMethod.DO_GET), headers)
        assert isinstance(self._visits.take()._refusal, Unauthenticated)
