"""The client library. Needs no DuckDB."""

from .appender import Appender
from .backup import Backup
from .client import Executed, FlightClient, connect
from .pending import PendingWrite, Receipt, WriterState

__all__ = ["Appender", "Backup", "Executed", "FlightClient", "PendingWrite", "Receipt", "WriterState", "connect"]
