"""Message classes of flight_sql.proto, by name. Must hold nothing else; messages.pyi has their types."""

from .pool import file_members

globals().update(file_members("flight_sql.proto"))
