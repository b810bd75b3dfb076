"""What users hold -> Arrow: pandas, polars, dicts, readers, anything with the Arrow PyCapsule interface.

Owns these conversions. Must never import pandas, polars or Ibis: who passes their objects has them already.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from ..errors import InvalidArgument, SchemaMismatch

__all__ = ["query_sql", "rows_to_table", "to_arrow"]

_ROWS_PER_BATCH = 10_000


def to_arrow(data: Any) -> Any:
    """Return `data` as a pyarrow.Table when it is in memory, else as a pyarrow.RecordBatchReader.

    Raises InvalidArgument for what Arrow cannot take, SchemaMismatch for a column of mixed types.
    """
    if isinstance(data, Iterator) and not hasattr(data, "__arrow_c_stream__"):
        return _from_iterator(data)  # what it raises is its own affair
    with _fitting():
        return _to_arrow(data)


@contextlib.contextmanager
def _fitting(column: str | None = None) -> Iterator[None]:
    """Name what Arrow and Python raise for values that fit no column, and the column where it is known."""
    try:
        yield
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        what = "the data does" if column is None else f'column "{column}": its values do'
        raise SchemaMismatch(f"{what} not fit one type of Arrow's: {error}") from error


def _to_arrow(data: Any) -> Any:
    if isinstance(data, (pa.Table, pa.RecordBatchReader)):
        return data
    if isinstance(data, pa.RecordBatch):
        return pa.Table.from_batches([data])
    if isinstance(data, Mapping):
        return _columns_to_table(dict(data))
    library = type(data).__module__.partition(".")[0]
    if library == "pandas":
        # A named index is data; the default one is not.
        return pa.Table.from_pandas(data, preserve_index=any(name is not None for name in data.index.names))
    if library == "polars" and hasattr(data, "collect_batches"):
        return _from_batches(batch for frame in data.collect_batches() for batch in _to_arrow(frame).to_batches())
    if library == "polars":
        return data.to_arrow()
    if hasattr(data, "scanner"):  # pyarrow.dataset.Dataset
        return data.scanner().to_reader()
    if hasattr(data, "to_reader"):  # pyarrow.dataset.Scanner
        return data.to_reader()
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return _from_items(list(data))
    if isinstance(data, Iterable) and not isinstance(data, (str, bytes)):
        return _from_iterator(iter(data))
    raise InvalidArgument(f"{type(data).__name__} is nothing that can be ingested")


def _columns_to_table(columns: dict[str, Any]) -> pa.Table:
    try:
        return pa.table(columns)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        for name, values in columns.items():  # which of them? Arrow does not say
            with _fitting(name):
                pa.table({name: values})
        raise  # each is a column, but not of the same length


def rows_to_table(rows: list[dict[str, Any]], schema: pa.Schema | None = None) -> pa.Table:
    """Return dicts as a table with every key of any of them, or the columns of `schema`; a key that a row lacks is
    NULL there.

    Raises SchemaMismatch for a column whose values do not fit one type.
    """
    if schema is not None:
        return pa.Table.from_arrays([_column(rows, field.name, field.type) for field in schema], schema=schema)
    names: dict[str, None] = {}
    for row in rows:
        if not isinstance(row, Mapping):
            raise InvalidArgument(f"a row must be a dict, not {type(row).__name__}")
        names.update(dict.fromkeys(row))
    return pa.table({name: _column(rows, name) for name in names})


def _column(rows: list[dict[str, Any]], name: str, kind: pa.DataType | None = None) -> pa.Array:
    with _fitting(name):
        return pa.array([row.get(name) for row in rows], kind)


def _from_items(items: list[Any]) -> Any:
    if items and isinstance(items[0], (pa.RecordBatch, pa.Table)):
        return pa.concat_tables(pa.Table.from_batches([i]) if isinstance(i, pa.RecordBatch) else i for i in items)
    return rows_to_table(items)


def _from_iterator(items: Iterator[Any]) -> Any:
    first = next(items, None)
    if first is None:
        return pa.table({})
    items = itertools.chain([first], items)
    if isinstance(first, pa.RecordBatch):
        return _from_batches(_only_batches(items))

    def batches() -> Iterator[pa.RecordBatch]:
        schema = None
        while chunk := list(itertools.islice(items, _ROWS_PER_BATCH)):
            with _fitting():
                table = rows_to_table(chunk)
            if schema is None:
                schema = table.schema
            elif set(table.column_names) - set(schema.names):
                new = sorted(set(table.column_names) - set(schema.names))
                raise SchemaMismatch(f'column "{new[0]}" was not in the first {_ROWS_PER_BATCH} rows')
            else:
                with _fitting():
                    table = rows_to_table(chunk, schema)
            yield from table.to_batches()

    return _from_batches(batches())


def _only_batches(items: Iterator[Any]) -> Iterator[pa.RecordBatch]:
    for item in items:
        if not isinstance(item, pa.RecordBatch):
            raise InvalidArgument(f"after record batches came a {type(item).__name__}")
        yield item


def _from_batches(batches: Iterator[Any]) -> Any:
    first = next(batches, None)
    if first is None:
        return pa.table({})
    return pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))


def query_sql(query: Any) -> str:
    """Return SQL for DuckDB: a string as it is, an Ibis expression compiled.

    Raises InvalidArgument for anything else.
    """
    if isinstance(query, str):
        return query
    if type(query).__module__.partition(".")[0] == "ibis":
        from ibis.expr.operations import InMemoryTable

        if query.op().find(InMemoryTable):
            raise InvalidArgument(
                "ibis.memtable cannot be queried, as its rows are not on the server: store them with `ingest`, and use "
                "`client.table`"
            )
        from ibis.backends.sql.compilers import DuckDBCompiler

        return str(DuckDBCompiler().to_sqlglot(query.unbind()).sql(dialect="duckdb"))
    raise InvalidArgument(f"a query is SQL or an Ibis expression, not {type(query).__name__}")
