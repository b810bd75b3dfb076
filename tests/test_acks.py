"""Acknowledgements of open streams: owed until they are written, whatever happens meanwhile. Over real streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.flight as flight
import pytest

from ducktower.server.acks import AckPump, Outbox
from support.waiting import until


class Exchanging(flight.FlightServerBase):
    """A Flight server whose streams do what a test says."""

    def __init__(self, serve: Callable[[Any], None]) -> None:
        super().__init__("grpc://127.0.0.1:0")
        self._serve = serve

    def do_exchange(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Serve one stream, once its client has sent what it sends."""
        for _ in reader.to_reader():
            pass
        self._serve(writer)


@contextmanager
def answers(serve: Callable[[Any], None]) -> Iterator[Callable[[], bytes]]:
    """Return a function that opens a stream and reads its first answer."""
    with Exchanging(serve) as server, flight.connect(f"grpc://127.0.0.1:{server.port}") as client:

        def first() -> bytes:
            writer, reader = client.do_exchange(flight.FlightDescriptor.for_command(b"x"))
            with writer:
                writer.begin(pa.schema([]))
                writer.done_writing()
                found: bytes = reader.read_chunk().app_metadata.to_pybytes()
            return found

        yield first


def test_what_is_owed_after_the_end_is_written() -> None:
    """A stream that ends after the workers did gets its answers all the same."""
    pump = AckPump(workers_max=2)
    pump.close()
    until(lambda: pump._workers == 0, "the end of the workers")

    def serve(writer: Any) -> None:
        outbox = Outbox(pump, writer)
        assert outbox.owe(1, 10)
        outbox.post(b"late")
        outbox.close()

    with answers(serve) as first:
        assert [first(), first()] == [b"late", b"late"]
    until(lambda: pump._workers == 0, "the end of the workers")


def test_whatever_fails_in_one_stream_is_its_own(caplog: pytest.LogCaptureFixture) -> None:
    """Also what no client can cause: the stream ends, the worker serves the others."""
    pump = AckPump(workers_max=1)
    given_up: list[bool] = []

    def serve(writer: Any) -> None:
        broken = Outbox(pump, writer)
        broken.owe(1, 10)
        broken.post("no bytes")  # type: ignore[arg-type]
        given_up.append(broken.settle())
        working = Outbox(pump, writer)
        working.owe(1, 10)
        working.post(b"answer")
        working.close()

    with answers(serve) as first:
        assert first() == b"answer"
    assert given_up == [False]
    assert "cannot write an acknowledgement" in caplog.text
    pump.close()
