"""Which tables a principal sees: its patterns, and what a statement touches, read off DuckDB's own parse tree.

Owns the meaning of patterns and the lists of what a statement under them may be made of. What is not known to be
harmless is refused: other kinds of statements, functions that read the catalog, macros, tables that are not the served
database's. A view counts as itself and as everything under it. Must never be asked for those who see all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fnmatch import translate
from functools import lru_cache, partial
from typing import Any, NamedTuple

import pyarrow as pa

from ..errors import Forbidden, TableNotFound
from . import parse_tree, statements
from .access import Principal
from .packing import packed
from .parse_tree import folded
from .ties import Ties, tied
from .view_text import body_of

__all__ = ["Sight", "seen_of", "sees", "unseen"]

_SELECTS = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_CHANGES = frozenset({"INSERT_QUERY_NODE", "UPDATE_QUERY_NODE", "DELETE_QUERY_NODE"})
_SOURCES = frozenset({"SUBQUERY", "JOIN", "EMPTY", "EMPTY_FROM", "EXPRESSION_LIST", "PIVOT"})
"""What may stand in FROM and is made of other things; tables, functions and DESCRIBE are looked at one by one."""
_EXPRESSIONS = frozenset(
    {"CONSTANT", "COLUMN_REF", "COMPARISON", "CONJUNCTION", "OPERATOR", "CAST", "CASE", "SUBQUERY", "STAR", "BETWEEN"}
    | {"LAMBDA", "LAMBDA_REF", "PARAMETER", "COLLATE", "POSITIONAL_REFERENCE", "DEFAULT"}
)
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "repeat", "repeat_row", "json_each", "json_tree"})
_WINDOW_FUNCTIONS = frozenset(
    {"row_number", "rank", "rank_dense", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"}
    | {"first_value", "last_value", "nth_value", "first", "last", "fill", "unnest"}
)
_NO_FUNCTIONS = frozenset(
    {"nextval", "currval", "setval", "current_setting", "getvariable", "getenv", "write_log", "in_search_path"}
    | {"json_serialize_sql", "json_serialize_plan", "json_deserialize_sql", "json_execute_serialized_sql"}
    | {"from_json", "from_json_strict", "json_transform", "json_transform_strict", "get_type", "make_type"}
    | {"index_key", "stats", "sleep_ms", "col_description", "obj_description", "shobj_description"}
)
"""Functions of values alone are allowed; these know of sequences, settings, types by name, plans, or of nothing that a
table holds."""

_FUNCTIONS = """
SELECT DISTINCT function_name FROM duckdb_functions() WHERE internal AND schema_name = 'main'
    AND function_type IN ('scalar', 'aggregate', 'macro') AND NOT starts_with(function_name, '__internal')
"""

_MACROS = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE NOT internal"

_TYPES = """
SELECT DISTINCT lower(type_name) FROM duckdb_types() WHERE internal
EXCEPT SELECT lower(type_name) FROM duckdb_types() WHERE NOT internal
"""
"""Types that DuckDB brings along: an enum of somebody's tells the values of a table that it was made of."""

_TABLE = """
SELECT schema_name, table_name, NULL FROM duckdb_tables() WHERE database_name = $catalog
    AND lower(schema_name) = lower($schema) AND lower(table_name) = lower($table) AND NOT temporary
"""
_VIEW_SQL = """
SELECT schema_name, view_name, sql FROM duckdb_views() WHERE database_name = $catalog
    AND lower(schema_name) = lower($schema) AND lower(view_name) = lower($table) AND NOT temporary
"""

_DEPTH_MAX = 64


@lru_cache(maxsize=4_096)
def _pattern(tables: tuple[str, ...]) -> re.Pattern[str]:
    parts = []
    for one in tables:
        schema, dot, table = one.lower().partition(".")
        schema, table = (schema, table) if dot else ("main", schema)
        parts.append(f"{translate(schema)[:-2]}\x00{translate(table)[:-2]}")
    return re.compile("|".join(f"(?:{part})" for part in parts), re.DOTALL)


def sees(principal: Principal, schema: str, table: str) -> bool:
    """Whether a table or view of that name is among those that the principal may use, whether it exists or not.

    Names and patterns match without regard to case; a pattern without a dot means the schema main.
    """
    return not principal.tables or bool(_pattern(principal.tables).fullmatch(f"{schema}\x00{table}".lower()))


def seen_of(table: Any, principal: Principal, *columns: tuple[int, int]) -> Any:
    """Return the rows of a pyarrow.Table whose schema and table, in these columns, the principal may use."""
    if not principal.limited:
        return table
    mask = [True] * table.num_rows
    for schema, name in columns:
        named = zip(table.column(schema).to_pylist(), table.column(name).to_pylist(), strict=True)
        mask = [known and sees(principal, *one) for known, one in zip(mask, named, strict=True)]
    return table.filter(packed(mask, pa.bool_()))


def unseen(label: str) -> Forbidden:
    """Return the error for a table that the principal may not use: the same whether there is one or not."""
    return Forbidden(f'table "{label}" is not among those that this token may use')


class _Allowed(NamedTuple):
    functions: frozenset[str]
    types: frozenset[str]


class Sight:
    """Safe from any thread; each call uses the cursor that it is given."""

    def __init__(self) -> None:
        # Found out by whoever asks first, and set as one object: the functions and types that are allowed, until
        # somebody makes a macro or a type that may have the name of one of them.
        self._allowed: _Allowed | None = None
        self._version = 0
        self._ties = Ties()

    def forget(self) -> None:
        """Say that tables, macros or types were made, dropped or altered."""
        self._version += 1
        self._allowed = None
        self._ties.forget()

    def check(self, cursor: Any, catalog: str, statement: Any, principal: Principal, *, anew: bool = False) -> None:
        """Raise Forbidden unless it is proved that the statement touches what the principal may use alone.

        Within a transaction `cursor` is in it, and nothing that is known of now is used, but found out `anew`: views
        and macros are there what they were when it began.
        """
        kind = statements.kind_of(statement)
        if kind in ("TRANSACTION", "SET"):
            return  # `guard` knows which of those are harmless
        if kind not in ("SELECT", "INSERT", "UPDATE", "DELETE"):
            raise Forbidden(
                f"this token is limited to some tables: it may run SELECT, INSERT, UPDATE and DELETE, not {kind}"
            )
        self._walk(cursor, catalog, principal, anew=anew).tree(parse_tree.of_statement(cursor, statement), "main")

    def check_table(self, cursor: Any, catalog: str, schema: str, table: str, principal: Principal) -> None:
        """Raise Forbidden unless the table is one that the principal may use, and all that is under it if it is a view.

        Raises TableNotFound when it may but there is none.
        """
        self._walk(cursor, catalog, principal).table(["", schema, table], "main")

    def check_rows(
        self, cursor: Any, catalog: str, schema: str, table: str, principal: Principal, *, adds: bool
    ) -> None:
        """Raise Forbidden when storing rows in that table could tell of one that the principal may not use."""
        walk = self._walk(cursor, catalog, principal)
        walk.change(["", schema, table], [schema], adds=adds)

    def _walk(self, cursor: Any, catalog: str, principal: Principal, *, anew: bool = False) -> _Walk:
        allowed, version = self._allowed, self._version
        if anew:
            allowed = _allowed(cursor)
        elif allowed is None:
            allowed = _allowed(cursor)
            if version == self._version:
                self._allowed = allowed
        return _Walk(cursor, catalog, principal, allowed, partial(self._ties.others, cursor, catalog, anew=anew))


def _allowed(cursor: Any) -> _Allowed:
    names, macros, types = (
        {str(name).lower() for (name,) in cursor.execute(sql).fetchall()} for sql in (_FUNCTIONS, _MACROS, _TYPES)
    )
    functions = (names | _WINDOW_FUNCTIONS | _TABLE_FUNCTIONS) - _NO_FUNCTIONS - macros
    return _Allowed(frozenset(functions), frozenset(types))


class _Walk:
    """One look at one statement. Used by one thread."""

    def __init__(
        self, cursor: Any, catalog: str, principal: Principal, allowed: _Allowed, tied_to: Callable[..., set[str]]
    ) -> None:
        self._cursor = cursor
        self._tied_to = tied_to
        self._catalog = catalog
        self._principal = principal
        self._functions, self._types = allowed
        self._depth = 0
        self._schema = "main"  # where names without a schema are looked for first

    def tree(self, tree: Any, schema: str) -> None:
        """Look at a statement, whose names without a schema are looked for in `schema` and in main."""
        if tree is None:
            raise Forbidden("this token is limited to some tables: what this statement touches cannot be told")
        before, self._schema = self._schema, schema
        self._visit(tree, frozenset())
        self._schema = before

    def _visit(self, value: Any, scope: frozenset[str]) -> None:
        """Look at a part of the tree; `scope` has the names of the CTEs that can be meant there."""
        if isinstance(value, list):
            for one in value:
                self._visit(one, scope)
        elif isinstance(value, dict):
            if "cte_map" in value:
                self._query(value, scope)
            elif "class" in value:
                self._expression(value, scope)
            elif "sample" in value and "alias" in value:
                self._source(value, scope)
            else:
                self._visit(list(value.values()), scope)

    def _query(self, node: dict[str, Any], scope: frozenset[str]) -> None:
        kind = node["type"]
        for cte in node["cte_map"]["map"]:
            self._visit(list(cte["value"].values()), scope)  # it does not see itself, nor those after it
            scope |= {folded(cte["key"])}
        rest = {key: value for key, value in node.items() if key != "cte_map"}
        if kind == "RECURSIVE_CTE_NODE":
            self._visit(rest.pop("left"), scope)
            scope |= {folded(str(rest["cte_name"]))}
        elif kind == "INSERT_QUERY_NODE":
            path = _path(node, "catalog", "schema", "table")
            self.change(path, self.table(path, self._schema), adds=not node.get("on_conflict_info"))
        elif kind in _CHANGES:
            changed = rest.pop("table")
            self._visit(changed, frozenset())  # a CTE is never what is changed
            path = _path(changed, "catalog_name", "schema_name", "table_name")
            self.change(path, self.table(path, self._schema), adds=False)
        elif kind not in _SELECTS:
            raise self._unknown(kind)
        self._visit(list(rest.values()), scope)

    def _source(self, source: dict[str, Any], scope: frozenset[str]) -> None:
        kind = source["type"]
        if kind == "BASE_TABLE":
            path = _path(source, "catalog_name", "schema_name", "table_name")
            if any(path[:2]) or folded(path[2]) not in scope:
                self.table(path, self._schema)
        elif kind == "TABLE_FUNCTION":
            function = source["function"]
            name = folded(str(function.get("function_name", "")))
            if function.get("class") != "FUNCTION" or name not in _TABLE_FUNCTIONS & self._functions:
                raise self._unknown(function.get("function_name", "this function"))
            self._visit([value for key, value in source.items() if key != "function"], scope)
            self._visit(list(function.values()), scope)
            return
        elif kind == "SHOW_REF":
            if source["table_name"] or not source["query"]:
                raise self._unknown("SHOW")
        elif kind not in _SOURCES or any(pivot.get("pivot_enum") for pivot in source.get("pivots", ())):
            raise self._unknown(kind)
        self._visit(list(source.values()), scope)

    def _expression(self, expression: dict[str, Any], scope: frozenset[str]) -> None:
        kind = expression["class"]
        if kind in ("FUNCTION", "WINDOW"):
            name = folded(_path(expression, "catalog", "schema", "function_name")[2])
            if name not in self._functions:
                raise self._unknown(name)
        elif kind == "TYPE":
            name = folded(_path(expression, "catalog", "schema", "type_name")[2])
            if name not in self._types:
                raise self._unknown(f"the type {name}")
        elif kind not in _EXPRESSIONS:
            raise self._unknown(kind)
        self._visit(list(expression.values()), scope)

    def change(self, path: list[str], places: list[str], *, adds: bool) -> None:
        """Look at what a change of a table, found in the schemas `places`, could tell of others."""
        for place in places:
            if not all(sees(self._principal, place, one) for one in self._tied_to(place, path[2], adds=adds)):
                raise tied(_label(path))

    def table(self, path: list[str], schema: str) -> list[str]:
        """Look at a table or view that is named by catalog, schema and name; what is empty was left out.

        Returns the schemas in which there is one of that name.
        """
        catalog, named, table = path
        if catalog:
            places = [named] if catalog.lower() == self._catalog.lower() else []
        elif named:
            places = [named, "main"] if named.lower() == self._catalog.lower() else [named]
        else:
            places = list(dict.fromkeys((schema, "main")))
        found = []
        for place in places:
            rows = self._named(_TABLE, place, table) or self._named(_VIEW_SQL, place, table)
            seen = sees(self._principal, place, table)
            if rows and not seen:
                raise unseen(_label(path))
            for view in rows:
                found.append(place)
                if view is not None:
                    self._view(view, place, path)
        if not found:
            if not any(sees(self._principal, place, table) for place in places):
                raise unseen(_label(path))
            raise TableNotFound(f'table "{_label(path)}" does not exist')
        return found

    def _named(self, sql: str, schema: str, table: str) -> list[str | None]:
        """Return the SQL of the views, or None for each table, that have this name to DuckDB."""
        wanted = folded(schema), folded(table)
        named = self._cursor.execute(sql, {"catalog": self._catalog, "schema": schema, "table": table}).fetchall()
        return [view for in_schema, name, view in named if (folded(in_schema), folded(name)) == wanted]

    def _view(self, sql: str, schema: str, path: list[str]) -> None:
        body = body_of(sql)
        if body is None or self._depth >= _DEPTH_MAX:
            raise Forbidden("this token is limited to some tables: what a view touches cannot be told")
        self._depth += 1
        try:
            self.tree(parse_tree.of_select(self._cursor, body), schema)
        except (Forbidden, TableNotFound):
            # Without the cause: it names what is under the view.
            raise Forbidden(f'view "{_label(path)}" shows what this token may not use') from None
        self._depth -= 1

    @staticmethod
    def _unknown(what: str) -> Forbidden:
        return Forbidden(f"this token is limited to some tables: it may not use {what}")


def _path(node: dict[str, Any], *keys: str) -> list[str]:
    """Return a name in its parts; the tree has it twice, and both must say the same."""
    path = [str(node[key]) for key in keys]
    if node["qualified_name"]["path"] != [part for part in path if part]:
        raise Forbidden("this token is limited to some tables: what this statement touches cannot be told")
    return path


def _label(path: list[str]) -> str:
    return ".".join(part for part in path if part)
