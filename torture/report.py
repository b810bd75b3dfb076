"""The table of a run, on the terminal and as docs/torture.md.

Owns the words. Must never leave out a kind of fault or violation because it was zero.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.machine import describe

from .checker import VIOLATIONS
from .harness import Tally
from .plan import FAULTS

__all__ = ["PAGE", "page", "table"]

PAGE = Path(__file__).parent.parent / "docs" / "torture.md"

_HEAD = """# Torture

`make torture` runs real clients against a real server that is killed about once a second, while connections, disks and
clients fail; after every kill, and by readers all the time, what the clients were told is compared with what is there.

```console
$ make torture                      # 60 s; one table, exit status 1 if a promise was broken
$ make torture SECONDS=3600 SEED=7  # the seed repeats the plan of faults, not the scheduling of the machine
```

Six clients write: single DoPuts, an appender, bulk streams, scripts over two tables, upserts, and CREATE and DROP
TABLE. Each notes in a file what it sends before it sends it, and what it was told before it goes on; an error that does
not say that nothing was stored leaves the outcome open, and then a write may be there or not, but whole and once. A
reader checks one snapshot after another against the same files. After a violation the database, the logs and the
journals are kept, and the run says where.

What a crash of the machine would lose cannot be seen this way: SIGKILL leaves the kernel's pages in place. Nor are
writes sent again: each is sent once.

## The largest run
"""


def table(tally: Tally, *, library: bool) -> str:
    """Return faults, writes and violations as one Markdown table."""
    broken = Counter(violation.kind for violation in tally.violations)
    lines = ["| | | Count |", "|---|---|---|"]
    for kind, text in FAULTS.items():
        count = "no cc here" if "fsync" in kind and not library else f"{tally.faults[kind]:,}"
        lines.append(f"| fault | {kind}: {text} | {count} |")
    for kind, sent in tally.sent.items():
        lines.append(f"| writes | {kind}: acknowledged of sent | {tally.acknowledged[kind]:,} of {sent:,} |")
    lines += [f"| errors | `{code}` | {count:,} |" for code, count in sorted(tally.codes.items())]
    lines.append(f"| checks | after a kill and at the end; readers' own not counted | {tally.checks:,} |")
    lines += [f"| violation | {kind}: {text} | {broken[kind]} |" for kind, text in VIOLATIONS.items()]
    return "\n".join(lines) + "\n"


def page(tally: Tally, *, library: bool, seconds: float, seed: int, directory: Path) -> str:
    """Return docs/torture.md."""
    machine = describe(directory)
    versions = machine["versions"]
    assert isinstance(versions, dict)
    about = (
        f"{datetime.now(UTC):%Y-%m-%d}, {seconds:.0f} s, seed {seed}: {machine['cpu']}, {machine['cores']} cores, "
        f"{machine['memory_gb']} GB, {machine['system']}, {machine['filesystem']}; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + "."
    )
    return f"{_HEAD}\n{about}\n\n{table(tally, library=library)}"
