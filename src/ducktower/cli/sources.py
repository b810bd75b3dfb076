"""Reads data files as one stream of record batches with one schema, in bounded memory.

Owns the decodings, and what to make of files that differ. Must never ask a server.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import DucktowerError, InvalidArgument, SchemaMismatch
from .csv_end import CsvEnd
from .formats import Format, format_of
from .json_lines import JsonLines
from .misfits import header_of, misfit_in_csv, misfit_in_json, sql_type
from .readable import Readable
from .terminal import one_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["STDIN", "Source", "one_reader"]

STDIN = "-"

_BLOCK_BYTES = 4 * 1024 * 1024
"""How much of a CSV or JSON file is looked at to infer types, and decoded at a time."""
_HEAD_BYTES = 64 * 1024
"""How much of a CSV file's beginning is kept, for the names of its columns."""
_BATCH_ROWS = 65_536
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}


class Source:
    """One file to read. `bytes_read` may be looked at from any thread."""

    def __init__(self, path: str, kind: Format | None) -> None:
        """Look at the file, without opening it.

        Raises:
            InvalidArgument: there is no such file, or its name does not tell the format.
        """
        self.path = path
        self.bytes_read = 0
        self._head = b""
        self._csv_end = CsvEnd([])
        self._hints: pa.Schema | None = None
        self._read_as: pa.Schema | None = None
        known = kind or (None if path == STDIN else format_of(path))
        if known is None:
            raise InvalidArgument(f"the name of {path} does not tell its format: give --format")
        self.kind = known
        try:
            self.bytes_total = 0 if path == STDIN else Path(path).stat().st_size
        except OSError as error:
            raise InvalidArgument(f"cannot read {path}: {error.strerror or error}") from error

    @contextmanager
    def opened(self, hints: pa.Schema | None) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        """Open the file: its schema, and its batches.

        Arguments:
            hints: the types of the columns that are known; text formats infer the others.

        Raises:
            InvalidArgument: the file cannot be read, or is not of its format; also while batches are taken.
            SchemaMismatch: a value does not fit its column; also while batches are taken.
        """
        import pyarrow as pa

        try:
            with sys.stdin.buffer if self.path == STDIN else Path(self.path).open("rb") as raw:
                if self.kind in (Format.parquet, Format.arrow) and raw.seekable():
                    schema, batches = self._native(raw)
                else:
                    schema, batches = self._text(raw, hints)
                yield schema, batches
        except DucktowerError:
            raise
        except (OSError, pa.ArrowException, ValueError, EOFError) as error:
            raise self._misfit(error) or self._unreadable(error) from error

    def _misfit(self, error: Exception) -> SchemaMismatch | None:
        if self._csv_end.swallowed(str(error)):
            return None
        match self.kind:
            case Format.csv:
                return misfit_in_csv(self.path, str(error), header_of(self._head))
            case Format.json | Format.jsonl:
                return misfit_in_json(self.path, str(error), self._read_as, self._hints, self._fails_with)
        return None

    def _fails_with(self, field: pa.Field) -> bool:
        """Read the file again, as if it had this one column; return whether that fails."""
        import pyarrow as pa
        from pyarrow import json as arrow_json

        if self.path == STDIN:
            return False
        options = arrow_json.ParseOptions(explicit_schema=pa.schema([field]), unexpected_field_behavior="ignore")
        try:
            with Path(self.path).open("rb") as raw:
                for _ in self._json_reader(self._unpacked(raw), options):
                    pass
        except (OSError, pa.ArrowException, ValueError):
            return True
        return False

    def _unreadable(self, error: Exception) -> InvalidArgument:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        if "straddling object" in reason:
            reason = f"a row is longer than {_BLOCK_BYTES // (1024 * 1024)} MiB, the most that one may have"
        elif self._csv_end.swallowed(reason):
            reason = "it ends inside a quoted value"
        return InvalidArgument(f"cannot read {self.path} as {self.kind}: {one_line(reason)}")

    def _native(self, raw: BinaryIO) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        import pyarrow as pa
        from pyarrow import parquet

        if self.kind is Format.parquet:
            file = parquet.ParquetFile(raw)
            return file.schema_arrow, self._parts(file.iter_batches(_BATCH_ROWS), file.metadata.num_rows)
        magic = raw.read(6)
        raw.seek(0)
        if magic != b"ARROW1":
            return self._stream(_Metered(self, raw))
        arrow = pa.ipc.open_file(raw)
        batches = (arrow.get_batch(index) for index in range(arrow.num_record_batches))
        return arrow.schema, self._parts(batches, None, arrow.num_record_batches)

    def _parts(self, batches: Iterator[pa.RecordBatch], rows: int | None, count: int = 0) -> Iterator[pa.RecordBatch]:
        """Pass batches on, and count their share of the file's rows, or of its batches, as bytes read."""
        done = 0
        for batch in batches:
            yield batch
            done += 1 if rows is None else batch.num_rows
            self.bytes_read = self.bytes_total * done // max(1, count if rows is None else rows)

    def _unpacked(self, raw: BinaryIO | _Metered) -> pa.NativeFile:
        import pyarrow as pa

        stream = pa.PythonFile(raw, mode="r")
        suffix = Path(self.path).suffix.lower()
        return pa.CompressedInputStream(stream, _CODECS[suffix]) if suffix in _CODECS else stream

    def _text(self, raw: BinaryIO, hints: pa.Schema | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        stream = self._unpacked(_Metered(self, raw))
        match self.kind:
            case Format.csv:
                return self._csv(stream, hints)
            case Format.json | Format.jsonl:
                return self._json(stream, hints)
            case Format.arrow:
                return self._stream(stream)
            case Format.parquet:
                raise InvalidArgument(f"cannot read {self.path}: Parquet must be a file, as it is read from its end")

    @staticmethod
    def _stream(stream: BinaryIO | pa.NativeFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        import pyarrow as pa

        reader = pa.ipc.open_stream(stream)
        return reader.schema, iter(reader)

    def _csv(self, stream: pa.NativeFile, hints: pa.Schema | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        import pyarrow as pa
        from pyarrow import csv

        # An empty field is NULL and a quoted one is text, as in the CSV that is written here.
        convert = csv.ConvertOptions(
            column_types=None if hints is None else _csv_types(hints),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        self._head = stream.read(_HEAD_BYTES)
        end = self._csv_end = CsvEnd(header_of(self._head))
        reader = csv.open_csv(
            pa.PythonFile(_Framed(self._head, stream, end.text), mode="r"),
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True, invalid_row_handler=end.on_row_of_other_width),
            convert_options=convert,
        )
        return reader.schema, end.checked(iter(reader))

    def _json(self, stream: pa.NativeFile, hints: pa.Schema | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        from pyarrow import json as arrow_json

        self._hints = hints
        self._read_as = None if hints is None else _json_types(hints)
        reader = self._json_reader(stream, arrow_json.ParseOptions(explicit_schema=self._read_as))
        self._read_as = reader.schema
        return reader.schema, iter(reader)

    @staticmethod
    def _json_reader(stream: pa.NativeFile, options: Any) -> Any:
        import pyarrow as pa
        from pyarrow import json as arrow_json

        return arrow_json.open_json(
            pa.PythonFile(JsonLines(stream.read), mode="r"),
            read_options=arrow_json.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=options,
        )


class _Metered(Readable):
    """The file that a decoder reads, counting what it took."""

    def __init__(self, source: Source, raw: BinaryIO) -> None:
        self._source = source
        self._raw = raw

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._source.bytes_read += len(data)
        return data


class _Framed(Readable):
    """A stream between the head that was taken off it and an end that it has not."""

    def __init__(self, head: bytes, rest: pa.NativeFile, end: bytes) -> None:
        self._parts = [io.BytesIO(head), rest, io.BytesIO(end)]

    def read(self, size: int) -> bytes:
        """Return `size` bytes, fewer only at the end: what comes at once is a block to Arrow."""
        data = b""
        while len(data) < size and self._parts:
            more = bytes(self._parts[0].read(size - len(data)))
            data += more
            if not more:
                del self._parts[0]
        return data


def _csv_types(hints: pa.Schema) -> dict[str, pa.DataType]:
    """Numbers as themselves, all else as text: DuckDB converts it, and names what does not fit."""
    import pyarrow as pa

    return {field.name: field.type if _is_simple(field.type) else pa.string() for field in hints}


def _json_types(hints: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    return pa.schema([pa.field(field.name, _json_type(field.type)) for field in hints])


def _json_type(kind: pa.DataType) -> pa.DataType:
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _json_type(field.type)) for field in kind])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_json_type(kind.value_type))
    if _is_simple(kind) or pa.types.is_decimal(kind) or pa.types.is_map(kind):
        return kind
    return pa.string()


def _is_simple(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def one_reader(sources: Sequence[Source], hints: pa.Schema | None) -> pa.RecordBatchReader:
    """Return all the files as one stream, one after the other, each brought to the first one's schema.

    Raises:
        InvalidArgument: a file cannot be read, or has other columns than the first; also while reading.
        SchemaMismatch: a value does not fit its column; also while reading.
    """
    import pyarrow as pa

    batches = _chained(sources, hints)
    schema = next(batches)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _chained(sources: Sequence[Source], hints: pa.Schema | None) -> Iterator[Any]:
    """Yield the schema, then the batches."""
    schema: pa.Schema | None = None
    for source in sources:
        with source.opened(hints) as (own, batches):
            if schema is None:
                schema = _creatable(own)
                hints = hints or schema
                yield schema
            elif set(own.names) != set(schema.names):
                differing = ", ".join(sorted(set(own.names) ^ set(schema.names)))
                raise InvalidArgument(f"{source.path} differs from {sources[0].path} in its columns: {differing}")
            for batch in batches:
                yield batch if batch.schema == schema else _cast(source, batch, schema)


def _cast(source: Source, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Return the batch with the columns of `schema`. Raises SchemaMismatch for a value that does not fit."""
    import pyarrow as pa

    columns = []
    for field in schema:
        column = batch.column(field.name)
        try:
            columns.append(column.cast(field.type))
        except pa.ArrowException as error:
            raise SchemaMismatch(
                f'{source.path}: column "{field.name}": found {sql_type(column.type)}, '
                f"wanted {sql_type(field.type)}: {one_line(str(error))}"
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _creatable(schema: pa.Schema) -> pa.Schema:
    """A column that held nothing so far has no type; text can hold whatever comes."""
    import pyarrow as pa

    return pa.schema(
        [field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema],
        schema.metadata,
    )
