"""What a call leaves for the audit log: kinds of statements, names of tables, counts of rows.

Owns how those are found. Must never keep a value or a text of SQL, nor be called where no trail is wanted: it parses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import duckdb

from . import parse_tree, statements
from .definitions import Definitions
from .trail import Trail
from .words import Divided, Outcome, Receipt, Target

__all__ = ["add_rows", "counted", "note_rows", "note_script"]


def note_script(
    trail: Trail, cursor: Any, script: Sequence[Any], definitions: Definitions, *, anew: bool = False
) -> None:
    """Write down what kinds of statements these are, and which tables they name and reach through views."""
    for statement in script:
        kind = statements.kind_of(statement) or "OTHER"
        trail.statements.append(kind)
        tree = parse_tree.of_statement(cursor, statement)
        named = _named(cursor, statement) if tree is None else definitions.tables(cursor, tree, anew=anew)
        trail.tables.extend(name for name in sorted(named) if name not in trail.tables)


def note_rows(trail: Trail, target: Target) -> None:
    """Write down where rows are to go, that come as rows."""
    trail.statements.append(f"INGEST {target.mode}")
    trail.tables.append(f"{target.schema}.{target.table}")


def add_rows(trail: Trail | None, rows: int) -> None:
    """Add rows that were stored or returned, where a trail is wanted; a count below 0 is none."""
    if trail is not None:
        trail.add(rows)


def counted(trail: Trail, done: Callable[[Outcome], None]) -> Callable[[Outcome], None]:
    """Return a `done` that also adds the stored rows of a write."""

    def count(outcome: Outcome) -> None:
        if isinstance(outcome, Receipt):
            add_rows(trail, outcome.rows)
        elif isinstance(outcome, Divided):
            for part in outcome.outcomes:
                if isinstance(part, Receipt):
                    add_rows(trail, part.rows)
        done(outcome)

    return count


def _named(cursor: Any, statement: Any) -> set[str]:
    """Ask DuckDB which tables a statement names whose tree it does not give; of some kinds it tells none."""
    with contextlib.suppress(duckdb.Error):
        return set(cursor.get_table_names(statement.query, qualified=True))
    return set()
