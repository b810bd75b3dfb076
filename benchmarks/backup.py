"""What a backup costs: how long one takes, and one-row writes while backups are made, beside those without.

Owns these figures. Must never take a backup for one that does not hold every row acknowledged before it.
"""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path

import ducktower

from .figures import Bench, Figure, expect_rows
from .load import SCHEMA, TABLE, Load, Outcome, one_row, running, stored_rows
from .processes import serving

__all__ = ["backup"]

CLIENTS = 16


def backup(bench: Bench) -> list[Figure]:
    """One-row DoPut by 16 clients on a large file: alone, and while one backup after the other is made; in turns."""
    rows = bench.scale.bulk_rows
    title = f"one-row DoPut, {CLIENTS} clients, beside {rows:,} rows"
    base = Figure(name="base_no_backup", title=title, unit="rows/s")
    during = Figure(
        name="during_backups",
        title=f"{title}, while backups are made",
        unit="rows/s",
        base_title=base.title,
        base=base.values,
    )
    alone = Figure(name="backup", title=f"a backup of {rows:,} rows, sent and verified", unit="s")
    with tempfile.TemporaryDirectory(dir=bench.directory) as place:
        path = Path(place) / "large.duckdb"
        with serving(path, *bench.flags) as server, ducktower.connect(server.url) as client:
            client.execute(f"CREATE TABLE large AS SELECT i AS id, hash(i)::VARCHAR AS value FROM range({rows}) r(i)")
            client.create_table(TABLE, SCHEMA)
            client.ingest(TABLE, one_row(0))
            client.checkpoint()
            for _ in range(bench.scale.rounds):
                stored = stored_rows(server.url)
                made = client.backup(path.with_name("copy"))
                path.with_name("copy").unlink()
                expect_rows("backup", rows + stored, made.rows)
                alone.values.append(made.seconds)
                alone.note = f"a file of {made.bytes / 1e6:,.0f} MB"
                for figure, backups in ((base, False), (during, True)):
                    outcome = _load(bench, server.url, path.with_name("copy") if backups else None)
                    figure.record(outcome)
                    stored += outcome.count
                    expect_rows(figure.title, stored, stored_rows(server.url))
    return [base, during, alone]


def _load(bench: Bench, url: str, copy: Path | None) -> Outcome:
    load = Load(kind="put", url=url, clients=CLIENTS, seconds=bench.scale.seconds, processes=bench.scale.processes)
    over = threading.Event()
    failures: list[ducktower.DucktowerError] = []

    def again() -> None:
        try:
            with ducktower.connect(url) as client:
                while copy is not None and not over.is_set():
                    client.backup(copy)
                    copy.unlink()
        except ducktower.DucktowerError as error:
            failures.append(error)

    thread = threading.Thread(target=again)
    with running(load) as outcome:
        thread.start()
        try:
            done = outcome()
        finally:
            over.set()
            thread.join()
    if failures:
        raise failures[0]
    return done
