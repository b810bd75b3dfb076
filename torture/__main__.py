"""`python -m torture`: run epochs until the time or the kills are used up, print the table.

Owns the options and the exit status: 1 after any violation, and for a run that proves nothing of some fault.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from .fsync import fsync_library
from .harness import Epoch
from .plan import FAULTS, OF_FSYNC, rounds
from .report import PAGE, page, table
from .tally import Tally

KILLS_PER_DATABASE = 50
"""A check reads every write; a fresh database now and then keeps rounds short."""
WHOLE_SECONDS = 60.0
"""A run of so long must have seen every fault take effect."""


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m torture", description="Hurt Ducktower and count what is lost.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on (60)")
    parser.add_argument("--seed", type=int, default=1, help="repeats a plan of faults (1)")
    parser.add_argument("--kills", type=int, default=sys.maxsize, help="end after so many kills of the server")
    parser.add_argument("--record", action="store_true", help=f"write docs/{PAGE.name}")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and clients are ended
    place = Path(tempfile.mkdtemp(prefix="ducktower-torture-"))
    library = fsync_library(place)
    tally = Tally()
    plan = rounds(chosen.seed)
    start = time.monotonic()
    deadline = start + chosen.seconds
    number = 0
    while not tally.violations and time.monotonic() < deadline:
        left = chosen.kills - tally.faults["kill server"]
        if left <= 0:
            break
        directory = place / f"database-{number}"
        directory.mkdir()
        Epoch(directory, library, tally).run(plan, deadline, min(left, KILLS_PER_DATABASE))
        if not tally.violations:
            shutil.rmtree(directory)
        number += 1
        done = f"{tally.faults['kill server']:,} kills, {tally.checks:,} checks, {len(tally.violations)} violations"
        print(f"{time.monotonic() - start:.0f} s, {number} databases: {done}", file=sys.stderr)
    seconds = time.monotonic() - start
    print(table(tally, library=library is not None), end="")
    if chosen.record:
        PAGE.write_text(page(tally, library=library is not None, seconds=seconds, seed=chosen.seed, directory=place))
    if tally.violations:
        for violation in tally.violations[:20]:
            print(f"{violation.kind}: {violation.text}")
        print(f"seed {chosen.seed}; databases, logs and journals are in {place}")
        return 1
    shutil.rmtree(place)
    idle = [kind for kind in FAULTS if not tally.effects[kind] and (library is not None or kind not in OF_FSYNC)]
    if idle and chosen.seconds >= WHOLE_SECONDS and chosen.kills == sys.maxsize:
        print(f"this run proves nothing of: {', '.join(idle)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
