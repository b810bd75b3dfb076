"""Which statements a caller may run: parsed by DuckDB, then measured by its role, the sandbox and its tables.

Owns the kinds of statements of each role. Every text of SQL that a client sends comes through here, so that no path
can forget to ask. Must never be the only guard of a reader: its statements also run in a transaction of the engine's
that only reads, because a kind does not show what a statement writes (nextval, a CTE that inserts).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from ..config import EngineConfig
from ..errors import Forbidden, TableNotFound
from . import statements
from .access import LOCAL, Principal, Role
from .calls import Caller
from .database import SESSION_SETTINGS
from .definitions import Definitions
from .ledger import SCHEMA
from .packing import packed
from .sandbox import Sandbox
from .sight import Sight, seen_of, sees, unseen
from .trail import Trail
from .trails import note_script
from .words import Mode, Target

__all__ = ["BEGIN_READ_ONLY", "Guard", "trail_of", "who"]

BEGIN_READ_ONLY = "BEGIN TRANSACTION READ ONLY"

_ASK = frozenset({"SELECT", "EXPLAIN", "MULTI", "TRANSACTION", "SET"})
_CHANGE = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE_INTO"})
"""What changes data. TRUNCATE is a DELETE to DuckDB. PREPARE and EXECUTE are in neither set: they hide what runs."""

_ASKING_VERBS = frozenset({"SELECT", "WITH", "FROM", "VALUES", "TABLE", "PIVOT", "UNPIVOT"}) | frozenset(
    {"DESCRIBE", "DESC", "SHOW", "SUMMARIZE"}
)
_CHANGING_VERBS = frozenset({"INSERT", "UPDATE", "DELETE", "MERGE"})

_LITERAL = r"(?:'(?:[^']|'')*'|[A-Za-z_]+|-?\d+)"
_NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_]*)'
_SETTING = "|".join(SESSION_SETTINGS)
_HARMLESS = re.compile(
    rf"\s*(?:SET\s+(?:SESSION\s+)?(?:(?:{_SETTING})\s*(?:=|\s+TO\s)\s*{_LITERAL}|TIME\s+ZONE\s+{_LITERAL})"
    rf"|RESET\s+(?:SESSION\s+)?(?:{_SETTING}))\s*;?\s*",
    re.IGNORECASE | re.ASCII,
)
"""SET of a session's own settings to a literal: DuckDB also takes an expression there, which may write."""
_EXPLAIN = re.compile(
    r"\s*EXPLAIN\s+(?:ANALY[SZ]E\s+)?(?:\([\w\s,']*\)\s*)?\(*\s*([A-Za-z]+)", re.IGNORECASE | re.ASCII
)
_USE = re.compile(rf"\s*USE\s+{_NAME}(?:\s*\.\s*{_NAME})?\s*;?\s*", re.IGNORECASE | re.ASCII)


_HIDDEN = re.compile(rf"(?<![^\W\d]){SCHEMA}(?!\w)")
"""The name as a whole: a table may be called `__ducktower_0`. A digit before it may be the end of a number."""
_PATH = re.compile(r"\b(?:search_path|schema)\b")
_PLAIN_PATH = re.compile(
    r"\s*(?:(?:re)?set\s+(?:session\s+|local\s+)?|pragma\s+)\"?(?:search_path|schema)\"?"
    r"(?:\s*(?:=|\bto\b)\s*(?:'[^']*'|\"[^\"]*\"|[\w.]+)(?:\s*,\s*(?:'[^']*'|\"[^\"]*\"|[\w.]+))*)?\s*;?\s*"
)


def who(caller: Caller | None, session: Principal = LOCAL) -> Principal:
    """Return whose rights a call has: its own and its session's, whichever allow less."""
    if caller is None:
        return session
    asks = caller.principal
    if session is LOCAL or asks is session or asks == session:
        return asks
    if asks.tables and session.tables and asks.tables != session.tables:
        raise Forbidden("the session belongs to somebody else")
    role = session.role if asks.may(session.role) else asks.role
    return Principal(session.name, role, asks.tables or session.tables)


def trail_of(caller: Caller | None) -> Trail | None:
    """Return where a call's doings are written down, None when nobody wants to know."""
    return None if caller is None else caller.trail


class Guard:
    """Safe from any thread; each call uses the cursor that it is given."""

    def __init__(self, config: EngineConfig, catalog: str) -> None:
        self._bytes_max = config.sql_bytes_max
        self._catalog = catalog
        self._sandbox = Sandbox(config)
        self._sight = Sight()
        self._definitions = Definitions()

    def parsed(
        self, cursor: Any, sql: str, principal: Principal, trail: Trail | None = None, *, in_transaction: bool = False
    ) -> list[Any]:
        """Do what `statements.parsed` does, and raise Forbidden for what the principal may not run."""
        found = statements.parsed(cursor, sql, self._bytes_max)
        if trail is not None:
            note_script(trail, cursor, found, self._definitions, anew=in_transaction)
        self.admit(cursor, found, principal, in_transaction=in_transaction)
        return found

    def script(self, cursor: Any, sql: str, principal: Principal, trail: Trail | None = None) -> list[Any]:
        """Do what `statements.script` does, and raise Forbidden for what the principal may not run."""
        found = statements.script(cursor, sql, self._bytes_max)
        if trail is not None:
            note_script(trail, cursor, found, self._definitions)
        self.admit(cursor, found, principal)
        return found

    def one_query(self, cursor: Any, sql: str, principal: Principal, trail: Trail | None = None) -> Any:
        """Do what `statements.one_query` does, and raise Forbidden for what the principal may not run."""
        return statements.only_query(self.script(cursor, sql, principal, trail))

    def admit(self, cursor: Any, script: Sequence[Any], principal: Principal, *, in_transaction: bool = False) -> None:
        """Raise Forbidden when the principal may not run these statements; the cursor may be in their transaction."""
        for statement in script:
            _refuse_hidden(statement)
            self._sandbox.check(cursor, statement, principal)
        if principal.role != "owner":
            for statement in script:
                _check_role(statement, principal)
        if principal.limited:
            for statement in script:
                if statements.kind_of(statement) == "SET":
                    _check_setting(statement.query, principal)
                self._sight.check(cursor, self._catalog, statement, principal, anew=in_transaction)

    def admit_table(self, cursor: Any, principal: Principal, target: Target) -> None:
        """Raise Forbidden when the principal may not see that table or view."""
        _refuse_schema(target.schema)
        if principal.limited:
            self._sight.check_table(cursor, self._catalog, target.schema, target.table, principal)

    def seen(self, cursor: Any, listed: Any, principal: Principal, first: int) -> Any:
        """Return the rows of a list of tables (pyarrow.Table) that the principal may use, views as all that they show.

        The columns from `first` on are the schema, the name and the kind.
        """
        if not principal.limited:
            return listed
        listed = seen_of(listed, principal, (first, first + 1))
        named = zip(*(listed.column(first + i).to_pylist() for i in range(3)), strict=True)
        shown = [
            kind != "VIEW" or self._shows(cursor, principal, Target(table, schema)) for schema, table, kind in named
        ]
        return listed.filter(packed(shown, pa.bool_()))

    def _shows(self, cursor: Any, principal: Principal, view: Target) -> bool:
        try:
            self.admit_table(cursor, principal, view)
        except (Forbidden, TableNotFound):
            return False
        return True

    def admit_ties(self, cursor: Any, principal: Principal, target: Target) -> None:
        """Raise Forbidden when rows stored there, in that mode, could tell of tables that the principal may not use."""
        if principal.limited:
            adds = target.mode != "upsert"
            self._sight.check_rows(cursor, self._catalog, target.schema, target.table, principal, adds=adds)

    def forget(self) -> None:
        """Say that tables or macros were made, dropped or altered."""
        self._sight.forget()
        self._definitions.forget()

    def note(self, cursor: Any, script: Sequence[Any], trail: Trail, *, in_transaction: bool) -> None:
        """Write down what statements that were parsed before are about."""
        note_script(trail, cursor, script, self._definitions, anew=in_transaction)

    @staticmethod
    def admit_rows(principal: Principal, schema: str, table: str, mode: Mode) -> None:
        """Raise Forbidden when the principal may not store rows there, in that mode."""
        _refuse_schema(schema)
        if not sees(principal, schema, table):
            raise unseen(table if schema == "main" else f"{schema}.{table}")
        if principal.role == "owner":
            return
        principal.require("writer", f'store rows in "{table}"')
        if mode not in ("append", "upsert"):
            principal.require("owner", f"make tables (mode {mode!r}); mode 'append' needs one that is there")


def _refuse_schema(schema: str) -> None:
    if schema.lower() == SCHEMA:
        raise Forbidden(f'schema "{SCHEMA}" belongs to the server')


def _refuse_hidden(statement: Any) -> None:
    """Refuse to name the server's own schema, in whatever kind of statement and whoever asks.

    DuckDB has no other spelling of a name but letters in another case. A search path may be computed, so it must
    be written out.
    """
    sql = statement.query.lower()
    if _HIDDEN.search(sql):
        raise Forbidden(f'schema "{SCHEMA}" belongs to the server')
    if statements.kind_of(statement) in ("SET", "PRAGMA") and _PATH.search(sql) and not _PLAIN_PATH.fullmatch(sql):
        raise Forbidden("the search path must be given as one literal")


def _check_role(statement: Any, principal: Principal) -> None:
    kind = statements.kind_of(statement)
    if kind == "SET":
        _check_setting(statement.query, principal)
    elif kind == "EXPLAIN":
        found = _EXPLAIN.match(statement.query)
        verb = found[1].upper() if found else "this statement"
        principal.require(_needed(verb), f"run EXPLAIN of {verb}")
    elif kind == "MULTI":  # what PIVOT becomes, also within CREATE TABLE and INSERT
        verb = statements.verb(statement)
        principal.require(_needed(verb), f"run {verb or 'this statement'} with PIVOT")
    elif kind in _CHANGE:
        principal.require("writer", f"run {kind}")
    elif kind not in _ASK:
        principal.require("owner", f"run {kind or 'this statement'}")


def _needed(verb: str) -> Role:
    if verb in _ASKING_VERBS:
        return "reader"
    return "writer" if verb in _CHANGING_VERBS else "owner"


def _check_setting(sql: str, principal: Principal) -> None:
    if _HARMLESS.fullmatch(sql) or (_USE.fullmatch(sql) and not principal.limited):
        return
    names = ", ".join(SESSION_SETTINGS)
    raise Forbidden(f"this token may SET {names} to a literal, and nothing else; an owner of all tables may more")
