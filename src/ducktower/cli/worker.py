"""One process of the demo, run as `python -m ducktower.cli.worker ROLE`: its server, a writer or a reader.

Speaks JSON lines with its parent: orders come in on stdin, what happens goes out on stdout. Must never
outlive its parent: the end of stdin, however it came about, ends it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import EngineConfig, ServerConfig
from ..errors import DucktowerError, InternalError
from .crew import READER, SERVER, WRITER
from .scenarios import SCENARIOS, ScenarioName, rows_of
from .serve import run_server
from .terminal import leave, warm_up
from .vignette import CLIENT_RETRY_SECONDS, Reader, Writer

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["main"]

_REPORT_SECONDS = 0.2
_RETRY_SECONDS = 10.0
_DRAIN_SECONDS = 5.0


class _Worker:
    """What the three roles share: the two events that the parent sets, and the way to tell it something."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.stop = threading.Event()
        self.orders: dict[str, Any] = {}
        self._lock = threading.Lock()  # one line at a time on stdout

    def listen(self) -> None:
        """Follow the parent's lines, and its end."""
        for line in sys.stdin:
            order = json.loads(line)
            if order == "stop":
                self.stop.set()
            else:
                self.orders = order
                self.go.set()
        # The parent is gone, or done with us. Only the server has anything to put in order.
        self.stop.set()
        if not self.go.is_set() or self.orders["role"] != SERVER:
            leave(0)

    def say(self, **event: Any) -> None:
        """Tell the parent; nobody to tell is no failure, as the end of stdin says so too."""
        try:
            with self._lock:
                sys.stdout.write(json.dumps(event) + "\n")
                sys.stdout.flush()
        except BrokenPipeError:
            self.stop.set()


def main() -> int:
    """Play the role that the parent orders, and return the exit status."""
    worker = _Worker()
    threading.Thread(target=worker.listen, name="parent", daemon=True).start()
    role = sys.argv[1]
    if role == SERVER:
        from .. import server  # noqa: F401 - loaded now, so that `go` is answered at once
    else:
        from .. import client  # noqa: F401
    warm_up()
    worker.say(event="loaded")
    worker.go.wait()
    roles = {SERVER: _serve, WRITER: _write, READER: _read}
    try:
        roles[role](worker, worker.orders)
    except DucktowerError as error:
        worker.say(event="failed", code=error.code, message=error.message)
        return 1
    except Exception as error:
        worker.say(event="failed", code=InternalError.code, message=f"{type(error).__name__}: {error}")
        return 1
    worker.say(event="done")
    return 0


def _serve(worker: _Worker, orders: dict[str, Any]) -> None:
    with ExitStack() as stack:
        database: str | None = orders["database"]
        token_file = token = None
        if database is None:
            database = str(_directory(stack) / "demo.duckdb")
        elif Path(f"{database}.tokens").exists():
            # Whose tokens those are the demo does not know. It asks too, for one that nobody else has.
            from ..server.token_file import TokenFile

            token_file = str(_directory(stack) / "tokens")
            _, token = TokenFile(token_file).create("demo", "owner")
        run_server(
            EngineConfig(database=database),
            ServerConfig(port=0, drain_seconds=_DRAIN_SECONDS, token_file=token_file),
            worker.stop,
            lambda server: worker.say(event="ready", url=server.url, database=database, token=token),
        )


def _directory(stack: ExitStack) -> Path:
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ducktower-demo-")))


def _write(worker: _Worker, orders: dict[str, Any]) -> None:
    from ..client import connect

    with connect(orders["url"], token=orders["token"], retry_seconds=CLIENT_RETRY_SECONDS) as client:
        writer = Writer(
            client,
            orders["table"],
            rows_of(SCENARIOS[ScenarioName(orders["scenario"])]),
            per_second=orders["per_second"],
            count=None,
            stop=worker.stop,
            tell=_untold,
            retry_seconds=_RETRY_SECONDS,
        )

        def report() -> None:
            worker.say(
                event="report",
                at=time.monotonic(),
                rows=writer.acknowledged,
                errors=writer.errors,
                found=writer.found,
                lost=writer.lost,
                p50=writer.latency.percentile(0.5),
                p99=writer.latency.percentile(0.99),
            )

        _reporting(writer.run, report)


def _read(worker: _Worker, orders: dict[str, Any]) -> None:
    from ..client import connect

    counts: list[int] = [0]
    went_down = 0
    answer_text = ""

    def on_answer(answer: pa.Table, _seconds: float) -> None:
        nonlocal went_down, answer_text
        first: Any = answer.column(0)[0].as_py() if answer.num_rows and answer.num_columns else None
        answer_text = "no rows" if first is None else str(first)
        if orders["is_count"]:
            went_down += first < counts[0]
            counts[0] = first

    with connect(orders["url"], token=orders["token"], retry_seconds=CLIENT_RETRY_SECONDS) as client:
        reader = Reader(
            client,
            orders["query"],
            per_second=orders["per_second"],
            count=None,
            stop=worker.stop,
            tell=_untold,
            on_answer=on_answer,
            retry_seconds=_RETRY_SECONDS,
        )

        def report() -> None:
            worker.say(
                event="report",
                reads=reader.reads,
                errors=reader.errors,
                answer=answer_text,
                went_down=went_down,
                p50=reader.latency.percentile(0.5),
                p99=reader.latency.percentile(0.99),
            )

        def run() -> None:
            reader.run()
            reader.read()  # once more, after the last write

        _reporting(run, report)


def _untold(_text: str) -> None:
    """Drop what a terminal would be told on the way: the parent counts the errors."""


def _reporting(work: Callable[[], None], report: Callable[[], None]) -> None:
    ended = threading.Event()

    def follow() -> None:
        while not ended.wait(_REPORT_SECONDS):
            report()

    thread = threading.Thread(target=follow, name="reports", daemon=True)
    thread.start()
    try:
        work()
    finally:
        ended.set()
        thread.join()
        report()


if __name__ == "__main__":
    leave(main())
