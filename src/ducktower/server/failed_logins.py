"""Failed logins: counted, and answered late, each address later the more it fails.

A token has 256 random bits, so no rate of guessing finds one; what a pause does is to keep clients with wrong tokens
from spinning: each refusal takes Python's lock for a moment, and thousands of them a second would be in everybody's
way. Whoever shows a good token is never held up: it is verified before this is asked. A pause holds a thread that
sleeps, so their number is bounded; a failure past that is refused without one.

Owns the count of each address and the pauses under way. Must never see a credential.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from ..config import ServerConfig

__all__ = ["FailedLogins"]

_ADDRESSES_MAX = 4_096
_FORGET_SECONDS = 60.0
"""An address that did not fail for so long begins anew."""
_FIRST_PAUSE_SECONDS = 0.05


class _Address:
    __slots__ = ("failures", "last")

    def __init__(self) -> None:
        self.failures = 0
        self.last = 0.0


class FailedLogins:
    """Safe from any thread."""

    def __init__(self, config: ServerConfig) -> None:
        self._seconds_max = config.login_pause_seconds
        self._pauses_max = config.logins_waiting_max
        # Guarded by _lock: everything below. The pause itself is outside it.
        self._lock = threading.Lock()
        self._addresses: OrderedDict[str, _Address] = OrderedDict()  # the one that failed last is the last
        self._pauses = 0
        self.count = 0
        self._closing = threading.Event()

    def pause(self, address: str) -> None:
        """Count a failure from `address` and wait for as long as it deserves, unless too many wait already."""
        with self._lock:
            self.count += 1
            failures = self._failed(address)
            if self._pauses >= self._pauses_max:
                return
            self._pauses += 1
        try:
            self._closing.wait(min(self._seconds_max, _FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 16)))
        finally:
            with self._lock:
                self._pauses -= 1

    def close(self) -> None:
        """End the pauses under way."""
        self._closing.set()

    def _failed(self, address: str) -> int:
        now = time.monotonic()
        one = self._addresses.pop(address, None)
        if one is None or now - one.last > _FORGET_SECONDS:
            one = _Address()
        one.failures += 1
        one.last = now
        self._addresses[address] = one
        if len(self._addresses) > _ADDRESSES_MAX:
            self._addresses.popitem(last=False)
        return one.failures
