"""The error tree and the form in which an error crosses the wire."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ducktower
from ducktower import errors
from ducktower.engine.failures import translate
from ducktower.errors import CODES, DucktowerError, InvalidSQL, Overloaded, coded_text, from_coded_text
from ducktower.protocol.commands import error_body, error_from_body

DESIGNED = {
    "INVALID_ARGUMENT": False,
    "INVALID_SQL": False,
    "TABLE_NOT_FOUND": False,
    "TABLE_EXISTS": False,
    "SCHEMA_MISMATCH": False,
    "CONSTRAINT_VIOLATION": False,
    "UNAUTHENTICATED": False,
    "FORBIDDEN": False,
    "CONFLICT": True,
    "OVERLOADED": True,
    "UNAVAILABLE": True,
    "TIMEOUT": False,
    "CANCELLED": False,
    "LIMIT_EXCEEDED": False,
    "INTERNAL": False,
}


def test_codes_and_what_may_be_retried_are_stable() -> None:
    """Programs decide on codes, so neither a code nor its `retryable` changes unnoticed."""
    assert {code: kind.retryable for code, kind in CODES.items()} == DESIGNED


def test_every_class_has_its_own_code_and_is_in_the_table() -> None:
    """A class that is missing in the table would arrive as another one."""
    kinds = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, DucktowerError) and value is not DucktowerError
    }
    assert kinds == set(CODES.values())
    assert all(kind.code == code for code, kind in CODES.items())


def test_errors_show_their_public_name() -> None:
    """A traceback says `ducktower.InvalidSQL`, which is what a user can import."""
    for kind in CODES.values():
        assert kind.__module__ == "ducktower"
        assert getattr(ducktower, kind.__name__) is kind


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    """The drawn tree names each class, its code and whether it may be retried."""
    drawn = re.findall(r"\+-- (\w+) +([A-Z_]+)( +yes)?\n", errors.__doc__ or "")
    assert [(name, code, bool(yes)) for name, code, yes in drawn] == [
        (kind.__name__, code, kind.retryable) for code, kind in CODES.items()
    ]


def test_an_error_without_text_still_says_something() -> None:
    """The message of an error raised without one is its code."""
    assert InvalidSQL().message == "INVALID_SQL"


@pytest.mark.parametrize("kind", CODES.values(), ids=CODES)
def test_coded_text_round_trips(kind: type[DucktowerError]) -> None:
    """What one side writes the other reads: class and text."""
    back = from_coded_text("Flight error: " + coded_text(kind('column "a": found\nVARCHAR [X] y')))
    assert type(back) is kind
    assert back.message == 'column "a": found\nVARCHAR [X] y'


@pytest.mark.parametrize("kind", CODES.values(), ids=CODES)
def test_a_hint_when_to_come_back_round_trips(kind: type[DucktowerError]) -> None:
    """What may be retried carries it, in a status and in JSON; of what may not it is left out."""
    error = kind("all 3 places are taken", retry_after_seconds=0.25)
    hint = 0.25 if kind.retryable else None
    assert ("retry_after_seconds=0.25; " in coded_text(error)) is kind.retryable
    for back in (from_coded_text("Flight error: " + coded_text(error)), error_from_body(error_body(error))):
        assert type(back) is kind
        assert (back.message, back.retry_after_seconds) == ("all 3 places are taken", hint)


@pytest.mark.parametrize("kind", CODES.values(), ids=CODES)
@pytest.mark.parametrize("hint", [None, 0.25])
def test_that_the_outcome_is_not_known_round_trips(kind: type[DucktowerError], hint: float | None) -> None:
    """In a status and in JSON, with a hint and without one."""
    error = kind("lost", retry_after_seconds=hint)
    for lost in (False, True):
        error.outcome_unknown = lost
        for back in (from_coded_text("Flight error: " + coded_text(error)), error_from_body(error_body(error))):
            assert type(back) is kind
            assert (back.message, back.outcome_unknown) == ("lost", lost)


def test_after_a_fatal_error_the_outcome_is_not_known() -> None:
    """Whatever DuckDB says of it; of every other failure it is known that nothing was stored."""
    assert translate(duckdb.FatalException("FATAL Error: invalidated")).outcome_unknown
    assert not translate(duckdb.IOException("IO Error: a file")).outcome_unknown


@given(st.floats(min_value=0, max_value=1e12))
def test_a_hint_stays_a_hint(seconds: float) -> None:
    """Whatever the server computed arrives as a time above zero that ends."""
    back = from_coded_text(coded_text(Overloaded("x", retry_after_seconds=seconds)))
    assert back is not None
    assert back.message == "x"
    assert back.retry_after_seconds is not None
    assert 0 < back.retry_after_seconds <= 3_600


@pytest.mark.parametrize(
    "text",
    ["retry_after_seconds=; x", "retry_after_seconds=-1; x", "retry_after_seconds=1e9; x", "retry_after_seconds=1"],
)
def test_what_only_looks_like_a_hint_is_text(text: str) -> None:
    """A message is not robbed of its beginning."""
    for kind in (Overloaded, InvalidSQL):
        back = from_coded_text(coded_text(kind(text)))
        assert back is not None
        assert (back.message, back.retry_after_seconds) == (text, None)
    back = from_coded_text("[INVALID_SQL] retry_after_seconds=1; x")
    assert back is not None
    assert (back.message, back.retry_after_seconds) == ("retry_after_seconds=1; x", None)


@pytest.mark.parametrize(
    "tail",
    [
        ". Detail: Python exception: DucktowerStatusInvalid",
        ". gRPC client debug context: UNKNOWN:Error received",
        ". Client context: IOError: Server never sent a data message. Detail: Internal",
    ],
)
def test_what_the_transport_appends_is_left_out(tail: str) -> None:
    """gRPC and Arrow append notes for developers; users do not see them."""
    back = from_coded_text("[INVALID_SQL] syntax error." + tail)
    assert back is not None
    assert back.message == "syntax error."


@pytest.mark.parametrize("text", ["", "no code", "[NOT_A_CODE] text", "[invalid_sql] text", "[INVALID_SQL]text"])
def test_a_text_without_a_code_is_no_error_of_ours(text: str) -> None:
    """What other software says is not mistaken for ours."""
    assert from_coded_text(text) is None


@given(st.text(min_size=0, max_size=300), st.integers(min_value=40, max_value=200))
def test_a_long_text_is_cut_within_its_bytes(text: str, bytes_max: int) -> None:
    """However many bytes a character has, the text stays within the limit and keeps its code."""
    cut = coded_text(InvalidSQL(text), bytes_max)
    assert len(cut.encode()) <= bytes_max
    assert cut.startswith("[INVALID_SQL] ")
    assert type(from_coded_text(cut)) is InvalidSQL


def test_every_code_is_documented() -> None:
    """A user who meets a code finds it in the documentation."""
    root = Path(__file__).parent.parent
    texts = [root / "README.md", *sorted((root / "docs").rglob("*.md"))]
    documented = "\n".join(path.read_text() for path in texts)
    assert [code for code in CODES if code not in documented] == []


def test_whatever_is_refused_as_overloaded_says_when_to_come_back() -> None:
    """Every place of the server that raises it gives a hint; a client's own knows nothing to give."""
    package = Path(ducktower.__file__).parent
    found = bare = 0
    for path in [*package.glob("engine/**/*.py"), *package.glob("server/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Overloaded":
                found += 1
                bare += "retry_after_seconds" not in {one.arg for one in node.keywords}
    assert found > 10
    assert bare == 0
