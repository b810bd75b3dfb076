"""What a measurement comes to: figures with their base, spread and target.

Owns the arithmetic. Must never measure, print or write files.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .clocked import Outcome

__all__ = [
    "FULL",
    "QUICK",
    "Bench",
    "Figure",
    "Point",
    "Scale",
    "WrongCount",
    "expect_rows",
    "percentiles",
    "plot_file",
]


class WrongCount(Exception):
    """Rows were lost or doubled: the one thing that makes a run fail."""


def expect_rows(what: str, acknowledged: int, stored: int) -> None:
    """Raise WrongCount unless both agree."""
    if acknowledged != stored:
        raise WrongCount(f"{what}: {acknowledged} rows acknowledged, {stored} stored")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much a run does."""

    judged: bool
    """Whether ratios are held against their targets."""
    rounds: int
    seconds: float
    """Of each timed load."""
    bulk_rows: int
    memory_rows: int
    lookup_rows: int
    processes: int
    """Of the clients of a load."""
    crowd_clients: int
    """As many as no server should meet at once."""
    curve_rounds: int
    """Of figures that show how something grows; they are many, and have no target."""
    curve_seconds: float
    client_counts: tuple[int, ...]
    table_rows: tuple[int, ...]
    write_rows: tuple[int, ...]
    lineitem_rows: tuple[int, ...]


FULL = Scale(
    judged=True,
    rounds=5,
    seconds=3.0,
    bulk_rows=6_000_000,
    memory_rows=50_000_000,
    lookup_rows=100_000,
    processes=4,
    crowd_clients=500,
    curve_rounds=3,
    curve_seconds=1.5,
    client_counts=(1, 2, 4, 8, 16, 64, 256),
    table_rows=(10_000, 100_000, 1_000_000, 10_000_000, 100_000_000),
    write_rows=(1, 10, 100, 1_000, 10_000, 100_000),
    lineitem_rows=(100_000, 1_000_000, 6_000_000),
)
QUICK = Scale(
    judged=False,
    rounds=1,
    seconds=0.3,
    bulk_rows=100_000,
    memory_rows=1_000_000,
    lookup_rows=10_000,
    processes=1,  # most of a smoke run is their start
    crowd_clients=20,
    curve_rounds=1,
    curve_seconds=0.2,
    client_counts=(1, 4),
    table_rows=(1_000, 10_000),
    write_rows=(1, 100),
    lineitem_rows=(10_000,),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """What every measurement is given: how much to do, where databases may be put, flags for every server."""

    scale: Scale
    directory: Path
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """Where a figure stands in a plot: which plot, which of its lines, and how far along."""

    plot: str
    """What is measured, and of what it is a function: "one-row DoPut: clients"."""
    line: str
    x: float


def plot_file(plot: str) -> str:
    """Return the name of a plot's file, without what says which kind it is."""
    return "_".join("".join(letter if letter.isalnum() else " " for letter in plot.lower()).split())


@dataclass(slots=True, kw_only=True)
class Figure:
    """One line of the report. `values` and `base` hold one entry a round, taken in the same round."""

    name: str
    title: str
    unit: str
    values: list[float] = field(default_factory=list)
    base_title: str | None = None
    base: list[float] = field(default_factory=list)
    target: float | None = None
    """The ratio to be reached, or for `at_most` the largest value allowed."""
    at_most: bool = False
    latencies: list[float] = field(default_factory=list)
    """Seconds of single calls, of all rounds."""
    note: str | None = None
    point: Point | None = None

    def record(self, outcome: Outcome) -> None:
        """Add a round: its rate, and how long its calls took."""
        self.values.append(outcome.rate)
        self.latencies += outcome.latencies

    @property
    def value(self) -> float:
        """The median over the rounds, or of memory the worst of them."""
        if not self.values:
            return math.nan  # its note says why
        return max(self.values) if self.at_most else statistics.median(self.values)

    @property
    def base_value(self) -> float | None:
        return statistics.median(self.base) if self.base else None

    @property
    def ratios(self) -> list[float]:
        return [value / base for value, base in zip(self.values, self.base, strict=False)]

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.ratios) if self.base else None

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without one."""
        if self.target is None:
            return None
        if self.at_most:
            return self.value <= self.target
        return self.ratio is not None and self.ratio >= self.target

    def to_dict(self) -> dict[str, object]:
        """Return what the JSON report says of this figure."""
        report: dict[str, object] = {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "value": _short(self.value) if self.values else None,
            "rounds": [_short(value) for value in self.values],
        }
        if self.base:
            report |= {
                "base": self.base_title,
                "base_value": _short(self.base_value or 0.0),
                "ratio": _short(self.ratio or 0.0),
                "ratios": [_short(ratio) for ratio in self.ratios],
            }
        if self.target is not None:
            report |= {"target": self.target, "at_most": self.at_most, "met": self.met}
        if self.latencies:
            report["latency_seconds"] = {name: _short(value) for name, value in percentiles(self.latencies).items()}
        if self.note:
            report["note"] = self.note
        if self.point:
            report["point"] = asdict(self.point)
        return report


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return p50, p99, p999 and max of some durations."""
    ordered = sorted(seconds)

    def at(fraction: float) -> float:
        return ordered[max(0, math.ceil(fraction * len(ordered)) - 1)]

    return {"p50": at(0.5), "p99": at(0.99), "p999": at(0.999), "max": ordered[-1]}


def _short(value: float) -> float:
    """Four significant digits: more would only differ from run to run."""
    return float(f"{value:.4g}")
