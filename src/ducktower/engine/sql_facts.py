"""What DuckDB says of its own SQL: keywords, and the names of functions by what they work on.

Owns the sorting of functions into the four lists that clients know. Must never hold a list of names itself.
"""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["SqlFacts", "sql_facts"]

_NUMBERS = ("DOUBLE", "FLOAT", "DECIMAL", "HUGEINT", "BIGINT", "INTEGER")
_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIME", "INTERVAL")

_FUNCTIONS = """
SELECT DISTINCT function_name FROM duckdb_functions()
WHERE internal AND function_type IN ('scalar', 'macro') AND regexp_full_match(function_name, '[a-z][a-z_0-9]*') AND {}
ORDER BY ALL
"""


class SqlFacts(NamedTuple):
    """Keywords, and functions by the keys numeric, string, datetime and system."""

    keywords: list[str]
    functions: dict[str, list[str]]


def sql_facts(cursor: Any) -> SqlFacts:
    """Ask DuckDB."""
    keywords = _names(cursor, "SELECT DISTINCT upper(keyword_name) FROM duckdb_keywords() ORDER BY ALL")
    first = "list_contains({}, parameter_types[1])"
    timely = f"list_has_any(parameter_types[:2], {list(_TIMES)})"
    conditions = {
        "numeric": first.format(list(_NUMBERS)),
        "string": f"{first.format(['VARCHAR'])} AND NOT {timely} AND NOT starts_with(function_name, 'json')",
        "datetime": timely,
        "system": "len(parameter_types) = 0",
    }
    functions = {kind: _names(cursor, _FUNCTIONS.format(condition)) for kind, condition in conditions.items()}
    return SqlFacts(keywords, functions)


def _names(cursor: Any, sql: str) -> list[str]:
    return [name for (name,) in cursor.execute(sql).fetchall()]
