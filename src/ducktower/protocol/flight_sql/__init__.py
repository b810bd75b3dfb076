"""Flight SQL's messages and what carries them; no threads, sockets or SQL.

`flight_sql.proto` and `flight.proto` are the format. `descriptors.binpb` is compiled from them and loaded into a
pool of its own, so that other copies of the same messages in one process do no harm.
"""

from . import flight_messages, messages
from .envelope import is_packed, pack, parse, type_name, unpack

__all__ = ["flight_messages", "is_packed", "messages", "pack", "parse", "type_name", "unpack"]
