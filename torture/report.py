"""The table of a run, on the terminal and as docs/torture.md.

Owns the words. Must never leave out a kind of fault or violation because it was zero.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import describe

from .checker import VIOLATIONS
from .plan import FAULTS, OF_FSYNC
from .tally import Tally

__all__ = ["PAGE", "page", "table"]

PAGE = Path(__file__).parent.parent / "docs" / "torture.md"

_HEAD = """# Torture

`make torture` runs real clients against a real server that is killed about once a second, while connections, disks,
memory and clients fail; after every kill, and by readers all the time, what the clients were told is compared with what
is there.

```console
$ make torture                      # 60 s; one table, exit status 1 if a promise was broken
$ make torture SECONDS=3600 SEED=7  # the seed repeats the plan of faults, not the scheduling of the machine
```

Eight clients write: single DoPuts, an appender, bulk streams, scripts over two tables, upserts, CREATE and DROP TABLE,
writes with a writer and a sequence, and an appender with a writer. Each notes in a file what it sends before it sends
it, and what it was told before it goes on; an error that does not say that nothing was stored leaves the outcome open,
and then a write may be there or not, but whole and once. The writers with a name send again what was not acknowledged,
also after their own death, the appender from where the server says that its writer is: their writes must all be there
in the end, once and without a hole. A reader checks one snapshot after another against the same files. What clients are
told is judged, too: a code that no fault of the round explains is a violation.

A fault that hurts nobody proves nothing. So a round waits, some seconds, until each of its faults was seen to take
effect, and the table counts those apart. In most rounds the faults are then taken back, and the same server must
acknowledge a write; in the others it is killed in their middle. A dozen rounds have every kind of fault; a run of a
minute or more in which one of them never took effect fails.

After a violation the database, the logs and the journals are kept, and the run says where.
[tests/test_torture.py](../tests/test_torture.py) plants each kind of violation and sees it found.

What a crash of the machine would lose cannot be seen this way: SIGKILL leaves the kernel's pages in place.

## The largest run
"""


def table(tally: Tally, *, library: bool) -> str:
    """Return faults, writes and violations as one Markdown table."""
    broken = Counter(violation.kind for violation in tally.violations)
    lines = ["| | | Count | Of these |", "|---|---|---|---|"]
    for kind, fault in FAULTS.items():
        effects = f"{tally.effects[kind]:,} took effect: {fault.effect}"
        injected = f"{tally.faults[kind]:,}"
        if kind in OF_FSYNC and not library:
            injected, effects = "0", "there is no cc here"
        lines.append(f"| fault | {kind}: {fault.does} | {injected} | {effects} |")
    lines.append(
        f"| restart | the file of a killed server was opened | {tally.openings:,} | {tally.replayed_commits:,} commits "
        f"came from WALs, {tally.torn:,} WALs had a torn end; the slowest took {tally.slowest_opening_seconds:.2f} s |"
    )
    lines.append(f"| return | faults were taken back, the same server served on | {tally.returned:,} | |")
    for kind, sent in tally.sent.items():
        lines.append(f"| writes | {kind} | {sent:,} | {tally.acknowledged[kind]:,} acknowledged |")
    lines += [f"| errors | `{code}` | {count:,} | |" for code, count in sorted(tally.codes.items())]
    lines.append(f"| checks | after a kill and at the end; readers' own not counted | {tally.checks:,} | |")
    lines += [f"| violation | {kind}: {text} | {broken[kind]} | |" for kind, text in VIOLATIONS.items()]
    return "\n".join(lines) + "\n"


def page(tally: Tally, *, library: bool, about: str, directory: Path) -> str:
    """Return docs/torture.md."""
    machine = describe(directory)
    versions = machine["versions"]
    assert isinstance(versions, dict)
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, {about}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, {machine['filesystem']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
    return f"{_HEAD}\n{about}\n\n{table(tally, library=library)}"
