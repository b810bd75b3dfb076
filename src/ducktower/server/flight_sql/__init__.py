"""Flight SQL: each command of the protocol is one row of a table and one handler."""

from .dispatch import FlightSql

__all__ = ["FlightSql"]
