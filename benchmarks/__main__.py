"""`python -m benchmarks`: measure, print the table, keep what each part found, and put it into docs/benchmarks.md.

Owns the options and the order. Must never judge: the exit status is 0 also when a target fell short, and 1
when rows were lost or doubled or a measurement could not be made.
"""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from ducktower import DucktowerError

from .backup import backup
from .bulk import bulk_read, bulk_write
from .checkpoints import checkpoints
from .explore_commit import chosen_directory
from .figures import FULL, QUICK, Bench, Figure, WrongCount
from .flight_sql import flight_sql
from .machine import describe
from .memory import memory
from .overload import overload
from .peers.bulk import peer_bulk
from .peers.cost import peer_cost
from .peers.growth import peer_clients, peer_table_rows, peer_write_rows
from .peers.queries import peer_mixed, peer_queries
from .peers.writes import peer_slow_disk, peer_writes
from .report import RESULTS, print_report, publish, report_of, write_json
from .security import security
from .small_writes import appenders, ledger, puts

MEASUREMENTS: dict[str, Callable[[Bench], list[Figure]]] = {
    "puts": puts,
    "appenders": appenders,
    "ledger": ledger,
    "bulk-read": bulk_read,
    "bulk-write": bulk_write,
    "memory": memory,
    "flight-sql": flight_sql,
    "security": security,
    "backup": backup,
    "checkpoints": checkpoints,
    "overload": overload,
    "peer-writes": peer_writes,
    "peer-slow-disk": peer_slow_disk,
    "peer-queries": peer_queries,
    "peer-mixed": peer_mixed,
    "peer-bulk": peer_bulk,
    "peer-clients": peer_clients,
    "peer-table-rows": peer_table_rows,
    "peer-write-rows": peer_write_rows,
    "peer-cost": peer_cost,
}


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Ducktower.")
    parser.add_argument("--quick", action="store_true", help="a smoke run; no ratio is judged, no JSON written")
    parser.add_argument("--only", choices=MEASUREMENTS, action="append", help="may be repeated")
    parser.add_argument("--json", type=Path, help="write the report there, instead of what is kept")
    parser.add_argument("--directory", type=Path, default=chosen_directory(), help="where databases are put")
    parser.add_argument("--serve", default="", help='flags for every server, such as --serve="--threads 1"')
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers are ended and databases removed
    console = Console(width=None if sys.stdout.isatty() else 150)
    scale = QUICK if chosen.quick else FULL
    keeps = not (chosen.quick or chosen.serve or chosen.json)
    figures: list[Figure] = []
    failed = False
    with tempfile.TemporaryDirectory(prefix="ducktower-bench-", dir=chosen.directory) as place:
        machine = describe(Path(place))
        bench = Bench(scale, Path(place), tuple(shlex.split(chosen.serve)))
        for name in chosen.only or MEASUREMENTS:
            start = time.monotonic()
            try:
                found = MEASUREMENTS[name](bench)
            except (WrongCount, DucktowerError, RuntimeError, TimeoutError, OSError) as error:
                failed = True  # the others are still worth having
                print(f"{name}: {error}", file=sys.stderr, flush=True)
                continue
            console.print(f"{name}: {time.monotonic() - start:.0f} s", style="dim")
            figures += found
            if keeps:
                write_json(RESULTS / f"{name}.json", report_of(found, machine, judged=True))
    report = report_of(figures, machine, judged=scale.judged)
    print_report(console, report)
    if chosen.json and not failed:
        write_json(chosen.json, report)
    if keeps:
        publish(MEASUREMENTS)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
