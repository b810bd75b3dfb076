"""A token that is limited to some tables sees and touches those alone, whatever it asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ducktower
from ducktower.engine import Caller, Engine, Ingest, Principal, Target
from ducktower.engine.sight import sees
from support.engines import batches, opened, rows

READER = Principal("rita", "reader", ("sales_*", "shop.*"))
WRITER = Principal("walt", "writer", ("sales_*", "shop.*"))


def called(principal: Principal) -> Caller:
    """Return a caller that is this principal."""
    return Caller(principal=principal)


@pytest.fixture
def engine(database: Path) -> Iterator[Engine]:
    """Return an engine with tables, views, macros and a sequence, some of which are `sales_...` or in `shop`."""
    with opened(database) as opened_engine:
        opened_engine.execute(
            """
            CREATE TABLE sales_a (i INTEGER PRIMARY KEY, v VARCHAR); INSERT INTO sales_a VALUES (1, 'a'), (2, 'b');
            CREATE TABLE hidden (i INTEGER PRIMARY KEY, v VARCHAR); INSERT INTO hidden VALUES (7, 'secret');
            CREATE TABLE sales_fk (i INTEGER REFERENCES hidden (i), j INTEGER REFERENCES sales_a (i));
            CREATE SCHEMA shop; CREATE TABLE shop.orders (i INTEGER); INSERT INTO shop.orders VALUES (5);
            CREATE SCHEMA back; CREATE TABLE back.sales_a (i INTEGER); CREATE TABLE back.pay (i INTEGER);
            CREATE VIEW sales_w AS SELECT i FROM sales_a; CREATE VIEW sales_leak AS FROM hidden;
            CREATE VIEW sales_catalog AS FROM duckdb_tables(); CREATE VIEW sales_deep AS FROM sales_leak;
            CREATE VIEW sales_info AS FROM information_schema.tables; CREATE VIEW other AS FROM sales_a;
            CREATE VIEW shop.v AS FROM orders;
            CREATE MACRO peek() AS (SELECT max(v) FROM hidden); CREATE MACRO sales_peek() AS TABLE FROM hidden;
            CREATE SEQUENCE s; CREATE TYPE mood AS ENUM ('secret', 'a')
            """
        )
        yield opened_engine


SEEN = [
    "SELECT count(*) FROM sales_a",
    "FROM SALES_A",
    "SELECT t.i, upper(v) FROM test.main.\"sales_a\" t WHERE v IN ('a', 'b') ORDER BY 1 LIMIT 3",
    "FROM main.sales_a JOIN shop.orders o USING (i)",
    "FROM sales_w",
    "FROM shop.v",
    "WITH hidden AS (SELECT 1 AS i) SELECT * FROM hidden, sales_a",
    "WITH RECURSIVE r AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM r WHERE i < 3) SELECT sum(i) FROM r",
    "WITH x AS (FROM sales_a), hidden AS (FROM x) SELECT (SELECT max(i) FROM hidden)",
    "SELECT row_number() OVER (ORDER BY i), sum(i) OVER (), list_transform([i], lambda x: x + 1) FROM sales_a",
    "SELECT * FROM range(3), unnest([1, 2]) u(x), (VALUES (1)) v(y)",
    "FROM sales_a PIVOT (count(*) FOR v IN ('a', 'b'))",
    "SELECT 'hidden', 'FROM hidden' -- hidden",
    "DESCRIBE sales_a",
    "SUMMARIZE sales_a",
    "SELECT date_part('year', now()), coalesce(NULL, 1), CAST('1' AS INTEGER)",
    "SELECT NULL::DECIMAL(4, 1), DATE '2026-01-01', INTERVAL 1 DAY, 1::DOUBLE PRECISION, [NULL]::STRUCT(a INT4[])[]",
    "SELECT '1'::JSON, now()::TIMESTAMP WITH TIME ZONE, 'a'::VARCHAR(3), MAP {1: 2}::MAP(TINYINT, INT)",
]

UNSEEN = [
    "FROM hidden",
    'FROM "HIDDEN"',
    "FROM main.hidden",
    "FROM test.hidden",
    "FROM test.main.hidden",
    "FROM back.sales_a",
    "FROM back.pay",
    "FROM other",
    "FROM sales_leak",
    "FROM sales_deep",
    "FROM sales_catalog",
    "FROM sales_info",
    "TABLE hidden",
    "FROM a.test.main.hidden",
    "FROM range((SELECT max(i) FROM hidden))",
    "FROM unnest((SELECT list(v) FROM hidden))",
    "SELECT * FROM sales_a LIMIT (SELECT max(i) FROM hidden)",
    "SELECT DISTINCT ON ((SELECT max(i) FROM hidden)) i FROM sales_a",
    "SELECT count(*) FILTER (WHERE i IN (SELECT i FROM hidden)) FROM sales_a",
    "SELECT sum(i) OVER (ORDER BY (SELECT max(i) FROM hidden)) FROM sales_a",
    "SELECT i FROM sales_a GROUP BY i HAVING i < (SELECT max(i) FROM hidden)",
    "SELECT i FROM sales_a QUALIFY i < (SELECT max(i) FROM hidden)",
    "SELECT * FROM sales_a JOIN sales_w ON sales_a.i = (SELECT max(i) FROM hidden)",
    "SELECT CASE WHEN true THEN (SELECT max(v) FROM hidden) END",
    "SELECT * REPLACE ((SELECT max(i) FROM hidden) AS i) FROM sales_a",
    "SELECT {'a': (SELECT max(v) FROM hidden)}",
    "SELECT [x FOR x IN (SELECT list(v) FROM hidden)]",
    "SELECT (SELECT max(v) FROM hidden)",
    "SELECT * FROM sales_a WHERE EXISTS (FROM hidden)",
    "SELECT i FROM sales_a UNION ALL SELECT i FROM hidden",
    "SELECT * FROM sales_a, LATERAL (SELECT * FROM hidden)",
    "SELECT * FROM sales_a ORDER BY (SELECT max(i) FROM hidden)",
    "SELECT list_transform([1], lambda x: (SELECT max(v) FROM hidden))",
    "VALUES ((SELECT max(v) FROM hidden))",
    "WITH hidden AS (FROM hidden) FROM hidden",
    "WITH RECURSIVE hidden AS (FROM hidden) FROM hidden",
    "WITH a AS (FROM hidden), hidden AS (SELECT 1) FROM a",
    "SELECT * FROM hidden, (WITH hidden AS (SELECT 1 AS x) FROM hidden)",
    "WITH hidden AS (SELECT 1 AS i) FROM main.hidden",
    "FROM hidden PIVOT (count(*) FOR v IN ('secret'))",
    "PIVOT hidden ON v USING count(*)",
    "UNPIVOT hidden ON i",
    "DESCRIBE hidden",
    "DESCRIBE SELECT * FROM hidden",
    "SUMMARIZE hidden",
    "SHOW hidden",
    "SHOW TABLES",
    "SHOW ALL TABLES",
    "SHOW DATABASES",
    "FROM (SHOW TABLES)",
    "FROM (DESCRIBE hidden)",
    "EXPLAIN FROM hidden",
    "EXPLAIN ANALYZE SELECT max(v) FROM hidden",
    "FROM duckdb_tables()",
    "FROM duckdb_tables",
    "FROM duckdb_columns()",
    "FROM duckdb_constraints()",
    "FROM duckdb_views()",
    "FROM duckdb_functions()",
    "FROM duckdb_table_sample('hidden')",
    "FROM information_schema.tables",
    "FROM information_schema.columns",
    "FROM pg_catalog.pg_class",
    "FROM pg_tables",
    "FROM sqlite_master",
    "FROM system.main.duckdb_tables",
    "FROM pragma_table_info('hidden')",
    "FROM pragma_storage_info('hidden')",
    "FROM pragma_show('hidden')",
    "SELECT enum_range(NULL::mood)",
    "SELECT mood 'a'",
    "SELECT NULL::STRUCT(a main.mood[])",
    "FROM sales_a PIVOT (count(*) FOR v IN mood)",
    "SELECT enum_range(from_json('1', '\"mood\"'))",
    "SELECT '{}'::json_of_somebody",
    "FROM query('FROM hidden')",
    "FROM query_table('hidden')",
    "FROM query_table(['sales_a', 'hidden'])",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM hidden'))",
    "SELECT json_serialize_plan('FROM hidden')",
    "SELECT peek()",
    "FROM sales_peek()",
    "SELECT nextval('s')",
    "SELECT currval('s')",
    "SELECT current_setting('temp_directory')",
    "SELECT pg_get_viewdef(1)",
    "SELECT has_table_privilege('hidden', 'select')",
    "FROM read_csv('hidden')",
    "FROM 'hidden.csv'",
    "FROM no_such_table",
    "FROM no_such_schema.sales_a",
    "FROM no_such_catalog.main.sales_a",
    "WITH x AS (COPY hidden TO 'x.csv') FROM x",
    "PREPARE p AS FROM hidden",
    "CALL pragma_table_info('hidden')",
    "PRAGMA table_info('hidden')",
    "USE back",
    "SET schema = 'back'",
    "SET search_path = 'back'",
]

UNTOUCHED = [
    "INSERT INTO hidden VALUES (8, 'x')",
    "INSERT INTO main.hidden SELECT * FROM sales_a",
    "INSERT INTO sales_a SELECT * FROM hidden",
    "INSERT INTO sales_a VALUES (9, (SELECT max(v) FROM hidden))",
    "INSERT INTO sales_a SELECT i, v FROM sales_a ON CONFLICT DO UPDATE SET v = (SELECT max(v) FROM hidden)",
    "INSERT INTO sales_a VALUES (9, 'x') RETURNING (SELECT max(v) FROM hidden)",
    "INSERT INTO back.sales_a VALUES (1)",
    "UPDATE hidden SET v = 'x'",
    "UPDATE sales_a SET v = (SELECT max(v) FROM hidden)",
    "UPDATE sales_a SET v = hidden.v FROM hidden",
    "UPDATE sales_a SET v = 'x' WHERE i IN (SELECT i FROM hidden)",
    "WITH hidden AS (SELECT 1) UPDATE hidden SET v = 'x'",
    "DELETE FROM hidden",
    "DELETE FROM sales_a USING hidden WHERE true",
    "DELETE FROM sales_a WHERE EXISTS (FROM hidden)",
    "TRUNCATE hidden",
    "WITH x AS (DELETE FROM hidden RETURNING *) FROM x",
    "WITH x AS (INSERT INTO hidden VALUES (8, 'x') RETURNING *) FROM x",
    "WITH hidden AS (SELECT 1) DELETE FROM hidden",
    "MERGE INTO hidden USING sales_a ON hidden.i = sales_a.i WHEN NOT MATCHED THEN INSERT VALUES (9, 'x')",
    "MERGE INTO sales_a USING hidden ON hidden.i = sales_a.i WHEN NOT MATCHED THEN INSERT VALUES (9, 'x')",
]

TOUCHED = [
    "INSERT INTO sales_a VALUES (11, 'x')",
    "INSERT INTO sales_a SELECT i + 20, v FROM sales_a",
    "INSERT INTO sales_a (i) VALUES (12) RETURNING i",
    "INSERT INTO shop.orders VALUES (1)",
    "UPDATE sales_a SET v = upper(v) WHERE i IN (SELECT i FROM sales_w)",
    "WITH x AS (SELECT 12 AS i) DELETE FROM sales_a USING x WHERE sales_a.i = x.i",
    "WITH x AS (DELETE FROM sales_a WHERE i = 11 RETURNING i) SELECT count(*) FROM x",
]

Way = Callable[[Engine, Principal, str], Any]


def by_read(engine: Engine, principal: Principal, sql: str) -> Any:
    """Ask by a ticket."""
    return engine.read(sql, None, called(principal)).read_all()


def by_describe(engine: Engine, principal: Principal, sql: str) -> Any:
    """Ask for the schema alone."""
    return engine.describe(sql, None, called(principal))


def by_execute(engine: Engine, principal: Principal, sql: str) -> Any:
    """Use the action `execute`."""
    return engine.execute(sql, None, called(principal))


def by_query(engine: Engine, principal: Principal, sql: str) -> Any:
    """Ask in a session."""
    return rows(engine.sessions.open(principal), sql)


def by_update(engine: Engine, principal: Principal, sql: str) -> Any:
    """Update in a session."""
    return engine.sessions.open(principal).update(sql)


def by_prepared(engine: Engine, principal: Principal, sql: str) -> Any:
    """Prepare and run."""
    return engine.sessions.open(principal).prepare(sql).update()


def by_session_description(engine: Engine, principal: Principal, sql: str) -> Any:
    """Ask a session for the schema alone."""
    return engine.sessions.open(principal).describe(sql)


def in_transaction(engine: Engine, principal: Principal, sql: str) -> Any:
    """Ask within a transaction."""
    session = engine.sessions.open(principal)
    session.update("BEGIN; SELECT 1")
    return rows(session, sql)


ASKING = [by_read, by_describe, by_execute, by_query, by_update, by_prepared, by_session_description, in_transaction]
CHANGING = [by_execute, by_query, by_update, by_prepared, in_transaction]


@pytest.mark.parametrize("way", ASKING)
def test_other_tables_are_not_seen(engine: Engine, way: Way) -> None:
    """By no statement, view, macro, function or catalog, whether they exist or not."""
    ran, told = [], []
    for principal in (READER, WRITER):
        for sql in UNSEEN:
            try:
                ran.append((sql, way(engine, principal, sql)))
            except ducktower.Forbidden as error:
                told.append(str(error))
    assert ran == []
    assert "secret" not in "".join(told)


@pytest.mark.parametrize("way", ASKING)
def test_its_own_tables_are_seen(engine: Engine, way: Way) -> None:
    """Plain questions run, by every way in."""
    for sql in SEEN:
        way(engine, READER, sql)


@pytest.mark.parametrize("way", CHANGING)
def test_other_tables_are_not_touched(engine: Engine, way: Way) -> None:
    """Neither as what is changed nor as what is read for it."""
    before = [engine.read(f"FROM {table} ORDER BY ALL").read_all() for table in ("sales_a", "hidden", "back.sales_a")]
    ran, told = [], []
    for sql in UNTOUCHED:
        try:
            ran.append((sql, way(engine, WRITER, sql)))
        except (ducktower.Forbidden, ducktower.InvalidSQL) as error:
            told.append(str(error))
    assert ran == []
    assert "secret" not in "".join(told)
    after = [engine.read(f"FROM {table} ORDER BY ALL").read_all() for table in ("sales_a", "hidden", "back.sales_a")]
    assert after == before


@pytest.mark.parametrize("way", CHANGING)
def test_its_own_tables_are_changed(engine: Engine, way: Way) -> None:
    """Plain changes run, by every way in that writes."""
    for sql in TOUCHED:
        way(engine, WRITER, sql)


NAMES = st.sampled_from(["sales_a", "hidden", "HIDDEN", "x"])
TABLES = st.one_of(NAMES, NAMES.map("main.{}".format), NAMES.map("test.main.{}".format))
SELECTS = TABLES.map("SELECT i, v FROM {}".format)


def nested(queries: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Return queries made of queries, with CTEs that take the names of tables."""
    return st.one_of(
        st.builds("WITH {} AS ({}) {}".format, NAMES, queries, queries),
        st.builds("WITH {} AS ({}), {} AS ({}) {}".format, NAMES, queries, NAMES, queries, queries),
        st.builds("WITH RECURSIVE {} AS ({}) {}".format, NAMES, queries, queries),
        st.builds("WITH RECURSIVE {} AS (({}) UNION ({})) {}".format, NAMES, queries, queries, queries),
        st.builds("({}) UNION ALL ({})".format, queries, queries),
        st.builds("SELECT i, v FROM ({}) q".format, queries),
        st.builds("SELECT q.i, p.v FROM ({}) q, LATERAL ({}) p".format, queries, queries),
        st.builds("SELECT 1 AS i, (SELECT max(v) FROM ({}) q) AS v FROM ({}) p".format, queries, queries),
        st.builds("SELECT i, v FROM ({}) q WHERE EXISTS ({})".format, queries, queries),
        st.builds("SELECT 1 AS i, list_transform([1], lambda y: (SELECT max(v) FROM ({}) q))[1] AS v".format, queries),
    )


@pytest.fixture(scope="module")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Return an engine with one table that may be seen and one that may not."""
    with opened(tmp_path_factory.mktemp("patterns") / "test.duckdb") as engine:
        engine.execute(
            "CREATE TABLE sales_a AS SELECT 1 AS i, 'a' AS v; CREATE TABLE hidden AS SELECT 7 AS i, 'secret' AS v"
        )
        yield engine


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sql=st.recursive(SELECTS, nested, max_leaves=6))
def test_no_scope_of_names_lets_a_hidden_table_through(shared_engine: Engine, sql: str) -> None:
    """However CTEs take the names of tables, rows of a hidden one do not come out."""
    with contextlib.suppress(ducktower.Forbidden, ducktower.InvalidSQL, ducktower.TableNotFound):
        with shared_engine.read(sql, None, called(READER)) as reader:
            found = reader.read_all().to_pylist()
        assert not any(row["i"] == 7 or row["v"] == "secret" for row in found)


def test_letters_that_are_one_to_python_alone_are_two(engine: Engine) -> None:
    """DuckDB knows the case of ASCII letters alone: a CTE with a Kelvin sign in its name hides no table with a k."""
    engine.execute(
        "CREATE TABLE keys (v VARCHAR); INSERT INTO keys VALUES ('secret'); CREATE TABLE \"\u00fc\" (i INTEGER)"
    )
    for sql in (
        'WITH "\u212aeys" AS (SELECT 1 AS i) FROM keys',
        'WITH RECURSIVE "\u212aeys" AS (SELECT 1 UNION ALL FROM "\u212aeys") FROM keys',
        'WITH "\u00dc" AS (SELECT 1 AS i) FROM "\u00fc"',
    ):
        for way in (by_read, by_execute, by_query, in_transaction):
            with pytest.raises(ducktower.Forbidden):
                way(engine, READER, sql)


def test_rows_go_into_its_own_tables_alone(engine: Engine) -> None:
    """By DoPut's way, by an open stream, and by both ways of a session."""
    assert (
        engine.put(Target("orders", "shop"), batches(1, 5).read_all().select(["i"]).to_reader(), called(WRITER))[0] == 5
    )
    for target in (Target("hidden"), Target("sales_a", "back"), Target("no_such_table")):
        with pytest.raises(ducktower.Forbidden, match="not among those"):
            engine.put(target, batches(1), called(WRITER))
        with pytest.raises(ducktower.Forbidden, match="not among those"):
            engine.appending(target, batches(1).schema, called(WRITER))
        session = engine.sessions.open(WRITER)
        for _ in range(2):
            with pytest.raises(ducktower.Forbidden, match="not among those"):
                session.ingest(Ingest(table=target.table, schema=target.schema), batches(1))
            session.update("SET TimeZone = 'UTC'")


def test_metadata_shows_its_own_tables_alone(engine: Engine) -> None:
    """Lists, schemas and keys, in a session and without one."""
    caller = called(READER)
    own = {"sales_a", "sales_fk", "sales_w", "orders", "v"}  # a view's columns are those of the tables under it
    assert set(engine.tables(caller).column("table_name").to_pylist()) == own
    for session in (None, engine.sessions.open(READER)):
        found = engine.tables_of(session=session, include_schema=True, caller=caller)
        assert set(found.column("table_name").to_pylist()) == own
        assert engine.db_schemas(session=session, caller=caller).column(1).to_pylist() == ["main", "shop"]
        assert engine.primary_keys(None, None, "hidden", session, caller).num_rows == 0
        assert engine.primary_keys(None, None, "sales_a", session, caller).num_rows == 1
        keys = engine.imported_keys(None, None, "sales_fk", session, caller)
        assert keys.column("pk_table_name").to_pylist() == ["sales_a"]
        assert engine.exported_keys(None, None, "hidden", session, caller).num_rows == 0
    for target in (Target("hidden"), Target("no_such_table"), Target("sales_leak"), Target("sales_catalog")):
        with pytest.raises(ducktower.Forbidden):
            engine.table_schema(target, caller)
        with pytest.raises(ducktower.Forbidden):
            engine.table_info(target, caller)
    assert engine.table_info(Target("sales_w"), caller)[1] == 2
    with pytest.raises(ducktower.TableNotFound):
        engine.table_schema(Target("sales_none"), caller)


def test_a_prepared_statement_is_looked_at_each_time(engine: Engine) -> None:
    """An owner who turns a view to another table turns it away from those who may not see that."""
    prepared = engine.sessions.open(READER).prepare("FROM sales_w")
    assert prepared.query().reader.read_all().num_rows == 2
    engine.execute("CREATE OR REPLACE VIEW sales_w AS SELECT i FROM hidden")
    with pytest.raises(ducktower.Forbidden):
        prepared.query()


def test_a_transaction_is_looked_at_as_it_sees_things(engine: Engine) -> None:
    """A view that an owner turned to other tables is in an open transaction what it was, and so is a macro."""
    engine.execute("CREATE MACRO upper(x) AS (SELECT max(v) FROM hidden)")
    session = engine.sessions.open(READER)
    prepared = session.prepare("FROM sales_w")
    session.update("BEGIN; FROM sales_a")
    engine.execute("CREATE OR REPLACE VIEW sales_leak AS SELECT * FROM sales_a; DROP MACRO upper")
    assert engine.read("SELECT upper(v) FROM sales_leak", None, called(READER)).read_all().num_rows == 2
    for sql in ("FROM sales_leak", "SELECT upper('x')"):
        with pytest.raises(ducktower.Forbidden):
            session.query(sql)
    assert prepared.query().reader.read_all().num_rows == 2
    session.update("COMMIT")
    assert len(rows(session, "SELECT upper(v) FROM sales_leak")) == 2


def test_what_patterns_mean() -> None:
    """Shells' wildcards, without regard to case; no dot is the schema main; what is no pattern is refused."""
    assert [
        sees(READER, *name) for name in (("main", "sales_a"), ("MAIN", "SALES_A"), ("shop", "x"), ("Shop", "a.b"))
    ] == [True] * 4
    assert not any(sees(READER, *name) for name in (("back", "sales_a"), ("main", "shop"), ("main", "my_sales_a")))
    assert sees(Principal("x", "reader"), "any", "thing")
    assert Principal("x", "reader", "sales_*").tables == ("sales_*",)  # type: ignore[arg-type]
    one_of = Principal("x", "reader", ("t[0-9]", "a?c", "*.log", "main.x y"))
    assert sees(one_of, "main", "t1")
    assert sees(one_of, "s", "log")
    assert sees(one_of, "main", "abc")
    assert sees(one_of, "main", "x y")
    assert not sees(one_of, "main", "t10")
    assert not sees(one_of, "main", "log\nx")
    for wrong in (("",), ("a", "")):
        with pytest.raises(ducktower.InvalidArgument):
            Principal("x", "reader", wrong)
    with pytest.raises(ducktower.InvalidArgument, match="role"):
        Principal("x", "admin")  # type: ignore[arg-type]


def test_a_macro_with_the_name_of_a_function_is_no_way_around(engine: Engine) -> None:
    """Whatever schema it is in, and from the moment on in which it is there."""
    engine.read("SELECT sum(i), upper('x') FROM sales_a, range(3)", None, called(READER)).read_all()
    engine.execute(
        "CREATE MACRO shop.upper(x) AS (SELECT max(v) FROM hidden); CREATE MACRO sum(x) AS (SELECT max(v) FROM hidden);"
        "CREATE MACRO range(x) AS TABLE FROM hidden; CREATE MACRO row_number() AS (SELECT max(v) FROM hidden)"
    )
    for sql in ("SELECT sum(1)", "SELECT shop.upper(1)", "SELECT upper('x')", "FROM range(1)", "SELECT row_number()"):
        with pytest.raises(ducktower.Forbidden):
            engine.read(sql, None, called(READER))
    engine.execute("DROP MACRO sum; DROP MACRO TABLE range")
    assert engine.read("SELECT sum(i) FROM sales_a, range(1)", None, called(READER)).read_all().num_rows == 1


def test_an_owner_can_be_limited_too(engine: Engine) -> None:
    """A pattern holds for whoever has one: then nothing is made or dropped."""
    owner = Principal("olga", "owner", ("sales_*",))
    for sql in ("CREATE VIEW sales_x AS FROM hidden", "DROP TABLE sales_a", "ALTER TABLE sales_a RENAME TO x"):
        with pytest.raises(ducktower.Forbidden, match="limited to some tables"):
            engine.execute(sql, None, called(owner))
    with pytest.raises(ducktower.Forbidden):
        engine.sessions.open(owner).update("SET schema = 'back'")


# -- what others tell of a table -----------------------------------------------------------------------


@pytest.mark.parametrize("view", ["sales_leak", "sales_deep"])
def test_a_refused_view_does_not_tell_what_is_under_it(engine: Engine, view: str) -> None:
    """Neither by SQL nor as a table: the name of a hidden table is in no refusal."""
    caller = called(READER)
    for ask in (
        lambda: engine.read(f"FROM {view}", None, caller),
        lambda: engine.table_schema(Target(view), caller),
        lambda: rows(engine.sessions.open(READER), f"SELECT * FROM sales_a, {view}"),
    ):
        with pytest.raises(ducktower.Forbidden, match=view) as refusal:
            ask()
        assert "hidden" not in str(refusal.value)


def test_a_foreign_key_tells_nothing_of_a_hidden_table(engine: Engine) -> None:
    """Rows that refer to it are refused, whether their key is there or not; those who see all may store them."""
    caller = called(WRITER)
    session = engine.sessions.open(WRITER)
    for key in (7, 8):  # the first is there
        row = pa.table({"i": pa.array([key], pa.int32())})
        for store in (
            lambda key=key: engine.execute(f"INSERT INTO sales_fk (i) VALUES ({key})", None, caller),
            lambda key=key: session.update(f"INSERT INTO sales_fk (i) VALUES ({key})"),
            lambda key=key: session.prepare(f"INSERT INTO sales_fk (i) VALUES ({key})"),
            lambda key=key: engine.execute(f"UPDATE sales_fk SET i = {key}", None, caller),
            lambda row=row: engine.put(Target("sales_fk"), row.to_reader(), caller),
            lambda row=row: session.ingest(Ingest(table="sales_fk"), row.to_reader()),
            lambda row=row: engine.appending(Target("sales_fk"), row.schema, caller),
        ):
            with pytest.raises(ducktower.Forbidden, match="tied by a foreign key") as refusal:
                store()
            assert "hidden" not in str(refusal.value)
    assert engine.execute("INSERT INTO sales_fk (i) VALUES (7)").rows == 1


def test_a_row_that_a_hidden_table_refers_to(engine: Engine) -> None:
    """It is not changed by whoever could see by it what that table has; rows are added all the same."""
    engine.execute("CREATE TABLE outside (i INTEGER REFERENCES sales_a (i)); INSERT INTO outside VALUES (1)")
    caller = called(WRITER)
    row = pa.table({"i": pa.array([4], pa.int32()), "v": ["d"]})
    changes = (
        lambda: engine.execute("DELETE FROM sales_a WHERE i = 2", None, caller),
        lambda: engine.execute("UPDATE sales_a SET i = 3 WHERE i = 2", None, caller),
        lambda: engine.execute("INSERT OR REPLACE INTO sales_a VALUES (2, 'c')", None, caller),
        lambda: engine.put(Target("sales_a", "main", "upsert", ("i",)), row.to_reader(), caller),
    )
    for change in changes:
        with pytest.raises(ducktower.Forbidden, match="tied by a foreign key"):
            change()
    assert engine.execute("INSERT INTO sales_a VALUES (3, 'c')", None, caller).rows == 1
    assert engine.put(Target("sales_a"), row.to_reader(), caller).rows == 1
    engine.execute("DROP TABLE outside")
    for change in changes[:1]:
        change()
