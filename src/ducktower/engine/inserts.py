"""How rows enter a table: names quoted, columns matched, one SQL text for each mode, reasons found for failures.

Owns all SQL that the engine writes for itself about tables. Every name in it passes `quoted`. Must never
commit: callers own the transaction.
"""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from ..errors import (
    Conflict,
    ConstraintViolation,
    DucktowerError,
    InvalidArgument,
    SchemaMismatch,
    TableExists,
    TableNotFound,
)
from .failures import does_not_fit, translate
from .whole_values import may_have_fractions, not_null, refusal, whole
from .words import Target

__all__ = [
    "VALUE_ERRORS",
    "Column",
    "Source",
    "already_there",
    "create_sql",
    "diagnose",
    "insert_sql",
    "make_table",
    "matched",
    "one_of_these",
    "quoted",
    "refuse_unknown_fields",
    "source_columns",
    "table_columns",
    "table_exists",
    "table_name",
    "was_late",
]


VALUE_ERRORS = (duckdb.DataError, duckdb.InvalidInputException, duckdb.NotSupportedError, UnicodeError)
"""What DuckDB raises for a value that does not fit its column."""

_OF_THE_DATABASE = (
    *(duckdb.InterruptException, duckdb.TransactionException, duckdb.FatalException),
    *(duckdb.IOException, duckdb.OutOfMemoryException, duckdb.ConnectionException),
)
"""What says nothing of the columns that were asked about."""


class Column(NamedTuple):
    """A column as DuckDB knows it."""

    name: str
    type: str
    kind: Any  # DuckDB's own type object


class Source:
    """What is registered once and read by an INSERT: DuckDB asks it for a stream each time the statement runs."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.data.__arrow_c_stream__(requested_schema)


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier, whatever characters it has."""
    return '"' + name.replace('"', '""') + '"'


def table_name(catalog: str, target: Target) -> str:
    """Return the full SQL name, which no temp table, setting of a session or other catalog can shadow."""
    return f"{quoted(catalog)}.{quoted(target.schema)}.{quoted(target.table)}"


def table_columns(cursor: Any, catalog: str, target: Target) -> list[Column]:
    """Return the columns of a table or view. Raises TableNotFound."""
    try:
        relation = cursor.sql(f"FROM {table_name(catalog, target)} LIMIT 0")
        return [Column(name, str(kind), kind) for name, kind in zip(relation.columns, relation.types, strict=True)]
    except duckdb.CatalogException as error:
        raise TableNotFound(f'table "{target.label}" does not exist') from error
    except duckdb.BinderException as error:
        raise TableNotFound(f'table "{target.label}" cannot be used: {translate(error).message}') from error


def table_exists(cursor: Any, catalog: str, target: Target) -> bool:
    """Whether the table or view is there."""
    try:
        table_columns(cursor, catalog, target)
    except TableNotFound:
        return False
    return True


def source_columns(cursor: Any, sent: pa.Schema) -> list[Column]:
    """Return the DuckDB types of an Arrow schema's columns.

    Raises SchemaMismatch for a type that DuckDB cannot take.
    """
    if not len(sent):
        return []
    try:
        types = _types(cursor, sent)
    except _OF_THE_DATABASE:
        raise
    except (duckdb.Error, pa.ArrowException) as error:
        for field in sent:
            try:
                _types(cursor, pa.schema([field]))
            except (duckdb.Error, pa.ArrowException):
                raise SchemaMismatch(
                    f'column "{field.name}" has the type {field.type}, which DuckDB cannot take'
                ) from error
        raise SchemaMismatch(f"DuckDB cannot take these columns: {translate(error).message}") from error
    return [Column(name, str(kind), kind) for name, kind in zip(sent.names, types, strict=True)]


def _types(cursor: Any, schema: pa.Schema) -> list[Any]:
    name = f"__ducktower_{secrets.token_hex(8)}"
    # Positions for names: two columns of one name are the business of `matched`, which names them.
    plain = pa.schema([field.with_name(f"c{i}") for i, field in enumerate(schema)])
    cursor.register(name, pa.Table.from_batches([], schema=plain))
    try:
        return list(cursor.sql(f"FROM {quoted(name)} LIMIT 0").types)
    finally:
        cursor.unregister(name)


def matched(target: Target, sent: pa.Schema, columns: list[Column]) -> list[Column]:
    """Return the table's columns that `sent` fills, in the order sent.

    Names match as DuckDB matches them, without regard to case. Raises SchemaMismatch for a column that the
    table does not have or that was sent twice, and for a key that was not sent.
    """
    by_name = {column.name.lower(): column for column in columns}
    found: dict[str, Column] = {}
    for name in sent.names:
        column = by_name.get(name.lower())
        if column is None:
            known = ", ".join(f'"{column.name}"' for column in columns[:20])
            raise SchemaMismatch(f'column "{name}" is not in table "{target.label}", which has {known}')
        if name.lower() in found:
            raise SchemaMismatch(f'column "{name}" was sent twice')
        found[name.lower()] = column
    if not found:
        raise SchemaMismatch(f'no column was sent for table "{target.label}"')
    for key in target.key:
        if key.lower() not in found:
            raise SchemaMismatch(f'key column "{key}" was not sent')
    return list(found.values())


def create_sql(catalog: str, target: Target, sent: pa.Schema, columns: list[Column]) -> str:
    """Return CREATE TABLE for rows of schema `sent`, whose DuckDB types are `columns`; NOT NULL is kept."""
    seen: set[str] = set()
    parts = []
    for field, column in zip(sent, columns, strict=True):
        if not field.name:
            raise SchemaMismatch(f'a column of table "{target.label}" has no name')
        if field.name.lower() in seen:
            raise SchemaMismatch(f'column "{field.name}" was sent twice')
        if column.type.endswith("[ANY]"):
            raise SchemaMismatch(f'column "{field.name}" has the type {field.type}, which DuckDB cannot take')
        seen.add(field.name.lower())
        kind = "INTEGER" if column.type == '"NULL"' else column.type
        parts.append(f"{quoted(field.name)} {kind}{'' if field.nullable else ' NOT NULL'}")
    if not parts:
        raise InvalidArgument(f'table "{target.label}" needs at least one column')
    verb = "CREATE OR REPLACE" if target.mode == "replace" else "CREATE"
    kind = "TEMP TABLE" if catalog == "temp" else "TABLE"
    return f"{verb} {kind} {table_name(catalog, target)} ({', '.join(parts)})"


def make_table(cursor: Any, catalog: str, target: Target, schema: Any) -> None:
    """Make the table for rows of a pyarrow.Schema, if the target's mode makes one. Raises TableExists."""
    if target.mode in ("append", "upsert"):
        return
    if target.mode != "replace" and table_exists(cursor, catalog, target):
        if target.mode == "create":
            raise already_there(target)
        return
    cursor.execute(create_sql(catalog, target, schema, source_columns(cursor, schema)))


def insert_sql(cursor: Any, catalog: str, target: Target, sent: pa.Schema, columns: list[Column], source: str) -> str:
    """Return the statement that moves the rows of the registered `source` into the table.

    An upsert keeps the last of several rows with one key, and leaves columns that were not sent as they are.
    It uses the index of a PRIMARY KEY or UNIQUE constraint on exactly the key, where there is one (which
    finds a row without reading the table), else MERGE.
    """
    table = table_name(catalog, target)
    into = matched(target, sent, columns)
    _refuse_bits(sent, into)
    refuse_unknown_fields(cursor, sent, into)
    _refuse_generated(cursor, table, into)
    names = ", ".join(quoted(column.name) for column in into)
    given = _checked(cursor, sent, into)
    values = ", ".join(given)
    if target.mode != "upsert":
        return f"INSERT INTO {table} ({names}) SELECT {values} FROM {quoted(source)}"

    keys = {key.lower() for key in target.key}
    key_columns = [column for column in into if column.name.lower() in keys]
    rest = [column for column in into if column.name.lower() not in keys]
    by_key = ", ".join(quoted(column.name) for column in key_columns)
    renamed = ", ".join(
        f"{not_null(value, column) if column in key_columns else value} AS {quoted(column.name)}"
        for value, column in zip(given, into, strict=True)
    )
    last = (
        f"SELECT {names} FROM (SELECT {renamed}, row_number() OVER () AS __arrival FROM {quoted(source)}) "
        f"QUALIFY row_number() OVER (PARTITION BY {by_key} ORDER BY __arrival DESC) = 1"
    )
    if _has_unique_index(cursor, catalog, target, keys):
        change = ", ".join(f"{quoted(c.name)} = excluded.{quoted(c.name)}" for c in rest)
        action = f"DO UPDATE SET {change}" if rest else "DO NOTHING"
        return f"INSERT INTO {table} ({names}) {last} ON CONFLICT ({by_key}) {action}"
    match = " AND ".join(f"old.{quoted(c.name)} = new.{quoted(c.name)}" for c in key_columns)
    change = ", ".join(f"{quoted(c.name)} = new.{quoted(c.name)}" for c in rest)
    update = f"WHEN MATCHED THEN UPDATE SET {change} " if rest else ""
    new = ", ".join(f"new.{quoted(c.name)}" for c in into)
    return (
        f"MERGE INTO {table} AS old USING ({last}) AS new ON ({match}) "
        f"{update}WHEN NOT MATCHED THEN INSERT ({names}) VALUES ({new})"
    )


def _checked(cursor: Any, sent: pa.Schema, into: list[Column]) -> list[str]:
    """Return the expressions that give the values of the columns sent, none of which loses a fraction."""
    names = [quoted(name) for name in sent.names]
    if not any(may_have_fractions(field.type) for field in sent):
        return names
    sources = source_columns(cursor, sent)
    return [whole(name, given, column) for name, given, column in zip(names, sources, into, strict=True)]


def _refuse_bits(sent: pa.Schema, into: list[Column]) -> None:
    """Refuse what DuckDB gives in Arrow for BIT and VARIANT but reads back as other bits, or as two fields of bytes."""
    for field, column in zip(sent, into, strict=True):
        if column.type == "BIT" and not (pa.types.is_string(field.type) or pa.types.is_large_string(field.type)):
            raise does_not_fit(column.name, str(field.type), "BIT", "send it as text, such as '0101'")
        if column.type == "VARIANT" and _is_variant(field.type):
            raise does_not_fit(column.name, str(field.type), "VARIANT", "send the value itself")


def _is_variant(kind: pa.DataType) -> bool:
    """Whether this is how a VARIANT arrives: Arrow's arrow.parquet.variant."""
    return (
        pa.types.is_struct(kind)
        and [field.name for field in kind] == ["metadata", "value"]
        and all(pa.types.is_binary(field.type) for field in kind)
    )


def refuse_unknown_fields(cursor: Any, sent: pa.Schema, into: list[Column]) -> None:
    """Refuse fields of structs, at any depth, that the column's type does not have: DuckDB's cast drops them."""
    if not any(pa.types.is_nested(field.type) for field in sent):
        return
    for source, column in zip(source_columns(cursor, sent), into, strict=True):
        wrong = _wrong_field(column.name, source.kind, column.kind)
        if wrong:
            raise does_not_fit(column.name, source.type, column.type, wrong)


def _wrong_field(path: str, given: Any, wanted: Any) -> str | None:
    """Say which field of `given` cannot go into the type `wanted`, by its path, or None when all can."""
    if given.id in ("list", "array") and wanted.id in ("list", "array"):
        return _wrong_field(f"{path}[]", given.children[0][1], wanted.children[0][1])
    if wanted.id == "bit" and given.id == "blob":
        return f"\"{path}\" is BIT: send it as text, such as '0101'"
    if given.id != wanted.id or given.id not in ("struct", "map", "union"):
        return None
    fields = {name.lower(): kind for name, kind in wanted.children}
    if "" in fields and given.id == "struct":
        return None  # it has no names: fields go by their position
    seen: set[str] = set()
    for name, kind in given.children:
        field = f"{path}.{name}"
        if name.lower() not in fields:
            return f'there is no field "{field}"'
        if name.lower() in seen:
            return f'field "{field}" was sent twice'
        seen.add(name.lower())
        wrong = _wrong_field(field, kind, fields[name.lower()])
        if wrong:
            return wrong
    return None


def _refuse_generated(cursor: Any, table: str, into: list[Column]) -> None:
    """Refuse values for columns that DuckDB computes. It says so without a name, and the binder alone tells."""
    if _binds_generated(cursor, table, into):
        for column in into:
            if _binds_generated(cursor, table, [column]):
                raise SchemaMismatch(f'column "{column.name}" is generated: its values are computed, leave it out')


def _binds_generated(cursor: Any, table: str, into: list[Column]) -> bool:
    names = ", ".join(quoted(column.name) for column in into)
    try:
        cursor._bind(f"INSERT INTO {table} ({names}) SELECT {', '.join(['NULL'] * len(into))}")
    except duckdb.BinderException as error:
        return "generated column" in str(error)
    except duckdb.Error:
        return False  # the INSERT itself will say it better
    return False


def _has_unique_index(cursor: Any, catalog: str, target: Target, keys: set[str]) -> bool:
    rows = cursor.execute(
        "SELECT constraint_column_names FROM duckdb_constraints() WHERE database_name = ? AND "
        "lower(schema_name) = lower(?) AND lower(table_name) = lower(?) AND "
        "constraint_type IN ('PRIMARY KEY', 'UNIQUE')",
        [catalog, target.schema, target.table],
    ).fetchall()
    return any({name.lower() for name in names} == keys for (names,) in rows)


def diagnose(
    cursor: Any, catalog: str, target: Target, sent: pa.Schema, source: str | None, error: BaseException
) -> DucktowerError:
    """Return the error that names the thing for rows that DuckDB refused.

    `source` is registered on `cursor` and holds the rows; None when they were a stream that is gone. DuckDB's
    conversion errors do not name the column, so each column is cast alone, until one fails as the insert did.
    """
    refused = refusal(error)
    if refused is not None:
        return refused
    found = translate(error)
    if isinstance(error, (DucktowerError, duckdb.TransactionException)):
        return found
    if was_late(cursor, catalog, target, error):
        return Conflict(f'table "{target.label}": another transaction stored the same key: {found.message}')
    if found.retryable:
        return found
    if target.mode in ("create", "replace"):
        return _without_table(cursor, target, sent, found)
    try:
        columns = table_columns(cursor, catalog, target)
        into = matched(target, sent, columns)
    except (TableNotFound, SchemaMismatch) as better:
        return better
    if isinstance(error, duckdb.ConstraintException):
        return type(found)(f'table "{target.label}": {found.message}')
    if isinstance(error, (duckdb.CatalogException, duckdb.BinderException)) and _is_view(cursor, catalog, target):
        return InvalidArgument(f'"{target.label}" is a view; rows go into tables')
    if not isinstance(error, VALUE_ERRORS):
        return found
    try:
        sources = source_columns(cursor, sent)
    except SchemaMismatch as better:
        return better
    for name, given, wanted in zip(sent.names, sources, into, strict=True):
        if source is None or given.type == wanted.type:
            continue
        try:
            cursor.execute(f"SELECT count(CAST({quoted(name)} AS {wanted.type})) FROM {quoted(source)}").fetchall()
        except (duckdb.Error, UnicodeError) as why:
            return does_not_fit(wanted.name, given.type, wanted.type, translate(why).message)
    return one_of_these(found, sources, into)


def was_late(cursor: Any, catalog: str, target: Target, error: BaseException) -> bool:
    """Whether an upsert met keys that another transaction stored after this one had begun.

    DuckDB calls it a duplicate key: its index has the row, the snapshot does not. The cursor's transaction
    must be over.
    """
    if target.mode != "upsert" or not isinstance(error, duckdb.ConstraintException):
        return False
    text = str(error).lower()
    keys = {key.lower() for key in target.key}
    if 'duplicate key "' not in text or not all(f"{key}: " in text for key in keys):
        return False
    return _has_unique_index(cursor, catalog, target, keys)


def one_of_these(found: DucktowerError, sources: list[Column], into: list[Column]) -> SchemaMismatch:
    """Return the error for a value that does not fit when it is not known which column's it was."""
    differing = [
        f'"{w.name}" (found {g.type}, wanted {w.type})' for g, w in zip(sources, into, strict=True) if g.type != w.type
    ]
    return SchemaMismatch(f"{found.message}; columns that were cast: {', '.join(differing) or 'none'}")


def _is_view(cursor: Any, catalog: str, target: Target) -> bool:
    rows = cursor.execute(
        "SELECT 1 FROM duckdb_views() WHERE database_name = ? AND lower(schema_name) = lower(?) AND "
        "lower(view_name) = lower(?)",
        [catalog, target.schema, target.table],
    ).fetchall()
    return bool(rows)


def _without_table(cursor: Any, target: Target, sent: pa.Schema, found: DucktowerError) -> DucktowerError:
    """Return the error for rows whose table was to be made of them, and was rolled back with them."""
    try:
        source_columns(cursor, sent)
    except SchemaMismatch as better:
        return better
    if isinstance(found, ConstraintViolation):
        return ConstraintViolation(f'table "{target.label}": {found.message}')
    return found


def already_there(target: Target) -> TableExists:
    """Return the error for a table that was to be created."""
    return TableExists(f'table "{target.label}" exists already')
