"""The commands. Owns flags, environment variables, terminal and exit statuses; decides nothing about data."""

import os
from collections.abc import Sequence
from typing import NoReturn

__all__ = ["main", "run"]

_EXIT_INTERRUPTED = 130


def run() -> NoReturn:
    """Run the command of this process, and end it: quietly when Ctrl-C comes while the commands are still loaded."""
    try:
        from . import app
    except KeyboardInterrupt:
        os._exit(_EXIT_INTERRUPTED)
    app.run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. See `app.main`."""
    from . import app

    return app.main(arguments)
