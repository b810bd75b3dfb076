"""What the parts count: plain counters and latency histograms, cheap enough for the hot paths.

Owns the numbers alone. Must never format, export or decide anything from them.
"""

from __future__ import annotations

import math
import threading

__all__ = ["Counter", "Histogram"]

_BUCKETS_PER_DOUBLING = 8
_SMALLEST_SECONDS = 1e-6
_BUCKETS = 40 * _BUCKETS_PER_DOUBLING  # 1 us to about 12 days


class Counter:
    """A number that only grows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards _value
        self._value = 0

    def add(self, amount: int = 1) -> int:
        """Add `amount` and return the new value."""
        with self._lock:
            self._value += amount
            return self._value

    @property
    def value(self) -> int:
        """The sum so far."""
        return self._value


class Histogram:
    """Durations in buckets that grow by 9 %: a percentile is right to within that."""

    def __init__(self) -> None:
        # The lock guards everything below. Buckets are sparse in time, not in memory: 320 integers.
        self._lock = threading.Lock()
        self._buckets = [0] * _BUCKETS
        self._count = 0
        self._sum = 0.0
        self._max = 0.0

    def record(self, seconds: float, count: int = 1) -> None:
        """Count `count` events that took `seconds` each."""
        if seconds <= _SMALLEST_SECONDS:
            index = 0
        else:
            index = min(_BUCKETS - 1, int(math.log2(seconds / _SMALLEST_SECONDS) * _BUCKETS_PER_DOUBLING) + 1)
        with self._lock:
            self._buckets[index] += count
            self._count += count
            self._sum += seconds * count
            self._max = max(self._max, seconds)

    def percentile(self, fraction: float) -> float:
        """Return the seconds that `fraction` (0 to 1) of the events stayed within; 0.0 when there were none."""
        with self._lock:
            buckets, count, largest = list(self._buckets), self._count, self._max
        if count == 0:
            return 0.0
        wanted = max(1, math.ceil(fraction * count))
        seen = 0
        for index, held in enumerate(buckets):
            seen += held
            if seen >= wanted:
                upper: float = _SMALLEST_SECONDS * 2.0 ** (index / _BUCKETS_PER_DOUBLING)
                return min(largest, upper)
        return largest

    def snapshot(self) -> dict[str, float]:
        """Return `count`, and `mean`, `p50`, `p99`, `p999`, `max` in seconds."""
        with self._lock:
            count, total, largest = self._count, self._sum, self._max
        return {
            "count": count,
            "mean": total / count if count else 0.0,
            "p50": self.percentile(0.5),
            "p99": self.percentile(0.99),
            "p999": self.percentile(0.999),
            "max": largest,
        }
