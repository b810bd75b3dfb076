"""Plain INSERTs that are understood without DuckDB: they mean what DuckDB makes of them, or are left alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ducktower
from ducktower.engine import value_inserts
from support.engines import opened, rows

TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
VALUES = st.one_of(
    st.just("NULL"),
    st.sampled_from(["TRUE", "false", "DEFAULT", "now()", "1e3", "-1", "+1", "007", ".5", "5.", "1_0", "0.10", "-0.0"]),
    st.integers(-(2**70), 2**70).map(str),
    st.decimals(-(10**19), 10**19, allow_nan=False, places=3).map(str),
    TEXTS.map(lambda text: "'" + text.replace("'", "''") + "'"),
    st.sampled_from(["E'x'", "'a' 'b'", "$$x$$", "(1)", "1 + 1", "'a' -- '", "/* , */ 1", "?", "x"]),
)
SPACE = st.sampled_from(["", " ", "\n ", "\t"])


@pytest.fixture(scope="module")
def cursor() -> Iterator[Any]:
    """Open a database in memory, with tables of text and of numbers."""
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE texts (a VARCHAR, b VARCHAR); CREATE TABLE doubles (a DOUBLE, b DOUBLE)")
        yield connection


def stored(cursor: Any, table: str, run: Any) -> list[Any] | None:
    """Return what `run` stores in the table, None when it fails."""
    cursor.execute("BEGIN")
    try:
        run()
        rows: list[Any] = cursor.execute(f"SELECT COLUMNS(*)::VARCHAR FROM {table} ORDER BY ALL").fetchall()
    except duckdb.Error:
        return None
    finally:
        cursor.execute("ROLLBACK")
    return rows


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_what_is_understood_is_what_duckdb_understands(cursor: Any, data: st.DataObject) -> None:
    """Random values, commas, brackets and blanks: the same rows are stored, or the text is left to DuckDB."""
    table = data.draw(st.sampled_from(["texts", "doubles"]))
    rows = data.draw(st.lists(st.lists(VALUES, min_size=1, max_size=3), min_size=1, max_size=3))
    space = data.draw(SPACE)
    values = f"{space},{space}".join("(" + f"{space},{space}".join(row) + f"{space})" for row in rows)
    sql = f"INSERT INTO {table}{space or ' '}VALUES{space}{values}{space}"
    understood = value_inserts.literals(sql)
    if understood is None:
        return
    insert, arrow = understood
    cursor.register("arrow", arrow)
    ours = stored(cursor, table, lambda: cursor.execute(f"{insert.into_sql} SELECT * FROM arrow"))
    cursor.unregister("arrow")
    assert ours == stored(cursor, table, lambda: cursor.execute(sql)), sql


@pytest.mark.parametrize(
    ("sql", "path", "columns", "order"),
    [
        ("INSERT INTO t VALUES (?)", ("t",), None, (0,)),
        ("insert into s.t(a,b)values(?,?)", ("s", "t"), ("a", "b"), (0, 1)),
        ('INSERT INTO "a.b" . "c""d" VALUES (?);', ("a.b", 'c"d'), None, (0,)),
        ("INSERT INTO t (a, b) VALUES ($2, $1)", ("t",), ("a", "b"), (1, 0)),
        ("INSERT INTO c.s.t VALUES ($1)", ("c", "s", "t"), None, (0,)),
    ],
)
def test_plain_ones(sql: str, path: tuple[str, ...], columns: tuple[str, ...] | None, order: tuple[int, ...]) -> None:
    """Names are taken apart as SQL does, parameters are put in order."""
    found = value_inserts.parametrised(sql)
    assert found is not None
    assert (found.path, found.columns, found.order) == (path, columns, order)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO t VALUES (?, 1)",
        "INSERT INTO t VALUES (?), (?)",
        "INSERT INTO t VALUES (?) RETURNING a",
        "INSERT INTO t VALUES (?) ON CONFLICT DO NOTHING",
        "INSERT OR REPLACE INTO t VALUES (?)",
        "INSERT INTO t BY NAME SELECT ?",
        "INSERT INTO t AS x VALUES (?)",
        "INSERT INTO t VALUES ($1, $1)",
        "INSERT INTO t VALUES ($2)",
        "INSERT INTO t VALUES ($0)",
        "INSERT INTO t VALUES ($a)",
        "INSERT INTO t VALUES (:a)",
        "INSERT INTO t (a, A) VALUES (?, ?)",
        "INSERT INTO t (a) VALUES (?, ?)",
        "INSERT INTO t VALUES (?); DELETE FROM t",
        "WITH c AS (SELECT 1) INSERT INTO t VALUES (?)",
        "INSERT INTO t VALUES (?) -- comment",
        "INSERT INTO t VALUES (?::INTEGER)",
        "INSERT INTO a.b.c.d VALUES (?)",
        "UPDATE t SET a = ?",
        "INSERT INTO t VALUES (1.50), (2.5)",
        "",
    ],
)
def test_all_others_are_left_alone(sql: str) -> None:
    """Whatever is more than plain runs as it is written."""
    assert value_inserts.parametrised(sql) is None
    assert value_inserts.literals(sql) is None


def test_long_texts_are_looked_at_in_no_time() -> None:
    """A hostile text does not make the patterns try for ever."""
    for sql in (
        "INSERT INTO t VALUES (" + "'a'," * 3_000,
        "INSERT INTO t VALUES (" + " " * 16_000 + "x",
        "INSERT INTO " + "a." * 8_000,
        "INSERT INTO t (" + "a, " * 5_000 + ") VALUES (?)",
        "INSERT INTO t VALUES (" + "?, " * 5_000,
        "INSERT INTO t VALUES " + "(" * 16_000,
        " " * 200_000 + "x",
    ):
        assert value_inserts.parametrised(sql) is None
        assert value_inserts.literals(sql) is None


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO kitap (ad\u0131, sayfa) VALUES (?, ?)",
        "INSERT INTO kad\u0131 VALUES (?)",
        "INSERT INTO tVALUES (?)",
        "INSERT INTO t VALUES (٣)",
    ],
)
def test_other_letters_are_left_to_duckdb(sql: str) -> None:
    """What is no plain ASCII name or number is not taken apart."""
    assert value_inserts.parametrised(sql) is None
    assert value_inserts.literals(sql) is None


def test_blanks_behind_the_values_take_no_time() -> None:
    """A long run of blanks is looked at once, whatever follows."""
    for end in ("x", "RETURNING i", ";;", ") x", ""):
        for count in (16_000, 250_000):
            for value in ("?", "1"):
                text = f"INSERT INTO t VALUES ({value})" + " " * count + end
                value_inserts.parametrised(text)
                value_inserts.literals(text)


@pytest.mark.parametrize(
    "values",
    [
        "(1.50), (2.345), (-7.0)",
        "(1.50), (NULL), (2.50)",
        "(1.50), (7), ('x')",
        "(007.50), (-0.00)",
        "(1), (-02), (4000000000)",
        "(TRUE), (false)",
        "(0.1), (123456789012345678.9)",
    ],
)
@pytest.mark.parametrize("kind", ["VARCHAR", "DOUBLE", "DECIMAL(30, 4)", "JSON"])
def test_literals_are_stored_as_duckdb_stores_them(cursor: Any, database: Path, kind: str, values: str) -> None:
    """Rows of several forms too: the text of a number is the one that was written."""
    sql = f"INSERT INTO one VALUES {values}"
    cursor.execute(f"CREATE OR REPLACE TABLE one (c {kind})")
    wanted = stored(cursor, "one", lambda: cursor.execute(sql))
    with opened(database) as engine:
        session = engine.sessions.open()
        session.update(f"CREATE TABLE one (c {kind})")
        if wanted is None:
            with pytest.raises(ducktower.DucktowerError):
                session.update(sql)
        else:
            session.update(sql)
            assert rows(session, "SELECT COLUMNS(*)::VARCHAR FROM one ORDER BY ALL") == wanted


def test_rows_become_columns_without_pandas(database: Path) -> None:
    """Each type of literal, with and without NULL, is stored without importing pandas, which takes a second."""
    program = """
import sys
from ducktower.config import EngineConfig
from ducktower.engine import Engine
engine = Engine(EngineConfig(database=sys.argv[1]))
session = engine.sessions.open()
session.update("CREATE TABLE t (i INT, l BIGINT, d DECIMAL(18, 2), b BOOLEAN, s VARCHAR)")
session.update("INSERT INTO t VALUES (1, 2, 3.25, TRUE, 'Öl')")
session.update("INSERT INTO t VALUES (NULL, -4000000000, -0.50, NULL, ''), (-7, NULL, NULL, false, NULL)")
with session.query("SELECT COLUMNS(*)::VARCHAR FROM t ORDER BY ALL").reader as reader:
    print([tuple(row.values()) for row in reader.read_all().to_pylist()])
print(engine.table_types().column(0).to_pylist(), "pandas" in sys.modules)
engine.close(5)
"""
    done = subprocess.run([sys.executable, "-c", program, str(database)], capture_output=True, text=True, timeout=60)
    rows_found, rest = done.stdout.splitlines()
    assert ast.literal_eval(rows_found) == [
        ("-7", None, None, "false", None),
        ("1", "2", "3.25", "true", "Öl"),
        (None, "-4000000000", "-0.50", None, ""),
    ], done.stderr
    assert rest == "['LOCAL TEMPORARY', 'TABLE', 'VIEW'] False"
