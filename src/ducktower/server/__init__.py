"""The server: listens, translates, decides nothing about data."""

from .serving import FlightServer, serve

__all__ = ["FlightServer", "serve"]
