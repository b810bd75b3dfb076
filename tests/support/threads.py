"""Several threads that begin in the same moment, and whose failures are the test's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def together(count: int, work: Callable[[int], T], seconds: float = 90) -> list[T]:
    """Run `work(0)` to `work(count - 1)` at once; return the results in order, raise the first failure."""
    start = threading.Barrier(count)

    def run(number: int) -> T:
        start.wait(30)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(run, number) for number in range(count)]
        return [future.result(seconds) for future in futures]
