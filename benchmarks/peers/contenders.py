"""Who takes part: Ducktower, the peers, and pyarrow's no-op server; each serves, is loaded, and says what it stored.

Owns how they are started side by side, with the same tables in them. Must never measure.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import ducktower

from ..clocked import Outcome
from ..figures import Bench
from ..lineitem import columns
from ..load import LINEITEM_TABLE, SCHEMA, TABLE, Load, running, stored_rows
from ..noop import noop_serving
from ..processes import Server, serving
from .driven import Peer, PeerFailed, Served

__all__ = ["PEERS", "Contender", "started_all"]

PEERS = {
    "quack": Peer("Quack", "quack"),
    "xorq": Peer("xorq", "xorq"),
    "postgres": Peer("PostgreSQL", "postgres"),
}

_SERIES = {"duckdb": "range({rows}) AS numbers(i)", "postgres": "generate_series(0, {rows} - 1) AS numbers(i)"}


class Contender(Protocol):
    """A server that runs."""

    seconds_to_start: float
    """From the start of its process until it took calls; nan where that is not known."""
    pid: int
    """Of the process that serves, or has started those that do."""
    warm_rows: int
    """That were written before anything was measured: the first write of a server costs more than the others."""

    def running(self, load: Load) -> AbstractContextManager[Callable[[], Outcome]]:
        """Load it, wherever `load` says that it is; yields what waits for the outcome."""

    def stored(self, table: str) -> int:
        """Return how many rows of small writes it stored in a table."""

    def script(self, sql: str) -> None:
        """Run one statement; not for the no-op server and xorq."""


class _Ducktower:
    def __init__(self, server: Server) -> None:
        self._url = server.url
        self.pid = server.pid
        self.seconds_to_start = server.seconds_to_start
        self.warm_rows = 0

    def running(self, load: Load) -> AbstractContextManager[Callable[[], Outcome]]:
        return running(replace(load, url=self._url))

    def stored(self, table: str) -> int:
        return stored_rows(self._url, table)

    def script(self, sql: str) -> None:
        with ducktower.connect(self._url) as client:
            client.execute(sql)


class _Noop:
    pid = 0
    seconds_to_start = math.nan
    warm_rows = 0

    def __init__(self, url: str) -> None:
        self._url = url
        self._count = 0

    @contextmanager
    def running(self, load: Load) -> Iterator[Callable[[], Outcome]]:
        def counted() -> Outcome:
            done = outcome()
            self._count += done.count
            return done

        with running(replace(load, url=self._url)) as outcome:
            yield counted

    def stored(self, table: str) -> int:
        """What it answered: its own count can be asked for once, at its end."""
        del table
        return self._count

    def script(self, sql: str) -> None:
        raise PeerFailed(f"a server that does nothing cannot {sql}")


class _Peer:
    def __init__(self, served: Served) -> None:
        self._served = served
        self.pid = served.pid
        self.seconds_to_start = float(served.target["seconds_to_start"])
        self.warm_rows = 0

    def running(self, load: Load) -> AbstractContextManager[Callable[[], Outcome]]:
        return self._served.running(load)

    def stored(self, table: str) -> int:
        if self._served.peer.driver == "xorq":
            return self._served.ask("count", table=table)
        return self._served.ask("script", sql=f"SELECT count(*) FROM {table}", counts=True)

    def script(self, sql: str) -> None:
        self._served.ask("script", sql=sql, counts=False)


@contextmanager
def started_all(
    bench: Bench,
    place: Path,
    names: Sequence[str],
    environment: dict[str, str] | None = None,
    lookup_rows: int = 0,
) -> Iterator[tuple[dict[str, Contender], dict[str, str]]]:
    """Start all that are named; yield them, and why others could not be started.

    With `lookup_rows` each has a table `lookup` of so many rows.
    """
    contenders: dict[str, Contender] = {}
    failures: dict[str, str] = {}
    variables = environment or {}
    for closed in (bench.directory, place):  # PostgreSQL's server runs as its own user
        closed.chmod(0o755)
    with ExitStack() as stack:
        for name in names:
            directory = place / name
            directory.mkdir()
            directory.chmod(0o755)
            try:
                contenders[name] = _started(bench, stack, name, directory, variables, lookup_rows)
                with contenders[name].running(Load(kind="put", clients=1, seconds=0.001)) as outcome:
                    contenders[name].warm_rows = outcome().count
            except (PeerFailed, OSError) as error:
                failures[name] = str(error)
        yield contenders, failures


def _started(
    bench: Bench, stack: ExitStack, name: str, directory: Path, environment: dict[str, str], lookup_rows: int
) -> Contender:
    if name == "noop":
        url, _ = stack.enter_context(noop_serving())
        return _Noop(url)
    contender: Contender
    if name == "ducktower":
        server = stack.enter_context(serving(directory / "served.duckdb", *bench.flags, environment=environment))
        with ducktower.connect(server.url) as client:
            client.create_table(TABLE, SCHEMA)
        contender = _Ducktower(server)
    else:
        contender = _Peer(stack.enter_context(PEERS[name].serving(directory, **environment)))
        if name == "xorq":
            return contender
        contender.script(f"CREATE TABLE {TABLE} (id BIGINT, value VARCHAR)")
    contender.script(f"CREATE TABLE {LINEITEM_TABLE} ({columns()})")
    if lookup_rows:
        _make_lookup(name, contender, lookup_rows)
    return contender


def _make_lookup(name: str, contender: Contender, rows: int) -> None:
    """Make the table that small queries ask; in PostgreSQL with the index that it is used with."""
    series = _SERIES["postgres" if name == "postgres" else "duckdb"].format(rows=rows)
    contender.script(f"CREATE TABLE lookup AS SELECT i AS id, 'value ' || i AS value FROM {series}")
    if name == "postgres":
        contender.script("CREATE UNIQUE INDEX ON lookup (id)")
        contender.script("VACUUM ANALYZE lookup")
