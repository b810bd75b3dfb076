"""Client processes that upload and tell how far they are, so that a test can kill them at a chosen moment.

One process imports everything once and forks a client for each upload: a fresh interpreter for each kill would
take most of the time of the tests.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.flight as flight

import ducktower

from .servers import environment

ROWS = 20_000
SCHEMA = pa.schema([("i", pa.int64()), ("v", pa.string())])


class Uploads:
    """Starts clients and kills them."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.uploader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
            env=environment(),
        )

    def killed(self, url: str, table: str, way: str, batches: int, *, told: int) -> None:
        """Have a client upload `batches` batches, and kill it with SIGKILL once it told of `told` of them.

        `way` is put or upsert (raw pyarrow DoPut) or ingest (the client, from a reader). A client that has no
        more batches keeps its stream open.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{way} {url} {table} {batches}\n")
        self._process.stdin.flush()
        client = int(self._expect("pid"))
        try:
            for _ in range(told):
                self._expect("sent")
        finally:
            with contextlib.suppress(ProcessLookupError):  # it failed by itself, which _expect reports
                os.kill(client, signal.SIGKILL)
        while not self._process.stdout.readline().startswith("ended "):
            pass

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _expect(self, word: str) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line.startswith(word), f"the uploading client said {line!r}"
        return line.removeprefix(word)


# -- what runs in the other process -------------------------------------------------------------------


def _say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def _batch(number: int) -> pa.RecordBatch:
    start = number * ROWS
    return pa.record_batch([pa.array(range(start, start + ROWS)), pa.array(["x" * 20] * ROWS)], schema=SCHEMA)


def _put(url: str, table: str, batches: int) -> None:
    client = flight.connect(url)
    writer, _ = client.do_put(flight.FlightDescriptor.for_path(table), SCHEMA)
    for number in range(batches):
        writer.write_batch(_batch(number))
        _say(f"sent {number}")
    time.sleep(60)


def _ingest(url: str, table: str, batches: int) -> None:
    def endless() -> Iterator[pa.RecordBatch]:
        for number in range(batches):
            yield _batch(number)
            _say(f"sent {number}")
        time.sleep(60)

    ducktower.connect(url).ingest(table, pa.RecordBatchReader.from_batches(SCHEMA, endless()))


def _upsert(url: str, table: str, batches: int) -> None:
    client = flight.connect(url)
    command = json.dumps({"table": table, "mode": "upsert", "key": ["i"]}).encode()
    writer, _ = client.do_put(flight.FlightDescriptor.for_command(command), SCHEMA)
    for number in range(batches):
        writer.write_batch(_batch(number))
        _say(f"sent {number}")
    time.sleep(60)


_WAYS = {"put": _put, "ingest": _ingest, "upsert": _upsert}


def _main() -> None:
    _batch(0)  # pyarrow imports pandas, where there is one, with the first array: once is enough
    for line in sys.stdin:
        way, url, table, batches = line.split()
        child = os.fork()
        if child == 0:
            _say(f"pid {os.getpid()}")
            try:
                _WAYS[way](url, table, int(batches))
            except BaseException as error:
                _say(f"failed: {error!r}".replace("\n", " "))
            os._exit(1)
        _, status = os.waitpid(child, 0)
        _say(f"ended {status}")


if __name__ == "__main__":
    _main()
