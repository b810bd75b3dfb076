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
from .options import Connection, connected
from .query import print_table
from .terminal import one_line, run_interruptibly

__all__ = ["health_command", "tables_command"]

_ROWS_MAX = 10_000


@connected
def tables_command(
    *,
    connection: Connection,
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
    with connection.client() as client:
        reader = run_interruptibly(client.tables).to_reader()
        if kind is None:
            print_table(reader, _ROWS_MAX)
            return
        with export.opened(None) as sink:
            export.write(reader, sink, kind, is_file=False)


@connected
def health_command(
    *,
    connection: Connection,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="DUCKTOWER_HEALTH_JSON", help="Print one JSON object.")
    ] = False,
) -> None:
    """Say how the server is. Exits 0 when it serves, else 1."""
    with connection.client() as client:
        health = run_interruptibly(client.health)
    if as_json:
        typer.echo(json.dumps(health))
    else:
        width = max(map(len, health))
        for name, value in health.items():
            typer.echo(f"{name:<{width}}  {one_line(str(value))}")
    if health["status"] != "serving":
        raise Unavailable(f"the server at {connection.url} is {health['status']}")
