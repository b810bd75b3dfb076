"""A session's options: the current catalog and schema, and DuckDB's settings that it may change for itself.

Owns which there are and how a value becomes SQL. Must never let a value be anything but a quoted literal.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import duckdb

from .database import SESSION_SETTINGS
from .inserts import quoted

__all__ = ["Refusal", "Value", "is_so", "read", "setting_sql"]

Value: TypeAlias = str | bool | int | float | list[str] | None
Refusal: TypeAlias = Literal["unknown name", "unfit value"]

_SETTINGS = {name.lower(): name for name in SESSION_SETTINGS}


def read(cursor: Any) -> dict[str, Value]:
    """Return the options as they are on the cursor."""
    settings = ", ".join(f"current_setting('{name}')" for name in SESSION_SETTINGS)
    catalog, schema, *values = cursor.execute(f"SELECT current_database(), current_schema(), {settings}").fetchall()[0]
    return {"catalog": catalog, "schema": schema, **dict(zip(SESSION_SETTINGS, values, strict=True))}


def setting_sql(cursor: Any, catalog: str, name: str, value: Value) -> tuple[str, Refusal | None]:
    """Return the SQL that sets an option, None being its default; or why it is refused.

    It is tried on `cursor`, which is thrown away afterwards: within a transaction a failure would abort that.
    """
    if name == "catalog":
        fits = value is None or (isinstance(value, str) and value.lower() == catalog.lower())
        return (
            (_use(catalog, "main"), None) if fits and value is None else ("SELECT 1", None if fits else "unfit value")
        )
    if name == "schema":
        if not (value is None or isinstance(value, str)):
            return "", "unfit value"
        sql = _use(catalog, value or "main")
    elif name.lower() in _SETTINGS:
        known = _SETTINGS[name.lower()]
        if isinstance(value, list):
            return "", "unfit value"
        sql = f"RESET {known}" if value is None else f"SET SESSION {known} = {_literal(value)}"
    else:
        return "", "unknown name"
    try:
        cursor.execute(sql)
    except duckdb.Error:
        return "", "unfit value"
    return sql, None


def is_so(options: dict[str, Value], name: str, value: Value) -> bool:
    """Whether the options of a session that changed none have this value already."""
    known = options.get(_SETTINGS.get(name.lower(), name))
    return value is None or (type(known) is type(value) and known == value)


def _use(catalog: str, schema: str) -> str:
    return f"USE {quoted(catalog)}.{quoted(schema)}"


def _literal(value: object) -> str:
    return "'" + str(value).replace("'", "''") + "'"
