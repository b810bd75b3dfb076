"""`ducktower recover`: a database that does not open, walked through.

Owns how each step and the loss are told. Must never call that a success which lost something without saying so.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .terminal import one_line

if TYPE_CHECKING:
    from ..engine.recover import Recovered

__all__ = ["command"]


def command(
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help="The DuckDB file, its WAL beside it.")],
    *,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            envvar="DUCKTOWER_RECOVER_IN_PLACE",
            help="Put what was recovered where DATABASE is; the originals are kept as DATABASE.damaged-TIME.",
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="DUCKTOWER_RECOVER_JSON", help="Print one JSON object at the end.")
    ] = False,
) -> None:
    """Make a file that opens of a database that does not, and say what is lost.

    The file and its WAL are copied first, into DATABASE.recover-TIME; then it is tried on the copy what opens: with the
    WAL, with as much of it as DuckDB replays, without it. Rows in damaged blocks are left out, and counted. Nothing is
    changed where DATABASE is, unless `--in-place` is given; then the originals are kept, too.

    Exits 0 when there is a file that opens, whatever was lost, else 1.
    """
    from ..engine.recover import recover
    from ..engine.salvage import Salvage

    with Salvage() as salvage:
        done = recover(database, salvage, in_place=in_place, tell=lambda line: typer.echo(one_line(line), err=True))
    if as_json:
        typer.echo(json.dumps(_as_json(done)))
        return
    for table in done.salvaged.tables:
        typer.echo(f"{one_line(table.name)}: {table.rows:,} rows" + (", not all" if table.error else ""))
    for line in done.lost:
        typer.echo(f"lost: {one_line(line)}")
    if not done.lost:
        typer.echo("nothing is lost")
    for path, commits in done.torn:
        typer.echo(f"kept from an earlier start: {one_line(str(path))}, a WAL with {commits} whole commits")
    for path in done.aside:
        typer.echo(f"the original is kept as {one_line(str(path))}")
    typer.echo(f"recovered: {one_line(str(done.path))}")


def _as_json(done: Recovered) -> dict[str, Any]:
    tables = [
        {"name": one.name, "rows": one.rows, "lost_rows": one.lost_rows, "error": one.error or None}
        for one in done.salvaged.tables
    ]
    return {
        "recovered": str(done.path),
        "originals": str(done.place),
        "tables": tables,
        "lost": list(done.lost),
        "aside": [str(path) for path in done.aside],
        "torn": [{"path": str(path), "commits": commits} for path, commits in done.torn],
    }
