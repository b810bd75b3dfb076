"""Databases as a kill leaves them in the midst of a checkpoint: with a second WAL, of the commits beside it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ducktower.engine.wal import to_be_replayed

from .waiting import until

_PROGRAM = """
import duckdb, sys, threading
connection = duckdb.connect(sys.argv[1], config={"wal_autocheckpoint": "1TB"})
connection.execute("CREATE TABLE t (i BIGINT)")
connection.execute("CREATE TABLE large (i BIGINT, v VARCHAR)")
for _ in range(10):
    connection.execute("INSERT INTO large SELECT i, hash(i)::VARCHAR FROM range(100_000) r(i)").fetchall()
connection.execute("INSERT INTO t VALUES (-1)").fetchall()

def write(cursor):
    for number in range(1_000_000):
        cursor.execute(f"INSERT INTO t VALUES ({number})").fetchall()

threading.Thread(target=write, args=(connection.cursor(),), daemon=True).start()
while True:
    try:
        connection.execute("CHECKPOINT")
        connection.execute("UPDATE large SET i = i + 1").fetchall()
    except duckdb.TransactionException:
        pass  # a commit that did not allow it
"""


def killed_in_a_checkpoint(database: Path, *, side_bytes: int = 2_000) -> Path:
    """Make a database, which has a table `t` with a column `i`; return its second WAL, of so many bytes at least."""
    side = Path(f"{database}.wal.checkpoint")

    def size() -> int:
        try:
            return side.stat().st_size
        except FileNotFoundError:
            return 0

    while len(to_be_replayed(str(database))) < 2:  # the checkpoint may have come to its end just before the kill
        for path in database.parent.glob(f"{database.name}*"):
            path.unlink()
        with subprocess.Popen([sys.executable, "-c", _PROGRAM, str(database)]) as process:
            try:
                until(lambda: size() >= side_bytes, "a second WAL")
            finally:
                process.kill()
    return side
