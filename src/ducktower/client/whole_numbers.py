"""Fractions that would be cut off: Arrow makes a 1 of 1.5 where Python values become integers, and says nothing.

Owns nothing. Must never look at values of columns that hold no integers: every row that is appended passes here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import pyarrow as pa

__all__ = ["check_fractions", "has_integers"]

_WHOLE = frozenset({int, type(None)})


def has_integers(kind: pa.DataType) -> bool:
    """Whether a type is an integer's, or has one in it."""
    if pa.types.is_struct(kind):
        return any(has_integers(field.type) for field in kind)
    if _is_list(kind):
        return has_integers(kind.value_type)
    return bool(pa.types.is_integer(kind))


def check_fractions(rows: Sequence[Mapping[str, Any]], fields: Iterable[pa.Field]) -> None:
    """Raise ValueError, or TypeError, when a row has a fraction for one of the fields, which have integers."""
    for field in fields:
        name = field.name
        if not {type(row.get(name)) for row in rows} <= _WHOLE:
            for row in rows:
                _check(row.get(name), field.type)


def _check(value: Any, kind: pa.DataType) -> None:
    if value is None:
        return
    if pa.types.is_integer(kind):
        if isinstance(value, Number) and value % 1:  # type: ignore[operator]  # not every number has it: TypeError
            raise ValueError(value)
    elif pa.types.is_struct(kind):
        if isinstance(value, Mapping):
            for field in kind:
                _check(value.get(field.name), field.type)
    elif _is_list(kind) and isinstance(value, (list, tuple)):
        for item in value:
            _check(item, kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
