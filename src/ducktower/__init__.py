"""Ducktower: a control tower for DuckDB.

One server process owns one DuckDB database; any number of processes write to it and read from it at the same
time over Arrow Flight. `serve` starts a server in this process, `connect` returns a client of one.
"""

from typing import TYPE_CHECKING

from .client import Appender, Backup, Executed, FlightClient, PendingWrite, Receipt, connect
from .config import EngineConfig, ServerConfig
from .errors import (
    Cancelled,
    Conflict,
    ConstraintViolation,
    DucktowerError,
    Forbidden,
    InternalError,
    InvalidArgument,
    InvalidSQL,
    LimitExceeded,
    Overloaded,
    SchemaMismatch,
    TableExists,
    TableNotFound,
    TimedOut,
    Unauthenticated,
    Unavailable,
)

if TYPE_CHECKING:
    from .server import FlightServer, serve

__version__ = "0.1.0"

__all__ = [
    "Appender",
    "Backup",
    "Cancelled",
    "Conflict",
    "ConstraintViolation",
    "DucktowerError",
    "EngineConfig",
    "Executed",
    "FlightClient",
    "FlightServer",
    "Forbidden",
    "InternalError",
    "InvalidArgument",
    "InvalidSQL",
    "LimitExceeded",
    "Overloaded",
    "PendingWrite",
    "Receipt",
    "SchemaMismatch",
    "ServerConfig",
    "TableExists",
    "TableNotFound",
    "TimedOut",
    "Unauthenticated",
    "Unavailable",
    "connect",
    "serve",
]


def __getattr__(name: str) -> object:
    # The server's half loads DuckDB; a program that only connects does without it.
    if name in ("FlightServer", "serve"):
        from . import server

        return getattr(server, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
