"""Types of DuckDB's that Arrow has no type for, and what carries their values instead.

DuckDB hands them over all the same, as the nearest Arrow type, and changes values silently: a TIMETZ loses its
offset, a BIT becomes bytes that it reads back as other bits, a UHUGEINT of more than 38 digits becomes another
number. So results with such columns, at any depth, are cast by DuckDB before they become Arrow: TIMETZ and BIT to
text, which goes back into them; UHUGEINT to DECIMAL(38, 0), which is its Arrow type anyway and refuses what does
not fit.

Owns that choice; whatever makes Arrow of a relation with a caller's types asks here first. Must never look at values.
"""

from __future__ import annotations

from typing import Any

from .inserts import quoted

__all__ = ["carried", "schema_of"]

_CARRIERS = {"bit": "VARCHAR", "time with time zone": "VARCHAR", "uhugeint": "DECIMAL(38,0)"}
_NESTED = frozenset({"list", "array", "struct", "tuple", "map", "union"})
_UNNAMED = {'"NULL"': "INTEGER"}
"""What stands in a cast for types that SQL cannot name."""


def carried(relation: Any, types: list[Any] | None = None) -> Any:
    """Return a relation whose values Arrow carries as they are: the same one wherever there is nothing to cast.

    `types` are the relation's, when they are known already. The result is lazy where the relation is.
    """
    types = relation.types if types is None else types
    if not any(_needs_cast(kind) for kind in types):
        return relation
    columns = zip(relation.columns, types, strict=True)
    return relation.project(", ".join(_column(at, *column) for at, column in enumerate(columns, 1)))


def schema_of(relation: Any) -> Any:
    """Return the pyarrow.Schema in which a relation's rows arrive, without computing any."""
    reader = carried(relation).limit(0).to_arrow_reader(1)
    schema = reader.schema
    reader.close()
    return schema


def _column(position: int, name: str, kind: Any) -> str:
    value = f"CAST(#{position} AS {_carrier(kind)})" if _needs_cast(kind) else f"#{position}"
    return f"{value} AS {quoted(name)}" if name else value


def _needs_cast(kind: Any) -> bool:
    found = kind.id
    return found in _CARRIERS or (found in _NESTED and any(_needs_cast(member) for _, member in _fields(kind)))


def _fields(kind: Any) -> list[tuple[str, Any]]:
    """Return names and types of what is in a nested type."""
    fields: list[tuple[str, Any]] = kind.children
    if kind.id == "array":
        return fields[:1]  # the other one is its size
    return fields[1:] if kind.id == "union" else fields  # the first one is its tag


def _carrier(kind: Any) -> str:
    """Return the SQL type that carries values of `kind`."""
    found = kind.id
    if found in _CARRIERS:
        return _CARRIERS[found]
    if not _needs_cast(kind):
        return _UNNAMED.get(str(kind), str(kind))
    fields = [(name, _carrier(member)) for name, member in _fields(kind)]
    if found == "list":
        return f"{fields[0][1]}[]"
    if found == "array":
        return f"{fields[0][1]}[{kind.children[1][1]}]"
    if found in ("map", "tuple"):
        return f"{found.upper()}({', '.join(carrier for _, carrier in fields)})"
    return f"{found.upper()}({', '.join(f'{quoted(name)} {carrier}' for name, carrier in fields)})"
