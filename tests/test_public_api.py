"""What `import ducktower` gives, and what it does not load."""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import ducktower
from support.servers import environment

ROOT = Path(__file__).parent.parent
LAZY = {"FlightServer", "serve", "Appender", "Backup", "Executed", "FlightClient", "PendingWrite", "Receipt"}
LAZY |= {"WriterState", "connect"}


def test_all_is_what_there_is() -> None:
    """`__all__` names exactly the public names, and each of them can be imported."""
    assert dir(ducktower) == ducktower.__all__
    public = {
        name
        for name, value in vars(ducktower).items()
        if not name.startswith("_") and not inspect.ismodule(value) and name not in ("TYPE_CHECKING", "import_module")
    }
    assert set(ducktower.__all__) == public | LAZY
    assert sorted(ducktower.__all__) == ducktower.__all__
    for name in ducktower.__all__:
        assert getattr(ducktower, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As of any module."""
    with pytest.raises(AttributeError, match="has no attribute 'nope'"):
        ducktower.nope  # noqa: B018 - asking is the test


def test_everything_public_is_documented() -> None:
    """Each public class, function and method has a docstring."""
    missing = []
    for name in ducktower.__all__:
        value = getattr(ducktower, name)
        members = [(name, value)]
        if inspect.isclass(value):
            members += [
                (f"{name}.{member}", one)
                for member, one in vars(value).items()
                if not member.startswith("_") and (inspect.isfunction(one) or isinstance(one, property))
            ]
        missing += [label for label, one in members if not inspect.getdoc(one)]
    assert missing == []


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        (
            "import ducktower; ducktower.connect('grpc://127.0.0.1:1')",
            ["duckdb", "_duckdb", "ibis", "pandas", "polars", "typer"],
        ),
        ("import ducktower", ["pyarrow", "duckdb"]),
        ("import ducktower.cli.app", ["pyarrow", "duckdb", "pandas"]),
        ("import ducktower.errors, ducktower.config", ["pyarrow", "duckdb", "ibis", "pandas", "polars"]),
        ("import ducktower.monitor", ["duckdb"]),
        ("import ducktower.engine", ["pyarrow.flight", "ibis", "pandas", "polars"]),
        ("import ducktower.server", ["ibis", "pandas", "polars", "typer", "rich", "cryptography"]),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, absent: list[str]) -> None:
    """A fresh interpreter that only connects needs no DuckDB; nobody loads the optional libraries."""
    program = f"import sys; {statement}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, env=environment()
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_version_is_the_projects() -> None:
    """One version in the code and in the metadata."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ducktower.__version__ == project["version"]


def test_the_receipts_of_both_halves_are_alike() -> None:
    """The engine's and the client's receipts have the same fields in the same order."""
    from ducktower.engine import words

    assert words.Receipt._fields == ducktower.Receipt._fields == ("rows", "commit")
    assert words.Executed._fields == ducktower.Executed._fields == ("rows", "commit", "table")
