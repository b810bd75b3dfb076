"""`ducktower backup` and `ducktower restore`: a copy of the whole database, here, and back again.

Owns how they are shown. Must never write over a file, nor leave half of one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import EngineConfig
from .options import Connection, connected
from .terminal import one_line, run_interruptibly

__all__ = ["backup_command", "restore_command"]


@connected
def backup_command(
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="The file to make on this machine; one that is there is refused.")
    ],
    *,
    connection: Connection,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="DUCKTOWER_BACKUP_JSON", help="Print one JSON object.")
    ] = False,
) -> None:
    """Copy the whole database, as it is at one moment, into a file here, while writers go on.

    The server verifies the copy before it sends it: it opens it and compares rows and checksums. DEST is a DuckDB file;
    it is complete or not there. Needs the role of an owner.
    """
    from ..client.backup import partial_of

    with connection.client() as client:
        try:
            made = run_interruptibly(lambda: client.backup(destination))
        except KeyboardInterrupt:
            partial_of(destination).unlink(missing_ok=True)
            raise
    _tell(destination, made._asdict(), as_json=as_json)


def restore_command(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `ducktower backup` made.")],
    database: Annotated[Path, typer.Argument(metavar="DATABASE", help="The DuckDB file to make of it.")],
    *,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            envvar="DUCKTOWER_RESTORE_FORCE",
            help="Put a database that is there aside, with its WAL, as DATABASE.replaced-TIME. Nothing is removed.",
        ),
    ] = False,
    checksum: Annotated[
        str | None,
        typer.Option(
            envvar="DUCKTOWER_RESTORE_CHECKSUM",
            metavar="HEX",
            help="Refuse a backup whose contents have another checksum than this, which `ducktower backup` told.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", envvar="DUCKTOWER_RESTORE_JSON", help="Print one JSON object.")
    ] = False,
) -> None:
    """Make a database of a backup, on this machine, where no server has it open.

    The backup is read before, the copy after: DATABASE is complete and as the backup, or not there. A WAL that lies
    beside DATABASE is put aside, because DuckDB would replay it into the restored file.
    """
    from ..engine.restore import restore

    done = restore(backup, database, EngineConfig().backup_memory_bytes_max, force=force, checksum=checksum)
    for path in done.aside:
        typer.echo(f"what was there is kept as {one_line(str(path))}", err=True)
    told = {"rows": done.rows, "tables": done.tables, "bytes": done.bytes, "checksum": done.checksum}
    _tell(database, told | ({"aside": [str(path) for path in done.aside]} if as_json else {}), as_json=as_json)


def _tell(path: Path, done: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(done))
        return
    text = f"{one_line(str(path))}: {done['rows']:,} rows in {done['tables']:,} tables, {done['bytes']:,} bytes"
    if "seconds" in done:
        text += f", {done['seconds']:g} s, commit {done['commit']}"
    typer.echo(f"{text}, checksum {done['checksum']}")
