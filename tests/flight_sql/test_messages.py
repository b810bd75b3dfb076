"""The protocol's messages: compiled from the .proto files, in a pool of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from ducktower.errors import InvalidArgument
from ducktower.protocol.flight_sql import flight_messages, is_packed, messages, pack, parse, type_name, unpack

ROOT = Path(__file__).parent.parent.parent
HOME = ROOT / "src" / "ducktower" / "protocol" / "flight_sql"


def test_the_compiled_files_are_those_of_the_proto_files() -> None:
    """`make proto` would change nothing."""
    script = ROOT / "scripts" / "flight_sql_messages.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


def test_another_copy_of_the_package_may_be_in_the_process() -> None:
    """The default pool takes the same files although ours has them: a driver of somebody else's may bring them."""
    files = descriptor_pb2.FileDescriptorSet.FromString((HOME / "descriptors.binpb").read_bytes())
    for file in files.file:
        descriptor_pool.Default().Add(file)
    theirs = descriptor_pool.Default().FindMessageTypeByName("arrow.flight.protocol.sql.CommandStatementQuery")
    assert theirs is not messages.CommandStatementQuery.DESCRIPTOR


def test_a_message_comes_back_from_its_envelope() -> None:
    """Packing and unpacking are each other's inverse, and name the type."""
    packed = unpack(pack(messages.CommandStatementQuery(query="SELECT 1", transaction_id=b"\x00\xff")), "command")
    assert type_name(packed) == "CommandStatementQuery"
    message = parse(messages.CommandStatementQuery, packed.value)
    assert (message.query, message.transaction_id) == ("SELECT 1", b"\x00\xff")


@pytest.mark.parametrize("text", ["SELECT 1", "\nSELECT 1", "\n\n", "", '{"query": "SELECT 1"}', "\n" + "x" * 300])
def test_sql_and_json_are_no_envelopes(text: str) -> None:
    """What plain Flight takes is never mistaken for Flight SQL, a leading line feed included."""
    assert not is_packed(text.encode())


@pytest.mark.parametrize("kind", [messages.CommandGetSqlInfo, messages.ActionBeginTransactionRequest])
def test_every_envelope_is_known_as_one(kind: type) -> None:
    """Also when its message is empty."""
    assert is_packed(pack(kind()))


@pytest.mark.parametrize("raw", [b"\n\x05", b"\xff\xff", b"", b"\n\x00"])
def test_bytes_that_are_no_envelope_are_refused(raw: bytes) -> None:
    """With INVALID_ARGUMENT."""
    with pytest.raises(InvalidArgument):
        unpack(raw, "command")


def test_session_messages_are_there() -> None:
    """Those of plain Flight that Flight SQL's drivers send."""
    answer = flight_messages.SetSessionOptionsResult()
    answer.errors["schema"].value = flight_messages.SetSessionOptionsResult.INVALID_VALUE
    assert flight_messages.SetSessionOptionsResult.FromString(answer.SerializeToString()) == answer
