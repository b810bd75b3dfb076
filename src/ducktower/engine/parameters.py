"""Parameters of statements: rows of an Arrow table become values that DuckDB binds.

Owns which column belongs to which parameter, and the conversion. Must never run a statement.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidArgument, SchemaMismatch

__all__ = ["Parameters", "Rows", "ordered_names"]

Parameters: TypeAlias = list[Any] | dict[str, Any] | None

_PART_ROWS = 10_000


def ordered_names(names: list[str]) -> list[str]:
    """Return parameter names in the order in which callers give values: 1, 2, ... 10, not 1, 10, 2."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)
    return names


class Rows:
    """The rows of a table, each as the parameters of one run of a statement. Can be gone through repeatedly.

    Columns are meant by name when they carry the names of all parameters, else by position.
    """

    def __init__(self, table: Any, names: list[str]) -> None:
        if table.num_columns != len(names):
            raise InvalidArgument(f"the statement has {len(names)} parameters, {table.num_columns} were sent")
        sent = table.column_names
        if len(set(sent)) == len(sent) and set(sent) == set(names):
            table = table.select(names)
        self.table = table
        self._names = names
        self._by_position = all(name.isdecimal() for name in names)

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Parameters]:
        for part in self.parts():
            yield from part

    def parts(self) -> Iterator[list[Any]]:
        """Yield the rows in lists that are not long."""
        for batch in self.table.to_batches(max_chunksize=_PART_ROWS):
            columns = [_values(column, name) for column, name in zip(batch.columns, self._names, strict=True)]
            if self._by_position:
                yield [list(row) for row in zip(*columns, strict=True)]
            else:
                yield [dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: Any, name: str) -> list[Any]:
    """Return a column's values as Python objects that DuckDB takes for the same values."""
    try:
        return list(_exact(column).to_pylist())
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise SchemaMismatch(f'parameter "{name}" of type {column.type} cannot be taken: {error}') from error


def _exact(column: Any) -> Any:
    kind = column.type
    # Python's times end at microseconds: nanoseconds travel as text, which DuckDB casts to what is wanted.
    if (pa.types.is_timestamp(kind) or pa.types.is_time64(kind)) and kind.unit == "ns":
        return pc.cast(column, pa.string())
    if pa.types.is_duration(kind) and kind.unit == "ns":
        return pc.cast(column, pa.duration("us"), safe=False)
    return column
