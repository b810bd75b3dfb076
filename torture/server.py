"""`ducktower serve`, forked: `python -m torture.server` has all imported, and serves what each line of JSON asks for.

To start Python and to import takes longer than all else in a restart; a fork takes milliseconds. It says `started PID`,
the server itself `ready URL`, and then it says `ended STATUS` (as of `subprocess`). Must never have a thread, or open a
database or a port: a fork would copy their locks.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys

import ducktower.server  # noqa: F401 - the command imports it late
from ducktower.cli import run


def main() -> None:
    """Serve one after the other until nobody asks any more."""
    for name in ("pandas", "polars"):  # DuckDB imports them, where they are, for the first rows that it is given
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            sys.argv[1:] = json.loads(line)
            run()
            return
        _say(f"started {pid}")
        _say(f"ended {os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])}")


def _say(text: str) -> None:
    os.write(1, f"{text}\n".encode())  # at once and whole: the server writes to the same pipe


if __name__ == "__main__":
    main()
