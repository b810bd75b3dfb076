"""Counters and histograms. Imports nothing else of Ducktower's."""

from .metrics import Counter, Histogram

__all__ = ["Counter", "Histogram"]
