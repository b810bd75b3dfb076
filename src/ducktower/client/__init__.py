"""The client library. Needs no DuckDB."""

from .appender import Appender, PendingWrite
from .client import Executed, FlightClient, Receipt, connect

__all__ = ["Appender", "Executed", "FlightClient", "PendingWrite", "Receipt", "connect"]
