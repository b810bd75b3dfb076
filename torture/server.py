"""`ducktower serve` in an interpreter that is ready: `python -m torture.server` reads its arguments as a line of JSON.

To start Python and to import takes longer than all else in a restart, so the next server is imported while one runs.
Must never do anything else than the command does.
"""

from __future__ import annotations

import json
import sys

import ducktower.server  # noqa: F401 - the command imports it late
from ducktower.cli import run

if __name__ == "__main__":
    line = sys.stdin.readline()
    if line:  # else nobody wants a server any more
        sys.argv[1:] = json.loads(line)
        run()
