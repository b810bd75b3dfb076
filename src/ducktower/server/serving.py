"""A server's life: open the engine, listen, drain, checkpoint, close.

Owns the order of these steps. Must never look into a call.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import gc
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .. import cores
from ..config import EngineConfig, ServerConfig
from ..engine import Engine, Principal
from ..errors import InvalidArgument, Unavailable
from ..malloc import keep_freed_memory
from .audit import AuditLog
from .auth import Authenticator, check_address, check_health_address
from .closed_mark import ClosedMark
from .connections import cut
from .flight import Listener
from .flight_sql import FlightSql
from .health import Health
from .health_port import HealthPort
from .logins import Logins
from .memory import described, shared_out
from .plain_flight import PlainFlight
from .token_file import TokenFile
from .visits import Visits

if TYPE_CHECKING:
    from .tls import Tls

__all__ = ["FlightServer", "serve"]

log = logging.getLogger(__name__)

_SHUTDOWN_WAIT_SECONDS = 0.5
_CUT_WAIT_SECONDS = 5.0
_OVER_GRACE_SECONDS = 2.0
"""How long a call whose token is over may take to end, before its connection is cut."""


class FlightServer:
    """One DuckDB database, served. Use it as a context manager, or call `start` and `close`.

    Raises, from `start`: Unavailable when the port or the database file is taken, InvalidArgument for a file
    that is no database, or no token file, Forbidden for an address that needs tokens, TLS or `insecure`, and for a
    database that was served with tokens and has none now.
    """

    def __init__(self, engine: EngineConfig | None = None, server: ServerConfig | None = None) -> None:
        self._engine_config, self._config = shared_out(engine or EngineConfig(), server or ServerConfig())
        self._mark = ClosedMark(self._engine_config.database)
        # Set by start, used by close; both belong to the thread that owns the server, except that close may
        # come from another one once.
        self._engine: Engine | None = None
        self._plain: PlainFlight | None = None
        self._sql: FlightSql | None = None
        self._visits: Visits | None = None
        self._logins: Logins | None = None
        self._tls: Tls | None = None
        self._audit: AuditLog | None = None
        self._listener: Listener | None = None
        self._health: Health | None = None
        self._health_port: HealthPort | None = None
        self._port = 0
        self._closing = threading.Lock()
        self._closed = threading.Event()

    def start(self) -> FlightServer:
        """Open the database and accept calls. Returns itself."""
        self._tls = self._asked_tls()
        file = self._token_file()
        self._logins = logins = Logins(file, self._config.token_look_seconds, self._end_over)
        if not logins.asks:
            self._mark.check(None if file is None else file.path)
        check_address(self._config, asks=logins.asks, encrypts=self._tls is not None)
        if self._config.health_port is not None:
            check_health_address(self._config)
        keep_freed_memory()
        if self._config.one_core:
            cores.share_one()
        with _starting_alone(self._config.host, self._config.port):
            self._start(logins)
        log.info("%s", described(self._engine_config, self._config))
        # A program that forgets to close must still end, and leave a checkpointed file.
        atexit.register(self.close)
        return self

    def _start(self, logins: Logins) -> None:
        _probe_port(self._config.host, self._config.port)
        self._audit = AuditLog(self._config.audit_log) if self._config.audit_log is not None else None
        try:
            self._engine = Engine(replace(self._engine_config, closed_paths=self._closed_paths()))
        except BaseException:
            self._close_audit()
            raise
        try:
            if logins.asks:
                self._mark.put()
            self._visits = visits = Visits(self._engine, Authenticator(logins), self._config)
            self._health = Health(self._engine)
            if self._config.health_port is not None:
                self._health_port = HealthPort(self._config, self._config.health_port, self._health)
            self._plain = PlainFlight(
                self._engine,
                self._config,
                self._health,
                lambda: {"failed_logins": visits.failed_logins.count},
            )
            self._sql = FlightSql(self._engine, self._config)
            location = f"{self._scheme}://{_bracketed(self._config.host)}:{self._config.port}"
            self._listener = Listener(
                location, self._config, self._plain, self._sql, self._visits, self._tls, self._audit
            )
        except BaseException as error:
            if self._visits is not None:
                self._visits.stop()
            if self._sql is not None:
                self._sql.close()
            if self._plain is not None:
                self._plain.close()
            self._close_health()
            self._close_audit()
            self._engine.close(0)
            self._engine = self._visits = self._sql = self._plain = None
            # pyarrow has no class of its own for what gRPC could not listen on.
            if isinstance(error, (OSError, pa.ArrowException)):
                raise Unavailable(f"cannot listen on {self._config.host}:{self._config.port}") from error
            raise
        self._port = int(self._listener.port)
        self._visits.listening_on(self._port)
        logins.start()
        self._health.start()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        self._started()
        return self._port

    @property
    def url(self) -> str:
        """What clients connect to."""
        host = self._config.host
        if host in ("0.0.0.0", "::"):  # noqa: S104 - a place to connect to, not to listen on
            host = "127.0.0.1"
        return f"{self._scheme}://{_bracketed(host)}:{self.port}"

    @property
    def health_url(self) -> str | None:
        """What HTTP health checks ask, `/live` or `/ready` added; None where there are none."""
        self._started()
        if self._health_port is None:
            return None
        return f"http://{_bracketed(self._config.health_host)}:{self._health_port.port}/health"

    @property
    def tls_fingerprint(self) -> str | None:
        """The SHA-256 of the certificate, for clients that trust just this one; None without TLS."""
        self._started()
        return None if self._tls is None else self._tls.fingerprint

    @property
    def asks(self) -> bool:
        """Whether callers must show a token; else whoever reaches the address is served as owner."""
        self._started()
        return self._logins is not None and self._logins.asks

    @property
    def engine(self) -> Engine:
        """The engine behind the server, for use in the same process."""
        return self._started()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Wait until the server is closed; False when the time was over first."""
        return self._closed.wait(timeout_seconds)

    def close(self) -> None:
        """Stop accepting, finish what is in flight within `drain_seconds`, checkpoint, close the database."""
        with self._closing:
            if self._closed.is_set() or self._engine is None:
                return
            if self._logins is not None:
                self._logins.close()
            if self._health is not None:
                self._health.stop()
            if self._listener is not None:
                self._listener.stop_accepting()
            if self._visits is not None:
                self._visits.stop()
            if self._sql is not None:
                self._sql.close()  # results that wait hold cursors, and nobody can fetch them any more
            self._engine.close(self._config.drain_seconds)
            if self._plain is not None:
                self._plain.close()
            if self._listener is not None:
                self._stop_listening(self._listener)
                # Arrow lets go of what it was given only while Python still runs, so not at its end; and the errors
                # of calls refer to their frames, and these to the listener.
                self._listener = self._visits = self._sql = self._plain = None
                gc.collect()
            self._close_health()
            self._close_audit()
            atexit.unregister(self.close)
            self._closed.set()

    def __enter__(self) -> FlightServer:
        return self if self._engine is not None else self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _scheme(self) -> str:
        return "grpc" if self._tls is None else "grpc+tls"

    def _beside(self, suffix: str) -> Path | None:
        """Return the file of that suffix beside the database; None when that is in memory."""
        database = self._engine_config.database
        return None if database == ":memory:" else Path(f"{database}{suffix}")

    def _asked_tls(self) -> Tls | None:
        if not self._config.encrypts:
            return None
        from .tls import tls_of  # what reads certificates takes a tenth of a start: who has none does without it

        return tls_of(self._config, self._beside(".tls"))

    def _token_file(self) -> TokenFile | None:
        """Return the token file that there is or may be. Raises InvalidArgument when one was named and is missing."""
        named = self._config.token_file
        if named is None:
            path = self._beside(".tokens")
            return None if path is None else TokenFile(path)
        file = TokenFile(named)
        if not file.exists():
            raise InvalidArgument(f'token file "{named}" does not exist; `ducktower token create` makes it')
        return file

    def _closed_paths(self) -> tuple[str, ...]:
        """Return the files of the server's own that SQL must not reach, whatever is opened to it."""
        config = self._config
        own = (
            config.token_file,
            config.tls_cert,
            config.tls_key,
            config.tls_client_ca,
            config.audit_log,
            self._mark.path,
        )
        beside = (self._beside(".tokens"), self._beside(".tls"))
        named = [str(path) for path in (*own, *beside) if path is not None]
        return (*self._engine_config.closed_paths, *named)

    def _end_over(self) -> None:
        """End what goes on for callers whose token is over. Called by the thread that notices."""
        engine, logins, listener = self._engine, self._logins, self._listener
        if engine is None or logins is None or listener is None or self._visits is None or self._sql is None:
            return

        self._note_closed(logins)

        def over(principal: Principal) -> bool:
            return not logins.lives(principal)

        engine.end_calls(over)
        for session_id in self._visits.desk.close_all_of(over):
            self._sql.results.drop_session(session_id)
        if self._plain is not None:
            self._plain.part_with(over)
        listener.hang_up_on_over(_OVER_GRACE_SECONDS)

    def _note_closed(self, logins: Logins) -> None:
        if not logins.asks:
            return
        try:
            self._mark.put()
        except InvalidArgument as error:
            log.error("%s; after a restart without its token file the server would be open", error)  # noqa: TRY400 - the text says all

    def _close_health(self) -> None:
        if self._health_port is not None:
            self._health_port.close()
        self._health = self._health_port = None

    def _close_audit(self) -> None:
        if self._audit is not None:
            self._audit.close()

    @staticmethod
    def _stop_listening(listener: Listener) -> None:
        port = listener.port
        stopping = threading.Thread(target=listener.shutdown, name="ducktower-stop", daemon=True)
        stopping.start()
        stopping.join(_SHUTDOWN_WAIT_SECONDS)
        if stopping.is_alive():
            # Some client holds a stream open although it was told. The database is closed, nothing is lost.
            log.info("cutting %d connections that are still open", cut(port))
            stopping.join(_CUT_WAIT_SECONDS)

    def _started(self) -> Engine:
        if self._engine is None or not self._port:
            raise InvalidArgument("the server was not started")
        return self._engine


def serve(database: str = ":memory:", *, host: str = "127.0.0.1", port: int = 0, **settings: Any) -> FlightServer:
    """Serve a database from this process and return the running server.

    `port` 0 picks a free one; `settings` are fields of EngineConfig and ServerConfig. Raises as FlightServer
    does, and InvalidArgument for an unknown setting.
    """
    engine: dict[str, Any] = {"database": str(database)}
    server: dict[str, Any] = {"host": host, "port": port}
    for name, value in settings.items():
        if name in EngineConfig.__dataclass_fields__:
            engine[name] = value
        elif name in ServerConfig.__dataclass_fields__:
            server[name] = value
        else:
            raise InvalidArgument(f'setting "{name}" does not exist')
    return FlightServer(EngineConfig(**engine), ServerConfig(**server)).start()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def _starting_alone(host: str, port: int) -> Iterator[None]:
    """Let one server at a time begin to listen on a port, whichever process it is in; refuse the others.

    The probe does not see who does not listen yet, and pyarrow never lets go of what a listener was given that gRPC
    could not start. The kernel lets one alone bind an abstract socket, and forgets it with its process.
    """
    with contextlib.ExitStack() as stack:
        if port and sys.platform == "linux":
            mark = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            try:
                mark.bind(f"\0ducktower starts on {host}:{port}")
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise Unavailable(f"port {port} on {host} is in use: another server starts on it") from error
                log.info("cannot see whether another server starts on port %d: %s", port, error)
        yield


def _probe_port(host: str, port: int) -> None:
    """Refuse a port that is taken, and an address that is not here: gRPC would say so on stderr alone."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise InvalidArgument(f"port {port} on {host} may not be used by this user") from error
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise InvalidArgument(f'host "{host}" is no address of this machine') from error
            raise Unavailable(f"port {port} on {host} is in use") from error
