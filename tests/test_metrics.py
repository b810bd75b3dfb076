"""Counters and histograms: what they promise of their figures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ducktower.monitor import Counter, Histogram
from support.threads import together


def test_a_counter_loses_nothing_between_threads() -> None:
    """Eight threads that count a thousand each make eight thousand, and no number is given twice."""
    counter = Counter()
    seen = together(8, lambda _: [counter.add() for _ in range(1000)])
    assert counter.value == 8000
    assert sorted(number for numbers in seen for number in numbers) == list(range(1, 8001))


def test_an_empty_histogram_is_all_zero() -> None:
    """Nothing was measured: every figure is 0."""
    assert Histogram().snapshot() == {"count": 0, "mean": 0.0, "p50": 0.0, "p99": 0.0, "p999": 0.0, "max": 0.0}


@given(st.lists(st.floats(min_value=1e-7, max_value=1e5), min_size=1, max_size=200), st.floats(0, 1))
def test_a_percentile_is_right_to_within_a_bucket(seconds: list[float], fraction: float) -> None:
    """A percentile is never below the true one and at most 9.1 % above it, down to a microsecond."""
    histogram = Histogram()
    for one in seconds:
        histogram.record(one)
    ordered = sorted(seconds)
    position = max(0, -(-int(fraction * len(seconds) * 1_000_000) // 1_000_000) - 1)
    # Floating point may put the rank one place to either side.
    around = ordered[max(0, position - 1) : position + 2]
    found = histogram.percentile(fraction)
    assert min(around) * 0.999 <= found <= max(max(around), 1e-6) * 1.0906


def test_a_snapshot_agrees_with_what_was_recorded() -> None:
    """Count, mean and maximum are exact."""
    histogram = Histogram()
    histogram.record(0.001, count=3)
    histogram.record(0.005)
    snapshot = histogram.snapshot()
    assert snapshot["count"] == 4
    assert snapshot["mean"] == pytest.approx(0.002)
    assert snapshot["max"] == 0.005
    assert snapshot["p50"] <= snapshot["p99"] <= snapshot["p999"] <= snapshot["max"]


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e9])
def test_what_is_beyond_the_buckets_is_counted_at_their_ends(seconds: float) -> None:
    """A duration of nothing, and one of thirty years, are counted and never fail."""
    histogram = Histogram()
    histogram.record(seconds)
    assert histogram.snapshot()["count"] == 1
    assert histogram.percentile(1.0) <= seconds
