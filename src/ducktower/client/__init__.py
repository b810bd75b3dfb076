"""The client library. Needs no DuckDB."""

from .appender import Appender
from .client import Executed, FlightClient, connect
from .pending import PendingWrite, Receipt

__all__ = ["Appender", "Executed", "FlightClient", "PendingWrite", "Receipt", "connect"]
