"""How the server is: the engine's checks and its own, the same ones for the `health` action and for the HTTP port.

Owns what live and ready mean. Must never wait for anything: whoever asks may be about to restart the process.
"""

from __future__ import annotations

from importlib import metadata
from typing import Any

from ..engine import Check, Engine

__all__ = ["Health"]

_VERSION = metadata.version("ducktower")


class Health:
    """Safe from any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        # Set by the threads that start and stop the server, each once.
        self._starting = True
        self._stopping = False

    def start(self) -> None:
        """Say from now on that calls are accepted."""
        self._starting = False

    def stop(self) -> None:
        """Say from now on that the server is stopping."""
        self._stopping = True

    def live(self) -> tuple[bool, dict[str, str]]:
        """Return whether the process is worth keeping, and what each check says: `ok`, or what is wrong."""
        checks = self._checks()
        return not any(check.restart for check in checks), _told(checks)

    def ready(self) -> tuple[bool, dict[str, str]]:
        """Return whether everything is served now, reads and writes, and what each check says."""
        checks = self._checks()
        return not any(check.problem for check in checks), _told(checks)

    def describe(self) -> dict[str, Any]:
        """Return what the `health` action answers."""
        state = self._engine.health()
        if self._stopping:
            state["status"] = "stopping"
        return {"version": _VERSION, **state, "checks": _told(self._checks())}

    def _checks(self) -> list[Check]:
        problem = "the server is stopping" if self._stopping else "the server is starting" if self._starting else ""
        return [*self._engine.checks(), Check("accepting", problem)]


def _told(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.problem or "ok" for check in checks}
