"""`ducktower ingest`: load data files into a table, all of them or nothing.

Owns the way from file names to one write, and its progress bar. Must never hold a file in memory.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import SchemaMismatch, TableNotFound
from .formats import Format
from .options import Connection, connected
from .sources import Source, one_reader
from .terminal import run_interruptibly

if TYPE_CHECKING:
    import pyarrow as pa

    from ..client import FlightClient

__all__ = ["command"]

_REFRESH_SECONDS = 0.1


class Mode(Enum):
    """What becomes of a table that is there, or is not."""

    append = "append"
    create = "create"
    replace = "replace"
    create_append = "create_append"
    upsert = "upsert"


@connected
def command(
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table.")],
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="The files; `-` is stdin.")],
    *,
    connection: Connection,
    schema: Annotated[
        str | None, typer.Option(envvar="DUCKTOWER_INGEST_SCHEMA", help="The table's schema. [default: main]")
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(envvar="DUCKTOWER_INGEST_MODE", help="What to do with a table that is there, or is missing."),
    ] = Mode.append,
    key: Annotated[
        list[str] | None,
        typer.Option(envvar="DUCKTOWER_INGEST_KEY", help="With upsert: a column of the key; give it once for each."),
    ] = None,
    kind: Annotated[
        Format | None,
        typer.Option("--format", envvar="DUCKTOWER_INGEST_FORMAT", help="[default: what each file's name tells]"),
    ] = None,
) -> None:
    """Load Parquet, CSV, JSON or Arrow files into a table, as one write: all of them or nothing.

    CSV, JSON and Arrow streams may be compressed (.gz, .bz2, .zst, .lz4).
    """
    if (mode is Mode.upsert) != bool(key):
        raise typer.BadParameter("--mode upsert and --key belong together")
    sources = [Source(path, kind) for path in files]
    with connection.client() as client:
        started = time.monotonic()
        with _progress(sources), _naming(sources):
            receipt = run_interruptibly(
                lambda: client.ingest(
                    table,
                    one_reader(sources, _known_columns(client, table, schema, mode)),
                    schema_name=schema,
                    mode=mode.value,
                    key=key or None,
                )
            )
    seconds = time.monotonic() - started
    typer.echo(f"{receipt.rows:,} rows into {table} in {seconds:.1f} s (commit {receipt.commit})")


def _known_columns(client: FlightClient, table: str, schema: str | None, mode: Mode) -> pa.Schema | None:
    """Return the types that a text file's columns should have, where the table tells them."""
    if mode in (Mode.create, Mode.replace):
        return None
    try:
        return client.table_schema(table, schema_name=schema)
    except TableNotFound:
        if mode is Mode.create_append:
            return None
        raise


@contextmanager
def _naming(sources: Sequence[Source]) -> Iterator[None]:
    """Name the files in what the server says of a value: it does not know them."""
    try:
        yield
    except SchemaMismatch as error:
        paths = [source.path for source in sources]
        if any(error.message.startswith(f"{path}: ") for path in paths):
            raise
        where = paths[0] if len(paths) == 1 else f"one of {len(paths)} files, {paths[0]} the first of them"
        raise SchemaMismatch(f"{where}: {error.message}") from error


@contextmanager
def _progress(sources: Sequence[Source]) -> Iterator[None]:
    """Show how much of the files has been read, on a terminal alone."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    total = sum(source.bytes_total for source in sources) or None
    done = threading.Event()
    with Progress(
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as progress:
        task = progress.add_task("reading", total=total)

        def follow() -> None:
            while not done.wait(_REFRESH_SECONDS):
                progress.update(task, completed=sum(source.bytes_read for source in sources))

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
