"""PostgreSQL from the system's packages, with its defaults (durable commits), by psycopg over TCP."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
from pyarrow import csv

from benchmarks.clocked import Work, once
from benchmarks.lineitem import columns
from benchmarks.peers.agent import Target, main
from benchmarks.rows import lineitem_table

COPY_BYTES = 1 << 20
STARTING_SECONDS = 60


def binaries() -> Path | None:
    """Return where the newest server's programs are, None when none is installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3]))
    if found:
        return found[-1].parent
    one = shutil.which("initdb")
    return Path(one).resolve().parent if one else None


@contextmanager
def serve(directory: str) -> Iterator[Target]:
    """Run a new cluster on a free port of the loopback."""
    programs = binaries()
    if programs is None:
        raise RuntimeError("PostgreSQL is not installed; `make bench-setup` installs it")
    # The server refuses to run as root; the package made a user for it.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = Path(tempfile.mkdtemp(dir=directory))
    account = pwd.getpwnam(user)
    os.chown(place, account.pw_uid, account.pw_gid)
    data = place / "data"
    as_user: dict[str, Any] = {"user": user, "cwd": place} if os.geteuid() == 0 else {"cwd": place}
    silent: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run([programs / "initdb", "-D", data, "-U", "bench", "-A", "trust"], check=True, **as_user, **silent)
    options = [
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        f"unix_socket_directories={place}",
        "-c",
        "max_connections=400",
    ]
    began = time.time()
    with subprocess.Popen(
        [programs / "postgres", "-D", data, "-p", str(port), *options], **as_user, **silent
    ) as server:
        try:
            uri = f"postgresql://bench@127.0.0.1:{port}/postgres"
            _wait(uri)
            yield {"uri": uri, "began": began}
        finally:
            server.terminate()


def _wait(uri: str) -> None:
    deadline = time.monotonic() + STARTING_SECONDS
    while True:
        try:
            psycopg.connect(uri).close()
        except psycopg.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _connected(target: Target, stack: ExitStack) -> psycopg.Connection[Any]:
    return stack.enter_context(psycopg.connect(target["uri"], autocommit=True))


def script(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Run one statement once; with `counts`, give the number in its one row."""
    connection = _connected(target, stack)

    def run() -> int:
        cursor = connection.execute(words["sql"])
        return int(cursor.fetchall()[0][0]) if words["counts"] else 0

    return once(run)


def insert(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Insert one row a statement, prepared; several are sent with COPY."""
    cursor = _connected(target, stack).cursor()
    rows, table = words["rows"], words["table"]
    values: tuple[Any, ...] = (number, "abc")
    if words["shape"] == "lineitem":
        values = tuple(lineitem_table(1).to_pylist()[0].values())
    sql = f"INSERT INTO {table} VALUES ({', '.join(['%s'] * len(values))})"
    lines = f"{number}\tabc\n" * rows

    def one() -> int:
        cursor.execute(sql, values, prepare=True)
        return int(cursor.rowcount)

    def several() -> int:
        with cursor.copy(f"COPY {table} FROM STDIN") as copy:
            copy.write(lines)
        return int(cursor.rowcount)

    return Work(one if rows == 1 else several)


def write(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Store lineitem-shaped rows that are in memory, as CSV, in a new table, once, with COPY."""
    cursor = _connected(target, stack).cursor()
    cursor.execute(f"DROP TABLE IF EXISTS {words['table']}")
    cursor.execute(f"CREATE TABLE {words['table']} ({columns()})")
    with pa.BufferOutputStream() as sink:
        csv.write_csv(lineitem_table(words["rows"]), sink, csv.WriteOptions(include_header=False))
        lines = memoryview(sink.getvalue())

    def all_of_them() -> int:
        with cursor.copy(f"COPY {words['table']} FROM STDIN (FORMAT csv)") as copy:
            for start in range(0, len(lines), COPY_BYTES):
                copy.write(lines[start : start + COPY_BYTES])
        return int(cursor.rowcount)

    return once(all_of_them)


def read(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Read a whole table into an Arrow table: COPY as CSV, which Arrow parses."""
    cursor = _connected(target, stack).cursor()
    schema = lineitem_table(1).schema
    names = csv.ReadOptions(column_names=schema.names)
    types = csv.ConvertOptions(column_types={field.name: field.type for field in schema})

    def call() -> int:
        lines = pa.BufferOutputStream()
        with cursor.copy(f"COPY {words['table']} TO STDOUT (FORMAT csv)") as copy:
            for piece in copy:
                lines.write(piece)
        return int(csv.read_csv(pa.BufferReader(lines.getvalue()), names, convert_options=types).num_rows)

    return Work(call)


def query(target: Target, stack: ExitStack, number: int, words: dict[str, Any]) -> Work:
    """Ask one question after the other, prepared; `{number}` in it grows."""
    cursor = _connected(target, stack).cursor()
    numbers = itertools.count(number)
    sql, varies = words["query"].replace("%", "%%").replace("{number}", "%s"), "{number}" in words["query"]

    def call() -> int:
        cursor.execute(sql, (next(numbers),) if varies else (), prepare=True)
        if len(cursor.fetchall()) != 1:
            raise RuntimeError("not one row")
        return 1

    return Work(call)


if __name__ == "__main__":
    sys.exit(main(serve, {"script": script, "put": insert, "query": query, "write": write, "read": read}))
