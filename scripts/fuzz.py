"""Tries a million inputs on whatever reads bytes of a client's, guided by what they reach: `make fuzz`.

Ends with 1 at the first input that raises something else than an error of ours, takes seconds, or makes memory grow.
"""

import os
import resource
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parent.parent
RUNS = int(os.environ.get("FUZZ_RUNS", "1000000"))
GROWTH_MIB_MAX = 256

sys.path.insert(0, str(ROOT / "tests"))
with atheris.instrument_imports(include=["ducktower.protocol", "ducktower.server", "ducktower.errors"]):
    from support.bad_bytes import SEEDS, Targets


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    targets = Targets()
    runs = 0
    settled = 0.0

    def one(raw: bytes) -> None:
        nonlocal runs, settled
        runs += 1
        targets.try_all(raw)
        if runs == RUNS // 10:
            settled = peak_mib()
        if runs == RUNS:
            grown = peak_mib() - settled
            sys.stderr.write(f"{runs:,} inputs; memory grew by {grown:.0f} MiB in the last nine tenths\n")
            assert grown < GROWTH_MIB_MAX

    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS):
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
