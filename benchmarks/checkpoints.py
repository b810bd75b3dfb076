"""What checkpoints cost those who write meanwhile: by a thread of the server's, and within a writer's COMMIT.

Owns these figures. Must never count a round in which no checkpoint was written.
"""

from __future__ import annotations

import random
import tempfile
import threading
import time
from pathlib import Path

import pyarrow as pa

import ducktower

from .figures import Bench, Figure, WrongCount, expect_rows
from .load import SCHEMA, TABLE, Load, Outcome, one_row, running, stored_rows
from .processes import serving

__all__ = ["checkpoints"]

CLIENTS = 16
FED = "fed"
FED_TEXT_CHARS = 900
FED_ROWS = 1_000
FED_EVERY_SECONDS = 0.1
"""So often the WAL grows by almost a MiB: beside a threshold of 16 MiB that is a checkpoint every 2 s."""


def checkpoints(bench: Bench) -> list[Figure]:
    """One-row DoPut by 16 clients while the WAL grows: DuckDB's own checkpoints, and the server's; in turns."""
    rows = bench.scale.bulk_rows
    title = f"one-row DoPut, {CLIENTS} clients, beside {rows:,} rows and 9 MB/s more"
    base = Figure(name="base_automatic_checkpoints", title=f"{title}, DuckDB's own checkpoints", unit="rows/s")
    ours = Figure(
        name="checkpoints",
        title=f"{title}, the server's checkpoints",
        unit="rows/s",
        base_title="DuckDB's own",
        base=base.values,
    )
    largest = {figure.name: 0 for figure in (base, ours)}
    for _ in range(bench.scale.rounds):
        for figure, flags in ((base, ("--wal-checkpoint-bytes", "0")), (ours, ())):
            outcome, wal_bytes = _round(bench, flags)
            figure.record(outcome)
            largest[figure.name] = max(largest[figure.name], wal_bytes)
    for figure in (base, ours):
        figure.note = f"the WAL had {largest[figure.name] / 1e6:.0f} MB at most"
    return [base, ours]


def _round(bench: Bench, flags: tuple[str, ...]) -> tuple[Outcome, int]:
    """Load a fresh server; return the outcome, and how large the WAL was at most."""
    scale = bench.scale
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        path = Path(place) / "large.duckdb"
        with serving(path, *bench.flags, *flags) as server, ducktower.connect(server.url) as client:
            client.execute(
                f"CREATE TABLE large AS SELECT i AS id, hash(i)::VARCHAR AS value FROM range({scale.bulk_rows}) r(i)"
            )
            for table in (TABLE, FED):
                client.create_table(table, SCHEMA)
            client.ingest(TABLE, one_row(0))
            client.checkpoint()
            load = Load(
                kind="put",
                url=server.url,
                clients=CLIENTS,
                seconds=2 * scale.seconds,
                processes=scale.processes,
                connect_first=True,
            )
            feeder = _Feeder(client, path)
            with running(load) as outcome, feeder:
                done = outcome()
            title = "one-row DoPut beside checkpoints"
            expect_rows(title, done.count + 1, stored_rows(server.url))
            expect_rows(title, feeder.rows, stored_rows(server.url, FED))
    if scale.judged and not feeder.wal_shrank:
        raise WrongCount("no checkpoint was written in a round")
    return done, feeder.largest_wal_bytes


class _Feeder:
    """Writes almost a MiB at a steady pace, as one small write each, and watches the WAL, until its block ends."""

    def __init__(self, client: ducktower.FlightClient, database: Path) -> None:
        self.rows = 0
        self.largest_wal_bytes = 0
        self.wal_shrank = False
        self._client = client
        self._logs = [Path(f"{database}.wal"), Path(f"{database}.wal.checkpoint")]
        self._failures: list[ducktower.DucktowerError] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        if self._failures:
            raise self._failures[0]

    def _run(self) -> None:
        texts = [random.randbytes(FED_TEXT_CHARS // 2).hex() for _ in range(FED_ROWS)]
        batch = pa.record_batch([pa.array(range(FED_ROWS), pa.int64()), pa.array(texts)], schema=SCHEMA)
        before, due = 0, time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += FED_EVERY_SECONDS
            try:
                self.rows += self._client.ingest(FED, batch).rows
            except ducktower.DucktowerError as error:
                self._failures.append(error)
                return
            nbytes = sum(log.stat().st_size for log in self._logs if log.exists())
            self.wal_shrank |= nbytes < before
            self.largest_wal_bytes, before = max(self.largest_wal_bytes, nbytes), nbytes
