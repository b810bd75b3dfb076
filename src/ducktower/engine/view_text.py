"""How DuckDB writes a view down. Owns that form. Must never run or parse what is in it."""

from __future__ import annotations

import re

__all__ = ["body_of"]

_NAME = r'(?:"(?:[^"]|"")+"|[^\s".(),;]+)'
_VIEW = re.compile(
    rf"CREATE VIEW (?:{_NAME}\.){{0,2}}{_NAME}\s*(?:\(\s*{_NAME}(?:\s*,\s*{_NAME})*\s*\))? AS (?P<body>.*?);?\s*",
    re.DOTALL,
)


def body_of(sql: str) -> str | None:
    """Return the SELECT of a CREATE VIEW as DuckDB tells it; None when it has another form."""
    found = _VIEW.fullmatch(sql)
    return None if found is None else found["body"]
