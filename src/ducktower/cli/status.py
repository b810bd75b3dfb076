"""`ducktower tables` and `ducktower health`: what a server holds, and how it is.

Owns how they are shown. Must never ask anything but what the client offers.
"""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from ..errors import Unavailable
from . import export
from .formats import Format
from .options import DEFAULT_URL, TlsCa, Token, Url, client_of
from .query import print_table
from .terminal import one_line, run_interruptibly

__all__ = ["health_command", "tables_command"]

_ROWS_MAX = 10_000


def tables_command(
    url: Url = DEFAULT_URL,
    token: Token = None,
    tls_ca: TlsCa = None,
    *,
    kind: Annotated[
        Format | None,
        typer.Option(
            "--format",
            envvar="DUCKTOWER_TABLES_FORMAT",
            help="[default: a table on a terminal, and csv elsewhere]",
        ),
    ] = None,
) -> None:
    """List the tables and views, with their rows and columns."""
    if kind is None and not sys.stdout.isatty():
        kind = Format.csv
    with client_of(url, token, tls_ca) as client:
        reader = run_interruptibly(client.tables).to_reader()
        if kind is None:
            print_table(reader, _ROWS_MAX)
            return
        with export.opened(None) as sink:
            export.write(reader, sink, kind, is_file=False)


def health_command(
    url: Url = DEFAULT_URL,
    token: Token = None,
    tls_ca: TlsCa = None,
    *,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="DUCKTOWER_HEALTH_JSON", help="Print one JSON object.")
    ] = False,
) -> None:
    """Say how the server is. Exits 0 when it serves, else 1."""
    with client_of(url, token, tls_ca) as client:
        health = run_interruptibly(client.health)
    if as_json:
        typer.echo(json.dumps(health))
    else:
        width = max(map(len, health))
        for name, value in health.items():
            typer.echo(f"{name:<{width}}  {one_line(str(value))}")
    if health["status"] != "serving":
        raise Unavailable(f"the server at {url} is {health['status']}")
