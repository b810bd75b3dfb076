"""What DuckDB would change without a word, checked in the SQL that moves rows: fractions for integers, NULL for keys.

DuckDB's cast rounds 1.9 to 2 for a BIGINT, and a key that is NULL matches no row, so that each upsert would add it
again. Both are refused instead, by an expression in place of the column, which costs nothing where types are equal.

Owns these expressions and how their refusals are told from other errors. Must never look at rows itself.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import ConstraintViolation, DucktowerError, SchemaMismatch

if TYPE_CHECKING:
    from .inserts import Column

__all__ = ["may_have_fractions", "not_null", "refusal", "whole"]

_MARK = f"ducktower_{secrets.token_hex(8)}"
"""Begins what the expressions raise: no value or statement of a client's can guess it."""
_REFUSED = re.compile(rf"{_MARK} (?P<kind>\w+) (?P<text>.*)", re.DOTALL)
_KINDS: dict[str, type[DucktowerError]] = {"fraction": SchemaMismatch, "null": ConstraintViolation}
_SHOWN_LETTERS = 100

_INTEGERS = frozenset(
    {"tinyint", "smallint", "integer", "bigint", "hugeint", "utinyint", "usmallint", "uinteger", "ubigint", "uhugeint"}
)
_FRACTIONS = frozenset({"float", "double", "decimal"})


def may_have_fractions(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type can have a fraction: else `whole` need not be asked."""
    types = pa.types
    return bool(
        types.is_floating(kind)
        or types.is_decimal(kind)
        or types.is_nested(kind)
        or types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
    )


def whole(expression: str, given: Column, wanted: Column) -> str:
    """Return an expression for values of type `given` that raises where a `wanted` integer would lose a fraction.

    At any depth of lists and structs; text that has a fraction counts at the top alone.
    """
    if given.kind.id == "varchar" and wanted.kind.id in _INTEGERS:
        number = f"TRY_CAST({expression} AS DOUBLE)"
        loses = f"{number} <> trunc({number})"
    else:
        cut = _without_fractions(given.kind, wanted.kind)
        if cut is None:
            return expression
        loses = f"{expression} IS DISTINCT FROM CAST(CAST({expression} AS {cut}) AS {given.type})"
    text = f"column {_name(wanted.name)}: found {given.type}, wanted {wanted.type}: not a whole number: "
    return _unless(loses, "fraction", text, expression)


def not_null(expression: str, column: Column) -> str:
    """Return an expression for a column of an upsert's key that raises where it is NULL."""
    text = f"key column {_name(column.name)} is NULL, which is the key of no row"
    return _unless(f"{expression} IS NULL", "null", text, expression)


def refusal(error: BaseException) -> DucktowerError | None:
    """Return the error of ours for what one of these expressions raised; None for anything else."""
    found = _REFUSED.search(str(error))
    return None if found is None else _KINDS[found["kind"]](found["text"].split("\n", 1)[0].rstrip())


def _name(name: str) -> str:
    return f'"{name}"'


def _unless(condition: str, kind: str, text: str, expression: str) -> str:
    told = f"{_MARK} {kind} {' '.join(text.split())} ".replace("'", "''")
    shown = f"left(CAST({expression} AS VARCHAR), {_SHOWN_LETTERS})" if kind == "fraction" else "''"
    return f"CASE WHEN {condition} THEN error('{told}' || {shown}) ELSE {expression} END"


def _without_fractions(given: Any, wanted: Any) -> str | None:
    """Return the type `given` with each fraction that is to be an integer as that integer, or None without any."""
    if given.id in _FRACTIONS and wanted.id in _INTEGERS:
        return str(wanted)
    if given.id in ("list", "array") and wanted.id in ("list", "array"):
        inner = _without_fractions(given.children[0][1], wanted.children[0][1])
        return None if inner is None else f"{inner}[{given.children[1][1] if given.id == 'array' else ''}]"
    if given.id == "struct" and wanted.id == "struct":
        by_name = {name.lower(): kind for name, kind in wanted.children}
        fields = [
            (name, kind, _without_fractions(kind, by_name[name.lower()]) if name.lower() in by_name else None)
            for name, kind in given.children
        ]
        if any(cut is not None for _, _, cut in fields):
            named = (f'"{name.replace(chr(34), chr(34) * 2)}" {cut or kind}' for name, kind, cut in fields)
            return f"STRUCT({', '.join(named)})"
    return None
