"""What views and macros are made of: the tables that a statement touches without naming them, for the audit log.

Owns the definitions as they are now, until somebody makes, drops or alters one. Must never decide what anybody may do:
`sight` proves that, this tells it to an operator, as far as DuckDB's parser shows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from . import parse_tree
from .parse_tree import folded
from .view_text import body_of

__all__ = ["Definitions"]

_VIEWS = "SELECT schema_name, view_name, sql FROM duckdb_views() WHERE NOT internal"
_MACROS = """
SELECT function_name, function_type = 'table_macro', macro_definition FROM duckdb_functions()
WHERE NOT internal AND macro_definition IS NOT NULL
"""
_DEPTH_MAX = 64
COMPUTED = "?"
"""A table whose name is computed as the statement runs."""


class _Known(NamedTuple):
    views: dict[str, list[tuple[str, str]]]
    """By name: schemas and bodies."""
    macros: dict[str, list[str]]
    """By name: what can be parsed as a SELECT."""


class Definitions:
    """Safe from any thread; each call uses the cursor that it is given."""

    def __init__(self) -> None:
        # Found out by whoever asks first, and set as one object.
        self._known: _Known | None = None
        self._version = 0

    def forget(self) -> None:
        """Say that views or macros were made, dropped or altered."""
        self._version += 1
        self._known = None

    def tables(self, cursor: Any, tree: Any, *, anew: bool = False) -> set[str]:
        """Return the tables and views of a parse tree, those under its views, macros and query() included.

        Within a transaction views and macros are what they were when it began: they are read `anew`, and not kept.
        """
        found: set[str] = set()
        self._touch(cursor, tree, _read(cursor) if anew else self._now(cursor), found, set(), 0)
        return found

    def _touch(self, cursor: Any, tree: Any, known: _Known, found: set[str], seen: set[str], depth: int) -> None:
        if tree is None or depth > _DEPTH_MAX:
            return
        named = parse_tree.tables(tree)
        texts: list[str] = []
        for function, values in parse_tree.calls(tree):
            if function == "query":
                texts += values or ()
            elif function == "query_table":
                named |= {COMPUTED} if values is None else set(values)
            else:
                texts += known.macros.get(function, ())
        found |= named
        for name in named:
            texts += _bodies(known, name)
        for text in texts:
            if text not in seen:
                seen.add(text)
                self._touch(cursor, parse_tree.of_select(cursor, text), known, found, seen, depth + 1)

    def _now(self, cursor: Any) -> _Known:
        known, version = self._known, self._version
        if known is None:
            known = _read(cursor)
            if version == self._version:
                self._known = known
        return known


def _read(cursor: Any) -> _Known:
    known = _Known({}, {})
    for schema, name, sql in cursor.execute(_VIEWS).fetchall():
        body = body_of(sql)
        if body is not None:
            known.views.setdefault(folded(name), []).append((folded(schema), body))
    for name, gives_rows, text in cursor.execute(_MACROS).fetchall():
        known.macros.setdefault(folded(name), []).append(text if gives_rows else f"SELECT {text}")
    return known


def _bodies(known: _Known, name: str) -> Iterator[str]:
    """Yield the bodies of the views that a name may mean; without a schema, of all that are called so."""
    *path, view = name.split(".")
    schema = folded(path[-1]) if path else None
    for where, body in known.views.get(folded(view), ()):
        if schema is None or schema == where:
            yield body
