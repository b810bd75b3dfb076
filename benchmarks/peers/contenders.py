"""Who takes part: Ducktower, the peers, and pyarrow's no-op server; each serves, is loaded, and says what it stored.

Owns how they are started side by side, with the same tables in them. Must never measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import ducktower

from ..clocked import Outcome
from ..figures import Bench
from ..load import SCHEMA, TABLE, Kind, Load, one_row, running, stored_rows
from ..noop import noop_serving
from ..processes import serving
from .driven import Peer, PeerFailed, Served

__all__ = ["PEERS", "Contender", "started_all"]

PEERS = {
    "quack": Peer("Quack", "quack"),
    "xorq": Peer("xorq", "xorq"),
    "postgres": Peer("PostgreSQL", "postgres"),
}

_OURS: dict[str, Kind] = {"insert": "put"}
_SERIES = {"quack": "range({rows}) AS numbers(i)", "postgres": "generate_series(0, {rows} - 1) AS numbers(i)"}


class Contender(Protocol):
    """A server that runs."""

    def running(
        self, kind: str, *, clients: int, seconds: float, processes: int, sql: str = ""
    ) -> AbstractContextManager[Callable[[], Outcome]]:
        """Load it; yields what waits for the outcome."""

    def stored(self) -> int:
        """Return how many one-row writes it stored."""


class _Ducktower:
    def __init__(self, url: str) -> None:
        self.url = url
        self._warm = 1  # row that was there before anybody wrote

    @contextmanager
    def running(
        self, kind: str, *, clients: int, seconds: float, processes: int, sql: str = ""
    ) -> Iterator[Callable[[], Outcome]]:
        load = Load(
            kind=_OURS.get(kind, kind),  # type: ignore[arg-type]
            url=self.url,
            clients=clients,
            seconds=seconds,
            processes=processes,
            query=sql,
        )
        with running(load) as outcome:
            yield outcome

    def stored(self) -> int:
        return stored_rows(self.url) - self._warm


class _Noop:
    def __init__(self, url: str) -> None:
        self._url = url
        self._count = 0

    @contextmanager
    def running(
        self, kind: str, *, clients: int, seconds: float, processes: int, sql: str = ""
    ) -> Iterator[Callable[[], Outcome]]:
        del kind, sql

        def counted() -> Outcome:
            done = outcome()
            self._count += done.count
            return done

        load = Load(kind="put", url=self._url, clients=clients, seconds=seconds, processes=processes)
        with running(load) as outcome:
            yield counted

    def stored(self) -> int:
        """What it answered: its own count can be asked for once, at its end."""
        return self._count


class _Peer:
    def __init__(self, served: Served) -> None:
        self.served = served

    @contextmanager
    def running(
        self, kind: str, *, clients: int, seconds: float, processes: int, sql: str = ""
    ) -> Iterator[Callable[[], Outcome]]:
        with self.served.running(kind, clients=clients, seconds=seconds, processes=processes, sql=sql) as outcome:
            yield outcome

    def stored(self) -> int:
        if self.served.peer.driver == "xorq":
            return self.served.run("count", clients=1, seconds=0.001, table=TABLE).count
        return self.served.script(f"SELECT count(*) FROM {TABLE}", counts=True)


@contextmanager
def started_all(
    bench: Bench, place: Path, names: Sequence[str], environment: dict[str, str] | None = None, *, lookup: bool = False
) -> Iterator[tuple[dict[str, Contender], dict[str, str]]]:
    """Start all that are named; yield them, and why others could not be started."""
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
                contenders[name] = _started(bench, stack, name, directory, variables, lookup=lookup)
            except (PeerFailed, OSError) as error:
                failures[name] = str(error)
        yield contenders, failures


def _started(
    bench: Bench, stack: ExitStack, name: str, directory: Path, environment: dict[str, str], *, lookup: bool
) -> Contender:
    rows = bench.scale.lookup_rows
    make = "CREATE TABLE lookup AS SELECT i AS id, 'value ' || i AS value FROM "
    if name == "noop":
        url, _ = stack.enter_context(noop_serving())
        return _Noop(url)
    if name == "ducktower":
        server = stack.enter_context(serving(directory / "served.duckdb", *bench.flags, environment=environment))
        with ducktower.connect(server.url) as client:
            client.create_table(TABLE, SCHEMA)
            client.ingest(TABLE, one_row(0))  # the first write of a server makes its plan
            if lookup:
                client.execute(make + _SERIES["quack"].format(rows=rows))
        return _Ducktower(server.url)
    served = stack.enter_context(PEERS[name].serving(directory, **environment))
    if name != "xorq":
        served.script(f"CREATE TABLE {TABLE} (id BIGINT, value VARCHAR)")
        if lookup:
            served.script(make + _SERIES[name].format(rows=rows))
            if name == "postgres":
                served.script("CREATE UNIQUE INDEX ON lookup (id)")
                served.script("VACUUM ANALYZE lookup")
    return _Peer(served)
