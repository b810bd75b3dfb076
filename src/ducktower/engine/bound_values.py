"""Values of an Arrow column as Python objects that DuckDB takes for the same values, when they are bound one by one.

What `to_pylist` makes of most types does; an interval would become a list of numbers, a map a list of pairs, a BIGNUM
bytes, and what has nanoseconds lose them. Owns what stands for these, at any depth, and which fields a parameter may
have: DuckDB's cast drops others without a word. Must never see more than a part of the rows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SchemaMismatch

__all__ = ["bound_values", "refuse_unknown_fields"]

_Remake: TypeAlias = Callable[[Any], Any]
"""Makes of what `to_pylist` gives what DuckDB is given; not called for None."""

_SIGN_BIT = 0x80
_HEADER_BYTES = 3


def refuse_unknown_fields(sent: Any, wanted: Any) -> None:
    """Refuse parameters whose structs have fields, at any depth, that the statement's have not.

    Both are a pyarrow.Schema in the statement's order. Raises SchemaMismatch with the field's path.
    """
    for given, parameter in zip(sent, wanted, strict=True):
        field = _unknown_field(parameter.name, given.type, parameter.type)
        if field is not None:
            raise SchemaMismatch(
                f'parameter "{parameter.name}": found {given.type}, wanted {parameter.type}: '
                f'there is no field "{field}"'
            )


def _unknown_field(path: str, given: Any, wanted: Any) -> str | None:
    types = pa.types
    pairs: list[tuple[str, Any, Any]] = []
    if types.is_struct(given) and types.is_struct(wanted):
        fields = {field.name.lower(): field.type for field in wanted}
        for field in given if "" not in fields else ():  # without names fields go by their position
            if field.name.lower() not in fields:
                return f"{path}.{field.name}"
            pairs.append((f"{path}.{field.name}", field.type, fields[field.name.lower()]))
    elif types.is_map(given) and types.is_map(wanted):
        pairs = [(f"{path}.key", given.key_type, wanted.key_type), (f"{path}.value", given.item_type, wanted.item_type)]
    elif _is_list(given) and _is_list(wanted):
        pairs = [(f"{path}[]", given.value_type, wanted.value_type)]
    return next((found for pair in pairs if (found := _unknown_field(*pair)) is not None), None)


def _is_list(kind: Any) -> bool:
    types = pa.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def bound_values(column: Any, name: str) -> list[Any]:
    """Return a column's values, of the parameter of that name. Raises SchemaMismatch for one that cannot be taken."""
    try:
        values = list(_exact(column).to_pylist())
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise SchemaMismatch(f'parameter "{name}" of type {column.type} cannot be taken: {error}') from error
    remake = _remake(column.type)
    return values if remake is None else _all(remake, values)


def _exact(column: Any) -> Any:
    """Return a column whose times Python can hold: its own end at microseconds.

    Nanoseconds travel as text, which DuckDB casts to what is wanted.
    """
    wanted = _holdable(column.type)
    return column if wanted == column.type else pc.cast(column, wanted, safe=False)


def _holdable(kind: Any) -> Any:
    types = pa.types
    if (types.is_timestamp(kind) or types.is_time64(kind)) and kind.unit == "ns":
        return pa.string()
    if types.is_duration(kind) and kind.unit == "ns":
        return pa.duration("us")
    if types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_holdable(kind.value_type)))
    if types.is_large_list(kind):
        return pa.large_list(kind.value_field.with_type(_holdable(kind.value_type)))
    if types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_holdable(kind.value_type)), kind.list_size)
    if types.is_struct(kind):
        return pa.struct([field.with_type(_holdable(field.type)) for field in kind])
    if types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(_holdable(kind.key_type)), kind.item_field.with_type(_holdable(kind.item_type))
        )
    return kind


def _remake(kind: Any) -> _Remake | None:
    """Return what remakes the values of a type, None for one whose values are right."""
    types = pa.types
    if types.is_interval(kind):
        return _interval
    if isinstance(kind, pa.OpaqueType) and kind.type_name == "bignum":
        return _bignum
    if types.is_map(kind):
        key, item = _remake(kind.key_type), _remake(kind.item_type)
        return lambda pairs: {  # the form in which DuckDB knows a map
            "key": _all(key, [pair[0] for pair in pairs]),
            "value": _all(item, [pair[1] for pair in pairs]),
        }
    if types.is_struct(kind):
        fields = {field.name: remake for field in kind if (remake := _remake(field.type)) is not None}
        if not fields:
            return None
        return lambda value: value | {name: _one(remake, value[name]) for name, remake in fields.items()}
    if _is_list(kind):
        element = _remake(kind.value_type)
        return None if element is None else lambda values: _all(element, values)
    return None


def _one(remake: _Remake | None, value: Any) -> Any:
    return value if value is None or remake is None else remake(value)


def _all(remake: _Remake | None, values: list[Any]) -> list[Any]:
    return values if remake is None else [_one(remake, value) for value in values]


def _interval(value: Any) -> Any:
    microseconds, rest = divmod(value.nanoseconds, 1_000)
    if rest:
        raise SchemaMismatch(f"an interval of {value.nanoseconds} nanoseconds is finer than microseconds")
    return duckdb.IntervalValue(f"{value.months} months {value.days} days {microseconds} microseconds")


def _bignum(raw: bytes) -> str:
    """Read DuckDB's form: three bytes of sign and length, then the number; all of it inverted when it is negative."""
    negative = not raw[0] & _SIGN_BIT
    number = int.from_bytes(bytes(byte ^ 0xFF for byte in raw[_HEADER_BYTES:]) if negative else raw[_HEADER_BYTES:])
    return str(-number if negative else number)
