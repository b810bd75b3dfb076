"""Every setting and every limit, with its unit in its name.

Owns the defaults and what makes a value valid. Must never read the environment, files or command lines:
`cli` does that and passes the values on.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from .errors import InvalidArgument

__all__ = ["DEFAULT_PORT", "EngineConfig", "ServerConfig"]

KIB = 1024
MIB = 1024 * KIB

DEFAULT_PORT = 8815

_SECONDS_MAX = 1e9
"""Longest time that a setting may name, thirty years: the system's clocks end at nine times that."""


class _Checked:
    """Refuses a limit that is no number above zero, by name."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            name, value = field.name, getattr(self, field.name)
            if value is None or not name.endswith(("_max", "_min", "_seconds", "_bytes")):
                continue
            if not isinstance(value, (int, float)) or value != value:
                raise InvalidArgument(f"{name} must be a number, not {value!r}")
            if name.endswith("_min"):
                if value < 0:
                    raise InvalidArgument(f"{name} must not be below 0, but is {value}")
            elif value <= 0:
                raise InvalidArgument(f"{name} must be above 0, not {value}")
            if name.endswith("_seconds") and value > _SECONDS_MAX:
                raise InvalidArgument(f"{name} must be at most {_SECONDS_MAX:.0f}, not {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig(_Checked):
    """How one database is opened and used."""

    database: str = ":memory:"
    """Path of the DuckDB file, created when missing, or `:memory:`."""
    external_access: bool = False
    """Whether SQL may reach files, the network and extensions of the server's machine."""
    allow_paths: tuple[str, ...] = ()
    """Directories whose files SQL may read, and owners write; nothing else outside the database opens by it."""
    allow_extensions: tuple[str, ...] = ()
    """Extensions of DuckDB to load at the start, which must be installed; no others are, and none later."""
    closed_paths: tuple[str, ...] = ()
    """Files that no directory of `allow_paths` may have in it, beside the database itself: tokens, keys, logs."""
    memory_bytes_max: int | None = None
    """What the server's process shall take in all: a part is for an idle process, one for our own buffers, whose limits
    are lowered to fit, and the rest is DuckDB's. None: 80 % of what the machine, or its control group, has."""
    memory_limit: str | None = None
    """DuckDB's own `memory_limit`, such as `4GB`, in place of its part. Without `memory_bytes_max` nothing else is
    lowered then."""
    stream_cache_bytes_max: int | None = 32 * MIB
    """How much DuckDB's cache of table blocks may grow while long results or large uploads stream. The operating
    system's cache of the file holds what is dropped. None leaves the cache to `memory_limit` alone."""
    threads: int | None = None
    """DuckDB's worker threads; None leaves DuckDB's default (one per core)."""
    free_bytes_min: int = 256 * MIB
    """Space on the disk of the database and of its temporary files below which writes are refused with OVERLOADED and
    large ones under way are stopped, until there is more again; reads go on. 0 refuses none."""
    wal_checkpoint_bytes: int | None = 16 * MIB
    """Size of the WAL from which on a thread writes it into the database file. DuckDB itself does so within somebody's
    COMMIT at four times that, when the thread found no moment; None leaves it to DuckDB alone, at its 16 MiB."""
    wal_warn_bytes: int | None = 256 * MIB
    """Size of the WAL past which the log and `health` warn; None never does."""
    disk_look_seconds: float = 0.25
    """How often the free space and the size of the WAL are looked at."""
    stuck_seconds: float = 30.0
    """A group that is in commit for so long, or a database that is opened again for so long, is told as stuck by the
    checks of `health`."""

    small_write_bytes_max: int = 1 * MIB
    """A write up to this size is collected and committed in a group; a larger one gets its own transaction."""
    group_bytes_max: int = 16 * MIB
    group_writes_max: int = 1024
    group_timeout_seconds: float = 5.0
    """Longest run of one group's transaction. A write that takes longer, because of a default or a constraint
    that is slow to compute, is committed by itself instead and does not hold up the others."""
    queue_bytes_max: int = 256 * MIB
    queue_writes_max: int = 16_384
    queue_wait_seconds: float = 30.0
    """How long one write of an open stream waits for room in the queue before OVERLOADED."""
    queue_columns_max: int = 1_000
    """Most columns of a write that is committed in a group: wider inserts take long to prepare."""
    plans_max: int = 256
    """Prepared inserts kept, one for each table and Arrow schema in use."""

    writers_max: int = 4_096
    """Named writers that are remembered; past it a new one is refused with LIMIT_EXCEEDED."""
    writer_outcomes_max: int = 1_024
    """Last writes of each writer whose outcome is remembered: a repeat of an older one is refused."""
    writer_silent_seconds: float = 30 * 86_400.0
    """A writer that wrote nothing for so long is forgotten when the ledger is pruned, and begins with 1 again."""
    writer_name_chars_max: int = 255
    """Longest name of a writer, in characters."""

    reads_in_flight_max: int = 256
    large_writes_in_flight_max: int = 32
    executes_in_flight_max: int = 64
    lease_wait_seconds: float = 10.0
    """How long a call waits for one of the places above before OVERLOADED."""

    query_timeout_seconds: float | None = 600.0
    """Longest run of one statement, its result's stream included; None is no limit."""
    slow_reader_seconds: float | None = 120.0
    """How long a client may take nothing of a result that streams to it; then the stream ends with TIMEOUT. What DuckDB
    computes meanwhile does not count. None leaves it to `query_timeout_seconds`."""
    upload_timeout_seconds: float | None = 3600.0
    """Longest run of one large write, the time spent waiting for its client included; None is no limit."""
    backup_dir: str | None = None
    """Directory in which backups are made, and in which those made by the clock are kept; made when missing. None:
    beside the database, those of the clock in `<database>.backups`."""
    backup_every_seconds: float | None = None
    """How often the server makes a backup by itself; one that was missed is made at the start. None is never."""
    backups_kept_max: int = 7
    """How many of those are kept; the oldest are taken away."""
    backup_timeout_seconds: float | None = 3600.0
    """Longest time to make one backup and send it to its client; None is no limit."""
    backup_memory_bytes_max: int = 512 * MIB
    """DuckDB's memory, beside that of the served database, to look through a finished copy."""
    conflict_retry_seconds: float = 30.0
    """How long a statement that met a conflict is tried again before CONFLICT."""
    watch_interval_seconds: float = 0.02
    """How often running calls are looked at for their deadline, and some of them in turn for a client that left."""
    batch_bytes_max: int = 3 * MIB
    """Largest record batch of a result, in Arrow bytes: some clients refuse messages over 4 MiB."""
    row_bytes_max: int = 256 * MIB
    """Largest row of a result or of an upload, in Arrow bytes. A row is never cut, it travels in one message."""
    returned_bytes_max: int = 64 * MIB
    """Largest result of `execute` (RETURNING); past it the statement is rolled back."""
    sessions_max: int = 1_024
    """Sessions at once; past it a new one is refused with OVERLOADED."""
    session_cursors_max: int = 512
    """Sessions at once that keep a cursor: an open transaction, temporary tables, settings of their own."""
    session_idle_seconds: float = 3_600.0
    """A session that asked nothing for so long is closed, its transaction rolled back."""
    transaction_idle_seconds: float = 600.0
    """A transaction in which nothing was asked for so long is rolled back; the session stays."""
    session_wait_seconds: float = 10.0
    """How long a statement waits for the one that runs on its session's own cursor before OVERLOADED."""
    session_result_bytes_max: int = 16 * MIB
    """A result on a session's own cursor is taken whole up to this size, so that the next statement can run while
    it is being read; beyond it the statements of the session wait for its end."""
    principal_sessions_max: int = 256
    """Sessions at once of one principal; this and the next six bound callers who have a name, as those with tokens."""
    principal_reads_in_flight_max: int = 128
    principal_executes_in_flight_max: int = 32
    principal_large_writes_in_flight_max: int = 16
    """Calls of one principal that have one of the places above; another waits `lease_wait_seconds`."""
    principal_queue_writes_max: int = 8_192
    principal_queue_bytes_max: int = 128 * MIB
    """What of one principal waits for its commit; past it a write waits or is refused as if the queue were full."""
    principal_query_timeout_seconds: float | None = None
    """Longest run of one statement of a principal, where that is shorter than `query_timeout_seconds`."""
    arriving_bytes_max: int = 512 * MIB
    """Bytes of writes that are in memory and go nowhere yet: being collected, or waiting for room in the queue or for
    the place of a large upload."""
    principal_arriving_bytes_max: int = 256 * MIB
    """The same of one principal; past either a write is refused with OVERLOADED. One alone is let in."""
    result_bytes_max: int | None = None
    """Largest result of one call, in Arrow bytes; past it the stream ends with LIMIT_EXCEEDED. None is no limit."""
    upload_bytes_max: int | None = None
    """Largest upload of one call, and largest write of an open stream, in Arrow bytes; past it nothing of it is stored.
    None is no limit."""
    prepared_max: int = 256
    """Prepared statements of one session."""
    bound_bytes_max: int = 256 * MIB
    """Largest parameters: those sent for one run, and all those bound to the prepared statements of one session. A
    value counts for a byte at least: nulls have none in Arrow."""
    sql_bytes_max: int = 256 * KIB
    """Longest SQL text. DuckDB parses with Python's lock held, at up to 2 s and 1 GB of memory for each MiB."""

    def __post_init__(self) -> None:
        _Checked.__post_init__(self)
        if self.backup_every_seconds is not None and self.database == ":memory:":
            raise InvalidArgument("backup_every_seconds needs a database in a file; one in memory has none to copy")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig(_Checked):
    """How the database is offered on the network."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    """0 picks a free port."""
    one_core: bool = True
    """Whether the threads that take small writes share one core, where the system lets them choose: Python's lock is
    then handed on at a third of the cost. DuckDB, queries and large writes run on all cores either way."""
    insecure: bool = False
    """Allows an address that other machines can reach without tokens or without TLS."""
    token_file: str | None = None
    """The file of those who may call. None: `<database>.tokens` beside a database that is a file. Without the file
    nobody is asked who they are."""
    tls: str | None = None
    """`auto`: a certificate that signs itself, made when it is missing and kept as `<database>.tls`. Else give the two
    below, or none for no TLS."""
    tls_cert: str | None = None
    """PEM file of the certificate, its chain after it."""
    tls_key: str | None = None
    """PEM file of its private key."""
    tls_client_ca: str | None = None
    """PEM file of the authority that must have signed each client's certificate; None asks clients for none."""
    audit_log: str | None = None
    """File to which a line of JSON is added for each call; None is no audit log."""
    token_look_seconds: float = 0.5
    """How often the token file is looked at, and tokens for being over."""
    login_pause_seconds: float = 1.0
    """Longest wait for the refusal of a login, from an address from which many failed."""
    logins_waiting_max: int = 1024
    """Refusals that wait at once, each with a thread that sleeps; past it they come at once."""
    stranger_bytes_max: int = 32 * MIB
    """Bytes that a connection may bring before somebody with a good token calls on it; past it the connection is cut.
    A request is received as a whole before anybody can be asked who sends it. Seen on Linux alone."""
    all_strangers_bytes_max: int = 256 * MIB
    """The same of all such connections together; past it those that brought most are cut."""
    health_port: int | None = None
    """Port of the HTTP health checks; 0 picks a free one, None offers none."""
    health_host: str = "127.0.0.1"
    """Address of that port. It knows neither tokens nor TLS: one that other machines reach needs `insecure`."""
    health_connections_max: int = 32
    """Connections to it at once; past it the oldest is dropped."""
    health_request_seconds: float = 2.0
    """How long such a connection may take to send its request."""
    drain_seconds: float = 10.0
    """How long a stopping server lets calls in flight finish."""
    calls_in_flight_max: int = 1024
    """Calls served at once; each holds one thread."""
    principal_calls_in_flight_max: int = 512
    """Calls of one token served at once; past it OVERLOADED. It does not apply where nobody is asked."""
    stream_writes_in_flight_max: int = 1024
    """Writes of one DoExchange that wait for their commit; past it the stream is not read. What the next batch carries
    is taken whole."""
    stream_idle_seconds: float | None = 86_400.0
    """Longest time in which nothing is sent in an open stream of writes, or in an upload that is still collected. Then
    the stream ends with TIMEOUT, or loses its connection; None is no limit."""
    results_waiting_max: int = 1024
    """Results of Flight SQL that wait for the DoGet which fetches them; past it a query is refused with OVERLOADED."""
    results_waiting_bytes_max: int = 512 * MIB
    """Arrow bytes of such results that are in memory already; past it a query is refused with OVERLOADED."""
    principal_results_waiting_max: int = 512
    principal_results_waiting_bytes_max: int = 256 * MIB
    """What of the two one principal may have, if it has a name; past it its own queries are refused."""
    results_waiting_seconds: float = 60.0
    """How long such a result waits before it is dropped, its cursor given back, its ticket refused."""
    results_spared_seconds: float = 1.0
    """When a read waits for one of `reads_in_flight_max`, or a query's result would be one too many of those that wait,
    the result that waits longest for its DoGet, and for so long at least, is dropped; its ticket answers OVERLOADED."""
    session_spared_seconds: float = 60.0
    """When there are `sessions_max`, a session that holds nothing and asked nothing for so long makes room for a
    new one; it begins again when its client comes back."""
    client_lost_seconds: float | None = 30.0
    """A session of Flight SQL that holds something, and whose client's connection is gone for so long, is closed;
    None waits for `session_idle_seconds`, for proxies that close connections of clients which are still there."""
    action_bytes_max: int = 16 * MIB
    command_bytes_max: int = 16 * MIB
    """Largest ticket, and largest command or path of a descriptor."""
    error_bytes_max: int = 4 * KIB
    """Longest error text sent: longer gRPC messages are lost on the way."""

    def __post_init__(self) -> None:
        _Checked.__post_init__(self)
        if not 0 <= self.port <= 65535:
            raise InvalidArgument(f"port must be between 0 and 65535, not {self.port}")
        if self.health_port is not None and not 0 <= self.health_port <= 65535:
            raise InvalidArgument(f"health_port must be between 0 and 65535, not {self.health_port}")
        if self.tls not in (None, "auto"):
            raise InvalidArgument(f'tls must be "auto" or nothing, not "{self.tls}"')
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InvalidArgument("tls_cert and tls_key belong together")
        if self.tls is not None and self.tls_cert is not None:
            raise InvalidArgument("tls=auto makes a certificate: give that or tls_cert, not both")
        if self.tls_client_ca is not None and not self.encrypts:
            raise InvalidArgument(
                "tls_client_ca needs a certificate of the server's: tls=auto, or tls_cert and tls_key"
            )

    @property
    def encrypts(self) -> bool:
        """Whether connections are encrypted."""
        return self.tls is not None or self.tls_cert is not None
