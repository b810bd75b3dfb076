"""`python -m torture`: hurt databases until the time or the kills are used up, print the table.

Owns the options, the threads that hurt a database each, and the exit status: 1 after any violation, and for a run that
proves nothing of some fault.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from .checker import Violation
from .fsync import fsync_library
from .harness import Epoch
from .plan import FAULTS, OF_FSYNC, rounds
from .report import PAGE, page, table
from .tally import Tally

KILLS_PER_DATABASE = 50
"""A check reads every write; a fresh database now and then keeps rounds short."""
WHOLE_SECONDS = 60.0
"""A run of so long must have seen every fault take effect."""


class Run:
    """One run: its limits, and what its lanes have done. A lane is a thread with one database after the other."""

    def __init__(self, place: Path, seconds: float, kills: int) -> None:
        self.place = place
        self.library = fsync_library(place)
        self.start = time.monotonic()
        self._deadline = self.start + seconds
        self._kills = kills
        # Guarded by _lock: everything below. A lane's own tally belongs to the lane.
        self._lock = threading.Lock()
        self._tallies: list[Tally] = []
        self._stopped = False

    def lane(self, seed: int) -> None:
        """Hurt one database after the other."""
        plan = rounds(seed)
        while not self.over():
            tally = Tally()
            with self._lock:
                directory = self.place / f"database-{len(self._tallies)}"
                self._tallies.append(tally)
            directory.mkdir()
            try:
                Epoch(directory, self.library, tally).run(plan, self.over, KILLS_PER_DATABASE)
            except Exception as error:
                tally.violations.append(Violation("server", f"{type(error).__name__}: {error}"))
                raise
            if not tally.violations:
                shutil.rmtree(directory)
            self.tell()

    def over(self) -> bool:
        """Whether lanes are to end: the time or the kills are used up, or a promise was broken."""
        total = self.total()
        used = time.monotonic() > self._deadline or total.faults["kill server"] >= self._kills
        return self._stopped or used or bool(total.violations)

    def stop(self) -> None:
        """Have the lanes end."""
        self._stopped = True

    def total(self) -> Tally:
        """Return what all lanes have done so far."""
        with self._lock:
            return Tally.sum(self._tallies)

    def tell(self) -> None:
        """Say on stderr how far the run is."""
        total = self.total()
        done = f"{total.faults['kill server']:,} kills, {total.checks:,} checks, {len(total.violations)} violations"
        print(f"{time.monotonic() - self.start:.0f} s: {done}", file=sys.stderr)


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m torture", description="Hurt Ducktower and count what is lost.")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to go on (60)")
    parser.add_argument("--seed", type=int, default=1, help="repeats a plan of faults (1)")
    parser.add_argument("--kills", type=int, default=sys.maxsize, help="end after so many kills of servers")
    parser.add_argument("--lanes", type=int, default=1, help="databases that are hurt side by side (1)")
    parser.add_argument("--record", action="store_true", help=f"write docs/{PAGE.name}")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # servers and clients are ended
    place = Path(tempfile.mkdtemp(prefix="ducktower-torture-"))
    run = Run(place, chosen.seconds, chosen.kills)
    lanes = [threading.Thread(target=run.lane, args=(chosen.seed + number,)) for number in range(chosen.lanes)]
    try:
        for lane in lanes:
            lane.start()
        while any(lane.is_alive() for lane in lanes):
            time.sleep(0.1)
    finally:
        run.stop()
        for lane in lanes:
            lane.join()
    tally = run.total()
    seconds = time.monotonic() - run.start
    print(table(tally, library=run.library is not None), end="")
    if chosen.record:
        about = f"{seconds:,.0f} s, seed {chosen.seed}, {chosen.lanes} databases at a time"
        PAGE.write_text(page(tally, library=run.library is not None, about=about, directory=place))
    if tally.violations:
        for violation in tally.violations[:20]:
            print(f"{violation.kind}: {violation.text}")
        print(f"seed {chosen.seed}; databases, logs and journals are in {place}")
        return 1
    shutil.rmtree(place)
    needs_none = OF_FSYNC if run.library is None else frozenset()
    idle = [kind for kind in FAULTS if not tally.effects[kind] and kind not in needs_none]
    if idle and chosen.seconds >= WHOLE_SECONDS and chosen.kills == sys.maxsize:
        print(f"this run proves nothing of: {', '.join(idle)}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
