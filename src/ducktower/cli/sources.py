"""Reads data files as one stream of record batches with one schema, in bounded memory.

Owns the decodings, and what to make of files that differ. Must never ask a server.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from ..errors import DucktowerError, InvalidArgument
from .formats import Format, format_of
from .terminal import one_line

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["STDIN", "Source", "one_reader"]

STDIN = "-"

_BLOCK_BYTES = 4 * 1024 * 1024
"""How much of a CSV or JSON file is looked at to infer types, and decoded at a time."""
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
            InvalidArgument: the file cannot be read, or is not what its format says; also while the batches are taken.
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
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> InvalidArgument:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
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

    def _parts(
        self, batches: Iterator[pa.RecordBatch], rows: int | None, count: int = 0
    ) -> Iterator[pa.RecordBatch]:
        """Pass batches on, and count their share of the file's rows (or else of its batches) as bytes read."""
        done = 0
        for batch in batches:
            yield batch
            done += 1 if rows is None else batch.num_rows
            self.bytes_read = self.bytes_total * done // max(1, count if rows is None else rows)

    def _text(self, raw: BinaryIO, hints: pa.Schema | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        import pyarrow as pa

        metered = _Metered(self, raw)
        suffix = Path(self.path).suffix.lower()
        stream = pa.PythonFile(metered, mode="r")
        if suffix in _CODECS:
            stream = pa.CompressedInputStream(stream, _CODECS[suffix])
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

    @staticmethod
    def _csv(stream: pa.NativeFile, hints: pa.Schema | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        from pyarrow import csv

        # An empty field is NULL and a quoted one is text: the way that CSV is written here, so it comes back the same.
        convert = csv.ConvertOptions(
            column_types=None if hints is None else _csv_types(hints),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        reader = csv.open_csv(
            stream,
            read_options=csv.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=convert,
        )
        return reader.schema, iter(reader)

    @staticmethod
    def _json(stream: pa.NativeFile, hints: pa.Schema | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        import pyarrow as pa
        from pyarrow import json as arrow_json

        reader = arrow_json.open_json(
            pa.PythonFile(_JsonLines(stream), mode="r"),
            read_options=arrow_json.ReadOptions(block_size=_BLOCK_BYTES),
            parse_options=arrow_json.ParseOptions(explicit_schema=None if hints is None else _json_types(hints)),
        )
        return reader.schema, iter(reader)


class _Metered:
    """The file that a decoder reads, counting what it took."""

    def __init__(self, source: Source, raw: BinaryIO) -> None:
        self._source = source
        self._raw = raw
        self.closed = False

    def read(self, size: int = -1) -> bytes:
        data = self._raw.read(size)
        self._source.bytes_read += len(data)
        return data

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def writable(self) -> bool:
        return False


class _JsonLines(_Metered):
    """JSON values as one line each, whether they came so, over several lines, or in one array."""

    def __init__(self, stream: pa.NativeFile) -> None:
        self._stream = stream
        self.closed = False
        self._text = b""
        self._decode = json.JSONDecoder().raw_decode
        self._is_array: bool | None = None
        self._ended = False

    def read(self, size: int = -1) -> bytes:
        wanted = _BLOCK_BYTES if size < 0 else size
        while self._is_array is None and not self._ended:
            self._more(wanted)
            begin = self._text.lstrip(b"\xef\xbb\xbf \t\r\n")
            if begin:
                self._is_array = begin.startswith(b"[")
                self._text = begin[1:] if self._is_array else begin
        if not self._is_array:
            data, self._text = self._text or self._stream.read(wanted), b""
            return data
        raise NotImplementedError

    def _more(self, wanted: int) -> None:
        data = self._stream.read(wanted)
        self._ended = not data
        self._text += data
