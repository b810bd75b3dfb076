"""SQL reaches nothing outside the database: by no function that DuckDB has, and by no kind of statement."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

import ducktower
from ducktower.config import EngineConfig
from ducktower.engine import Caller, Engine, Principal
from support.engines import batches, opened, rows

READER = Caller(principal=Principal("rita", "reader"))
WRITER = Caller(principal=Principal("walt", "writer"))
OWNER = Caller(principal=Principal("olga", "owner"))
EVERYBODY = (READER, WRITER, OWNER)

OPEN = frozenset(
    {"duckdb_approx_database_count", "duckdb_available_metrics", "duckdb_columns", "duckdb_constraints"}
    | {"duckdb_coordinate_systems", "duckdb_dependencies", "duckdb_dialects", "duckdb_eviction_queues"}
    | {"duckdb_functions", "duckdb_grammar_extensions", "duckdb_indexes", "duckdb_keywords", "duckdb_optimizers"}
    | {"duckdb_prepared_statements", "duckdb_schemas", "duckdb_secret_type_parameters", "duckdb_secret_types"}
    | {"duckdb_sequences", "duckdb_table_sample", "duckdb_tables", "duckdb_triggers", "duckdb_types"}
    | {"duckdb_variables", "duckdb_views", "generate_series", "icu_calendar_names", "json_each", "json_tree"}
    | {"pg_timezone_names", "pragma_collations", "pragma_database_size", "pragma_metadata_info", "pragma_platform"}
    | {"pragma_show", "pragma_storage_info", "pragma_table_info", "pragma_user_agent", "pragma_version", "query"}
    | {"query_table", "range", "repeat", "repeat_row", "summary", "test_all_types", "test_vector_types", "unnest"}
    | {"regexp_split_to_table", "generate_subscripts", "histogram", "histogram_values", "unpivot_list"}
)
"""Functions that give rows and tell of nothing but the database, its types and its SQL."""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Return a file beside the database that nobody may read."""
    path = tmp_path / "test.duckdb.tokens"
    path.write_text("token,hush\n1,2\n")
    return path


@pytest.fixture
def engine(database: Path, secret: Path) -> Iterator[Engine]:
    """Return an engine with a table; the secret file is there."""
    with opened(database, closed_paths=(str(secret),)) as opened_engine:
        opened_engine.execute("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1)")
        yield opened_engine


def attempts(engine: Engine, caller: Caller, sql: str) -> list[Any]:
    """Run SQL by each way in; return what came back where nothing was refused."""
    found: list[Any] = []
    session = engine.sessions.open(caller.principal)
    ways = (
        lambda: engine.read(sql, None, caller).read_all().to_pylist(),
        lambda: engine.execute(sql, None, caller),
        lambda: rows(session, sql),
        lambda: session.prepare(sql).update(),
    )
    for way in ways:
        with contextlib.suppress(ducktower.Forbidden, ducktower.InvalidSQL, ducktower.TableNotFound):
            found.append(way())
    return found


# -- every function ------------------------------------------------------------------------------------


def table_functions(engine: Engine) -> set[str]:
    """Return the functions that DuckDB has in FROM and CALL."""
    sql = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
    return set(engine.read(sql).read_all().column(0).to_pylist())


def test_every_table_function_is_open_on_purpose_or_refused(engine: Engine) -> None:
    """A function that a new DuckDB brings has to be looked at: it is in no list of what is harmless."""
    let_through = []
    for name in sorted(table_functions(engine) - OPEN):
        for caller in (READER, WRITER):
            try:
                engine.read(f"FROM {name}('x')", None, caller)
                let_through.append(name)
            except ducktower.Forbidden:
                pass
            except ducktower.InvalidSQL:  # DuckDB looked at its arguments
                let_through.append(name)
    assert sorted(set(let_through)) == []


def test_every_function_of_files_is_closed_to_everybody(engine: Engine, database: Path, secret: Path) -> None:
    """The served database's own files, which DuckDB itself leaves open, and all others."""
    names = [
        name
        for name in table_functions(engine) - OPEN
        if name.startswith(("read_", "parquet_")) or name in ("glob", "sniff_csv")
    ]
    assert len(names) >= 20
    for name in names:
        for path in (database, f"{database}.wal", f"{database}.tmp/x", secret, "/etc/passwd", "https://localhost/x"):
            for caller in EVERYBODY:
                with pytest.raises(ducktower.Forbidden, match="not offered"):
                    engine.read(f"FROM {name}('{path}')", None, caller)


def test_no_function_of_values_looks_into_a_file(engine: Engine, database: Path) -> None:
    """Given a path, or SQL that reads it, none returns or quotes what is in there, such as a header it found."""
    seen = Path(f"{database}.tmp")  # which DuckDB itself leaves open
    seen.mkdir()
    (seen / "x.csv").write_text("hush_header,other\nhush_value,1\n")
    sql = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type NOT IN ('table', 'table_macro')"
    names = [name for name in engine.read(sql).read_all().column(0).to_pylist() if name.isidentifier()]
    assert len(names) > 500
    path = f"{seen}/x.csv"
    for name in names:
        for argument in (path, f"SELECT hush FROM read_csv('{path}')", f"FROM '{path}'"):
            quoted = argument.replace("'", "''")
            try:
                told = str(engine.read(f"SELECT \"{name}\"('{quoted}') AS v", None, OWNER).read_all().to_pylist())
            except (ducktower.DucktowerError, OSError) as error:
                told = str(error)
            assert "hush_" not in told, name


SPELLINGS = [
    "FROM read_blob('{0}')",
    "FROM READ_BLOB('{0}')",
    "FROM \"read_blob\"('{0}')",
    "FROM system.main.read_blob('{0}')",
    "FROM read_blob ('{0}')",
    "FROM read_blob/* x */('{0}')",
    "FROM read_blob -- x\n ('{0}')",
    "FROM read_blob\u00a0('{0}')",
    "FROM read_blob\u200b('{0}')",
    "SELECT 'x', * FROM read_blob(['{0}'])",
    "SELECT \"it's\", size FROM (SELECT size AS \"it's\", size FROM read_blob('{0}'))",
    "SELECT $$'$$, size FROM read_blob('{0}') -- '",
    "SELECT E'\\'', size FROM read_blob('{0}'), (SELECT '''')",
    "SELECT (SELECT size FROM read_blob('{0}'))",
    "WITH x AS (FROM read_blob('{0}')) FROM x",
    "FROM query('FROM read_blob(''{0}'')')",
    "FROM query('FROM rea' || 'd_blob(''{0}'')')",
    "FROM query(concat('FROM rea', 'd_blob(''{0}'')'))",
    "FROM query/**/('FROM rea' || 'd_blob(''{0}'')')",
    "FROM \"query\"('FROM rea' || 'd_blob(''{0}'')')",
    "FROM json_execute_serialized_sql(json_serialize_sql('FROM rea' || 'd_blob(''{0}'')'))",
    "SELECT json_serialize_plan('FROM read_csv(''{0}'')')",
    "SELECT json_serialize_plan('FROM read_' || 'csv(''{0}'')')",
    "PRAGMA json_execute_serialized_sql(json_serialize_sql('FROM rea' || 'd_blob(''{0}'')'))",
    "CALL read_blob('{0}')",
    "EXPLAIN ANALYZE FROM read_blob('{0}')",
    "DESCRIBE FROM read_blob('{0}')",
    "SUMMARIZE FROM read_blob('{0}')",
    "CREATE VIEW v AS FROM read_blob('{0}')",
    "CREATE TABLE v AS FROM read_blob('{0}')",
    "CREATE MACRO m() AS TABLE FROM read_blob('{0}')",
    "INSERT INTO t SELECT size FROM read_blob('{0}')",
    "UPDATE t SET i = (SELECT size FROM read_blob('{0}'))",
    "PREPARE p AS FROM read_blob('{0}')",
    "FROM '{0}'",
    'FROM "{0}"',
    "FROM query_table('{0}')",
    "ATTACH '{0}' AS x",
    "COPY t FROM '{0}'",
    "IMPORT DATABASE '{0}'",
    "PRAGMA import_database('{0}')",
    "PRAGMA copy_database('test', 'temp')",
]


@pytest.mark.parametrize("caller", EVERYBODY)
def test_no_spelling_reaches_a_file(engine: Engine, database: Path, secret: Path, caller: Caller) -> None:
    """Quotes, comments, blanks of Unicode, texts run as SQL, views and macros."""
    for path in (database, secret):
        for spelling in SPELLINGS:
            assert attempts(engine, caller, spelling.format(path)) == [], spelling
    assert rows(engine.sessions.open(), "FROM t") == [(1,)]


WRITES = [
    "COPY t TO '{0}'",
    "COPY (SELECT 1) TO '{0}'",
    "COPY (SELECT 1) TO ('{0}')",
    "COPY t TO '{0}' (FORMAT parquet)",
    "WITH x AS (COPY (SELECT 1) TO '{0}') SELECT * FROM x",
    "WITH x AS (COPY t TO '{0}') FROM x",
    "WITH x AS MATERIALIZED (/* x */ COPY t TO '{0}') FROM x",
    "EXPLAIN ANALYZE COPY t TO '{0}'",
    "EXPLAIN ANALYZE WITH x AS (COPY t TO '{0}') FROM x",
    "CREATE TABLE made AS WITH x AS (COPY t TO '{0}') FROM x",
    "CREATE VIEW made AS WITH x AS (COPY t TO '{0}') FROM x",
    "INSERT INTO t WITH x AS (COPY t TO '{0}') SELECT 1 FROM x",
    "MERGE INTO t USING (WITH x AS (COPY t TO '{0}') SELECT 1 AS i FROM x) s ON t.i = s.i WHEN MATCHED THEN DELETE",
    "FROM query('WITH x AS (COPY t TO ''{0}'') FROM x')",
    "PREPARE p AS COPY t TO '{0}'",
    "PREPARE p AS EXPORT DATABASE '{0}'",
    "EXPORT DATABASE '{0}'",
    "ATTACH '{0}' AS made",
]


@pytest.mark.parametrize("caller", EVERYBODY)
def test_nothing_is_written_outside(engine: Engine, database: Path, tmp_path: Path, caller: Caller) -> None:
    """DuckDB lets a query write into its own log and temporary directory, in a read-only transaction, too."""
    Path(f"{database}.tmp").mkdir()
    targets = (f"{database}.wal", f"{database}.wal.recovery", f"{database}.tmp/made.csv", tmp_path / "made.csv")
    engine.checkpoint()
    for target in targets:
        for spelling in WRITES:
            assert attempts(engine, caller, spelling.format(target)) == [], spelling
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted(
        {"test.duckdb", "test.duckdb.tmp", "test.duckdb.tokens"} | {path.name for path in tmp_path.glob("*.wal")}
    )
    engine.execute("INSERT INTO t VALUES (2)")
    assert engine.read("SELECT count(*) AS n FROM t").read_all().to_pylist() == [{"n": 2}]


def test_words_of_files_may_be_said(engine: Engine) -> None:
    """Texts, names of columns and comments that look like what is closed are nobody's business."""
    engine.execute('CREATE TABLE log (query VARCHAR, copy INTEGER, "glob" VARCHAR)')
    for sql in (
        "INSERT INTO log VALUES ('FROM read_csv(''x'')', 1, 'WITH x AS (COPY t TO ''y'') FROM x')",
        "UPDATE log SET query = 'SELECT * FROM glob(''*'')' WHERE copy = 1",
    ):
        engine.execute(sql, None, WRITER)
    for sql in (
        "SELECT query, copy, log.glob FROM log WHERE query LIKE '%read_blob(%'",
        "SELECT max(query) AS query FROM log -- the query of it",
        "FROM query('FROM log')",
        "SELECT copy AS to_copy FROM log",
        "SELECT current_setting('TimeZone')",
    ):
        engine.read(sql, None, READER).read_all()


# -- what is not a file --------------------------------------------------------------------------------


def test_the_environment_is_closed(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no function for it, and no setting shows it."""
    monkeypatch.setenv("DUCKTOWER_HUSH", "from the environment")
    for sql in (
        "SELECT getenv('DUCKTOWER_HUSH')",
        "SELECT current_setting('DUCKTOWER_HUSH')",
        "FROM duckdb_settings()",
    ):
        for caller in EVERYBODY:
            assert "from the environment" not in str(attempts(engine, caller, sql))


hush_table = pa.table({"hush": [42]})
"""A variable of the process that serves."""


def test_variables_of_the_process_are_closed(engine: Engine) -> None:
    """Neither by name nor by the functions that DuckDB reads them with."""
    hush_local = pa.table({"hush": [42]})
    assert hush_local.num_rows == 1
    for sql in (
        "FROM hush_table",
        "FROM hush_local",
        "FROM batches",
        "FROM query_table('hush_table')",
        "SELECT * FROM arrow_scan(1, 2, 3)",
        "SELECT * FROM python_arrow_scan(1)",
        "SELECT * FROM pandas_scan(1)",
        "SELECT * FROM python_map_function((FROM t))",
    ):
        for caller in EVERYBODY:
            assert attempts(engine, caller, sql) == [], sql


def test_what_others_registered_or_keep_for_themselves_is_closed(engine: Engine) -> None:
    """Rows on their way in, temporary tables, variables and prepared statements belong to one session each."""
    mine, other = engine.sessions.open(), engine.sessions.open()
    mine.update("CREATE TEMP TABLE own AS SELECT 42 AS hush; SET VARIABLE hush = 42; PREPARE hush AS SELECT 42")
    engine.put(ducktower.engine.Target("t"), batches(1).read_all().select(["i"]).to_reader())  # plans stay registered
    for sql in ("FROM own", "FROM temp.own", "FROM temp.main.own", "EXECUTE hush", "FROM test.own"):
        with pytest.raises(ducktower.DucktowerError):
            rows(other, sql)
    assert rows(other, "SELECT getvariable('hush')") == [(None,)]
    for sql in (
        "SELECT view_name FROM duckdb_views() WHERE view_name LIKE '%ducktower%'",
        "SELECT table_name FROM duckdb_tables() WHERE temporary",
        "FROM duckdb_variables()",
        "FROM duckdb_prepared_statements()",
    ):
        assert rows(other, sql) == [], sql


TELLING = [
    "FROM duckdb_databases()",
    "FROM duckdb_databases",
    "FROM pragma_database_list",
    "FROM duckdb_settings()",
    "FROM pg_catalog.pg_settings",
    "FROM duckdb_extensions()",
    "FROM duckdb_secrets()",
    "FROM duckdb_secrets",
    "FROM duckdb_logs",
    "FROM duckdb_logs()",
    "FROM duckdb_logs_parsed('QueryLog')",
    "FROM duckdb_log_contexts()",
    "FROM duckdb_temporary_files()",
    "FROM duckdb_external_file_cache()",
    "SELECT current_setting('temp_directory')",
    "SELECT current_setting('allowed_paths')",
    "SELECT current_setting('secret_directory')",
    "SELECT current_setting('temp' || '_directory')",
    "SELECT current_setting('TimeZone'), current_setting('temp_directory')",
    "SELECT \"current_setting\"('temp_directory')",
    "SHOW temp_directory",
    'SHOW "Secret_Directory"',
    "SHOW /* */ 'home_directory'",
    "SHOW $$temp_directory$$",
    "FROM (SHOW temp_directory)",
    "WITH x AS (SHOW allowed_paths) FROM x",
    "FROM query('SHOW temp_directory')",
    "FROM query('SHOW \"temp_directory\"')",
    "FROM which_secret('s3://x', 's3')",
    "SELECT write_log('x')",
    "FROM checkpoint()",
    "FROM force_checkpoint()",
    "FROM truncate_duckdb_logs()",
    "FROM enable_logging()",
    "FROM enable_profiling()",
]


def test_the_machine_is_the_owners_business(engine: Engine) -> None:
    """Paths, settings, logs and what operates the server: not for readers and writers."""
    for caller in (READER, WRITER):
        for sql in TELLING:
            with pytest.raises(ducktower.Forbidden):
                engine.read(sql, None, caller)
            assert attempts(engine, caller, sql) == [], sql
            assert attempts(engine, caller, f"INSERT INTO t SELECT 1 FROM ({sql})") == [], sql


def test_what_is_there_may_be_shown(engine: Engine) -> None:
    """Tables, databases and what a session may set."""
    for caller in (READER, WRITER):
        for sql in ("SHOW t", "SHOW TABLES", "SHOW DATABASES", "SHOW TimeZone", "SELECT 'show temp_directory'"):
            assert engine.read(sql, None, caller).read_all().num_rows > 0


def test_duckdb_itself_is_closed(engine: Engine) -> None:
    """Behind our own refusals of SQL: on a cursor of the database, past every one of them."""
    with contextlib.closing(engine._database.lease("internal")) as lease:
        asked = "current_setting('enable_external_access'), current_setting('lock_configuration')"
        assert lease.cursor.execute(f"SELECT {asked}").fetchall() == [(False, True)]
        for sql, told in (
            ("SET enable_external_access = true", "locked"),
            ("FROM read_text('/etc/hostname')", "disabled by configuration"),
        ):
            with pytest.raises(duckdb.Error, match=told):
                lease.cursor.execute(sql)


@pytest.mark.parametrize("external_access", [False, True])
def test_duckdb_itself_finds_no_variable(database: Path, *, external_access: bool) -> None:
    """Not even where files are open, and those of the thread that asks: DuckDB would look into its frames."""
    hush_local = pa.table({"hush": [42]})
    assert hush_local.num_rows == hush_table.num_rows == 1
    with (
        opened(database, external_access=external_access) as engine,
        contextlib.closing(engine._database.lease("internal")) as lease,
    ):
        for name in ("hush_local", "hush_table"):
            with pytest.raises(duckdb.CatalogException, match="does not exist"):
                lease.cursor.execute(f"FROM {name}")


def test_settings_are_locked_for_everybody(engine: Engine) -> None:
    """The owner of a sandbox cannot open it by SQL either."""
    for sql in (
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET allowed_directories = ['/']",
        "SET allowed_paths = ['/etc/passwd']",
        "SET python_enable_replacements = true",
        "SET autoinstall_known_extensions = true",
        "SET allow_community_extensions = true",
        "SET home_directory = '/'",
        "RESET enable_external_access",
        "PRAGMA enable_logging",
        "INSTALL httpfs",
        "LOAD '/tmp/x.duckdb_extension'",
        "UPDATE EXTENSIONS",
        "CREATE SECRET s (TYPE http)",
        "CREATE PERSISTENT SECRET s (TYPE http)",
        "DROP SECRET s",
        "FROM register_external_resource('a', 'b', 'c')",
    ):
        for caller in EVERYBODY:
            assert attempts(engine, caller, sql) == [], sql


def test_errors_tell_no_paths(engine: Engine, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What DuckDB says of files that it was refused has the folders of the server in it."""
    for sql in (
        "FROM duckdb_extensions()",
        "INSTALL httpfs",
        "UPDATE EXTENSIONS",
        "LOAD httpfs",
        "FROM duckdb_secrets()",
    ):
        with pytest.raises(ducktower.DucktowerError) as refusal:
            engine.execute(sql, None, OWNER)
        assert os.path.expanduser("~") not in str(refusal.value)
        assert str(database.parent) not in str(refusal.value)
    monkeypatch.chdir(database.parent)
    for way in (engine.read, engine.execute, lambda sql: rows(engine.sessions.open(), sql)):
        with pytest.raises(ducktower.DucktowerError) as refusal:
            way(f"FROM '{database.name}'")
        assert str(database.parent) not in str(refusal.value)


# -- what the operator opens ---------------------------------------------------------------------------


def test_an_open_directory_is_open_and_nothing_else(database: Path, tmp_path: Path, secret: Path) -> None:
    """Everybody reads it, owners write it; links, dots and computed paths do not lead out of it."""
    shared, outside = tmp_path / "shared", tmp_path / "outside"
    shared.mkdir()
    outside.mkdir()
    (shared / "a.csv").write_text("i\n1\n2\n")
    (shared / "deep" / "er").mkdir(parents=True)
    (shared / "deep" / "er" / "c.csv").write_text("i\n4\n")
    (shared / "deep" / "loop").symlink_to(shared / "deep")
    (outside / "b.csv").write_text("i\n3\n")
    (shared / "link.csv").symlink_to(secret)
    (shared / "out").symlink_to(outside)
    with opened(database, allow_paths=(str(shared),), closed_paths=(str(secret),)) as engine:
        engine.execute("CREATE TABLE t (i INTEGER); INSERT INTO t VALUES (1)")
        for sql in (
            f"FROM read_csv('{shared}/a.csv')",
            f"FROM read_csv(['{shared}/a.csv'], header := true)",
            f"FROM '{shared}/a.csv'",
            f"FROM glob('{shared}/a*')",
            f"FROM glob('{shared}/deep/**/*.csv')",
            f"SELECT count(*) FROM read_text('{shared}/a.csv')",
        ):
            assert engine.read(sql, None, READER).read_all().num_rows >= 1
        engine.execute(f"COPY t TO '{shared}/t.parquet' (FORMAT parquet)", None, OWNER)
        engine.execute(f"COPY t FROM '{shared}/t.parquet' (FORMAT parquet)", None, OWNER)
        engine.execute(f"EXPORT DATABASE '{shared}/dump'", None, OWNER)
        assert (shared / "dump" / "schema.sql").exists()
        before = sorted(path.name for path in tmp_path.rglob("*"))
        for caller in EVERYBODY:
            for sql in (
                f"FROM read_csv('{outside}/b.csv')",
                f"FROM read_csv('{shared}/../outside/b.csv')",
                f"FROM read_csv('{shared}/out/b.csv')",
                f"FROM glob('{shared}/out/*')",
                f"FROM glob('{shared}/*/*')",
                f"FROM glob('{shared}/*/b.csv')",
                f"FROM glob('{shared}/*')",
                f"FROM glob('{shared}/**')",
                f"FROM glob('{shared}/**/*.csv')",
                f"FROM glob('{shared}/[l]ink.csv')",
                f"FROM glob('{shared}/o\\ut/*')",
                f"FROM glob('{shared}/*/../../outside/*')",
                f"FROM read_text('{shared}/?ink.csv')",
                f"FROM read_text('{shared}/link.csv')",
                f"FROM read_blob('{database}')",
                f"FROM read_blob('{shared}/a' || '.csv')",
                f"FROM read_csv(['{shared}/a.csv', '{secret}'])",
                f"COPY t TO '{shared}/../made.csv'",
                f"COPY t TO '{shared}/out/made.csv'",
                f"COPY t TO ('{shared}/' || 'made.csv')",
                f"COPY t TO '{database}.wal'",
                f"WITH x AS (COPY t TO '{shared}/made.csv') FROM x",
                f"ATTACH '{shared}/made.duckdb' AS made",
                f"IMPORT DATABASE '{shared}/dump'",
                "INSTALL httpfs",
                "SET enable_external_access = true",
            ):
                assert attempts(engine, caller, sql) == [], sql
        for caller in (READER, WRITER):
            assert attempts(engine, caller, f"COPY t TO '{shared}/made.csv'") == []
        assert sorted(path.name for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("caller", EVERYBODY)
def test_nobody_loads_an_extension_by_sql(database: Path, caller: Caller) -> None:
    """Not even one that is built in, nor one that the operator loaded, by any way in."""
    with opened(database, allow_extensions=("json",)) as engine:
        for sql in (
            *("LOAD json", "LOAD 'parquet'", 'LOAD "icu"', "load\tcore_functions", "SELECT 1; LOAD json"),
            *("INSTALL json", "FORCE INSTALL json", "INSTALL json FROM core", "EXPLAIN LOAD json"),
            *("PREPARE p AS LOAD json", "EXPLAIN ANALYZE LOAD json", "FROM query('LOAD json')"),
        ):
            assert attempts(engine, caller, sql) == [], sql
        with pytest.raises(ducktower.Forbidden, match="operator"):
            engine.execute("LOAD json", None, caller)


def test_where_all_is_open_an_owner_alone_loads(database: Path) -> None:
    """`external_access` gives owners what DuckDB has, and others no more than before."""
    with opened(database, external_access=True) as engine:
        assert attempts(engine, OWNER, "LOAD json") != []
        for caller in (READER, WRITER):
            assert attempts(engine, caller, "LOAD json") == []


def test_a_file_that_is_not_there_is_the_clients_mistake(database: Path, tmp_path: Path) -> None:
    """It is named, and there is no use in trying again; where the server's own are is not told."""
    shared = tmp_path / "shared"
    shared.mkdir()
    with opened(database, allow_paths=(str(shared),)) as engine:
        engine.execute("CREATE TABLE t (i INTEGER)")
        for call in (
            lambda: engine.read(f"FROM read_csv('{shared}/no.csv')", None, READER),
            lambda: engine.read(f"FROM '{shared}/no.csv'", None, READER),
            lambda: engine.read(f"FROM read_parquet('{shared}/no*.csv')", None, READER),
            lambda: engine.execute(f"COPY t FROM '{shared}/no.csv'", None, OWNER),
            lambda: engine.execute(f"COPY t TO '{shared}/no/t.csv'", None, OWNER),
            lambda: rows(engine.sessions.open(OWNER.principal), f"FROM read_json('{shared}/no.csv')"),
        ):
            with pytest.raises(ducktower.InvalidArgument, match=f"{shared}/no"):
                call()


@pytest.mark.parametrize("opened_one", [".", "..", "no such"])
def test_a_directory_with_closed_files_is_not_opened(database: Path, secret: Path, opened_one: str) -> None:
    """The folder of the database, of the tokens or of either's folder is refused at the start, by name."""
    with pytest.raises(ducktower.InvalidArgument, match="allow_paths"):
        Engine(EngineConfig(database=str(database), allow_paths=(str(database.parent / opened_one),)))
    with pytest.raises(ducktower.InvalidArgument, match="allow_paths"):
        Engine(EngineConfig(allow_paths=(str(secret.parent),), closed_paths=(str(secret),)))


def test_an_extension_is_loaded_at_the_start_and_closes_behind_itself(database: Path, secret: Path) -> None:
    """What loading needs is not open afterwards; an extension that is not there is an error that names it."""
    with opened(database, allow_extensions=("json",)) as engine:
        for caller in EVERYBODY:
            for sql in (f"FROM read_text('{secret}')", "SET enable_external_access = true", "INSTALL httpfs"):
                assert attempts(engine, caller, sql) == [], sql
            assert attempts(engine, caller, f"FROM '{secret}.csv'") == []
        assert engine.read("SELECT current_setting('lock_configuration') AS locked").read_all()["locked"][0].as_py()
    for name in ("no_such_extension", "/tmp/x", "json'; SELECT 1"):
        with pytest.raises(ducktower.InvalidArgument, match="extension"):
            Engine(EngineConfig(database=str(database), allow_extensions=(name,)))
