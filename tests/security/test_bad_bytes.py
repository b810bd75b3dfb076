"""Bytes that no client of ours sends: each is refused with one clear error, and the server goes on as before.

`make fuzz` tries a million of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import ducktower
from support.bad_bytes import SEEDS, Targets
from support.handles import HANDLE_SEEDS, Handles, ServedHandles

CODE = r"\[[A-Z_]+\] "
EXAMPLES = 300
OVER_THE_WIRE = 60

WORDS = ["query", "parameters", "arrow_parameters", "table", "schema", "mode", "key", "append", "ingest", "sequence"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(WORDS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(), inner, max_size=4),
    max_leaves=12,
).map(lambda value: json.dumps(value).encode())


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Something valid, of which a piece was replaced, doubled or cut away."""
    seed = draw(st.sampled_from(SEEDS))
    start = draw(st.integers(0, len(seed)))
    end = draw(st.integers(start, len(seed)))
    return seed[:start] + draw(st.binary(max_size=12) | st.just(seed[start:end] * 3)) + seed[end:]


BYTES = st.binary(max_size=200) | JSON | mutated()


@pytest.fixture(scope="module")
def targets() -> Iterator[Targets]:
    """Everything that reads bytes, without a network."""
    one = Targets()
    yield one
    one.close()


@pytest.fixture(scope="module")
def handles() -> Iterator[Handles]:
    """What takes handles, and somebody who holds some."""
    one = Handles()
    yield one
    one.close()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server that is open, so that bytes get further than to its door."""
    with ducktower.serve() as server:
        yield server.url


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(raw=BYTES)
@example(raw=b"")
@example(raw=b'{"query": ' * 5_000)
@example(raw=b"[" * 100_000)
@example(raw=b'{"query": "SELECT 1", "parameters": [' + b"9" * 10_000 + b"]}")
@example(raw=b"\xff" * 64)
@example(raw="\ud800".encode(errors="surrogatepass"))
def test_whatever_reads_bytes_raises_errors_of_ours(targets: Targets, raw: bytes) -> None:
    """Nothing else gets out, and no header lets anybody in."""
    targets.try_all(raw)


def test_handles_that_are_made_up_give_nobody_anything() -> None:
    """Somebody else's, one's own of another kind, near misses: without a network, and then by sockets."""
    for kind, every in ((Handles, 1), (ServedHandles, 5)):
        handles = kind()
        try:
            for seed in HANDLE_SEEDS[::every]:
                handles.try_all(seed)
            handles.check()
        finally:
            handles.close()


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(raw=st.binary(min_size=2, max_size=80))
def test_no_bytes_are_somebody_elses_handle(handles: Handles, raw: bytes) -> None:
    """Put before, behind and into handles that are there."""
    handles.try_all(raw)


@settings(max_examples=OVER_THE_WIRE, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=BYTES)
@example(raw=b"[" * 100_000)
def test_a_server_answers_each_with_one_coded_error(address: str, raw: bytes) -> None:
    """As ticket, descriptor, action and metadata; afterwards it is as well as before."""
    with flight.connect(address) as client:
        command = flight.FlightDescriptor.for_command(raw)
        calls: list[Any] = [
            lambda: client.do_get(flight.Ticket(raw)).read_all(),
            lambda: client.get_flight_info(command),
            lambda: client.get_schema(command),
            lambda: put(client, command),
            lambda: exchange(client, command, b"1"),
            lambda: exchange(client, flight.FlightDescriptor.for_command(b'{"append": {"table": "t"}}'), raw),
            *(
                lambda name=name: list(client.do_action(flight.Action(name, raw)))
                for name in ("execute", "cancel", "tables", "CreatePreparedStatement", "EndTransaction", "CancelQuery")
            ),
        ]
        for told in map(refusal, calls):
            assert told == "" or re.search(CODE, told), told
            assert "Traceback" not in told
            assert "[INTERNAL]" not in told
        (health,) = client.do_action(flight.Action("health", b""))
        assert json.loads(health.body.to_pybytes())["status"] == "serving"


def refusal(call: Callable[[], object]) -> str:
    """What a call is refused with; nothing when it is not."""
    try:
        call()
    except (flight.FlightError, pa.ArrowException, OSError) as error:
        return str(error)
    return ""


def put(client: Any, descriptor: Any) -> None:
    """A DoPut of one row."""
    table = pa.table({"n": [1]})
    writer, reader = client.do_put(descriptor, table.schema)
    with writer:
        writer.write_table(table)
        writer.done_writing()
        reader.read()


def exchange(client: Any, descriptor: Any, metadata: bytes) -> None:
    """A DoExchange of one batch with metadata."""
    batch = pa.record_batch({"n": [1]})
    writer, reader = client.do_exchange(descriptor)
    with writer:
        writer.begin(batch.schema)
        writer.write_with_metadata(batch, metadata)
        writer.done_writing()
        while True:
            try:
                reader.read_chunk()
            except StopIteration:
                return
