"""A statement as DuckDB's own parser sees it: a tree of dicts and lists.

DuckDB gives the tree of a SELECT. INSERT, UPDATE, DELETE and COPY TO may stand in a CTE, so they are put into one to
be seen; of other kinds there is no tree. Owns that way round. Must never run a client's statement.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from . import statements

__all__ = ["calls", "folded", "nodes", "of_select", "of_statement", "tables"]

_WITHIN = frozenset({"INSERT", "UPDATE", "DELETE", "COPY"})


def folded(name: str) -> str:
    """Return what names that mean the same to DuckDB have in common: it knows the case of ASCII letters alone.

    To Python the Kelvin sign is a capital k, too: a name with it would pass for another one.
    """
    return name.encode(errors="surrogatepass").lower().decode(errors="surrogatepass")


def of_select(cursor: Any, text: str) -> Any:
    """Return the tree of one SELECT, or None when the text is not one, or not one alone."""
    (raw,) = cursor.execute("SELECT json_serialize_sql(?::VARCHAR)", [text]).fetchall()[0]
    tree = json.loads(raw)
    found = tree.get("statements", ())
    return None if tree.get("error") or len(found) != 1 else found[0]


def of_statement(cursor: Any, statement: Any) -> Any:
    """Return a statement's tree, one that changes rows within a CTE; None for a kind that has none."""
    kind = statements.kind_of(statement)
    text = statement.query.rstrip().rstrip(";")
    if kind in _WITHIN:
        text = f"WITH __statement AS (\n{text}\n) SELECT 1"
    elif kind != "SELECT":
        return None
    return of_select(cursor, text)


def nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """Yield every dict of a tree."""
    if isinstance(tree, list):
        for one in tree:
            yield from nodes(one)
    elif isinstance(tree, dict):
        yield tree
        for one in tree.values():
            yield from nodes(one)


def calls(tree: Any) -> Iterator[tuple[str, list[str] | None]]:
    """Yield the functions that a statement calls, each with its arguments where they are texts that are written out."""
    for node in nodes(tree):
        if node.get("class") == "FUNCTION":
            yield folded(str(node.get("function_name"))), _texts(node["arguments"])


def _texts(arguments: list[Any]) -> list[str] | None:
    """Return texts, those in a list among them; None when something else is there, too."""
    found: list[str] = []
    for one in arguments:
        value = one.get("expression", {})
        inner: list[str] | None = None
        if value.get("function_name") == "list_value":
            inner = _texts(value["arguments"])
        elif value.get("literal", {}).get("kind") == "STRING":
            inner = [value["literal"]["text"]]
        if inner is None:
            return None
        found += inner
    return found


def tables(tree: Any) -> set[str]:
    """Return the names of tables and views as they stand in the statement, but for those that mean a CTE there."""
    found: set[tuple[str, ...]] = set()
    _name(tree, frozenset(), found)
    return {".".join(part for part in path if part) for path in found}


def _name(value: Any, scope: frozenset[str], found: set[tuple[str, ...]]) -> None:
    """Add the tables of a part of the tree; `scope` has the names of the CTEs that can be meant there."""
    if isinstance(value, list):
        for one in value:
            _name(one, scope, found)
    elif isinstance(value, dict):
        kind, rest = value.get("type"), dict(value)
        for cte in rest.pop("cte_map", {}).get("map", ()):
            _name(cte["value"], scope, found)
            scope |= {folded(str(cte["key"]))}
        if kind == "BASE_TABLE":
            path = (value["catalog_name"], value["schema_name"], value["table_name"])
            if any(path[:2]) or folded(path[2]) not in scope:
                found.add(path)
        elif kind == "INSERT_QUERY_NODE":
            found.add((value["catalog"], value["schema"], value["table"]))
        elif kind in ("UPDATE_QUERY_NODE", "DELETE_QUERY_NODE"):
            _name(rest.pop("table"), frozenset(), found)  # a CTE is never what is changed
        elif kind == "RECURSIVE_CTE_NODE":
            _name(rest.pop("left"), scope, found)
            scope |= {folded(str(value["cte_name"]))}
        _name(list(rest.values()), scope, found)
