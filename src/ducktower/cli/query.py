"""`ducktower query`: run SQL that reads, and show or save what it returns.

Owns the choice of format and the table on a terminal. Must never hold more of a result than it shows.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import DucktowerError, InvalidArgument
from . import export
from .formats import Format, columns_of, flattened, format_of, is_compressed, json_text
from .options import Connection, connected
from .terminal import one_line, run_interruptibly

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["command", "print_table", "sql_of"]

_BINARY = frozenset({Format.parquet, Format.arrow})
_STDOUT = Path("-")


@connected
def command(
    sql: Annotated[str, typer.Argument(metavar="SQL", help="The SQL; `-` reads it from stdin.")],
    *,
    connection: Connection,
    kind: Annotated[
        Format | None,
        typer.Option(
            "--format",
            envvar="DUCKTOWER_QUERY_FORMAT",
            help="json is one array, jsonl one object a line. "
            "[default: what FILE's name tells; else a table on a terminal, and csv elsewhere]",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            envvar="DUCKTOWER_QUERY_OUTPUT",
            metavar="FILE",
            help="Write to FILE, which appears when it is complete; `-` is stdout.",
        ),
    ] = None,
    max_rows: Annotated[
        int,
        typer.Option(envvar="DUCKTOWER_QUERY_MAX_ROWS", min=1, help="Most rows of a table on a terminal."),
    ] = 200,
) -> None:
    """Run SQL that reads, and show its result or write it to a file. Results may be larger than memory."""
    sql = sql_of(sql)
    if output == _STDOUT:
        output = None
    if output is not None:
        kind = _kind_of(output, kind)
    if kind is None and not sys.stdout.isatty():
        kind = Format.csv
    if kind in _BINARY and output is None and sys.stdout.isatty():
        raise typer.BadParameter(f"{kind} is not for a terminal: give --output FILE, or pipe it")
    import pyarrow as pa

    with connection.client() as client:
        started = time.monotonic()
        schema, batches = run_interruptibly(lambda: client.batches(sql))
        reader = pa.RecordBatchReader.from_batches(schema, batches)
        if kind is None:
            print_table(reader, max_rows)
            return
        rows = _save(reader, output, kind)
        if output is not None:
            typer.echo(f"{rows:,} rows to {output} in {time.monotonic() - started:.1f} s", err=True)


def sql_of(argument: str) -> str:
    """Return the SQL that a command was given: its argument, or stdin where that is `-`."""
    return sys.stdin.read() if argument == "-" else argument


def _kind_of(output: Path, kind: Format | None) -> Format:
    """Return the format of an output file: the one asked for, else what its name tells; csv for a name that tells none.

    Raises:
        typer.BadParameter: the name tells something that is not written.
    """
    if is_compressed(output.name):
        raise typer.BadParameter(f"{output} is not compressed here: pipe stdout through a tool that does it")
    found = kind or format_of(output.name)
    if found is None and output.suffix:
        raise typer.BadParameter(f"the name of {output} does not tell its format: give --format")
    return found or Format.csv


def _save(reader: pa.RecordBatchReader, output: Path | None, kind: Format) -> int:
    import pyarrow as pa

    with export.opened(output) as sink:
        try:
            return run_interruptibly(lambda: export.write(reader, sink, kind, is_file=output is not None))
        except (DucktowerError, OSError):
            raise
        except (pa.ArrowException, ValueError) as error:
            raise InvalidArgument(f"the result does not fit {kind}: {one_line(str(error))}") from error


def print_table(reader: pa.RecordBatchReader, max_rows: int) -> None:
    """Show the first `max_rows` rows as a table, and say so when there are more."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows, more = run_interruptibly(lambda: _first_rows(reader, max_rows))
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for field in reader.schema:
        table.add_column(Text(one_line(field.name)), justify="right" if _is_number(field.type) else "left")
    for row in rows:
        table.add_row(*(Text("NULL", style="dim") if value is None else Text(_cell(value)) for value in row))
    console = Console()
    console.print(table)
    console.print(f"{len(rows):,} rows" + (" shown; there are more" if more else ""), style="dim", highlight=False)


def _first_rows(reader: pa.RecordBatchReader, max_rows: int) -> tuple[list[tuple[object, ...]], bool]:
    rows: list[tuple[object, ...]] = []
    with reader:
        for batch in reader:
            columns = columns_of(flattened(batch.slice(0, max_rows + 1), keep_numbers=True))
            rows.extend(zip(*columns, strict=True))
            if len(rows) > max_rows:
                return rows[:max_rows], True
    return rows, False


def _is_number(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _cell(value: object) -> str:
    return one_line(value if isinstance(value, str) else json_text(value))
