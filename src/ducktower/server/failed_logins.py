"""Failed logins: counted, and answered late, each address later the more it fails.

A token has 256 random bits, so no rate of guessing finds one; what a pause does is to keep a client with a wrong token
from spinning, and to make trying dear. Whoever shows a good token is never held up: it is verified before this is
asked. A pause holds a thread, so there are few at once; a failure past that is refused without one.

Owns the count of each address and the pauses under way. Must never see a credential.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from ..config import ServerConfig
from ..errors import Overloaded

__all__ = ["FailedLogins"]

_ADDRESSES_MAX = 4_096
_FORGET_SECONDS = 60.0
"""An address that did not fail for so long begins anew."""
_FIRST_PAUSE_SECONDS = 0.05
_PAUSES_OF_ONE_MAX = 4
"""Pauses of one address at once: others must get theirs too."""


class _Address:
    __slots__ = ("failures", "last", "pauses")

    def __init__(self) -> None:
        self.failures = 0
        self.last = 0.0
        self.pauses = 0


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
        """Count a failure from `address` and wait for as long as it deserves. Raises Overloaded when too many wait."""
        with self._lock:
            self.count += 1
            one = self._failed(address)
            seconds = min(self._seconds_max, _FIRST_PAUSE_SECONDS * 2 ** min(one.failures - 1, 16))
            if one.pauses >= _PAUSES_OF_ONE_MAX or self._pauses >= self._pauses_max:
                raise Overloaded("too many logins fail at once; the credentials are not good")
            one.pauses += 1
            self._pauses += 1
        try:
            self._closing.wait(seconds)
        finally:
            with self._lock:
                one.pauses -= 1
                self._pauses -= 1

    def close(self) -> None:
        """End the pauses under way."""
        self._closing.set()

    def _failed(self, address: str) -> _Address:
        now = time.monotonic()
        one = self._addresses.pop(address, None)
        if one is None or now - one.last > _FORGET_SECONDS:
            one = _Address()
        one.failures += 1
        one.last = now
        self._addresses[address] = one
        if len(self._addresses) > _ADDRESSES_MAX:
            self._addresses.popitem(last=False)
        return one
