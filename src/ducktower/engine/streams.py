"""Native Arrow streams: put batches before one, bound their bytes, learn when it ends, name its error.

A result goes from DuckDB to the wire as an `ArrowArrayStream`, a C struct of four functions. Three of them are
replaced here, for one stream at a time, by functions that delegate to the original:

- `get_next` returns the batches that were read ahead, and then puts the original back, so that every further
  batch is fetched without Python; where batches may be too large for the wire it stays, reads the size off each
  batch's own struct, and only one that is too large becomes a Python object, to be cut; it is put in for one batch
  now and then by a `Probe`, which so learns whether anybody reads on;
- where the rows are to be counted it stays as well, and reads their number off each batch's struct;
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
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from ..errors import LimitExceeded, coded_text
from .batch_bytes import BatchBytes
from .row_limit import RowLimit

__all__ = ["Probe", "Streamed", "bounded", "chained", "in_pieces"]

log = logging.getLogger(__name__)

_FAST_SECONDS = 0.1
"""A batch that took longer is followed by another look: then Python for each batch costs nothing, and it is known
whether DuckDB is at work."""


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


class Probe:
    """Whether somebody reads a stream on, asked now and then: between two questions it is native.

    Used by one watching thread, which must not ask once `on_release` was called.
    """

    def __init__(self) -> None:
        self.asked_at: float | None = None
        """Since when the next batch is waited for, as far as is known; None until the first was taken."""
        self.working = False
        """Whether the original is known to make a batch now."""
        self.stream: _Stream | None = None
        """Where the consumer has the struct: it moves it before it asks for a batch, and not again."""

    def ask(self) -> None:
        """Have the next batch told of. To put a pointer in is one store, which the consumer sees or sees later."""
        stream = self.stream
        if stream is not None:
            stream.get_next = _address(_next_c)

    def begins(self) -> None:
        """Say that the original begins to make a batch."""
        self.working = True

    def waits(self) -> None:
        """Say that a batch was handed out."""
        self.asked_at = time.monotonic()
        self.working = False

    def reader_idle_seconds(self, now: float) -> float:
        """Return for how long nothing was asked for since the last batch that is known of; 0 while one is made."""
        return 0.0 if self.working or self.asked_at is None else now - self.asked_at


OnEnd = Callable[[int, str | None, bool], None]
"""Told how many rows were handed out, the text of the failure if there was one, and whether the end was reached."""


@dataclass(frozen=True, slots=True)
class _Bound:
    """How large a stream's batches may be."""

    schema: Any  # pyarrow.Schema
    sizes: BatchBytes
    bytes_max: int
    rows: RowLimit | None = None

    @property
    def looked_at_bytes(self) -> int:
        """From which size on a batch is looked at."""
        return self.bytes_max if self.rows is None else min(self.bytes_max, self.rows.bytes_max)


@dataclass(slots=True)
class _Changed:
    """What one changed stream needs to remember until its release."""

    ahead: deque[Any]
    get_next: int
    get_last_error: int
    release: int
    on_release: Callable[[], None]
    error_text: Callable[[str], str] | None
    bound: _Bound | None
    left: int | None = None
    """Bytes that may still come, where there is a limit."""
    on_limit: Callable[[], str] | None = None
    """Called once when more came; returns the text of the failure."""
    refusal: str | None = None
    probe: Probe | None = None
    """Told when the original begins to make a batch, and when one was handed out."""
    on_end: OnEnd | None = None
    """Called once at the release; where there is one, rows are counted."""
    slow: bool = False
    """Whether the original took long for its last batch."""
    rows: int = 0
    complete: bool = False
    failure: str | None = None
    text: Any = None  # keeps the last error's bytes alive for the consumer

    @property
    def looks(self) -> bool:
        """Whether each batch is looked at."""
        return self.bound is not None or self.on_end is not None


# Streams that are open now, by their private_data. Changed only by the thread that holds the GIL, one dict
# operation at a time.
_open: dict[int, _Changed] = {}


def _next(stream: Any, out: int) -> int:
    """Hand out a batch; then either leave the stream to the original or go on looking at batches."""
    try:
        changed = _open[stream.contents.private_data]
        if changed.ahead:
            _from_ahead(changed, out)
        else:
            failed = _from_original(changed, stream, out)
            if failed:
                return failed
        _count(changed, out)
        if changed.probe is not None:
            changed.probe.stream = stream.contents
            changed.probe.waits()
        if not (changed.ahead or changed.looks or changed.slow):
            stream.contents.get_next = changed.get_next
    except Exception:
        log.exception("cannot hand on a batch")
        return errno.EIO
    return 0


def _from_ahead(changed: _Changed, out: int) -> None:
    """Hand out the first of the batches that are there."""
    _, capsule = changed.ahead.popleft().__arrow_c_array__()
    address = _capsule_pointer(capsule, b"arrow_array")
    ctypes.memmove(out, address, ctypes.sizeof(_Array))
    _Array.from_address(address).release = None  # moved: the capsule must not free it


def _from_original(changed: _Changed, stream: Any, out: int) -> int:
    """Have the original make a batch and look at it; return an error number."""
    started = time.monotonic()
    if changed.probe is not None:
        changed.probe.begins()
    failed = int(_GetNext(changed.get_next)(stream, out))
    changed.slow = time.monotonic() - started > _FAST_SECONDS
    if failed or changed.bound is None:
        return failed
    try:
        cut = _cut(changed, changed.bound, out)
    except LimitExceeded as error:
        changed.ahead.clear()
        changed.refusal = coded_text(error)
        return errno.EFBIG
    if changed.left is not None and _is_too_much(changed, changed.bound, out, cut=cut):
        return errno.EFBIG
    if cut:
        _from_ahead(changed, out)
    return 0


def _count(changed: _Changed, out: int) -> None:
    """Count the rows of the batch at `out`, or see that it is the end."""
    batch = _Array.from_address(out)
    if batch.release is None:
        changed.complete = True
    else:
        changed.rows += batch.length


def _cut(changed: _Changed, bound: _Bound, out: int) -> bool:
    """Take the batch at `out` away when it is too large and put its pieces ahead; False when it may go as it is."""
    if _Array.from_address(out).release is None:  # the end of the stream
        return False
    if bound.sizes.measurable and bound.sizes.of(out) <= bound.looked_at_bytes:
        return False
    changed.ahead.extend(_pieces(pa.RecordBatch._import_from_c(out, bound.schema), bound.bytes_max, bound.rows))
    return True


def _is_too_much(changed: _Changed, bound: _Bound, out: int, *, cut: bool) -> bool:
    """Count the batch that came; drop it when the limit is passed."""
    if cut:
        nbytes = sum(batch.nbytes for batch in changed.ahead)
    elif _Array.from_address(out).release is None:  # the end of the stream
        return False
    else:
        nbytes = bound.sizes.of(out)
    assert changed.left is not None  # noqa: S101 - the caller looked
    changed.left -= nbytes
    if changed.left >= 0:
        return False
    if cut:
        changed.ahead.clear()
    else:
        pa.RecordBatch._import_from_c(out, bound.schema)  # takes it away, and frees it
    changed.refusal = changed.on_limit() if changed.on_limit is not None else "the stream is too large"
    return True


def _last_error(stream: Any) -> int | None:
    changed = _open[stream.contents.private_data]
    text = changed.refusal
    if text is None:
        raw = _GetLastError(changed.get_last_error)(stream)
        text = ctypes.string_at(raw).decode(errors="replace") if raw else ""
        if changed.error_text is not None:
            with contextlib.suppress(Exception):
                text = changed.error_text(text)
    changed.failure = text
    changed.text = ctypes.create_string_buffer(text.encode())
    return ctypes.addressof(changed.text)


def _released(stream: Any, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
    if is_finalizing():  # the names of this module may be gone; what the stream holds goes with the process
        stream.contents.release = None
        return
    changed = _open.pop(stream.contents.private_data)
    if changed.probe is not None:
        changed.probe.stream = None  # its memory goes after this
    stream.contents.release = changed.release
    _Release(changed.release)(stream)
    try:
        if changed.on_end is not None:
            changed.on_end(changed.rows, changed.failure, changed.complete)
        changed.on_release()
    except Exception:
        log.exception("cannot clean up after a stream")


# The functions live as long as the process: a consumer may call them at any time, from any thread, also while the
# interpreter ends and frees a reader that nobody closed. Without a reference that is never given back, the collector
# would have emptied the functions by then, and calling one that is empty crashes.
_next_c = _GetNext(_next)
_last_error_c = _GetLastError(_last_error)
_released_c = _Release(_released)
for _kept in (_next_c, _last_error_c, _released_c):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_kept))


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
    bytes_max: int | None = None,
    rows: RowLimit | None = None,
    probe: Probe | None = None,
    total_bytes_max: int | None = None,
    on_limit: Callable[[], str] | None = None,
    on_end: OnEnd | None = None,
) -> Any:
    """Return a native `pyarrow.RecordBatchReader` of the batches `ahead`, then of what `reader` still holds.

    With `bytes_max`, further batches are cut into pieces of at most so many bytes, and the stream fails at a row past
    the limit for `rows`. With `total_bytes_max` it fails with the text that `on_limit` returns when more has come.

    `on_release` is called once when the returned reader is freed, by the thread that frees it. `error_text`
    maps the text of a failure within the stream to the text that the consumer reports. `probe` learns whether the
    stream is read. With `on_end` rows are counted.
    """
    schema = reader.schema
    bound = None
    if bytes_max is not None or total_bytes_max is not None:
        bound = _Bound(schema, BatchBytes(schema), sys.maxsize if bytes_max is None else bytes_max, rows)
    left = None if total_bytes_max is None else total_bytes_max - sum(batch.nbytes for batch in ahead)
    capsule = reader.__arrow_c_stream__()
    stream = _Stream.from_address(_capsule_pointer(capsule, b"arrow_array_stream"))
    _open[stream.private_data] = _Changed(
        *(deque(ahead), stream.get_next, stream.get_last_error, stream.release, on_release, error_text, bound),
        left=left,
        on_limit=on_limit,
        probe=probe,
        on_end=on_end,
    )
    if ahead or _open[stream.private_data].looks:
        stream.get_next = _address(_next_c)
    stream.get_last_error = _address(_last_error_c)
    stream.release = _address(_released_c)
    return pa.RecordBatchReader.from_stream(_Capsule(capsule))


def in_pieces(table: Any, batch_bytes_max: int) -> Any:
    """Return a reader of a pyarrow.Table in batches fit for the wire; of nothing, without columns, for None."""
    if table is None:
        return pa.RecordBatchReader.from_batches(pa.schema([]), [])
    return pa.Table.from_batches(_cut_up(table.to_batches(), batch_bytes_max), schema=table.schema).to_reader()


def _cut_up(batches: Iterable[Any], batch_bytes_max: int, rows: RowLimit | None = None) -> list[Any]:
    return [piece for batch in batches for piece in _pieces(batch, batch_bytes_max, rows)]


def _pieces(batch: Any, batch_bytes_max: int, rows: RowLimit | None = None) -> Iterator[Any]:
    """Halve a batch until its pieces fit; a single row is never cut, but refused when it is past its own limit."""
    if batch.nbytes <= batch_bytes_max or batch.num_rows <= 1:
        if rows is not None:
            rows.check(batch)
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _pieces(batch.slice(0, middle), batch_bytes_max, rows)
    yield from _pieces(batch.slice(middle), batch_bytes_max, rows)


def _too_large(bytes_max: int) -> LimitExceeded:
    return LimitExceeded(f"the result has more than {bytes_max} bytes, the limit of one call")


def bounded(
    reader: Any,
    *,
    exact: bool,
    batch_bytes_max: int,
    on_release: Callable[[], None],
    error_text: Callable[[str], str],
    rows: RowLimit | None = None,
    probe: Probe | None = None,
    whole_bytes_max: int = 0,
    total_bytes_max: int | None = None,
    on_end: OnEnd | None = None,
) -> Streamed:
    """Return what `reader` holds as a stream fit for the wire; its first batch is computed before this returns.

    - A result of one batch, or of up to `whole_bytes_max`, is taken whole and `on_release` is called at once: a
      slow client then holds nothing.
    - A result whose batches are sure to fit (`exact`) goes on as the native stream.
    - Any other stays native too, but the size of each batch is looked at, and one that is larger than
      `batch_bytes_max` is cut: how wide its rows are is not known before they are there. Then one past the limit for
      `rows` fails the result.
    - With `total_bytes_max` the bytes of all are counted; past it the result fails with LIMIT_EXCEEDED.
    - With `on_end` the rows are counted, of a result that is not taken whole: it is told at the stream's end.
    """
    schema = reader.schema
    ahead: list[Any] = []
    nbytes = 0
    ended = False
    while not ended and (len(ahead) < 2 or nbytes <= whole_bytes_max):
        try:
            ahead.append(reader.read_next_batch())
            nbytes += ahead[-1].nbytes
            if total_bytes_max is not None and nbytes > total_bytes_max:
                reader.close()
                raise _too_large(total_bytes_max)
        except StopIteration:
            ended = True
    try:
        pieces = ahead if exact else _cut_up(ahead, batch_bytes_max, rows)
    except LimitExceeded:
        reader.close()
        raise
    if ended and (nbytes <= whole_bytes_max or (len(ahead) < 2 and nbytes <= batch_bytes_max)):
        reader.close()
        on_release()
        whole = pa.Table.from_batches(pieces, schema=schema)
        return Streamed(whole.to_reader(), whole.num_rows, nbytes)
    bytes_max = None if exact else batch_bytes_max
    chain = chained(
        pieces,
        reader,
        on_release=on_release,
        error_text=error_text,
        bytes_max=bytes_max,
        rows=rows,
        probe=probe,
        total_bytes_max=total_bytes_max,
        on_limit=None if total_bytes_max is None else lambda: coded_text(_too_large(total_bytes_max)),
        on_end=on_end,
    )
    return Streamed(chain, -1, nbytes)
