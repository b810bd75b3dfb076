"""`ducktower serve`: one database, offered on the network until a signal says stop.

Owns the way from flags to a running server and back to a closed file. Must never decide anything about calls.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
from collections.abc import Callable
from enum import StrEnum
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import EngineConfig, ServerConfig
from ..errors import InternalError, InvalidArgument
from . import principal_limits as limits
from .options import duration
from .terminal import leave, run_interruptibly

if TYPE_CHECKING:
    from ..server import FlightServer

__all__ = ["command", "run_server"]

_ENGINE = EngineConfig()
_SERVER = ServerConfig()
_POLL_SECONDS = 0.05
"""How soon a signal is seen: its handler must not take the lock of an event that this thread may be taking."""
_QUEUES = "Limits: past each of them a call is refused, and told whether to retry"
_TIMES = "Times"
_BACKUPS = "Backups"
_SECURITY = "Who may call, and encryption"
_HEALTH = "Health checks"
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_log = logging.getLogger("ducktower.serve")


class LogLevel(StrEnum):
    """How much is told on stderr."""

    debug = "debug"
    info = "info"
    warning = "warning"
    error = "error"


def command(
    database: Annotated[
        str,
        typer.Argument(
            envvar="DUCKTOWER_DATABASE",
            help="The DuckDB file, created when missing, or `:memory:`.",
            metavar="DATABASE",
        ),
    ] = _ENGINE.database,
    *,
    host: Annotated[str, typer.Option(envvar="DUCKTOWER_HOST", help="Address to listen on.")] = _SERVER.host,
    port: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_PORT", min=0, max=65535, help="Port to listen on; 0 picks a free one."),
    ] = _SERVER.port,
    one_core: Annotated[
        bool,
        typer.Option(
            "--one-core/--all-cores",
            envvar="DUCKTOWER_ONE_CORE",
            help="Whether threads that take small writes share one core, which is much faster; else `--all-cores`.",
        ),
    ] = _SERVER.one_core,
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            envvar="DUCKTOWER_INSECURE",
            help="Allow an address that other machines reach without tokens or without TLS.",
        ),
    ] = _SERVER.insecure,
    token_file: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_TOKEN_FILE",
            help="The file of those who may call, made by `ducktower token create`. [default: DATABASE.tokens; without "
            "that file nobody is asked]",
            rich_help_panel=_SECURITY,
        ),
    ] = _SERVER.token_file,
    tls: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_TLS",
            metavar="auto",
            help="`auto`: a certificate that signs itself, made once and kept as DATABASE.tls; its fingerprint is told "
            "on stderr.",
            rich_help_panel=_SECURITY,
        ),
    ] = _SERVER.tls,
    tls_cert: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_TLS_CERT", help="PEM file of the certificate and its chain.", rich_help_panel=_SECURITY
        ),
    ] = _SERVER.tls_cert,
    tls_key: Annotated[
        str | None,
        typer.Option(envvar="DUCKTOWER_TLS_KEY", help="PEM file of its private key.", rich_help_panel=_SECURITY),
    ] = _SERVER.tls_key,
    tls_client_ca: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_TLS_CLIENT_CA",
            help="Mutual TLS: PEM file of the authority that must have signed each client's certificate.",
            rich_help_panel=_SECURITY,
        ),
    ] = _SERVER.tls_client_ca,
    audit_log: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_AUDIT_LOG",
            metavar="FILE",
            help="Add a line of JSON for each call: who, from where, which kind of statement, tables, rows, outcome.",
            rich_help_panel=_SECURITY,
        ),
    ] = _SERVER.audit_log,
    external_access: Annotated[
        bool,
        typer.Option(
            "--external-access",
            envvar="DUCKTOWER_EXTERNAL_ACCESS",
            help="Let SQL reach files, the network and extensions of this machine.",
        ),
    ] = _ENGINE.external_access,
    allow_path: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DUCKTOWER_ALLOW_PATH",
            metavar="DIR",
            help="Let SQL read the files of a directory, and owners write them; give it once for each.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    allow_extension: Annotated[
        list[str] | None,
        typer.Option(
            envvar="DUCKTOWER_ALLOW_EXTENSION",
            metavar="NAME",
            help="Load an installed extension of DuckDB; give it once for each.",
            rich_help_panel=_SECURITY,
        ),
    ] = None,
    memory_bytes_max: Annotated[
        int | None,
        typer.Option(
            envvar="DUCKTOWER_MEMORY_BYTES_MAX",
            help="What the process shall take in all, DuckDB and other buffers. Unset: 80 % of the machine or of its "
            "control group.",
        ),
    ] = _ENGINE.memory_bytes_max,
    memory_limit: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_MEMORY_LIMIT",
            help="DuckDB's own limit, such as 4GB. Unset: its part of all.",
        ),
    ] = _ENGINE.memory_limit,
    stream_cache_bytes_max: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_STREAM_CACHE_BYTES_MAX",
            min=0,
            help="How much DuckDB's cache of blocks may grow while results or uploads stream; 0 is no limit.",
        ),
    ] = _ENGINE.stream_cache_bytes_max or 0,
    threads: Annotated[
        int | None,
        typer.Option(envvar="DUCKTOWER_THREADS", min=1, help="DuckDB's threads. Unset: one per core."),
    ] = _ENGINE.threads,
    min_free_space: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_MIN_FREE_SPACE",
            min=0,
            help="Bytes free on the disk below which writes are refused, until there is more again; 0 refuses none.",
        ),
    ] = _ENGINE.free_bytes_min,
    wal_checkpoint_bytes: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_WAL_CHECKPOINT_BYTES",
            min=0,
            help="Size of the WAL at which it is written into the file, beside writers; 0 leaves that to DuckDB, which "
            "holds them up.",
        ),
    ] = _ENGINE.wal_checkpoint_bytes or 0,
    backup_dir: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_BACKUP_DIR",
            metavar="DIR",
            help="Where backups are made and kept, made when missing. [default: beside the database, those of "
            "`--backup-every` in DATABASE.backups]",
            rich_help_panel=_BACKUPS,
        ),
    ] = _ENGINE.backup_dir,
    backup_every: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_BACKUP_EVERY",
            metavar="24h",
            help="Make a backup so often: a number and s, m, h, d or w. One that was missed is made at the start. "
            "[default: never]",
            rich_help_panel=_BACKUPS,
        ),
    ] = None,
    backup_keep: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_BACKUP_KEEP", help="How many of those are kept.", rich_help_panel=_BACKUPS),
    ] = _ENGINE.backups_kept_max,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="DUCKTOWER_LOG_LEVEL", help="How much to tell on stderr.")
    ] = LogLevel.info,
    query_timeout: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_QUERY_TIMEOUT",
            min=0,
            help="Longest run of one statement in seconds, its result's stream included; 0 is no limit.",
            rich_help_panel=_TIMES,
        ),
    ] = _ENGINE.query_timeout_seconds or 0,
    slow_reader_seconds: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_SLOW_READER_SECONDS",
            min=0,
            help="How long a client may take nothing of a result that streams to it, in seconds; 0 is no limit.",
            rich_help_panel=_TIMES,
        ),
    ] = _ENGINE.slow_reader_seconds or 0,
    upload_timeout: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_UPLOAD_TIMEOUT",
            min=0,
            help="Longest run of one large upload in seconds, waiting for its client included; 0 is no limit.",
            rich_help_panel=_TIMES,
        ),
    ] = _ENGINE.upload_timeout_seconds or 0,
    health_port: Annotated[
        int | None,
        typer.Option(
            envvar="DUCKTOWER_HEALTH_PORT",
            min=0,
            max=65535,
            help="Answer HTTP `/health/live` and `/health/ready` on this port; 0 picks a free one. [default: none]",
            rich_help_panel=_HEALTH,
        ),
    ] = _SERVER.health_port,
    health_host: Annotated[
        str,
        typer.Option(envvar="DUCKTOWER_HEALTH_HOST", help="Address of the health checks.", rich_help_panel=_HEALTH),
    ] = _SERVER.health_host,
    stuck_seconds: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_STUCK_SECONDS",
            help="A group that is in commit for longer is told as stuck by health checks.",
            rich_help_panel=_HEALTH,
        ),
    ] = _ENGINE.stuck_seconds,
    drain_seconds: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_DRAIN_SECONDS",
            help="How long a stopping server lets calls in flight finish.",
            rich_help_panel=_TIMES,
        ),
    ] = _SERVER.drain_seconds,
    lease_wait_seconds: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_LEASE_WAIT_SECONDS",
            help="How long a call waits for a free place before it is refused.",
            rich_help_panel=_TIMES,
        ),
    ] = _ENGINE.lease_wait_seconds,
    conflict_retry_seconds: Annotated[
        float,
        typer.Option(
            envvar="DUCKTOWER_CONFLICT_RETRY_SECONDS",
            help="How long a statement that met a conflict is tried again.",
            rich_help_panel=_TIMES,
        ),
    ] = _ENGINE.conflict_retry_seconds,
    calls_in_flight_max: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_CALLS_IN_FLIGHT_MAX", help="Calls served at once.", rich_help_panel=_QUEUES),
    ] = _SERVER.calls_in_flight_max,
    principal_calls_in_flight_max: limits.Calls = _SERVER.principal_calls_in_flight_max,
    principal_sessions_max: limits.Sessions = _ENGINE.principal_sessions_max,
    principal_reads_in_flight_max: limits.Reads = _ENGINE.principal_reads_in_flight_max,
    principal_executes_in_flight_max: limits.Executes = _ENGINE.principal_executes_in_flight_max,
    principal_large_writes_in_flight_max: limits.LargeWrites = _ENGINE.principal_large_writes_in_flight_max,
    principal_queue_writes_max: limits.QueueWrites = _ENGINE.principal_queue_writes_max,
    principal_queue_bytes_max: limits.QueueBytes = _ENGINE.principal_queue_bytes_max,
    principal_arriving_bytes_max: limits.ArrivingBytes = _ENGINE.principal_arriving_bytes_max,
    principal_query_timeout: limits.QueryTimeout = _ENGINE.principal_query_timeout_seconds or 0,
    result_bytes_max: limits.ResultBytes = _ENGINE.result_bytes_max or 0,
    upload_bytes_max: limits.UploadBytes = _ENGINE.upload_bytes_max or 0,
    reads_in_flight_max: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_READS_IN_FLIGHT_MAX", help="Queries run at once.", rich_help_panel=_QUEUES),
    ] = _ENGINE.reads_in_flight_max,
    large_writes_in_flight_max: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_LARGE_WRITES_IN_FLIGHT_MAX",
            help="Large uploads at once.",
            rich_help_panel=_QUEUES,
        ),
    ] = _ENGINE.large_writes_in_flight_max,
    executes_in_flight_max: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_EXECUTES_IN_FLIGHT_MAX",
            help="Statements that write, at once.",
            rich_help_panel=_QUEUES,
        ),
    ] = _ENGINE.executes_in_flight_max,
    queue_writes_max: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_QUEUE_WRITES_MAX", help="Small writes that wait.", rich_help_panel=_QUEUES),
    ] = _ENGINE.queue_writes_max,
    queue_bytes_max: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_QUEUE_BYTES_MAX", help="Bytes of the writes that wait.", rich_help_panel=_QUEUES
        ),
    ] = _ENGINE.queue_bytes_max,
    small_write_bytes_max: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_SMALL_WRITE_BYTES_MAX",
            help="A write up to this size is committed together with others; a larger one by itself.",
            rich_help_panel=_QUEUES,
        ),
    ] = _ENGINE.small_write_bytes_max,
    sql_bytes_max: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_SQL_BYTES_MAX", help="Longest SQL text.", rich_help_panel=_QUEUES),
    ] = _ENGINE.sql_bytes_max,
    returned_bytes_max: Annotated[
        int,
        typer.Option(
            envvar="DUCKTOWER_RETURNED_BYTES_MAX",
            help="Largest result of a RETURNING clause.",
            rich_help_panel=_QUEUES,
        ),
    ] = _ENGINE.returned_bytes_max,
) -> None:
    """Serve a DuckDB file, or one in memory, until SIGTERM or Ctrl-C.

    Prints one line `ready grpc://HOST:PORT` (`grpc+tls://` with TLS) on stdout when it accepts calls. Told to stop,
    it lets calls in flight finish, writes a checkpoint and exits 0. Told twice, it exits at once, with 143 after
    SIGTERM and 130 after Ctrl-C: acknowledged writes are safe.
    """
    try:
        engine = EngineConfig(
            database=database,
            external_access=external_access,
            allow_paths=tuple(allow_path or ()),
            allow_extensions=tuple(allow_extension or ()),
            memory_bytes_max=memory_bytes_max,
            memory_limit=memory_limit,
            stream_cache_bytes_max=stream_cache_bytes_max or None,
            threads=threads,
            free_bytes_min=min_free_space,
            wal_checkpoint_bytes=wal_checkpoint_bytes or None,
            backup_dir=backup_dir,
            backup_every_seconds=None if backup_every is None else duration(backup_every, "--backup-every", "24h"),
            backups_kept_max=backup_keep,
            small_write_bytes_max=small_write_bytes_max,
            queue_bytes_max=queue_bytes_max,
            queue_writes_max=queue_writes_max,
            reads_in_flight_max=reads_in_flight_max,
            large_writes_in_flight_max=large_writes_in_flight_max,
            executes_in_flight_max=executes_in_flight_max,
            lease_wait_seconds=lease_wait_seconds,
            query_timeout_seconds=query_timeout or None,
            upload_timeout_seconds=upload_timeout or None,
            slow_reader_seconds=slow_reader_seconds or None,
            conflict_retry_seconds=conflict_retry_seconds,
            stuck_seconds=stuck_seconds,
            sql_bytes_max=sql_bytes_max,
            principal_sessions_max=principal_sessions_max,
            principal_reads_in_flight_max=principal_reads_in_flight_max,
            principal_executes_in_flight_max=principal_executes_in_flight_max,
            principal_large_writes_in_flight_max=principal_large_writes_in_flight_max,
            principal_queue_writes_max=principal_queue_writes_max,
            principal_queue_bytes_max=principal_queue_bytes_max,
            principal_arriving_bytes_max=principal_arriving_bytes_max,
            principal_query_timeout_seconds=principal_query_timeout or None,
            result_bytes_max=result_bytes_max or None,
            upload_bytes_max=upload_bytes_max or None,
            returned_bytes_max=returned_bytes_max,
        )
        server = ServerConfig(
            host=host,
            port=port,
            one_core=one_core,
            insecure=insecure,
            token_file=token_file,
            tls=tls,
            tls_cert=tls_cert,
            tls_key=tls_key,
            tls_client_ca=tls_client_ca,
            audit_log=audit_log,
            principal_calls_in_flight_max=principal_calls_in_flight_max,
            health_port=health_port,
            health_host=health_host,
            drain_seconds=drain_seconds,
            calls_in_flight_max=calls_in_flight_max,
        )
    except InvalidArgument as error:
        raise typer.BadParameter(error.message) from error
    logging.basicConfig(
        stream=sys.stderr,
        level=log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    stop = threading.Event()
    _stop_on_signals(stop)
    run_server(engine, server, stop, _print_ready)
    leave(0)  # a client's idle stream must not hold the process


def run_server(
    engine: EngineConfig, server: ServerConfig, stop: threading.Event, on_ready: Callable[[FlightServer], None]
) -> None:
    """Serve until `stop` is set or the server ends by itself; then drain, checkpoint and close.

    Arguments:
        on_ready: called with the server once it accepts calls.
    """
    from ..server import FlightServer

    flight = FlightServer(engine, server)
    # Both in a thread: a second signal must be heard while DuckDB replays a WAL or writes its last checkpoint, too.
    run_interruptibly(flight.start)
    try:
        _log.info("serving %s at %s", engine.database, flight.url)
        if flight.health_url is not None:
            _log.info("health checks at %s/live and /ready", flight.health_url)
        on_ready(flight)
        while not stop.is_set() and not flight.wait(_POLL_SECONDS):
            pass
        if not stop.is_set():
            raise InternalError("the server ended by itself")
        _log.info("stopping: calls in flight have %g seconds", server.drain_seconds)
    finally:
        run_interruptibly(flight.close)
    _log.info("stopped")


def _print_ready(server: FlightServer) -> None:
    if server.tls_fingerprint is not None:
        typer.echo(f"TLS fingerprint (SHA-256) {server.tls_fingerprint}", err=True)
    if not server.asks:
        typer.echo(
            f"open: whoever reaches {server.url} may do everything; `ducktower token create` changes that", err=True
        )
    sys.stdout.write(f"ready {server.url}\n")
    sys.stdout.flush()


def _stop_on_signals(stop: threading.Event) -> None:
    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            leave(128 + number)
        stop.set()

    for number in _STOP_SIGNALS:
        signal.signal(number, on_signal)
