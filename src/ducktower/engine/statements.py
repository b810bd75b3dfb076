"""What a statement is and whether this kind of call may run it, asked of DuckDB's own parser.

Owns the two lists of statement types. Must never be the only guard: a statement type does not show what a
statement writes (EXPLAIN ANALYZE INSERT, EXECUTE, CALL), so queries also run in a read-only transaction of
the engine. What is refused here are statements that such a transaction does not stop.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import duckdb
import pyarrow as pa

from ..errors import Forbidden, InvalidSQL, LimitExceeded

__all__ = [
    "changed_rows",
    "changes_nothing",
    "changes_tables",
    "gives_changed_rows",
    "is_query",
    "is_repeatable",
    "keeps_state",
    "kind_of",
    "one_query",
    "only_query",
    "parsed",
    "runs_alone",
    "script",
    "takes_space",
    "verb",
]

_QUERIES = frozenset({"SELECT", "EXPLAIN", "MULTI"})
"""MULTI is what PIVOT becomes: its temporary enum type, then the SELECT."""

_RUN_ALONE = frozenset({"ATTACH", "CALL", "COPY_DATABASE", "DETACH", "EXPORT", "LOAD", "PRAGMA", "SET", "VACUUM"})
"""Statements that DuckDB refuses inside a transaction, or that a transaction would not undo."""


_OURS = re.compile("memory_limit|max_memory", re.IGNORECASE)
"""The one setting that stays open, for the engine: see `block_cache`."""

_EXPLAINED = frozenset(
    {"select", "with", "from", "values", "table", "pivot", "unpivot", "describe", "desc", "show", "summarize"}
    | {"insert", "update", "delete", "merge", "create", "execute"}
)
"""How a statement begins that may be explained: EXPLAIN ANALYZE runs SET, BEGIN and COMMIT, too."""
_EXPLAINED_CHANGES = frozenset({"create", "execute"})
"""Those of them after which tables may be other ones."""
_EXPLAIN_WORDS = frozenset({"explain", "analyze", "analyse", "verbose"})
_KEEP_STATE = frozenset({"ATTACH", "DETACH", "LOAD", "PREPARE", "EXECUTE", "PRAGMA", "SET", "TRANSACTION"})
"""Statements whose effect stays with the cursor that ran them, or needs what stayed with it."""

_TEMPORARY = re.compile(r"\btemp(orary)?\b", re.IGNORECASE)

_GLOBAL = re.compile(r"\bglobal\b", re.IGNORECASE)
_VERB = re.compile(r"[A-Za-z]+")
_SAVEPOINT_ERROR = re.compile(r'at or near "(savepoint|release)"', re.IGNORECASE)
_ROLLBACK_TO = re.compile(r"\brollback(\s+(work|transaction))?\s+to\b", re.IGNORECASE)

_NESTING_MAX = 1_000
_OPENING, _CLOSING = b"([{", b")]}"

_CHANGE_ROWS = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE_INTO"})
_KEEP_TABLES = _QUERIES | _CHANGE_ROWS | {"SET", "TRANSACTION"}
_TAKE_SPACE = frozenset(
    {"INSERT", "UPDATE", "MERGE_INTO", "CREATE", "CREATE_FUNC", "ALTER", "COPY", "COPY_DATABASE", "EXPORT", "VACUUM"}
)
_REPEATABLE = _CHANGE_ROWS | {"CREATE", "CREATE_FUNC", "ALTER", "DROP"}
"""Statements whose whole effect is in the database, and comes with COMMIT."""
_CHANGE_NOTHING = frozenset({"SELECT", "SET", "PREPARE"})
_RETURNING = re.compile(r"\breturning\b", re.IGNORECASE)


def parsed(cursor: Any, sql: str, bytes_max: int) -> list[Any]:
    """Return the statements of `sql`, at least one, BEGIN, COMMIT and ROLLBACK included.

    Raises InvalidSQL when there is none, Forbidden for a kind that is not offered, LimitExceeded when the text is
    too long, and DuckDB's ParserException.
    """
    size = len(sql.encode(errors="replace"))
    if size > bytes_max:
        raise LimitExceeded(f"the SQL has {size} bytes, the limit is {bytes_max}; send data as parameters or rows")
    if _nesting(sql) > _NESTING_MAX:
        raise InvalidSQL(f"brackets are nested more than {_NESTING_MAX} deep")
    try:
        statements: list[Any] = cursor.extract_statements(sql)
    except duckdb.ParserException as error:
        if _SAVEPOINT_ERROR.search(str(error)) or _ROLLBACK_TO.search(sql):
            raise InvalidSQL("DuckDB has no savepoints; end the transaction or roll all of it back") from error
        raise
    if not statements:
        raise InvalidSQL("there is no statement")
    for statement in statements:
        kind = kind_of(statement)
        if kind == "":
            raise Forbidden("this kind of statement is not offered")
        if kind in ("ATTACH", "DETACH"):
            _refuse_attaching(cursor, statement, kind)
        if kind == "LOAD" and not _opened(cursor):
            raise Forbidden("LOAD and INSTALL are not offered: extensions are loaded by the server's operator")
        if kind == "ALTER" and next(itertools.islice(_words(statement.query), 1, None), "") == "database":
            raise Forbidden("ALTER DATABASE is not offered: everybody knows the database by its name")
        # DuckDB lets the settings that a session may change be changed for everybody, too: not here. The whole text
        # is searched, comments and literals included: whoever takes those out first may differ from DuckDB.
        if kind == "EXPLAIN" and (verb := _explained(statement.query)) not in _EXPLAINED:
            raise Forbidden(f"EXPLAIN of {verb.upper()} is not offered")
        if kind in ("SET", "PRAGMA", "EXPLAIN") and _OURS.search(statement.query):
            raise Forbidden("memory_limit belongs to the server; its operator sets it")
        if kind in ("SET", "PRAGMA") and _GLOBAL.search(statement.query):
            raise Forbidden("SET GLOBAL is not offered: settings belong to the server, or to your session")
    return statements


def _words(sql: str) -> Iterator[str]:
    """Yield what a statement is made of, in small letters and without comments, as DuckDB's own tokenizer sees it."""
    raw = sql.encode()  # the tokenizer counts bytes
    tokens = duckdb.tokenize(sql)
    ends = [*(start for start, _ in tokens[1:]), len(raw)]
    for (start, kind), end in zip(tokens, ends, strict=True):
        if kind != duckdb.token_type.comment:
            yield raw[start:end].decode(errors="replace").strip().lower()


def _explained(sql: str) -> str:
    """Return the first word of the statement that an EXPLAIN explains."""
    words = _words(sql)
    for word in words:
        if word == "(":
            inside = next(words, "")
            if inside in _EXPLAINED or inside == "(":
                return inside if inside != "(" else next((found for found in words if found != "("), "")
            while inside not in (")", ""):  # options
                inside = next(words, "")
        elif word not in _EXPLAIN_WORDS:
            return word
    return ""


def _refuse_attaching(cursor: Any, statement: Any, kind: str) -> None:
    """Refuse to change what is attached, which is the same for everybody, unless the operator opened that.

    DuckDB's sandbox refuses files, but lets databases in memory come and the served one go.
    """
    if not _opened(cursor):
        raise Forbidden(f"{kind} is not offered: this server serves one database")
    first = "SELECT database_name FROM duckdb_databases() WHERE NOT internal ORDER BY database_oid LIMIT 1"
    (served,) = cursor.execute(first).fetchone()
    if kind == "DETACH" and str(served).lower() in statement.query.lower():
        raise Forbidden(f'"{served}" is the served database')


def _opened(cursor: Any) -> bool:
    """Whether the operator opened everything."""
    (opened,) = cursor.execute("SELECT current_setting('enable_external_access')").fetchone()
    return bool(opened)


def script(cursor: Any, sql: str, bytes_max: int) -> list[Any]:
    """Return the statements of `sql`, at least one, none of which is BEGIN, COMMIT or ROLLBACK.

    Raises what `parsed` does, and InvalidSQL for those three.
    """
    statements = parsed(cursor, sql, bytes_max)
    if any(kind_of(statement) == "TRANSACTION" for statement in statements):
        raise InvalidSQL("BEGIN, COMMIT and ROLLBACK need a session; a script is one transaction as it is")
    return statements


def one_query(cursor: Any, sql: str, bytes_max: int) -> Any:
    """Return the one statement of `sql` that only asks.

    Raises InvalidSQL when there is not exactly one, Forbidden when it is of a kind that does more than ask.
    """
    return only_query(script(cursor, sql, bytes_max))


def only_query(statements: list[Any]) -> Any:
    """Return the one statement of a script that only asks; raise what `one_query` does."""
    if len(statements) != 1:
        raise InvalidSQL(f"a query is one statement, not {len(statements)}; a script goes to `execute`")
    kind = kind_of(statements[0])
    if kind not in _QUERIES:
        raise Forbidden(f"{kind} is not a query; send it with `execute`")
    return statements[0]


def runs_alone(statement: Any) -> bool:
    """Whether the statement must run outside a transaction of ours."""
    return kind_of(statement) in _RUN_ALONE


def is_query(statement: Any) -> bool:
    """Whether the statement is of a kind that asks; whether it writes all the same, the engine's transaction tells."""
    return kind_of(statement) in _QUERIES


def keeps_state(statement: Any) -> bool:
    """Whether a session must keep the cursor that runs the statement. Rather too often than not."""
    kind = kind_of(statement)
    return kind in _KEEP_STATE or (kind in ("CREATE", "CALL") and _TEMPORARY.search(statement.query) is not None)


def is_repeatable(statement: Any) -> bool:
    """Whether it can be known later that the statement took effect: with its transaction, in the database."""
    kind = kind_of(statement)
    return kind in _REPEATABLE and not (kind == "CREATE" and _makes_temporary(statement.query))


def _makes_temporary(sql: str) -> bool:
    """Whether a CREATE says TEMP, rather than a name or a column in it."""
    said = list(itertools.islice(_words(sql), 4))
    return not {"temp", "temporary"}.isdisjoint(said[3:4] if said[1:3] == ["or", "replace"] else said[1:2])


def gives_changed_rows(statement: Any) -> bool:
    """Whether the statement changes rows and may give them back (RETURNING). Rather too often than not."""
    return kind_of(statement) in _CHANGE_ROWS and _RETURNING.search(statement.query) is not None


def verb(statement: Any) -> str:
    """Return the statement's first word in capitals; DuckDB has cut off what stands before it."""
    found = _VERB.match(statement.query)
    return found[0].upper() if found else ""


def changes_tables(statement: Any) -> bool:
    """Whether tables may be other ones after the statement: made, dropped or altered."""
    kind = kind_of(statement)
    if kind == "EXPLAIN":  # with ANALYZE it runs what it explains
        return _explained(statement.query) in _EXPLAINED_CHANGES
    return kind not in _KEEP_TABLES


def changes_nothing(statement: Any) -> bool:
    """Whether nothing is stored by a statement of this kind. EXPLAIN may run what it explains."""
    return kind_of(statement) in _CHANGE_NOTHING


def takes_space(statement: Any) -> bool:
    """Whether a statement of this kind makes the files grow. Not so what an operator frees space with: DELETE, DROP."""
    return kind_of(statement) in _TAKE_SPACE


def changed_rows(statement: Any, result: Any) -> int | None:
    """Return how many rows the statement changed (-1: not counted), or None when `result` holds rows for the caller.

    DuckDB answers DML without RETURNING with one BIGINT `Count`, and DDL with an empty `Count` or `Success`: for
    the caller that is no result.
    """
    if kind_of(statement) in _QUERIES or result.column_names not in (["Count"], ["Success"]):
        return None
    if result.num_rows == 0:
        return -1
    column = result.column(0)
    if result.num_rows == 1 and (pa.types.is_int64(column.type) or pa.types.is_boolean(column.type)):
        return int(column[0].as_py()) if pa.types.is_int64(column.type) else -1
    return None


def kind_of(statement: Any) -> str:
    """Return the statement's type, or "" for one that DuckDB's Python cannot name (UPDATE EXTENSIONS)."""
    try:
        return str(statement.type.name)
    except ValueError:
        return ""


def _nesting(sql: str) -> int:
    """Return how deep brackets are nested; those in strings, quoted names and comments are text.

    DuckDB has a limit of its own, but its parser takes seconds and gigabytes to find a text of 100,000 brackets
    beyond it, and holds the GIL meanwhile. Its tokenizer takes a fraction of what parsing takes, and
    is asked only where there are that many brackets at all.
    """
    if sql.count("(") + sql.count("[") + sql.count("{") <= _NESTING_MAX:
        return 0
    raw = sql.encode()  # the tokenizer counts bytes
    depth = deepest = 0
    for start, _ in duckdb.tokenize(sql):  # a bracket is a token of its own, and no other one begins with it
        if raw[start] in _OPENING:
            depth += 1
            deepest = max(deepest, depth)
        elif raw[start] in _CLOSING:
            depth = max(0, depth - 1)
    return deepest
