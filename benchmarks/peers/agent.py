"""What the peers' drivers share: to be a server, or a process of clients.

    python -m benchmarks.peers.quack serve '{"directory": ...}'    says where it is, serves until its input ends
    python -m benchmarks.peers.quack load '{"kind": ..., ...}'     says "connected", waits for a line, runs

Every answer is one line of JSON; {"failed": ...} when it could not be done. Must never import anything but the standard
library: it runs in the peers' own environments.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any

from benchmarks.clocked import Work, once, together

__all__ = ["Target", "Works", "main", "once"]

Target = dict[str, Any]
"""Where a server is and what its clients need to know, in the driver's own words.

With "began", the time at which the server itself was started, where that was not the first thing to be done."""
Works = Mapping[str, Callable[[Target, ExitStack, int, dict[str, Any]], Work]]
"""Kinds of work: called with the target, what closes the client, the client's number, and the work's own words."""


def main(serve: Callable[[str], AbstractContextManager[Target]], works: Works) -> int:
    """Do what the command line says."""
    what, words = sys.argv[1], json.loads(sys.argv[2])
    try:
        if what == "serve":
            with serve(words["directory"]) as target:
                began = target.pop("began", words["started"])
                _say(target | {"seconds_to_start": time.time() - began})
                sys.stdin.read()
            return 0
        work = works[words["kind"]]

        def make(stack: ExitStack, number: int) -> Work:
            return work(words["target"], stack, number, words)

        outcome = together(make, words["clients"], words["seconds"], words["first"], _ready)
    except Exception as error:
        _say({"failed": f"{type(error).__name__}: {error}"})
        return 1
    _say({"count": outcome.count, "seconds": outcome.seconds, "latencies": outcome.latencies})
    return 0


def _ready() -> None:
    _say("connected")
    sys.stdin.readline()


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)
