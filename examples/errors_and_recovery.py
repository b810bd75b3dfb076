"""What can go wrong, how each error says so, and how to go on after the server was restarted.

Run `python examples/errors_and_recovery.py`. It starts and restarts a server of its own; with DUCKTOWER_URL
it talks to that server, and leaves out the restart.
"""

import contextlib
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa

import ducktower

TABLE = "errors_example"
SCHEMA = pa.schema([pa.field("id", pa.int64(), nullable=False), ("value", pa.string())])


def show_errors(client: Any) -> None:
    """Every error has a stable code, and says whether the same call may succeed later."""
    mistakes: dict[str, Callable[[], Any]] = {
        "a table that is not there": lambda: client.query("SELECT * FROM nowhere"),
        "a typing mistake": lambda: client.query("SELEC 1"),
        "an unknown column": lambda: client.ingest(TABLE, [{"id": 1, "colour": "red"}]),
        "a value that does not fit": lambda: client.ingest(TABLE, [{"id": "seven", "value": "x"}]),
        "a NULL where none may be": lambda: client.ingest(TABLE, [{"id": None, "value": "x"}]),
    }
    for name, mistake in mistakes.items():
        try:
            mistake()
        except ducktower.DucktowerError as error:
            print(f"{name}: {error.code}, retryable: {error.retryable}\n    {error.message.splitlines()[0]}")


def patiently(call: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Repeat a call that is safe to repeat, for as long as the error says that it is worth it."""
    end = time.monotonic() + seconds
    pause = 0.05
    while True:
        try:
            return call()
        except ducktower.DucktowerError as error:
            if not error.retryable or time.monotonic() > end:
                raise
            print(f"{error.code}: trying again")
            time.sleep(pause)
            pause = min(1.0, 2 * pause)


def survive_a_restart(directory: str) -> None:
    """Write, lose the server, read again: acknowledged rows are there.

    The client would try again by itself for 10 seconds; here it leaves that to `patiently`, to show how.
    """
    database = os.path.join(directory, "recovery.duckdb")
    with socket.socket() as probe:  # a port that the second server can have again
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ducktower.serve(database, port=port, drain_seconds=1.0)
    with ducktower.connect(server.url, retry_seconds=0.1) as client:
        client.create_table(TABLE, SCHEMA)
        show_errors(client)
        receipt = client.ingest(TABLE, [{"id": 1, "value": "stored before the restart"}])
        print(f"{receipt.rows} row is durable, commit {receipt.commit}")
        server.close()

        servers: list[Any] = []

        def start_again() -> None:
            servers.append(ducktower.serve(database, port=port, drain_seconds=1.0))

        later = threading.Timer(1.0, start_again)
        later.start()
        # A query is safe to repeat. A write that met UNAVAILABLE may have been stored: look before repeating.
        print(patiently(lambda: client.query(f"SELECT * FROM {TABLE}").to_pylist()))
        later.join()
        servers[0].close()


def main() -> None:
    url = os.environ.get("DUCKTOWER_URL")
    if url:
        with ducktower.connect(url) as client:
            client.create_table(TABLE, SCHEMA, if_not_exists=True)
            show_errors(client)
    else:
        with contextlib.ExitStack() as stack:
            survive_a_restart(stack.enter_context(tempfile.TemporaryDirectory()))


if __name__ == "__main__":
    main()
