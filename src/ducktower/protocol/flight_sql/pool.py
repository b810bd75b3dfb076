"""The pool that the messages live in. Owns it; must never add to protobuf's own pool.

Two copies of one package in the default pool end a process ("duplicate symbol"), and generated modules refuse
older runtimes: a descriptor set in a private pool does neither.
"""

from __future__ import annotations

from importlib import resources
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

__all__ = ["file_members"]

_pool = descriptor_pool.DescriptorPool()

_files = descriptor_pb2.FileDescriptorSet.FromString(
    resources.files(__package__).joinpath("descriptors.binpb").read_bytes()
)
for _file in _files.file:
    _pool.Add(_file)


def file_members(name: str) -> dict[str, Any]:
    """Return the message classes and enum wrappers at the top of one .proto file, by name."""
    file = _pool.FindFileByName(name)
    members: dict[str, Any] = {
        message: message_factory.GetMessageClass(descriptor)
        for message, descriptor in file.message_types_by_name.items()
    }
    for enum in file.enum_types_by_name.values():
        members.update({value.name: value.number for value in enum.values})
    return members
