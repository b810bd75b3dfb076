"""Message classes of flight.proto, by name. Must hold nothing else; flight_messages.pyi has their types."""

from .pool import file_members

globals().update(file_members("flight.proto"))
