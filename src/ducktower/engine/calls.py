"""Which calls run now, and the one thread that ends those which ran too long or lost their client.

Owns the registry of running calls and its watching thread. Must never touch data: it only says `interrupt`
to what a call registered, and says again until the call is gone, because DuckDB forgets an interrupt that
arrives between two statements.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import Cancelled, DucktowerError, Overloaded, TimedOut, Unauthenticated, Unavailable
from .access import LOCAL, Principal
from .streams import Probe
from .trail import Trail

__all__ = ["Call", "Caller", "Calls"]

log = logging.getLogger(__name__)

Reason = Literal["timeout", "cancelled", "gone", "stopping", "reopening", "revoked", "full", "slow"]
_TEXT_MAX = 500
_PROBE_SECONDS = 1.0
"""How often it is asked whether a result is read on."""
_ASKED_AT_ONCE = 16
"""Clients that are looked for in one look. To ask gRPC whether a client is there takes tens of microseconds with
Python's lock held: asking for hundreds of them each time would take most of a core."""
_GRACE_SECONDS = 5.0
"""How long a call that was asked to end and is in the wire may take for it, before its client is hung up on. One that
DuckDB still works on is not: its client would see a lost connection, try again, and never be told why."""
_STOPPING_GRACE_SECONDS = 0.5
"""The same once the server stops: the drain was its time, and a client that reads no more must not lengthen it."""


def _never() -> bool:
    return False


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, a way to see whether it still listens, and one to end its connection.

    A call whose client stopped reading waits in the wire, where no interrupt reaches it: `hang_up` does.
    """

    peer: str = "local"
    gone: Callable[[], bool] = _never
    hang_up: Callable[[], None] = _nothing
    principal: Principal = LOCAL
    trail: Trail | None = None
    """Where the engine writes down what it did, when there is an audit log."""
    over: Callable[[], bool] = _never
    """Whether the caller is known no longer, although its call goes on: then it stores nothing more."""
    heard: Callable[[], None] = _nothing
    """Told when something of the caller's stream came in."""
    taken: Callable[[], None] = _nothing
    """Told when the stream needs no watch any more: all of it came in, or a call with a limit of its own reads on."""


class Call:
    """One running call. Created and ended by the thread that serves it, watched by the watching thread."""

    def __init__(
        self,
        number: int,
        kind: str,
        text: str,
        caller: Caller,
        timeout_seconds: float | None,
        interrupt: Callable[[], None],
    ) -> None:
        self.id = number
        self.kind = kind
        self.text = text[:_TEXT_MAX]
        self.caller = caller
        self.timeout_seconds = timeout_seconds
        self.started = time.monotonic()
        # Set by the thread that serves the call.
        self._probe: Probe | None = None
        self._slow_reader_seconds: float | None = None
        # The lock makes `finish` wait for a look that is under way: after it, `gone` and `interrupt`
        # are never called again, so that what they point to may be freed.
        self._lock = threading.Lock()
        self._interrupt = interrupt
        self._finished = False
        self.reason: Reason | None = None
        self._asked_at: float | None = None
        self._hung_up = False
        self._probed_at = 0.0

    def streams(self, probe: Probe, slow_reader_seconds: float | None) -> None:
        """Say that the call's result goes to its client from now on, which may take nothing of it for so long.

        Who reads in this process is not watched: a reader that it loses, by an exception, is not always released, and
        the probe's struct would be gone.
        """
        self._probe = probe
        self._slow_reader_seconds = None if self.caller.hang_up is _nothing else slow_reader_seconds

    @property
    def in_wire(self) -> bool:
        """Whether it waits for its client rather than for DuckDB."""
        return self.kind == "upload" if self._probe is None else not self._probe.working

    def look(self, now: float, *, ask: bool) -> None:
        """End the call when its time is over, or, with `ask`, its client left; keep ending it until it is finished."""
        with self._lock:
            if self._finished:
                return
            if self.reason is None:
                if self.timeout_seconds is not None and now - self.started > self.timeout_seconds:
                    self.reason = "timeout"
                elif ask and self.caller.gone():
                    self.reason = "gone"
                elif self._reader_is_slow(now):
                    self.reason = "slow"
            if self.reason is None:
                return
            self._interrupt()
            self._asked_at = self._asked_at or now
            grace = _STOPPING_GRACE_SECONDS if self.reason == "stopping" else _GRACE_SECONDS
            if now - self._asked_at > grace and not self._hung_up and (self.in_wire or self.reason == "stopping"):
                self._hung_up = True
                self.caller.hang_up()

    def _reader_is_slow(self, now: float) -> bool:
        probe, limit = self._probe, self._slow_reader_seconds
        if probe is None or limit is None:
            return False
        if now - self._probed_at > min(_PROBE_SECONDS, limit / 4):
            self._probed_at = now
            probe.ask()
        return probe.reader_idle_seconds(now) > limit

    def end(self, reason: Reason) -> None:
        """Ask the call to end, for `reason`."""
        with self._lock:
            if not self._finished:
                self.reason = self.reason or reason
                self._interrupt()

    def finish(self) -> None:
        """Say that the call ended."""
        with self._lock:
            self._finished = True

    @property
    def running(self) -> bool:
        """Whether nobody said yet that the call ended."""
        return not self._finished

    def check(self) -> None:
        """Raise the error of a call that was asked to end; notice a client that left just now."""
        if self.reason is None and self.caller.gone():
            self.reason = "gone"
        error = self.error()
        if error is not None:
            raise error

    def error(self) -> DucktowerError | None:
        """Return why the call was asked to end, or None when it was not."""
        match self.reason:
            case None:
                return None
            case "timeout":
                return TimedOut(f"the {self.kind} ran longer than its limit of {self.timeout_seconds:g} seconds")
            case "slow":
                return TimedOut(
                    f"nothing of the result was taken for {self._slow_reader_seconds:g} seconds during the {self.kind}"
                )
            case "gone":
                return Cancelled(f"the client went away during its {self.kind}")
            case "cancelled":
                return Cancelled(f"the {self.kind} was cancelled")
            case "revoked":
                return Unauthenticated("the token was revoked or has expired")
            case "reopening":
                return Unavailable(f"the database was reopened after a fatal error during the {self.kind}")
            case "full":
                return Overloaded(
                    f"the disk became nearly full during the {self.kind}; nothing was stored", retry_after_seconds=1.0
                )
            case "stopping":
                return Unavailable(f"the server stopped during the {self.kind}")

    def describe(self) -> dict[str, Any]:
        """Return what an operator wants to see: id, kind, peer, SQL or table, age in seconds."""
        return {
            "id": self.id,
            "kind": self.kind,
            "peer": self.caller.peer,
            "text": self.text,
            "seconds": round(time.monotonic() - self.started, 3),
            "ending": self.reason,
        }


class Calls:
    """The registry."""

    def __init__(self, watch_interval_seconds: float) -> None:
        self._watch_interval_seconds = watch_interval_seconds
        # The lock guards the map; calls are looked at outside it.
        self._lock = threading.Lock()
        self._running: dict[int, Call] = {}
        self._numbers = itertools.count(1)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="ducktower-watch", daemon=True)
        self._thread.start()

    def start(
        self,
        kind: str,
        text: str,
        caller: Caller,
        *,
        timeout_seconds: float | None,
        interrupt: Callable[[], None],
    ) -> Call:
        """Register a call. `interrupt` must be safe from any thread and cheap."""
        call = Call(next(self._numbers), kind, text, caller, timeout_seconds, interrupt)
        with self._lock:
            self._running[call.id] = call
        return call

    def finish(self, call: Call) -> None:
        """Forget a call; afterwards nothing of it is touched any more. Twice is harmless."""
        with self._lock:
            self._running.pop(call.id, None)
        call.finish()

    def describe(self, principal: Principal = LOCAL) -> list[dict[str, Any]]:
        """Describe the running calls, oldest first: to an owner of all tables all, to everybody else its own."""
        return [call.describe() for call in self._snapshot() if principal.oversees(call.caller.principal)]

    def cancel(self, number: int, principal: Principal = LOCAL) -> bool:
        """End the call of that id; False when there is none that the principal may end."""
        with self._lock:
            call = self._running.get(number)
        if call is None or not principal.oversees(call.caller.principal):
            return False
        call.end("cancelled")
        return True

    def end_all(self, reason: Reason) -> None:
        """End every running call."""
        for call in self._snapshot():
            call.end(reason)

    def end_kind(self, kind: str, reason: Reason) -> None:
        """End every running call of a kind."""
        for call in self._snapshot():
            if call.kind == kind:
                call.end(reason)

    def end_of(self, whose: Callable[[Principal], bool]) -> int:
        """End the running calls of principals that `whose` names, because they are known no longer; count them."""
        theirs = [call for call in self._snapshot() if whose(call.caller.principal)]
        for call in theirs:
            call.end("revoked")
        return len(theirs)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()
        self._thread.join()

    def _snapshot(self) -> list[Call]:
        with self._lock:
            return list(self._running.values())

    def _watch(self) -> None:
        turn = 0
        while not self._closed.wait(self._watch_interval_seconds):
            now = time.monotonic()
            calls = self._snapshot()
            asked = {(turn + offset) % len(calls) for offset in range(_ASKED_AT_ONCE)} if calls else set()
            turn += _ASKED_AT_ONCE
            for index, call in enumerate(calls):
                try:
                    call.look(now, ask=index in asked)
                except Exception:
                    log.exception("cannot look at call %d", call.id)
