"""Options that several commands share, and the client that the connection options describe.

Owns their names, environment variables and defaults. Must never import the client before a command runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..config import DEFAULT_PORT

if TYPE_CHECKING:
    from ..client import FlightClient

__all__ = ["DEFAULT_URL", "TlsCa", "Token", "Url", "client_of", "rate_of"]

DEFAULT_URL = f"grpc://127.0.0.1:{DEFAULT_PORT}"

_PANEL = "Connection"
_RETRY_SECONDS = 2.0

Url = Annotated[
    str,
    typer.Option("--url", envvar="DUCKTOWER_URL", help="Where the server listens.", rich_help_panel=_PANEL),
]
Token = Annotated[
    str | None,
    typer.Option("--token", envvar="DUCKTOWER_TOKEN", help="Who you are, to the server.", rich_help_panel=_PANEL),
]
TlsCa = Annotated[
    Path | None,
    typer.Option(
        "--tls-ca",
        envvar="DUCKTOWER_TLS_CA",
        help="PEM file of the authority that signed the server's certificate.",
        rich_help_panel=_PANEL,
    ),
]


def client_of(
    url: str, token: str | None, tls_ca: Path | None, *, retry_seconds: float = _RETRY_SECONDS
) -> FlightClient:
    """Return a client for the three connection options, which tries again for so long by itself."""
    from ..client import connect

    return connect(url, token=token, tls_ca=tls_ca, retry_seconds=retry_seconds)


def rate_of(rate: str | None, every: float | None, *, default: float | None) -> float | None:
    """Return how often a second, from `--rate` and `--every`; None is as fast as possible.

    Raises:
        typer.BadParameter: both were given, or one is no number above 0.
    """
    if rate is not None and every is not None:
        raise typer.BadParameter("give --rate or --every, not both")
    if every is not None:
        if every <= 0:
            raise typer.BadParameter(f"--every must be above 0 seconds, not {every:g}")
        return 1 / every
    if rate is None:
        return default
    if rate == "max":
        return None
    try:
        value = float(rate)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise typer.BadParameter(f"--rate must be a number above 0 or `max`, not {rate!r}")
    return value
