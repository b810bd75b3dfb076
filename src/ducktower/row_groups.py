"""How rows are cut and joined on their way into DuckDB: whole row groups where they fit, bounded bytes where not.

DuckDB keeps rows in groups of 122,880 (https://duckdb.org/docs/internals/storage). A batch of at least so many rows
becomes row groups at once; the rows of smaller ones are copied together a second time, for a fifth of all the work of
storing them (docs/decisions, row groups). The client joins before it sends. The server joins what other clients sent:
that takes Python for each of their batches, and is repaid many times.

Owns the size of messages and of batches that are stored. Must never hold more rows than one message and one batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

__all__ = ["MESSAGE_BYTES", "messages", "messages_of_stream"]

MESSAGE_BYTES = 4 * 1024 * 1024
"""What a message aims at where row groups do not matter."""
_GROUP_ROWS = 122_880
_GROUP_BYTES_MAX = 32 * 1024 * 1024
"""Largest message that is made for the sake of a row group."""


def messages(table: pa.Table) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a table as messages; none when it has no rows."""
    return _cut(table, _rows_of_message(table.num_rows, table.nbytes))


def messages_of_stream(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Yield the rows of batches of one schema as messages, each as soon as there are rows enough for it."""
    waiting: list[pa.RecordBatch] = []
    rows = nbytes = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        waiting.append(batch)
        rows += batch.num_rows
        nbytes += batch.nbytes
        size = _rows_of_message(rows, nbytes)
        if rows >= size:
            table = pa.Table.from_batches(waiting)
            # The rest begins the next message: were it one of its own, it would become a small row group.
            rest = table.slice(rows - rows % size)
            yield from _cut(table.slice(0, rows - rows % size), size)
            waiting, rows, nbytes = rest.to_batches(), rest.num_rows, rest.nbytes
    if waiting:
        yield from messages(pa.Table.from_batches(waiting))


def _cut(table: pa.Table, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, table.num_rows, rows):
        part = table.slice(start, rows)
        if part.nbytes <= _GROUP_BYTES_MAX:
            yield from _joined(part)
        else:  # rows far wider than the others
            for batch in part.to_batches():
                yield from _pieces(batch)


def _rows_of_message(rows: int, nbytes: int) -> int:
    """Return how many rows go into a message, for rows that are as wide as these on average."""
    group_bytes = nbytes * _GROUP_ROWS // max(1, rows)
    if group_bytes > _GROUP_BYTES_MAX:
        return max(1, rows * MESSAGE_BYTES // nbytes)
    return _GROUP_ROWS * max(1, MESSAGE_BYTES // max(1, group_bytes))


def _joined(part: pa.Table) -> list[pa.RecordBatch]:
    """Return the rows in one batch, or as they are where Arrow cannot join dictionaries of nested values."""
    with contextlib.suppress(pa.ArrowNotImplementedError):
        # From the C library's memory, which keeps pieces of this size for the next one (see malloc): Arrow's own pool
        # gives them back each time, and the page faults cost as much as the copy.
        part = part.combine_chunks(memory_pool=pa.system_memory_pool())
    joined: list[pa.RecordBatch] = part.to_batches()
    return joined


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Halve a batch until its pieces are of a message's size; a single row is never cut."""
    if batch.nbytes <= MESSAGE_BYTES or batch.num_rows <= 1:
        yield batch
        return
    middle = batch.num_rows // 2
    yield from _pieces(batch.slice(0, middle))
    yield from _pieces(batch.slice(middle))
