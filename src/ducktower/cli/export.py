"""Writes a stream of record batches to a file or to stdout, in one of the formats, in bounded memory.

Owns the encodings and the whole-or-nothing of an output file. Must never ask a server.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import InvalidArgument
from .formats import Format, columns_of, flattened, json_text
from .terminal import one_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["opened", "write"]


@contextmanager
def opened(path: Path | None) -> Iterator[BinaryIO]:
    """Open an output: `path`, or stdout when None.

    A file appears under its name only when it is complete; whatever stood there stays until then.

    Raises:
        InvalidArgument: the file cannot be written.
    """
    if path is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        special = path.exists() and not stat.S_ISREG(path.stat().st_mode)
        target = path if special else path.with_name(f".{path.name}.{os.getpid()}.part")
        sink = target.open("wb")
    except OSError as error:
        raise InvalidArgument(f"cannot write {path}: {error.strerror or error}") from error
    try:
        with sink:
            yield sink
        if not special:
            target.replace(path)
    except BaseException:
        if not special:
            target.unlink(missing_ok=True)
        raise


def write(reader: pa.RecordBatchReader, sink: BinaryIO, kind: Format, *, is_file: bool) -> int:
    """Write all that `reader` yields and return the number of rows.

    Arguments:
        is_file: Arrow is written in its file format, else as a stream.

    Raises:
        InvalidArgument: a column, which is named, does not fit the format.
    """
    match kind:
        case Format.csv:
            return _write_csv(reader, sink)
        case Format.json:
            return _write_json(reader, sink, first="[\n", between=",\n", last="\n]\n", empty="[]\n")
        case Format.jsonl:
            return _write_json(reader, sink, first="", between="\n", last="\n", empty="")
        case Format.parquet:
            return _write_parquet(reader, sink)
        case Format.arrow:
            return _write_arrow(reader, sink, is_file=is_file)


def _write_csv(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    import pyarrow as pa
    from pyarrow import csv

    batches = (flattened(batch, keep_numbers=False) for batch in reader)
    first = next(batches, None)
    # Of a result without a batch there are the names alone.
    names = pa.schema([pa.field(name, pa.string()) for name in reader.schema.names])
    rows = 0
    with csv.CSVWriter(sink, names if first is None else first.schema) as writer:
        for batch in chain(() if first is None else (first,), batches):
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _write_json(
    reader: pa.RecordBatchReader, sink: BinaryIO, *, first: str, between: str, last: str, empty: str
) -> int:
    names = reader.schema.names
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgument(f'several columns are called "{name}": JSON has one of each name; rename with AS')
    rows = 0
    for batch in reader:
        if batch.num_rows == 0:
            continue
        columns = columns_of(flattened(batch, keep_numbers=True))
        lines = between.join(json_text(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True))
        sink.write(((between if rows else first) + lines).encode())
        rows += batch.num_rows
    sink.write((last if rows else empty).encode())
    return rows


def _write_parquet(reader: pa.RecordBatchReader, sink: BinaryIO) -> int:
    from pyarrow import parquet

    _check_for_parquet(reader.schema)
    rows = 0
    with parquet.ParquetWriter(sink, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows


def _check_for_parquet(schema: pa.Schema) -> None:
    """Raise InvalidArgument when a column has a type that Parquet lacks: Arrow's own error names none."""
    import pyarrow as pa
    from pyarrow import parquet

    for field in schema:
        try:
            parquet.ParquetWriter(pa.BufferOutputStream(), pa.schema([field])).close()
        except pa.ArrowException as error:
            raise InvalidArgument(
                f'column "{field.name}" of type {field.type} does not fit Parquet: {one_line(str(error))}'
            ) from error


def _write_arrow(reader: pa.RecordBatchReader, sink: BinaryIO, *, is_file: bool) -> int:
    import pyarrow as pa

    rows = 0
    with pa.ipc.new_file(sink, reader.schema) if is_file else pa.ipc.new_stream(sink, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows
