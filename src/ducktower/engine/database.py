"""The one DuckDB database: opened, leased out cursor by cursor, reopened after a fatal error, closed.

Owns the root connection, every cursor made from it and the file. Must never see rows, and never run a
client's SQL itself: it hands a cursor to whoever does. `duckdb.connect` is called here and nowhere else,
because a second way into the same file within a process is a second database, and the file is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import duckdb

from .. import cores
from ..config import EngineConfig
from ..errors import InternalError, InvalidArgument, Unavailable
from .failures import first_line, is_fatal, without_paths
from .headroom import Headroom
from .opened import opened_directories
from .places import Places
from .shares import Share
from .wal import Found, replaying, wal_bytes

__all__ = [
    "SESSION_SETTINGS",
    "Database",
    "Lease",
    "State",
    "check_unserved",
    "looks_like_duckdb",
    "no_duckdb",
    "opened_apart",
]

log = logging.getLogger(__name__)

State = Literal["serving", "reopening", "stopping"]
Pool = Literal["read", "large write", "execute", "session", "internal"]

_EXTENSION = re.compile(r"[a-z][a-z0-9_]*")
_REOPEN_PAUSE_SECONDS = 0.05
_REOPEN_LOG_EVERY_SECONDS = 5.0
_HEADER_BYTES = 4096
_AUTOMATIC_AT = 4
"""How many times `wal_checkpoint_bytes` the WAL has when DuckDB writes a checkpoint within somebody's COMMIT."""
_INTERNAL_MAX = 8

SESSION_SETTINGS = ("TimeZone", "Calendar", "integer_division")
"""DuckDB's settings that clients may change, each for its own session."""

# Files that this process serves. DuckDB's file lock is the process's, so it cannot tell two of our own
# engines apart. Guarded by its lock.
_served: set[str] = set()
_served_lock = threading.Lock()


class Lease:
    """One cursor for one call. `close` gives it back; twice is harmless. Used by one thread at a time."""

    def __init__(self, make: Callable[[], Any], give_back: Callable[[Lease], None]) -> None:
        self.cursor = make()
        self._make = make
        self._give_back = give_back
        self._lock = threading.Lock()  # guards _closed, and the cursor while another one takes its place
        self._closed = False

    def interrupt(self) -> None:
        """Stop the statement that runs on the cursor, if any; from any thread."""
        with self._lock:
            if not self._closed:
                self.cursor.interrupt()

    def renew(self) -> None:
        """Roll back what is open by closing the cursor, and go on with a fresh one in its place."""
        with self._lock:
            if not self._closed:
                self.cursor.close()
                self.cursor = self._make()

    def close(self) -> None:
        """Roll back what is open, free the cursor and its place."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        # Closing a cursor rolls its transaction back. A fresh one costs 3 us, a reused one would carry
        # SET, USE, variables and temp tables from one client to the next.
        try:
            self.cursor.close()
        finally:
            self._give_back(self)


class Database:
    """The database and its cursors; safe from any thread."""

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._path = _identity(config.database)
        self._directories = [directory + os.sep for directory in opened_directories(config)]
        bounds: tuple[tuple[Pool, int, int | None], ...] = (  # of all, and of one principal
            ("read", config.reads_in_flight_max, config.principal_reads_in_flight_max),
            ("large write", config.large_writes_in_flight_max, config.principal_large_writes_in_flight_max),
            ("execute", config.executes_in_flight_max, config.principal_executes_in_flight_max),
            ("session", config.session_cursors_max, None),
            ("internal", _INTERNAL_MAX, None),
        )
        self._pools = {pool: Places(pool, most, of_one, config.lease_wait_seconds) for pool, most, of_one in bounds}
        # Guarded by _changed's lock: everything below. Waiters on it: those who wait for "serving", and the
        # reopening thread, which waits until no lease is out.
        self._changed = threading.Condition()
        self._state: State = "serving"
        self._leases: set[Lease] = set()
        self._clients = 0  # of them, those on which statements of clients run
        self._generation = 0
        self._reopening_since: float | None = None
        self._fatal_errors = 0
        self._last_fatal = ""
        self._found = Found()  # in the WAL, at the last opening
        self._opened_seconds = 0.0
        self._before_reopen: list[Callable[[], None]] = []
        self._checkpointing = threading.Lock()  # held while one is written, and by who must not meet one
        self._descriptor: int | None = None
        self.headroom = Headroom(self._internal, lambda: self._clients > 0, self.note, config.memory_limit)
        self._claim()
        try:
            self._root = self._connect()
        except BaseException:
            self._disclaim()
            raise
        # fetchall, here and everywhere: a result that is not drained keeps its transaction open.
        self.catalog: str = self._root.execute("SELECT current_database()").fetchall()[0][0]

    # -- what others see ------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Whether leases are given out now."""
        return self._state

    def reopening_seconds(self) -> float:
        """For how long the database has been opening again; 0 when it is not."""
        since = self._reopening_since
        return 0.0 if since is None else time.monotonic() - since

    @property
    def generation(self) -> int:
        """How often the database was opened again; cursors of an older generation are dead."""
        return self._generation

    @property
    def fatal_errors(self) -> tuple[int, str]:
        """How many fatal errors there were, and the last one's text."""
        with self._changed:
            return self._fatal_errors, self._last_fatal

    def opening(self) -> dict[str, Any]:
        """Return how long the last opening took, and what it found in the WAL."""
        return {
            "open_seconds": round(self._opened_seconds, 6),
            "replayed_bytes": self._found.nbytes - self._found.torn_bytes,
            "replayed_commits": self._found.commits,
            "torn_bytes": self._found.torn_bytes,
        }

    def leases_out(self) -> int:
        """How many cursors are in use."""
        with self._changed:
            return len(self._leases)

    def lease(self, pool: Pool, share: Share | None = None) -> Lease:
        """Lease a fresh cursor, waiting at most `lease_wait_seconds` for a place in its pool, within the share's part.

        Raises Overloaded when no place became free, Unavailable while the database is being reopened or closed.
        """
        places = self._pools[pool]
        places.take(share)
        try:
            with self._changed:
                if self._state != "serving":
                    raise Unavailable(f"the database is {self._state}")
                lease = Lease(self._root.cursor, lambda done: self._returned(done, pool, share))
                self._leases.add(lease)
                self._clients += pool != "internal"
        except BaseException as error:
            places.give_back(share)
            self.note(error)
            raise
        return lease

    def when_waiting(self, pool: Pool, make_room: Callable[[], None]) -> None:
        """Have `make_room` called again and again while a call waits and no place is free, by its thread."""
        self._pools[pool].make_room = make_room

    def note(self, error: BaseException) -> None:
        """Look at a failure; when it is fatal to the database, begin to open it again."""
        if not is_fatal(error):
            return
        with self._changed:
            if self._state != "serving":
                return
            self._state = "reopening"
            self._reopening_since = time.monotonic()
            self._fatal_errors += 1
            self._last_fatal = without_paths(first_line(str(error)))
        log.error("fatal database error, reopening: %s", self._last_fatal)
        threading.Thread(target=self._reopen, name="ducktower-reopen", daemon=True).start()

    def before_reopen(self, drop: Callable[[], None]) -> None:
        """Have `drop` called before each reopening: it must see to it that leases come back soon."""
        self._before_reopen.append(drop)

    def wait_serving(self, timeout_seconds: float) -> bool:
        """Wait until leases are given out (True) or the database is closed or the time is over (False)."""
        with self._changed:
            self._changed.wait_for(lambda: self._state != "reopening", timeout_seconds)
            return self._state == "serving"

    def checkpoint(self) -> None:
        """Write the WAL's contents into the database file, beside those who write.

        Raises duckdb.TransactionException when an open transaction does not allow it now, Overloaded when queries have
        all memory.
        """
        with self._checkpointing, self.headroom.for_checkpoint(), self._internal() as cursor:
            cursor.execute("CHECKPOINT")

    def without_checkpoints(self) -> contextlib.AbstractContextManager[Any]:
        """Return what keeps `checkpoint` waiting while it is entered; DuckDB's own may come all the same."""
        return self._checkpointing

    def descriptor(self) -> int:
        """Return a descriptor of the database's file, to read from and never to close.

        DuckDB's lock is the process's and goes with the first descriptor of the file that the process closes: so this
        one stays until the database is closed.
        """
        with self._changed:
            if self._state == "stopping":
                raise Unavailable("the database is stopping")
            if self._descriptor is None:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return self._descriptor

    def checkpoints_written(self) -> bytes:
        """Return what each checkpoint changes: one of the two headers behind the main one."""
        return os.pread(self.descriptor(), 2 * _HEADER_BYTES, _HEADER_BYTES)

    def close(self, wait_seconds: float = 5.0) -> None:
        """Stop leasing, wait for the leases that are out, checkpoint and close. Twice is harmless."""
        with self._changed:
            if self._state == "stopping":
                return
            self._changed.wait_for(lambda: self._state == "serving", wait_seconds)
            self._state = "stopping"
            self._changed.notify_all()
            returned = self._changed.wait_for(lambda: not self._leases, wait_seconds)
            left = list(self._leases)
        if not returned:
            log.warning("closing with %d cursors still in use", len(left))
        with contextlib.suppress(duckdb.Error):
            self._root.execute("CHECKPOINT")
        # Every cursor keeps the file open, so those whose owner does not come back are closed here.
        for lease in left:
            with contextlib.suppress(duckdb.Error):
                lease.cursor.close()
        self._root.close()
        with self._changed:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        self._disclaim()

    # -- within ---------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _internal(self) -> Iterator[Any]:
        """Lease a cursor for what is nobody's, until the block ends."""
        lease = self.lease("internal")
        try:
            yield lease.cursor
        finally:
            lease.close()

    def _returned(self, lease: Lease, pool: Pool, share: Share | None) -> None:
        with self._changed:
            self._leases.discard(lease)
            self._clients -= pool != "internal"
            if self._state != "serving":
                self._changed.notify_all()
        self._pools[pool].give_back(share)

    def _connect(self) -> Any:
        config = self._config
        # Replacement scans off: SQL could read this process's Python variables by name. It must be given at
        # connect, a SET does not reach cursors. The lock comes last and keeps all of it.
        settings: dict[str, Any] = {
            "python_enable_replacements": "false",
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": str(config.external_access).lower(),
            "allow_community_extensions": "false",
            # `memory_limit` for `headroom` alone; the others are harmless ones that a session may change for itself.
            # `statements` keeps clients from the first and from SET GLOBAL.
            "allowed_configs": str(["memory_limit", *SESSION_SETTINGS]),
            # Row groups of an upload that wait in memory, for each thread: 5 by default.
            "write_buffer_row_group_count": "2",
        }
        locked = {"enable_external_access": str(config.external_access).lower(), "lock_configuration": "true"}
        opens_something = bool(config.allow_extensions or self._directories)
        if not opens_something:
            settings |= locked
        if config.wal_checkpoint_bytes is not None:
            settings["wal_autocheckpoint"] = f"{_AUTOMATIC_AT * config.wal_checkpoint_bytes}B"
        if config.memory_limit is not None:
            settings["memory_limit"] = config.memory_limit
        if config.threads is not None:
            settings["threads"] = str(config.threads)
        root = self._opened(settings)
        if opens_something:  # which DuckDB takes only once it runs, and before these close it
            _load(root, config.allow_extensions)
            root.execute(f"SET allowed_directories = {_list(self._directories)}")
            for name, value in locked.items():
                root.execute(f"SET {name} = {value}")
        self.headroom.opened(root)
        return root

    def _opened(self, settings: dict[str, Any]) -> Any:
        """Open the file, which replays its WAL."""
        config = self._config
        if self._path and os.path.exists(self._path) and not os.path.isfile(self._path):
            # To open a pipe would wait for its other end, and hear no signal meanwhile.
            what = "is a directory" if os.path.isdir(self._path) else "is no regular file"
            raise InvalidArgument(f'database "{config.database}" {what}')
        with contextlib.nullcontext(Found()) if not self._path else replaying(self._path) as found:
            started = time.monotonic()
            try:
                root = duckdb.connect(config.database, config=settings)
            except duckdb.Error as error:
                raise _cannot_open(config, error) from error
        self._found, self._opened_seconds = found, time.monotonic() - started
        return root

    def _reopen(self) -> None:
        """Wait until every cursor of the dead database is gone, then open it again. Runs in its own thread.

        DuckDB hands out the old, dead instance for as long as anything still refers to it.
        """
        cores.roam()  # it began where its maker was, and DuckDB's threads begin where it is
        for drop in self._before_reopen:
            drop()
        logged = time.monotonic()
        while True:
            with self._changed:
                if self._state == "stopping":
                    return
                left = list(self._leases)
            if not left and self._try_connect():
                return
            if time.monotonic() - logged > _REOPEN_LOG_EVERY_SECONDS:
                logged = time.monotonic()
                log.warning("reopening waits for %d calls to end", len(left))
            time.sleep(_REOPEN_PAUSE_SECONDS)

    def _try_connect(self) -> bool:
        with contextlib.suppress(duckdb.Error):
            self._root.close()
        try:
            root = self._connect()
            root.execute("SELECT 1").fetchall()
        except Exception as error:
            log.warning("cannot reopen yet: %s", first_line(str(error)))
            return False
        with self._changed:
            self._root = root
            self._generation += 1
            if self._state == "reopening":
                self._state = "serving"
            self._reopening_since = None
            self._changed.notify_all()
        log.warning("the database is open again")
        return True

    def _claim(self) -> None:
        with _served_lock:
            if self._path in _served:
                raise Unavailable(f'database "{self._config.database}" is served by this process already')
            if self._path:
                _served.add(self._path)

    def _disclaim(self) -> None:
        with _served_lock:
            _served.discard(self._path)


def check_unserved(path: Path) -> None:
    """Raise Unavailable for a file that this process serves: it must not be opened, nor closed, a second time."""
    with _served_lock:
        if os.path.realpath(path) in _served:
            raise Unavailable(f'database "{path}" is served by this process')


def opened_apart(
    path: Path, memory_bytes: int | None = None, *, writable: bool = False, beside: Path | None = None
) -> Any:
    """Open a file that nobody serves in an instance of its own, closed to everything outside; return its connection.

    `beside` is attached to it as `beside`, to be read. Raises duckdb.Error for what is no database or is held by
    another process, Unavailable for what this one serves.
    """
    check_unserved(path)
    settings = {
        "threads": "1",  # beside others' work, not before it
        "autoload_known_extensions": "false",
        "autoinstall_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    if memory_bytes is not None:
        settings["memory_limit"] = f"{memory_bytes}B"
    connection = duckdb.connect(str(path), read_only=not writable, config=settings)
    try:
        # Past two seconds DuckDB would draw it on stdout, into a command's JSON. Cursors have none.
        connection.execute("SET enable_progress_bar = false")
        if beside is not None:
            connection.execute(f"ATTACH {_list([str(beside)])[1:-1]} AS beside (READ_ONLY)")
        connection.execute("SET enable_external_access = false; SET lock_configuration = true")
    except BaseException:
        connection.close()
        raise
    return connection


def _list(texts: Sequence[str]) -> str:
    return "[" + ", ".join("'" + text.replace("'", "''") + "'" for text in texts) + "]"


def _load(root: Any, extensions: Sequence[str]) -> None:
    for name in extensions:
        try:
            if not _EXTENSION.fullmatch(name):
                raise InvalidArgument(f'extension "{name}": a name has letters, digits and _')
            root.execute(f"LOAD {name}")
        except duckdb.Error as error:
            root.close()
            raise InvalidArgument(f'extension "{name}" cannot be loaded: {first_line(str(error))}') from error
        except InvalidArgument:
            root.close()
            raise


def _identity(database: str) -> str:
    return "" if database == ":memory:" else os.path.realpath(database)


def _cannot_open(config: EngineConfig, error: duckdb.Error) -> Exception:
    """Say which of the usual reasons it was: held by another process, no database, no such folder, an option.

    DuckDB raises one class for the first three, so they are told apart by looking, and the lock by its text.
    """
    text = first_line(str(error))
    database = config.database
    path = Path(database)
    if "Could not set lock on file" in str(error):
        return Unavailable(f'database "{database}" is held by another process: {text}')
    if database != ":memory:":
        if not path.parent.is_dir():
            return InvalidArgument(f'database "{database}": there is no directory "{path.parent}"')
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return InvalidArgument(f'database "{database}" may not be read and written by this user')
        if not path.exists() and not os.access(path.parent, os.W_OK | os.X_OK):
            return InvalidArgument(f'database "{database}": this user may not write into "{path.parent}"')
        if path.exists() and not looks_like_duckdb(path):
            return InvalidArgument(no_duckdb(path))
        if "storage version number" in text:
            return InvalidArgument(f'database "{database}" is not of this version of DuckDB: {text}')
    for name, value in (("memory_limit", config.memory_limit), ("threads", config.threads)):
        if value is not None:
            try:
                duckdb.connect(config={name: str(value)}).close()
            except duckdb.Error as refused:
                return InvalidArgument(f'{name} "{value}": {first_line(str(refused))}')
    return InternalError(
        f'cannot open database "{database}": {text}; nothing was changed. `ducktower recover {shlex.quote(database)}` '
        "copies it and its WAL, tries what opens, and says what is lost"
    )


def no_duckdb(path: Path) -> str:
    """Say that a file is no database, and what helps when it was one."""
    said = f'file "{path}" is no DuckDB database'
    if not wal_bytes(str(path)):
        return said
    return f"{said} any more, but its WAL is beside it; nothing was changed, and `ducktower restore` of a backup helps"


def looks_like_duckdb(path: Path) -> bool:
    """Whether the main header carries DuckDB's magic bytes (https://duckdb.org/docs/internals/storage)."""
    with path.open("rb") as file:
        return file.read(12)[8:] == b"DUCK"
