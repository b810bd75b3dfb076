"""What a statement would return and take, without running it, as Arrow schemas.

Owns the use of DuckDB's binder for that. Must never run a statement that the binder can describe; the one kind
that it cannot (PIVOT, whose columns are data) is planned in the caller's transaction.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from ..arrow_types import plain_type
from .carried import schema_of
from .parameters import ordered_names
from .statements import gives_changed_rows, is_query, kind_of

__all__ = ["Describer", "Description"]

_UNKNOWN = "UNKNOWN"
_NULL = '"NULL"'
_ANSWERING = frozenset({"CALL", "EXECUTE", "PRAGMA"})
_FIELDS_MAX = 1_024
_ASKED_AT_ONCE = 256
_SQL_TYPES = {_UNKNOWN: "VARCHAR", _NULL: "INTEGER"}
"""What stands for types that SQL cannot name."""


class Description(NamedTuple):
    """What preparing a statement tells.

    `is_update` says that it gives no rows for the caller; `dataset_schema` is empty then. The columns of a result
    that hang on values not given yet are text, and `settled` is False.
    """

    dataset_schema: Any  # pyarrow.Schema
    parameter_schema: Any  # pyarrow.Schema
    is_update: bool
    settled: bool = True


class Describer:
    """Safe from any thread; each description uses the cursor that it is given."""

    def __init__(self) -> None:
        # Guarded by _lock: Arrow fields by DuckDB type and, where it matters, time zone.
        self._lock = threading.Lock()
        self._fields: OrderedDict[tuple[str, str], Any] = OrderedDict()

    def describe(
        self, cursor: Any, script: Sequence[Any], values: Any = None, *, may_be_over: bool = False
    ) -> Description:
        """Describe the last statement of a script; `values` (list or dict) settle what hangs on them.

        When a script's last statement needs what the ones before it make, only the names of its parameters are
        known; nor of a statement that `may_be_over`, when what it dropped is gone. Raises DuckDB's errors for any other
        single statement that cannot be bound.
        """
        if len(script) == 1 and not may_be_over:
            return self._one(cursor, script[0], values)
        try:
            return self._one(cursor, script[-1], values)
        except duckdb.Error:
            takes = pa.schema([(name, pa.string()) for name in ordered_names(sorted(script[-1].named_parameters))])
            return Description(pa.schema([]), takes, not is_query(script[-1]), settled=False)

    def _one(self, cursor: Any, statement: Any, values: Any) -> Description:
        # The binder has no public door in DuckDB 2.0: the version is pinned, and tests call it with every type.
        names, types, parameters, returns, deferred = cursor._bind(statement, values=values)[:5]
        takes = self._parameters(cursor, parameters)
        if not (returns == "query_result" and _gives_rows(statement)):
            return Description(pa.schema([]), takes, is_update=True)
        if deferred:
            return Description(_planned(cursor, statement), takes, is_update=False)
        settled = all(str(kind) != _UNKNOWN for kind in types)
        if not settled:
            names, types = _names_at_least(cursor, statement, takes.names) or (names, types)
        return Description(self.schema(cursor, names, types), takes, is_update=False, settled=settled)

    def _parameters(self, cursor: Any, parameters: list[tuple[str, Any]]) -> Any:
        types = dict(parameters)
        names = ordered_names(list(types))
        schema = self.schema(cursor, names, [types[name] for name in names])
        return pa.schema([field.with_type(plain_type(field.type)) for field in schema])

    def schema(self, cursor: Any, names: Sequence[str], types: Sequence[Any]) -> Any:
        """Return the pyarrow.Schema that DuckDB gives columns of these names and DuckDB types."""
        texts = [str(kind) for kind in types]
        known = self.fields(cursor, set(texts))
        return pa.schema([known[text].with_name(name) for name, text in zip(names, texts, strict=True)])

    def fields(self, cursor: Any, types: set[str]) -> dict[str, Any]:
        """Return the pyarrow.Field, of any name, that DuckDB makes of each of these DuckDB types."""
        zone = _zone(cursor, types)
        with self._lock:
            known = {kind: self._fields[kind, zone] for kind in types if (kind, zone) in self._fields}
        new = sorted(types - known.keys())
        for start in range(0, len(new), _ASKED_AT_ONCE):
            part = new[start : start + _ASKED_AT_ONCE]
            known.update(zip(part, _asked(cursor, part), strict=True))
        if new:
            with self._lock:
                self._fields.update(((kind, zone), known[kind]) for kind in new)
                while len(self._fields) > _FIELDS_MAX:
                    self._fields.popitem(last=False)
        return known


def _gives_rows(statement: Any) -> bool:
    # The binder takes DML for a query while the type of a parameter is open; without RETURNING it is none.
    return is_query(statement) or kind_of(statement) in _ANSWERING or gives_changed_rows(statement)


def _names_at_least(cursor: Any, statement: Any, parameters: list[str]) -> tuple[list[str], list[Any]] | None:
    """Bind a statement whose result hangs on its parameters to NULLs: that tells the columns, not all types."""
    by_position = all(name.isdecimal() for name in parameters)
    nothing: Any = [None] * len(parameters) if by_position else dict.fromkeys(parameters)
    try:
        names, types = cursor._bind(statement, values=nothing)[:2]
    except duckdb.Error:
        return None
    return names, [_UNKNOWN if str(kind) == _NULL else kind for kind in types]


def _zone(cursor: Any, types: Iterable[str]) -> str:
    """Return the session's time zone when types are among `types` that carry it in Arrow, else nothing."""
    if not any("TIME ZONE" in kind or "TIMESTAMPTZ" in kind for kind in types):
        return ""
    return str(cursor.execute("SELECT current_setting('TimeZone')").fetchall()[0][0])


def _asked(cursor: Any, types: Sequence[str]) -> list[Any]:
    """Have DuckDB itself say how it hands these types to Arrow: a SELECT of NULLs of them that gives no row."""
    columns = ", ".join(
        f"CAST(NULL AS {_SQL_TYPES.get(kind, kind)}) AS c{position}" for position, kind in enumerate(types)
    )
    return list(schema_of(cursor.sql(f"SELECT {columns}")))


def _planned(cursor: Any, statement: Any) -> Any:
    return schema_of(cursor.sql(statement))
