"""Waiting for a condition, with a generous end, in place of sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS_MAX = 30.0


def until(condition: Callable[[], T], what: str, seconds: float = SECONDS_MAX) -> T:
    """Return the first true value of `condition`; fail, naming `what`, when it stays false."""
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not happen within {seconds:g} seconds; last seen: {found!r}")
        time.sleep(0.01)
