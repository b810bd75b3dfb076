"""Arrow arrays of a few Python values, made without `pyarrow.array`.

That one takes several times as long, and the first time it imports pandas, where that is installed: a second or more,
for which whoever comes first would wait, and everybody when it is the committing thread. Owns the layout of the few
types that the engine makes itself. Must never be given what a client sends as Arrow.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["packed"]

_DECIMAL_BYTES = 16


def packed(values: Sequence[Any], kind: Any) -> Any:
    """Return a pyarrow.Array of values of one type; None is NULL.

    Arguments:
        kind: string, bool_, int32, int64, or a decimal128 whose scale is that of each value.
    """
    known = [value is not None for value in values]
    validity = None if all(known) else _bits(known)
    return pa.Array.from_buffers(kind, len(values), [validity, *_buffers(values, kind)])


def _buffers(values: Sequence[Any], kind: Any) -> list[Any]:
    if kind == pa.string():
        texts = [b"" if value is None else value.encode() for value in values]
        ends = array("i", (0, *itertools.accumulate(map(len, texts))))
        return [pa.py_buffer(ends), pa.py_buffer(b"".join(texts))]
    if kind == pa.bool_():
        return [_bits([value is True for value in values])]
    if pa.types.is_decimal128(kind):
        numbers = [0 if value is None else int(value.scaleb(kind.scale)) for value in values]
        return [pa.py_buffer(b"".join(number.to_bytes(_DECIMAL_BYTES, "little", signed=True) for number in numbers))]
    code = "i" if kind == pa.int32() else "q"
    return [pa.py_buffer(array(code, [0 if value is None else value for value in values]))]


def _bits(flags: Sequence[bool]) -> Any:
    """Return a bit for each flag, the first one lowest."""
    number = int("".join("1" if flag else "0" for flag in reversed(flags)) or "0", 2)
    return pa.py_buffer(number.to_bytes((len(flags) + 7) // 8, "little"))
