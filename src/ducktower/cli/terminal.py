"""Small things that several commands need of the terminal and of the process they run in.

Owns how text and errors look on a line, and how a command stays deaf to nothing. Must never know a command.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

from ..errors import DucktowerError

__all__ = [
    "block_chart",
    "counted",
    "error_line",
    "leave",
    "milliseconds",
    "one_line",
    "run_interruptibly",
    "sparkline",
    "warm_up",
]

T = TypeVar("T")

_POLL_SECONDS = 0.1
_BLOCKS = " ▁▂▃▄▅▆▇█"


def error_line(error: DucktowerError) -> str:
    """Return `CODE: message` on one line, however many lines DuckDB's own message had."""
    return f"{error.code}: {one_line(error.message)}"


def one_line(text: str) -> str:
    """Return `text` without line breaks, and with every control character made visible."""
    joined = " ".join(text.split())
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in joined)


def counted(number: int, what: str) -> str:
    """Return a number of things: `1 row`, `2,000 rows`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def leave(status: int) -> NoReturn:
    """End this process with `status` without waiting for threads that are inside a native call."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, RuntimeError):  # a signal came while this very stream was being written to
            continue
    os._exit(status)


def run_interruptibly(work: Callable[[], T]) -> T:
    """Return what `work` returns; Ctrl-C is heard at once although `work` may be inside a native call.

    `work` runs in a thread that is abandoned then: it must not hold what only it can clean up.
    """
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_SECONDS)
    if failures:
        raise failures[0]
    return results[0]


def milliseconds(seconds: float) -> str:
    """Return a duration given in seconds as short text in milliseconds."""
    value = seconds * 1000
    return f"{value:.2f} ms" if value < 10 else f"{value:,.0f} ms"


def sparkline(values: Iterable[float], width: int) -> str:
    """Return the last `width` values as one line of blocks, scaled to the largest of them."""
    return block_chart(values, width, 1)[0]


def block_chart(values: Iterable[float], width: int, height: int) -> list[str]:
    """Return the last `width` values as columns of blocks, `height` lines from top to bottom."""
    shown = list(values)[-width:]
    top = max(shown, default=0.0)
    # Eighths of a character: what is not zero shows at least one of them.
    eighths = [0 if top <= 0 or value <= 0 else max(1, round(value / top * height * 8)) for value in shown]
    pad = " " * (width - len(shown))
    return [
        pad + "".join(_BLOCKS[min(8, max(0, filled - 8 * line))] for filled in eighths)
        for line in reversed(range(height))
    ]


def warm_up() -> None:
    """Have Arrow convert a value once: the first time it imports pandas where that is installed, for a second."""
    import pyarrow as pa

    pa.array([0])
