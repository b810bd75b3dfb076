"""What can be read of a damaged database, found out in a process of its own: DuckDB may end with it.

The process reads requests and answers each, a line of JSON in and one out:

    ["opens", FILE]            that it can be opened, its WAL replayed
    ["joins", FILE]            the same, when there are two WALs, one of commits beside a checkpoint
    ["look", FILE]             {"tables": [...], "names": [...]}: what can be read
    ["finish", FILE]           the same, after the WAL's contents were written into the file
    ["rebuild", FILE, TARGET]  the same, of a new file made of all that can be read

or {"error": TEXT}. Of a table whose blocks are damaged, `rebuild` reads the rows in ranges, smaller and smaller ones
around the damage, and leaves out those that cannot be read.

Owns these five, and the process. Must never write to the file that is damaged, but for `joins` and `finish`.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb

from ..errors import DucktowerError
from .database import opened_apart
from .failures import first_line
from .fingerprints import TableRows, fingerprint_of, names_of, tables_of
from .inserts import quoted

__all__ = ["Salvage", "Salvaged", "SalvagedTable"]

_RANGE_ROWS = 122_880
_RANGE_ROWS_MIN = 2_048


@dataclass(frozen=True, slots=True)
class SalvagedTable:
    """One table: the rows that could be read, and why others could not."""

    name: str
    rows: int
    lost_rows: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What there is; or the one error with which nothing could be read."""

    tables: tuple[SalvagedTable, ...] = ()
    names: tuple[str, ...] = ()
    """Kind and name of views, indexes, sequences, macros and types."""
    error: str = field(default="", kw_only=True)

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables)

    @property
    def whole(self) -> bool:
        """Whether all of it could be read."""
        return not self.error and not any(table.error for table in self.tables)


class Salvage:
    """The process, begun again when it ended: use it as a context manager, from one thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def opens(self, path: Path) -> Salvaged:
        """Open a database, with the WAL beside it if there is one, and read no table; nothing is changed."""
        return self._ask("opens", path)

    def joins(self, path: Path) -> Salvaged:
        """Open a database that has two WALs: DuckDB joins them then, and passes over the second where it only reads."""
        return self._ask("joins", path)

    def look(self, path: Path) -> Salvaged:
        """Open a database, with the WAL beside it if there is one, and read all of it; nothing is changed."""
        return self._ask("look", path)

    def finish(self, path: Path) -> Salvaged:
        """Write the WAL's contents into the file, open it anew and read all of it."""
        return self._ask("finish", path)

    def rebuild(self, path: Path, target: Path) -> Salvaged:
        """Make a new file of all that can be read."""
        return self._ask("rebuild", path, target)

    def __enter__(self) -> Salvage:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _ask(self, what: str, *paths: Path) -> Salvaged:
        process = self._process or self._begin()
        assert process.stdin is not None  # noqa: S101 - both are pipes
        assert process.stdout is not None  # noqa: S101
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([what, *map(str, paths)]) + "\n")
            process.stdin.flush()
        line = process.stdout.readline()
        if not line:
            return Salvaged(error=f"DuckDB ended with status {self._end()}")
        found: dict[str, Any] = json.loads(line)
        if "error" in found:
            return Salvaged(error=found["error"])
        return Salvaged(tuple(SalvagedTable(**table) for table in found["tables"]), tuple(found["names"]))

    def _begin(self) -> subprocess.Popen[str]:
        self._process = subprocess.Popen(  # noqa: S603 - this module
            [sys.executable, "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        return self._process

    def _end(self) -> int:
        process, self._process = self._process, None
        if process is None:
            return 0
        with process:  # which closes its pipes, and so ends it
            pass
        return process.returncode


# -- in the process of its own ---------------------------------------------------------------------------


def _opens(path: Path) -> dict[str, Any]:
    with opened_apart(path) as connection:
        return _told(connection, [])


def _joins(path: Path) -> dict[str, Any]:
    with opened_apart(path, writable=True) as connection:
        return _told(connection, [])


def _look(path: Path) -> dict[str, Any]:
    with opened_apart(path) as connection:
        return _told(connection, [_read(connection, table) for table in tables_of(connection)])


def _finish(path: Path) -> dict[str, Any]:
    with opened_apart(path, writable=True) as connection:
        connection.execute("CHECKPOINT")
    return _look(path)


def _rebuild(path: Path, target: Path) -> dict[str, Any]:
    with opened_apart(target, writable=True, beside=path) as connection:
        catalog = connection.execute("SELECT current_database()").fetchall()[0][0]
        connection.execute(f"COPY FROM DATABASE beside TO {quoted(catalog)} (SCHEMA)")
        left, done = tables_of(connection), []
        while left:
            refused = []
            for table in left:
                try:
                    done.append(_fill(connection, table))
                except duckdb.ConstraintException as error:  # what it refers to may not be there yet
                    refused.append((table, first_line(str(error))))
            if len(refused) == len(left):
                done += [SalvagedTable(table.name, 0, _count(connection, table), why) for table, why in refused]
                break
            left = [table for table, _ in refused]
        told = _told(connection, done)
        connection.execute("CHECKPOINT")
    return told


def _told(connection: Any, tables: list[SalvagedTable]) -> dict[str, Any]:
    names = [
        f'{kind} "{name}"' if schema == "main" else f'{kind} "{schema}.{name}"'
        for kind, schema, name in names_of(connection)
    ]
    return {
        "tables": [
            {"name": one.name, "rows": one.rows, "lost_rows": one.lost_rows, "error": one.error}
            for one in sorted(tables, key=lambda one: one.name)
        ],
        "names": names,
    }


def _read(connection: Any, table: TableRows) -> SalvagedTable:
    try:
        return SalvagedTable(table.name, fingerprint_of(connection, table).rows)
    except duckdb.Error as error:
        return SalvagedTable(table.name, 0, error=first_line(str(error)))


def _fill(connection: Any, table: TableRows) -> SalvagedTable:
    """Copy a table's rows from the file beside; generated columns make themselves."""
    generated = {
        name
        for (name,) in connection.execute(
            "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() AND schema_name = ? "
            "AND table_name = ? AND is_generated",
            [table.schema, table.table],
        ).fetchall()
    }
    columns = ", ".join(quoted(name) for name, _ in table.columns if name not in generated)
    source = f"beside.{quoted(table.schema)}.{quoted(table.table)}"
    insert = f"INSERT INTO {quoted(table.schema)}.{quoted(table.table)} ({columns}) SELECT {columns} FROM {source}"
    try:
        rows = connection.execute(insert).fetchall()[0][0]
        return SalvagedTable(table.name, rows)
    except duckdb.ConstraintException:
        raise
    except duckdb.Error as error:
        why = first_line(str(error))
    total = _count(connection, table)
    last = connection.execute(f"SELECT max(rowid) FROM {source}").fetchall()[0][0] or 0
    rows = 0
    ranges = [(start, start + _RANGE_ROWS) for start in range(0, last + 1, _RANGE_ROWS)][::-1]
    while ranges:
        start, end = ranges.pop()
        try:
            rows += connection.execute(f"{insert} WHERE rowid >= {start} AND rowid < {end}").fetchall()[0][0]
        except duckdb.ConstraintException:
            raise
        except duckdb.Error:
            if end - start > _RANGE_ROWS_MIN:
                middle = (start + end) // 2
                ranges += [(middle, end), (start, middle)]
    return SalvagedTable(table.name, rows, max(0, total - rows), why)


def _count(connection: Any, table: TableRows) -> int:
    source = f"beside.{quoted(table.schema)}.{quoted(table.table)}"
    return int(connection.execute(f"SELECT count(*) FROM {source}").fetchall()[0][0])


def _main() -> None:
    works: dict[str, Callable[..., dict[str, Any]]] = {
        "opens": _opens,
        "joins": _joins,
        "look": _look,
        "finish": _finish,
        "rebuild": _rebuild,
    }
    for line in sys.stdin:
        what, *paths = json.loads(line)
        try:
            found = works[what](*map(Path, paths))
        except (duckdb.Error, DucktowerError, OSError) as error:
            found = {"error": first_line(str(error))}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
