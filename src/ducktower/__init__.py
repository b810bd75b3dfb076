"""Ducktower: a control tower for DuckDB.

One server process owns one DuckDB database; any number of processes write to it and read from it at the same
time over Arrow Flight. `serve` starts a server in this process, `connect` returns a client of one.

Each half is loaded when one of its names is asked for: the client's Arrow, the server's DuckDB as well.
"""

from importlib import import_module
from typing import TYPE_CHECKING

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
    from .client import Appender, Backup, Executed, FlightClient, PendingWrite, Receipt, WriterState, connect
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
    "WriterState",
    "connect",
    "serve",
]


_HALVES = {
    "client": ("Appender", "Backup", "Executed", "FlightClient", "PendingWrite", "Receipt", "WriterState", "connect"),
    "server": ("FlightServer", "serve"),
}


def __getattr__(name: str) -> object:
    for half, names in _HALVES.items():
        if name == half or name in names:
            module = import_module(f".{half}", __name__)
            return module if name == half else getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
