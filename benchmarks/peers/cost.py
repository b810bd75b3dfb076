"""What the work costs: the server's CPU seconds and memory, and how long it takes to start.

Owns the sampling of a server and of the processes that it started. Must never count the clients'.
"""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..figures import Bench, Figure
from ..load import Load
from .contenders import PEERS, started_all
from .driven import PeerFailed

__all__ = ["peer_cost"]

SAMPLE_SECONDS = 0.02
MILLION = 1e6
_NAMES = ("ducktower", *PEERS)


@dataclass(slots=True)
class _Used:
    cpu_seconds: float = 0.0
    peak_bytes: int = 0


def peer_cost(bench: Bench) -> list[Figure]:
    """CPU seconds per million rows and peak memory, for small writes and for bulk; seconds to the first call."""
    scale = bench.scale
    rows = scale.bulk_rows // 2
    bulk = {"clients": 1, "processes": 1, "table": "lineitem", "shape": "lineitem", "rows": rows}
    work = {
        "one-row writes, 16 clients": Load(kind="put", clients=16, seconds=scale.seconds, processes=scale.processes),
        f"bulk write of {rows:,} rows": Load(kind="write", seconds=0.001, **bulk),  # type: ignore[arg-type]
        f"bulk read of {rows:,} rows": Load(kind="read", seconds=0.001, **bulk),  # type: ignore[arg-type]
    }
    figures: dict[tuple[str, str], Figure] = {}

    def of(name: str, what: str, unit: str) -> Figure:
        title = f"{what}, {'Ducktower' if name == 'ducktower' else PEERS[name].title}"
        made = Figure(name=f"cost_{name}_{what}_{unit}".replace(" ", "_"), title=title, unit=unit)
        return figures.setdefault((name, what + unit), made)

    for _ in range(scale.curve_rounds):
        for name in _NAMES:  # one at a time: a server that waits may still work in the background
            with (
                tempfile.TemporaryDirectory(dir=bench.directory) as place,
                started_all(bench, Path(place), (name,)) as (contenders, failures),
            ):
                try:
                    if name in failures:
                        raise PeerFailed(failures[name])
                    of(name, "from start to first call", "s").values.append(contenders[name].seconds_to_start)
                    for what, load in work.items():
                        with _sampled(contenders[name].pid) as used, contenders[name].running(load) as outcome:
                            done = outcome().count
                        of(name, what, "CPU s per million rows").values.append(used.cpu_seconds / done * MILLION)
                        of(name, what, "MB at most").values.append(used.peak_bytes / MILLION)
                except PeerFailed as error:
                    of(name, "cost", "s").note = f"not measured: {error}"
    return list(figures.values())


@contextmanager
def _sampled(pid: int) -> Iterator[_Used]:
    """Watch a server until the block ends; what its children used that are gone by then counts, too."""
    used, ended = _Used(), threading.Event()
    server = psutil.Process(pid)

    def watch() -> None:
        while not ended.wait(SAMPLE_SECONDS):
            used.peak_bytes = max(used.peak_bytes, sum(_resident_bytes(one) for one in _all(server)))

    before = sum(_cpu_seconds(one) for one in _all(server))
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield used
    finally:
        used.cpu_seconds = sum(_cpu_seconds(one) for one in _all(server)) - before
        ended.set()
        thread.join()


def _all(server: psutil.Process) -> list[psutil.Process]:
    return [server, *server.children(recursive=True)]


def _cpu_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        return float(sum(process.cpu_times()[:4]))  # user, system, and those of children that ended
    return 0.0


def _resident_bytes(process: psutil.Process) -> int:
    """What it has of its own, and its share of what several processes have in memory together."""
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return 0
