"""Parameters of statements: rows of an Arrow table become values that DuckDB binds.

Owns which column belongs to which parameter, and how much of the limits the rows take. Must never run a statement, nor
convert more than a part of the rows at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidArgument
from .bound_values import bound_values

__all__ = ["Parameters", "Rows", "charged_bytes", "ordered_names"]

Parameters: TypeAlias = list[Any] | dict[str, Any] | None

_PART_ROWS = 10_000


def ordered_names(names: list[str]) -> list[str]:
    """Return parameter names in the order in which callers give values: 1, 2, ... 10, not 1, 10, 2."""
    if all(name.isdecimal() for name in names):
        return sorted(names, key=int)
    return names


def charged_bytes(data: Any) -> int:
    """Return what a table or batch of parameters takes of a limit of bytes: its bytes, and one for each value at least.

    Columns of nulls, and lists of them, have no bytes whatever their length is; each value becomes a Python object.
    """
    values = sum(_held(chunk) for column in data.columns for chunk in getattr(column, "chunks", (column,)))
    return max(int(data.nbytes), int(data.num_rows), values)


def _held(array: Any) -> int:
    """Return how many values an array has, those within its values included."""
    kind = array.type
    if isinstance(kind, pa.BaseExtensionType):
        return _held(array.storage)
    if pa.types.is_struct(kind):
        return len(array) + sum(_held(array.field(i)) for i in range(kind.num_fields))
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):  # which may be the same values again and again
        return len(array) + (pc.sum(pc.list_value_length(array)).as_py() or 0)
    if pa.types.is_nested(kind) and hasattr(array, "values"):  # lists and maps
        return len(array) + _held(array.values)
    return len(array)


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
        for batch in _parts(self.table):
            columns = [bound_values(column, name) for column, name in zip(batch.columns, self._names, strict=True)]
            if self._by_position:
                yield [list(row) for row in zip(*columns, strict=True)]
            else:
                yield [dict(zip(self._names, row, strict=True)) for row in zip(*columns, strict=True)]


def _parts(table: Any) -> Iterator[Any]:
    # One after the other: `to_batches` would make a list of all of them.
    for batch in table.to_batches():
        for start in range(0, batch.num_rows, _PART_ROWS):
            yield batch.slice(start, _PART_ROWS)
