"""`ducktower execute`: run SQL that writes, and tell what it did.

Owns how the outcome is shown. Must never try again itself: the client knows what may be sent twice.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from . import export
from .formats import Format
from .options import Connection, connected
from .query import print_table, sql_of
from .terminal import run_interruptibly

__all__ = ["command"]

_ROWS_MAX = 10_000


@connected
def command(
    sql: Annotated[
        str,
        typer.Argument(
            metavar="SQL", help="One statement or several with `;` between them; `-` reads them from stdin."
        ),
    ],
    *,
    connection: Connection,
    kind: Annotated[
        Format | None,
        typer.Option(
            "--format",
            envvar="DUCKTOWER_EXECUTE_FORMAT",
            help="Of the rows that RETURNING gives. [default: a table on a terminal, and csv elsewhere]",
        ),
    ] = None,
) -> None:
    """Run SQL that writes, in one transaction: all of it or nothing. Prints the rows changed and the commit.

    Rows that RETURNING gives go to stdout, and what was done then to stderr.
    """
    sql = sql_of(sql)
    with connection.client() as client:
        done = run_interruptibly(lambda: client.execute(sql))
    if done.table is not None:
        reader = done.table.to_reader()
        if kind is None and sys.stdout.isatty():
            print_table(reader, _ROWS_MAX)
        else:
            with export.opened(None) as sink:
                export.write(reader, sink, kind or Format.csv, is_file=False)
    changed = "done" if done.rows < 0 else f"{done.rows:,} rows changed"
    typer.echo(f"{changed} (commit {done.commit})", err=done.table is not None)
