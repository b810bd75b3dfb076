"""Quack, DuckDB's own remote protocol (https://duckdb.org/docs/current/quack/overview): served and used by DuckDB.

Statements are sent as they are with `query()` of the attached catalog, which takes one request.
"""

from __future__ import annotations

import itertools
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import duckdb
from duckdb_extensions import import_extension

from benchmarks.clocked import Work, once
from benchmarks.lineitem import LITERALS, columns
from benchmarks.peers.agent import Target, main
from benchmarks.rows import lineitem_table

TOKEN = "benchmark"


def _opened(path: str = ":memory:") -> Any:
    """Open a database with the extension loaded, from the wheels and not from the network."""
    connection = duckdb.connect(path)
    connection.execute(f"SET extension_directory = '{Path(sys.prefix) / 'extensions'}'")
    connection.execute("SET enable_progress_bar = false")
    for name in ("httpfs", "quack"):
        import_extension(name, con=connection)
        connection.execute(f"LOAD {name}")
    return connection


@contextmanager
def serve(directory: str) -> Iterator[Target]:
    """Serve a new file."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = Path(tempfile.mkdtemp(dir=directory)) / "quack.duckdb"
    connection = _opened(str(path))
    connection.execute(f"CALL quack_serve('quack:localhost:{port}', token = '{TOKEN}')")
    yield {"uri": f"quack:localhost:{port}"}
    connection.close()


def _connected(target: Target, stack: ExitStack) -> Any:
    connection = _opened()
    stack.callback(connection.close)
    connection.execute(f"ATTACH '{target['uri']}' AS remote (TOKEN '{TOKEN}')")
    return connection


def _ask(connection: Any, sql: str) -> list[Any]:
    quoted = sql.replace("'", "''")
    rows: list[Any] = connection.execute(f"FROM remote.query('{quoted}')").fetchall()
    return rows


def script(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Run one statement once; with `counts`, give the number in its one row."""
    connection = _connected(target, stack)

    def run() -> int:
        rows = _ask(connection, words["sql"])
        return int(rows[0][0]) if words["counts"] else 0

    return once(run)


def insert(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Insert one row a statement; several are sent from a table in memory."""
    connection = _connected(target, stack)
    rows, table = words["rows"], words["table"]
    values = ", ".join(LITERALS) if words["shape"] == "lineitem" else f"{number}, 'abc'"

    def one() -> int:
        _ask(connection, f"INSERT INTO {table} VALUES ({values})")
        return 1

    def several() -> int:
        connection.execute(f"INSERT INTO remote.{table} FROM sent")
        return int(rows)

    if rows == 1:
        return Work(one)
    connection.execute(f"CREATE TABLE sent AS SELECT {number}::BIGINT AS id, 'abc' AS value FROM range({rows})")
    return Work(several)


def query(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Ask one question after the other; `{number}` in it grows."""
    connection = _connected(target, stack)
    numbers = itertools.count(number)

    def call() -> int:
        if len(_ask(connection, words["query"].format(number=next(numbers)))) != 1:
            raise RuntimeError("not one row")
        return 1

    return Work(call)


def write(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Store lineitem-shaped rows that are in memory in a new table, once."""
    rows, table = words["rows"], words["table"]
    with ExitStack() as before:
        _ask(_connected(target, before), f"CREATE OR REPLACE TABLE {table} ({columns()})")
    connection = _connected(target, stack)  # which sees the tables that were there when it was attached
    connection.register("sent", lineitem_table(rows))

    def all_of_them() -> int:
        connection.execute(f"INSERT INTO remote.{table} FROM sent")
        return int(rows)

    return once(all_of_them)


def read(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Read a whole table into an Arrow table."""
    connection = _connected(target, stack)
    return Work(lambda: int(connection.sql(f"FROM remote.{words['table']}").to_arrow_table().num_rows))


if __name__ == "__main__":
    sys.exit(main(serve, {"script": script, "put": insert, "query": query, "write": write, "read": read}))
