"""Options of `ducktower serve` that bound what one token may take, and how much one call may bring or get.

Owns their names and texts; the defaults are those of `config`. Must never decide what is past a limit.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

__all__ = [
    "ArrivingBytes",
    "Calls",
    "Executes",
    "LargeWrites",
    "QueryTimeout",
    "QueueBytes",
    "QueueWrites",
    "Reads",
    "ResultBytes",
    "Sessions",
    "UploadBytes",
]

_PANEL = "Limits of one token, and of one call"


def _option(name: str, text: str, **more: Any) -> Any:
    return typer.Option(envvar=f"DUCKTOWER_{name}", help=text, rich_help_panel=_PANEL, **more)


Sessions = Annotated[int, _option("PRINCIPAL_SESSIONS_MAX", "Sessions of one token at once.")]
Calls = Annotated[int, _option("PRINCIPAL_CALLS_IN_FLIGHT_MAX", "Calls of one token served at once.")]
Reads = Annotated[int, _option("PRINCIPAL_READS_IN_FLIGHT_MAX", "Queries of one token run at once.")]
Executes = Annotated[int, _option("PRINCIPAL_EXECUTES_IN_FLIGHT_MAX", "Statements of one token that write, at once.")]
LargeWrites = Annotated[int, _option("PRINCIPAL_LARGE_WRITES_IN_FLIGHT_MAX", "Large uploads of one token at once.")]
QueueWrites = Annotated[int, _option("PRINCIPAL_QUEUE_WRITES_MAX", "Small writes of one token that wait.")]
QueueBytes = Annotated[int, _option("PRINCIPAL_QUEUE_BYTES_MAX", "Bytes of the writes of one token that wait.")]
ArrivingBytes = Annotated[
    int,
    _option("PRINCIPAL_ARRIVING_BYTES_MAX", "Bytes of small writes of one token that are being received."),
]
QueryTimeout = Annotated[
    float,
    _option("PRINCIPAL_QUERY_TIMEOUT", "Longest run of one statement of a token, in seconds; 0 is no limit.", min=0),
]
ResultBytes = Annotated[
    int,
    _option("RESULT_BYTES_MAX", "Largest result of one call, in Arrow bytes; 0 is no limit.", min=0),
]
UploadBytes = Annotated[
    int,
    _option(
        "UPLOAD_BYTES_MAX",
        "Largest upload of one call, or write of an open stream, in Arrow bytes; 0 is no limit.",
        min=0,
    ),
]
