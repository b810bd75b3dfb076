"""Native Arrow streams: put batches before one, learn when it ends, name its error. No Python per batch.

A result goes from DuckDB to the wire as an `ArrowArrayStream`, a C struct of four functions. Three of them are
replaced here, for one stream at a time, by functions that delegate to the original:

- `get_next` returns the batches that were read ahead, and then puts the original back, so that every further
  batch is fetched without Python;
- `get_last_error` is called only when the stream failed, and gives its text our error code;
- `release` is called exactly once, on every path (end, error, cancel, client gone), and gives the lease back.

The layout and the rules (a consumer may move the struct, so state hangs on `private_data`) are those of the
Arrow C stream interface, https://arrow.apache.org/docs/format/CStreamInterface.html.

Python code that reads such a stream itself closes it, with `with`: CPython cannot call `release` while an
exception is on its way, which is when a failed reader would be freed.

Must never know what the rows mean, nor hold a lock while calling out.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

__all__ = ["Streamed", "batch_rows", "bounded", "chained", "in_pieces"]

log = logging.getLogger(__name__)

_ROWS_MAX = 65_536
_ROWS_MAX_UNKNOWN_WIDTH = 4_096
"""Rows that are asked for at once when values have no fixed width. More save Python steps, fewer save memory."""


class _Stream(ctypes.Structure):
    _fields_ = (
        ("get_schema", ctypes.c_void_p),
        ("get_next", ctypes.c_void_p),
        ("get_last_error", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


class _Array(ctypes.Structure):
    _fields_ = (
        ("length", ctypes.c_int64),
        ("null_count", ctypes.c_int64),
        ("offset", ctypes.c_int64),
        ("n_buffers", ctypes.c_int64),
        ("n_children", ctypes.c_int64),
        ("buffers", ctypes.c_void_p),
        ("children", ctypes.c_void_p),
        ("dictionary", ctypes.c_void_p),
        ("release", ctypes.c_void_p),
        ("private_data", ctypes.c_void_p),
    )


_GetNext = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Stream), ctypes.c_void_p)
_GetLastError = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.POINTER(_Stream))
_Release = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Stream))

_capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_capsule_pointer.restype = ctypes.c_void_p
_capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]


@dataclass(slots=True)
class _Changed:
    """What one changed stream needs to remember until its release."""

    ahead: deque[Any]
    get_next: int
    get_last_error: int
    release: int
    on_release: Callable[[], None]
    error_text: Callable[[str], str] | None
    text: Any = None  # keeps the last error's bytes alive for the consumer


# Streams that are open now, by their private_data. Changed only by the thread that holds the GIL, one dict
# operation at a time.
_open: dict[int, _Changed] = {}


def _next_ahead(stream: Any, out: int) -> int:
    try:
        changed = _open[stream.contents.private_data]
        _, capsule = changed.ahead.popleft().__arrow_c_array__()
        address = _capsule_pointer(capsule, b"arrow_array")
        ctypes.memmove(out, address, ctypes.sizeof(_Array))
        _Array.from_address(address).release = None  # moved: the capsule must not free it
        if not changed.ahead:
            stream.contents.get_next = changed.get_next
    except Exception:
        log.exception("cannot hand on a batch that was read ahead")
        return errno.EIO
    return 0


def _last_error(stream: Any) -> int | None:
    changed = _open[stream.contents.private_data]
    raw = _GetLastError(changed.get_last_error)(stream)
    text = ctypes.string_at(raw).decode(errors="replace") if raw else ""
    if changed.error_text is not None:
        with contextlib.suppress(Exception):
            text = changed.error_text(text)
    changed.text = ctypes.create_string_buffer(text.encode())
    return ctypes.addressof(changed.text)


def _released(stream: Any) -> None:
    changed = _open.pop(stream.contents.private_data)
    stream.contents.release = changed.release
    _Release(changed.release)(stream)
    try:
        changed.on_release()
    except Exception:
        log.exception("cannot clean up after a stream")


# The functions live as long as the process: a consumer may call them at any time, from any thread.
_next_ahead_c = _GetNext(_next_ahead)
_last_error_c = _GetLastError(_last_error)
_released_c = _Release(_released)


def _address(function: Any) -> int:
    address = ctypes.cast(function, ctypes.c_void_p).value
    assert address is not None  # noqa: S101 - a C function has one
    return address


class Streamed(NamedTuple):
    """A result on its way: a pyarrow.RecordBatchReader, its rows (-1: not known yet), and its bytes in memory now."""

    reader: Any
    rows: int
    nbytes: int


class _Capsule:
    """Hands a changed stream to Arrow by the PyCapsule protocol."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self._capsule


def _nothing() -> None:
    return None


def chained(
    ahead: Sequence[Any],
    reader: Any,
    *,
    on_release: Callable[[], None] = _nothing,
    error_text: Callable[[str], str] | None = None,
) -> Any:
    """Return a native `pyarrow.RecordBatchReader` of the batches `ahead`, then of what `reader` still holds.

    `on_release` is called once when the returned reader is freed, by the thread that frees it. `error_text`
    maps the text of a failure within the stream to the text that the consumer reports.
    """
    capsule = reader.__arrow_c_stream__()
    stream = _Stream.from_address(_capsule_pointer(capsule, b"arrow_array_stream"))
    _open[stream.private_data] = _Changed(
        deque(ahead), stream.get_next, stream.get_last_error, stream.release, on_release, error_text
    )
    if ahead:
        stream.get_next = _address(_next_ahead_c)
    stream.get_last_error = _address(_last_error_c)
    stream.release = _address(_released_c)
    return pa.RecordBatchReader.from_stream(_Capsule(capsule))


_VALUE_BYTES = {
    # DuckDB's type -> bytes of one value in Arrow; a type that is not here differs from value to value.
    "boolean": 1,
    "tinyint": 1,
    "utinyint": 1,
    "smallint": 2,
    "usmallint": 2,
    "integer": 4,
    "uinteger": 4,
    "float": 4,
    "date": 4,
    "bigint": 8,
    "ubigint": 8,
    "double": 8,
    "time": 8,
    "time with time zone": 8,
    "timestamp": 8,
    "timestamp_s": 8,
    "timestamp_ms": 8,
    "timestamp_ns": 8,
    "timestamp with time zone": 8,
    "decimal": 16,
    "hugeint": 16,
    "uhugeint": 16,
    "interval": 16,
    "enum": 4,
}


def batch_rows(types: Sequence[Any], batch_bytes_max: int) -> tuple[int, bool]:
    """Return how many rows a batch of these DuckDB types may have, and whether that is sure to fit."""
    widths = [_VALUE_BYTES.get(kind.id) for kind in types]
    if None in widths:
        return _ROWS_MAX_UNKNOWN_WIDTH, False
    width = sum(bytes_ or 0 for bytes_ in widths) + len(widths) / 8  # and a bit of validity each
    return max(1, min(_ROWS_MAX, int(batch_bytes_max / max(width, 1)))), True


def _sliced(ahead: Sequence[Any], reader: Iterable[Any], batch_bytes_max: int) -> Iterator[Any]:
    for batch in itertools.chain(ahead, reader):
        yield from _pieces(batch, batch_bytes_max)


def in_pieces(table: Any, batch_bytes_max: int) -> Any:
    """Return a reader of a pyarrow.Table in batches fit for the wire; of nothing, without columns, for None."""
    if table is None:
        return pa.RecordBatchReader.from_batches(pa.schema([]), [])
    pieces = list(_sliced(table.to_batches(), (), batch_bytes_max))
    return pa.Table.from_batches(pieces, schema=table.schema).to_reader()


def _pieces(batch: Any, batch_bytes_max: int) -> Iterator[Any]:
    """Halve a batch until its pieces fit; a single row is never cut, whatever its size."""
    if batch.nbytes <= batch_bytes_max or batch.num_rows <= 1:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _pieces(batch.slice(0, middle), batch_bytes_max)
    yield from _pieces(batch.slice(middle), batch_bytes_max)


def bounded(
    reader: Any,
    *,
    exact: bool,
    batch_bytes_max: int,
    on_release: Callable[[], None],
    error_text: Callable[[str], str],
    whole_bytes_max: int = 0,
) -> Streamed:
    """Return what `reader` holds as a stream fit for the wire; its first batch is computed before this returns.

    - A result of one batch, or of up to `whole_bytes_max`, is taken whole and `on_release` is called at once: a
      slow client then holds nothing.
    - A result whose batches are sure to fit (`exact`) goes on as the native stream.
    - Any other is looked at in Python, once for each 4,096 rows, and cut into pieces of at most
      `batch_bytes_max`: how wide its rows are is not known before they are there.
    """
    schema = reader.schema
    ahead: list[Any] = []
    nbytes = 0
    ended = False
    while not ended and (len(ahead) < 2 or nbytes <= whole_bytes_max):
        try:
            ahead.append(reader.read_next_batch())
            nbytes += ahead[-1].nbytes
        except StopIteration:
            ended = True
    if ended and (nbytes <= whole_bytes_max or (len(ahead) < 2 and nbytes <= batch_bytes_max)):
        reader.close()
        on_release()
        pieces = ahead if exact else list(_sliced(ahead, (), batch_bytes_max))
        whole = pa.Table.from_batches(pieces, schema=schema)
        return Streamed(whole.to_reader(), whole.num_rows, nbytes)
    if exact:
        return Streamed(chained(ahead, reader, on_release=on_release, error_text=error_text), -1, nbytes)
    pieces = pa.RecordBatchReader.from_batches(schema, _sliced(ahead, reader, batch_bytes_max))
    return Streamed(chained((), pieces, on_release=on_release, error_text=error_text), -1, nbytes)
