"""How commands travel: packed in google.protobuf.Any, whose type's URL says what they are.

Owns packing and unpacking. Must never know what a command means: reading bytes gives a message or InvalidArgument.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import any_pb2
from google.protobuf.message import DecodeError, Message

from ...errors import InvalidArgument

__all__ = ["is_packed", "pack", "parse", "type_name", "unpack"]

_PREFIX = "type.googleapis.com/"
_PACKAGE = b"arrow.flight.protocol"
_HEAD_BYTES = 128

M = TypeVar("M", bound=Message)


def is_packed(raw: bytes) -> bool:
    """Whether these are the bytes of an Any, rather than SQL or JSON.

    An Any begins with its type's URL: a tag, which is a line feed, one byte of length, and a text that no SQL
    begins with.
    """
    return raw[:1] == b"\n" and (raw[2:].startswith(_PREFIX.encode()) or _PACKAGE in raw[:_HEAD_BYTES])


def pack(message: Message) -> bytes:
    """Return the message packed in an Any."""
    packed = any_pb2.Any(type_url=_PREFIX + message.DESCRIPTOR.full_name, value=message.SerializeToString())
    return packed.SerializeToString()


def unpack(raw: bytes, what: str) -> any_pb2.Any:
    """Read an Any. Raises InvalidArgument, naming `what` it should have been."""
    try:
        packed = any_pb2.Any.FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(f"the {what} is no message of Flight SQL") from error
    if not type_name(packed):
        raise InvalidArgument(f"the {what} is no message of Flight SQL: it has no type")
    return packed


def type_name(packed: any_pb2.Any) -> str:
    """Return the short name of the packed message's type; the whole name when it is not of Flight SQL."""
    full = packed.type_url.rpartition("/")[2]
    return full.removeprefix("arrow.flight.protocol.sql.")


def parse(kind: type[M], raw: bytes) -> M:
    """Read one message. Raises InvalidArgument, naming its type."""
    try:
        return kind.FromString(raw)
    except DecodeError as error:
        raise InvalidArgument(f"the bytes are no {kind.DESCRIPTOR.name}") from error
