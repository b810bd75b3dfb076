"""Tries a million inputs on whatever reads bytes of a client's, guided by what they reach: `make fuzz`.

Ends with 1 at the first input that raises something else than an error of ours, gives somebody what another one holds,
takes seconds, or makes memory grow.
"""

import os
import resource
import sys
import time
from pathlib import Path

import atheris

ROOT = Path(__file__).parent.parent
RUNS = int(os.environ.get("FUZZ_RUNS", "1000000"))
GROWTH_MIB_MAX = 256
CALLS_ONE_IN = 5
"""Of the calls that take a handle, an input is shown to one in so many: otherwise most of the time would go there."""
SERVED_EVERY = 500
"""Inputs to each one that is also sent to a server, by sockets."""

sys.path.insert(0, str(ROOT / "tests"))
with atheris.instrument_imports(include=["ducktower.protocol", "ducktower.server", "ducktower.errors"]):
    from support.bad_bytes import SEEDS, Targets
    from support.handles import HANDLE_SEEDS, Handles, ServedHandles


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    targets, handles, served = Targets(), Handles(), ServedHandles()
    runs = sent = 0
    settled = 0.0
    started = time.monotonic()

    def one(raw: bytes) -> None:
        nonlocal runs, sent, settled
        runs += 1
        targets.try_all(raw)
        handles.try_all(raw, CALLS_ONE_IN)
        if runs % SERVED_EVERY == 0:
            sent += 1
            served.try_all(raw)
        if runs == RUNS // 10:
            settled = peak_mib()
        if runs == RUNS:
            grown = peak_mib() - settled
            sys.stderr.write(
                f"{runs:,} inputs, {sent:,} of them by sockets, too; memory grew by {grown:.0f} MiB in the last nine "
                f"tenths, after {time.monotonic() - started:.0f} seconds\n"
            )
            assert grown < GROWTH_MIB_MAX
            served.check()

    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate([*SEEDS, *HANDLE_SEEDS]):
        (corpus / f"seed{number}").write_bytes(seed)
    atheris.Setup(
        [
            sys.argv[0],
            f"-runs={RUNS}",
            "-max_len=4096",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-verbosity=1",
            f"-artifact_prefix={corpus.parent}/",
            str(corpus),
        ],
        one,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main()
