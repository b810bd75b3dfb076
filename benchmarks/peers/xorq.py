"""xorq's Flight server (https://docs.xorq.dev) over a DuckDB file, used by its own client.

Rows go in by `upload_table`, which makes a table and then appends to it; questions are expressions.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import xorq.api as xo
from xorq.flight import FlightServer, FlightUrl
from xorq.flight.client import FlightClient

from benchmarks.clocked import Work, once
from benchmarks.peers.agent import Target, main
from benchmarks.rows import lineitem_table


@contextmanager
def serve(directory: str) -> Iterator[Target]:
    """Serve a new file."""
    path = Path(tempfile.mkdtemp(dir=directory)) / "xorq.duckdb"
    url = FlightUrl(host="127.0.0.1")
    with FlightServer(flight_url=url, make_connection=partial(xo.duckdb.connect, str(path))) as server:
        yield {"host": "127.0.0.1", "port": server.flight_url.port}


def _connected(target: Target) -> FlightClient:
    return FlightClient(host=target["host"], port=target["port"])


def insert(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Upload one write's rows a call."""
    client = _connected(target)
    rows = words["rows"]
    sent = lineitem_table(1) if words["shape"] == "lineitem" else _pairs(number, rows)

    def call() -> int:
        client.upload_table(words["table"], sent)
        return int(rows)

    return Work(call)


def _pairs(number: int, rows: int) -> pa.Table:
    return pa.table({"id": pa.array([number] * rows, pa.int64()), "value": ["abc"] * rows})


def write(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Store lineitem-shaped rows that are in memory in a new table, once."""
    client = _connected(target)
    rows = words["rows"]
    sent = lineitem_table(rows)

    def all_of_them() -> int:
        client.upload_table(words["table"], sent)
        return int(rows)

    return once(all_of_them)


def read(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Read a whole table into an Arrow table."""
    client = _connected(target)
    question = xo.table(xo.schema(lineitem_table(1).schema), name=words["table"])
    return Work(lambda: int(client.execute(question).num_rows))


def count(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Count the rows of a table once, and give the count."""
    client = _connected(target)
    question = xo.table(xo.schema({"id": "int64", "value": "string"}), name=words["table"]).count()
    return once(lambda: int(client.execute(question).column(0)[0].as_py()))


if __name__ == "__main__":
    sys.exit(main(serve, {"put": insert, "count": count, "write": write, "read": read}))
