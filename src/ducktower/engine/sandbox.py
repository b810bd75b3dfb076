"""What SQL may reach outside the database: nothing, but the directories and extensions that the operator opened.

DuckDB's own settings keep SQL from files, the network and the machine's settings, with holes that are closed here: it
lets SQL read and write the files of the database that it serves, write files from within a query (a CTE may hold COPY),
run or plan texts as SQL, and tell paths. Owns what is closed, and to whom. Must never guess how a text is to be read:
where two readers could differ about it, it is searched as a whole, strings and comments included.
"""

from __future__ import annotations

import re
from typing import Any

from ..config import EngineConfig
from ..errors import Forbidden
from . import parse_tree, statements
from .access import Principal
from .opened import leads_out, opened_directories

__all__ = ["Sandbox"]

_STRING = r"'(?:[^']|'')*'"

_FILES = (
    r"read_\w+|parquet_\w+|glob|sniff_csv|\w+_scan|st_read\w*|st_drivers|iceberg_\w+|delta_\w+|load_\w+_credentials"
)
_CLOSED = (
    r"arrow_scan|arrow_scan_dumb|pandas_scan|python_arrow_scan|python_map_function|seq_scan|json_execute_serialized_sql|json_serialize_plan"
    r"|\w*external_resource\w*|duckdb_secrets|which_secret|import_database|copy_database"
)
_OPERATING = r"checkpoint|force_checkpoint|truncate_duckdb_logs|write_log|enable_\w+|disable_\w+"
_TELLING = (
    r"duckdb_databases|pragma_database_list|duckdb_settings|duckdb_profiling_settings|pg_settings|duckdb_logs\w*|duckdb_log_contexts"
    r"|duckdb_temporary_files|duckdb_external_file_cache|duckdb_extensions|duckdb_extension_repositories"
    r"|duckdb_connection_count|duckdb_memory|current_setting"
)

# What may stand between a function's name and its bracket; DuckDB takes these characters for blanks, too.
_BLANKS = r"[\s\u00a0\u2000-\u200d\u202f\u205f\u2060\u3000\ufeff]*"
_END = rf"\"?{_BLANKS}(?:\(|/\*|--)"


def _call_of(names: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z0-9_])(?P<name>{names}){_END}", re.IGNORECASE)


_FILE_CALL = _call_of(_FILES)
_CLOSED_CALL = re.compile(rf"{_call_of(_CLOSED).pattern}|(?<![A-Za-z0-9_])(?P<word>duckdb_secrets)\b", re.IGNORECASE)
_OPERATING_CALL = _call_of(_OPERATING)
_DYNAMIC_CALL = _call_of("query")
_TELLING_NAME = re.compile(rf"(?<![A-Za-z0-9_])(?P<name>{_TELLING})(?![A-Za-z0-9_])", re.IGNORECASE)
_HARMLESS_SETTING = re.compile(
    r"current_setting\s*\(\s*'(?:TimeZone|Calendar|integer_division|threads|memory_limit|max_memory)'\s*\)",
    re.IGNORECASE,
)
_HARMLESS_SETTINGS = frozenset({"timezone", "calendar", "integer_division", "threads", "memory_limit", "max_memory"})
_SHOW = re.compile(r"(?<![A-Za-z0-9_])show(?![A-Za-z0-9_])", re.IGNORECASE)
_WORD = re.compile(r"\w+")
_PATHS = re.compile(rf"\s*\(\s*(?P<paths>{_STRING}|\[\s*{_STRING}(?:\s*,\s*{_STRING})*\s*\])\s*[,)]")
_ONE_TEXT = re.compile(rf"\s*\(\s*{_STRING}\s*\)")
_COPY = re.compile(r"(?<![A-Za-z0-9_])copy(?![A-Za-z0-9_])", re.IGNORECASE)
_COPY_WITHIN = re.compile(r"\bcopy\b.*\bto\b", re.IGNORECASE | re.DOTALL)
_IMPORT = re.compile(
    r"\s*(?:import\s+database|copy\s+from\s+database|pragma\s+(?:import|copy)_database)\b", re.IGNORECASE
)
_COPY_PATH = re.compile(
    rf"\b(?:to|from|database)\s*(?P<path>{_STRING})\s*(?:\([^']*(?:{_STRING}[^']*)*\)|with\b[^;]*)?\s*;?\s*\Z",
    re.IGNORECASE,
)
_SECRET = re.compile(r"\bsecret\b", re.IGNORECASE)

_QUOTED = re.compile(rf'"(?:[^"]|"")*"|(?P<prefix>[A-Za-z0-9_&])?(?P<string>{_STRING})')
_UNUSUAL = re.compile(r"\$(?:[A-Za-z_\x80-\U0010ffff][^\s$]*)?\$|--|/\*")
"""Where readers of SQL could differ about what is a string: dollar quotes, comments. Prefixes of strings, too."""

_HINTS = (
    *(
        "read_",
        "parquet_",
        "glob",
        "sniff_",
        "_scan",
        "st_read",
        "st_drivers",
        "iceberg_",
        "delta_",
        "_credentials",
        "python_map",
    ),
    *(
        "json_execute",
        "json_serialize_plan",
        "external_resource",
        "secret",
        "import",
        "database",
        "checkpoint",
        "_logs",
        "write_log",
        "enable_",
    ),
    *("disable_", "duckdb_", "pg_settings", "current_setting", "query", "copy", "export", "show"),
)
"""A text without any of these, in small letters, holds nothing of what is closed: most are let through by this."""


class Sandbox:
    """Safe from any thread; each call uses the cursor that it is given."""

    def __init__(self, config: EngineConfig) -> None:
        self._open = config.external_access
        self._directories = opened_directories(config)
        self._settings: frozenset[str] | None = None  # the same for ever; found out by whoever asks first

    def check(self, cursor: Any, statement: Any, principal: Principal) -> None:
        """Raise Forbidden when the statement reaches for what is closed, to all or to this principal."""
        text = statement.query
        lowered = text.lower()
        if not any(hint in lowered for hint in _HINTS):
            return
        plain = _plain(text)
        if principal.role != "owner":
            _check_guest(plain, text)
            self._check_shown(cursor, statement, plain)
        if not self._open:
            self._check_calls(plain, text)
            _check_dynamic(text)
            if statements.kind_of(statement) in ("CREATE", "DROP") and _SECRET.search(plain):
                raise Forbidden("secrets are not offered: this server reaches nothing outside")
        self._check_copies(cursor, statement, plain)

    def _check_shown(self, cursor: Any, statement: Any, plain: str) -> None:
        """Refuse SHOW of a setting; DuckDB's own tree tells which name that is, where there is a tree."""
        if _SHOW.search(plain) is None:
            return
        if self._settings is None:
            names = cursor.execute("SELECT lower(name) FROM duckdb_settings()").fetchall()
            self._settings = frozenset(name for (name,) in names) - _HARMLESS_SETTINGS
        tree = None if _DYNAMIC_CALL.search(statement.query) else parse_tree.of_statement(cursor, statement)
        if tree is None:
            shown = _WORD.findall(statement.query)
        else:
            shown = [str(node["table_name"]) for node in parse_tree.nodes(tree) if node.get("type") == "SHOW_REF"]
        for name in shown:
            if parse_tree.folded(name) in self._settings:
                raise Forbidden(f"{name} tells of the server's machine; an owner may use it")

    def _check_calls(self, plain: str, text: str) -> None:
        closed = _CLOSED_CALL.search(plain)
        if closed is not None:
            raise _closed(closed["name"] or closed["word"])
        calls = _FILE_CALL.search(plain)
        if calls is None:
            return
        if not self._directories:
            raise Forbidden(f"{calls['name']} is not offered: files of the server are closed to SQL")
        for call in _FILE_CALL.finditer(text):  # in strings, too: their paths are in there
            paths = _PATHS.match(text, call.end("name") + (text[call.end("name")] == '"'))
            if paths is None:
                raise Forbidden(f"{call['name']} needs its path written out as a text, here where few are open")
            for path in _strings(paths["paths"]):
                self._check_path(path)

    def _check_path(self, path: str) -> None:
        if leads_out(path, self._directories):
            raise Forbidden(f'"{path}" is not within a directory that is open to SQL')

    def _check_copies(self, cursor: Any, statement: Any, plain: str) -> None:
        """Refuse COPY TO within a query, which no kind of statement and no read-only transaction tells."""
        kind, text = statements.kind_of(statement), statement.query
        if kind in ("COPY", "EXPORT"):
            if not self._open:
                self._check_copy(cursor, statement)
        elif _IMPORT.match(text):
            if not self._open:
                raise Forbidden("IMPORT DATABASE and COPY FROM DATABASE are not offered: they run what files say")
        elif _COPY.search(plain) is not None:
            tree = None if _DYNAMIC_CALL.search(text) else parse_tree.of_statement(cursor, statement)
            if tree is None:
                hidden = _COPY_WITHIN.search(plain) is not None
            else:
                hidden = any(node.get("type") == "COPY_QUERY_NODE" for node in parse_tree.nodes(tree))
            if hidden:
                raise Forbidden("COPY within another statement is not offered")

    def _check_copy(self, cursor: Any, statement: Any) -> None:
        """Refuse files that are closed. DuckDB itself refuses all but the open ones and those that it uses."""
        kind, text = statements.kind_of(statement), statement.query
        if not self._directories:
            raise Forbidden(f"{kind} is not offered: files of the server are closed to SQL")
        where = _COPY_PATH.search(text)
        if where is None or _is_unusual(text):
            raise Forbidden(f"{kind} needs its path written out as a text, and no comments, here where few are open")
        self._check_path(_strings(where["path"])[0])
        tree = parse_tree.of_statement(cursor, statement)
        if tree is not None and (copied := _copied_to(tree)) is not None:
            self._check_path(copied)


def _is_unusual(text: str) -> bool:
    """Whether two readers could differ about where a string of this text begins or ends."""
    return _UNUSUAL.search(text) is not None or any(found["prefix"] for found in _QUOTED.finditer(text))


def _plain(text: str) -> str:
    """Return the text without what is in its strings, or as it is where that is not beyond doubt, or run as SQL."""
    if _DYNAMIC_CALL.search(text) or _is_unusual(text):
        return text
    return _QUOTED.sub(lambda found: "''" if found["string"] else found[0], text)


def _check_guest(plain: str, text: str) -> None:
    """Refuse what operates the server or tells of its machine to all but owners."""
    operating = _OPERATING_CALL.search(plain)
    if operating is not None:
        raise Forbidden(f"{operating['name']} operates the server; an owner may use it")
    if _TELLING_NAME.search(plain) is None:
        return
    cleaned = _HARMLESS_SETTING.sub(" NULL ", text)
    telling = _TELLING_NAME.search(cleaned if plain is text else _plain(cleaned))
    if telling is not None:
        raise Forbidden(f"{telling['name']} tells of the server's machine; an owner may use it")


def _check_dynamic(text: str) -> None:
    """Refuse a text that is put together and run as SQL: what stands in it would not be seen here."""
    for call in _DYNAMIC_CALL.finditer(text):
        if not _ONE_TEXT.match(text, call.end("name") + (text[call.end("name")] == '"')):
            raise Forbidden("query() takes one text that is written out, here")


def _closed(name: str) -> Forbidden:
    return Forbidden(f"{name} is not offered: it reaches outside the database")


def _strings(sql: str) -> list[str]:
    return [one[1:-1].replace("''", "'") for one in re.findall(_STRING, sql)]


def _copied_to(tree: Any) -> str | None:
    """Return the path that a COPY ... TO names; one that is computed is refused."""
    info = tree["node"]["cte_map"]["map"][0]["value"]["query_node"].get("info", {})
    if info.get("file_path_expression") is not None:
        raise Forbidden("COPY needs its path written out as a text, here where few are open")
    path = info.get("file_path")
    return path if isinstance(path, str) else None
