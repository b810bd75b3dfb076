"""The size of a batch, read off its C struct: right for every type DuckDB makes, wherever a slice begins."""

from __future__ import annotations

import ctypes

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ducktower.engine.batch_bytes import BatchBytes

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype = ctypes.c_void_p
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]

COLUMNS = {
    "BOOLEAN": "i % 2 = 0",
    "SMALLINT": "i % 100",
    "DECIMAL(18,3)": "i / 7",
    "HUGEINT": "i",
    "TIMESTAMPTZ": "make_timestamptz(i * 1000000)",
    "INTERVAL": "to_days(i::INTEGER)",
    "VARCHAR": "repeat('x', (i % 50)::INTEGER)",
    "BLOB": "repeat('x', (i % 9)::INTEGER)::BLOB",
    "UUID": "uuid()",
    "BIT": "(i % 8)::INTEGER::BIT",
    "ENUM('a', 'bb', 'ccc')": "['a', 'bb', 'ccc'][1 + i % 3]",
    "INTEGER[]": "range(i % 20)",
    "VARCHAR[]": "[repeat('y', (j)::INTEGER) for j in range(i % 6)]",
    "INTEGER[3]": "[i, i, i]",
    "VARCHAR[2]": "['a', repeat('z', (i % 5)::INTEGER)]",
    "STRUCT(a INTEGER, b VARCHAR, c STRUCT(d VARCHAR[]))": (
        "{'a': i, 'b': repeat('b', (i % 7)::INTEGER), 'c': {'d': ['p', repeat('q', (i % 3)::INTEGER)]}}"
    ),
    "MAP(VARCHAR, INTEGER)": "map([repeat('k', (i % 4)::INTEGER + 1)], [i])",
    "MAP(INTEGER, STRUCT(x VARCHAR[]))": "map([i], [{'x': ['1', repeat('2', (i % 11)::INTEGER)]}])",
}
ROWS = 3_000


def measured(batch: pa.RecordBatch) -> int:
    """Measure as a stream does: from the struct's address alone."""
    _, capsule = batch.__arrow_c_array__()
    sizes = BatchBytes(batch.schema)
    assert sizes.measurable
    return sizes.of(_pointer(capsule, b"arrow_array"))


def agrees(batch: pa.RecordBatch) -> None:
    """Nothing is missed; what is too much is the validity of values that have no NULL, and one offset a buffer."""
    found, wanted = measured(batch), batch.nbytes
    dictionaries = sum(
        batch.column(i).dictionary.nbytes for i, f in enumerate(batch.schema) if pa.types.is_dictionary(f.type)
    )
    assert wanted - dictionaries - 64 <= found <= (wanted - dictionaries) * 1.2 + 64


@pytest.mark.parametrize("kind", COLUMNS)
def test_every_type_is_measured(kind: str) -> None:
    """Also with NULLs, and where the batch is a slice of a longer one."""
    with duckdb.connect() as connection:
        value = f"CASE WHEN i % 13 = 0 THEN NULL ELSE ({COLUMNS[kind]})::{kind} END"
        table = connection.sql(f"SELECT i, {value} AS v FROM range({ROWS}) AS r(i)").to_arrow_table()
    (batch,) = table.combine_chunks().to_batches()
    agrees(batch)
    agrees(batch.slice(1_001, 500))
    assert measured(batch.slice(7, 0)) == 0


@given(st.lists(st.one_of(st.none(), st.text(max_size=40)), max_size=60), st.integers(0, 60), st.integers(0, 60))
def test_slices_of_texts(values: list[str | None], start: int, length: int) -> None:
    """Any slice of any texts, short and long offsets alike."""
    schema = pa.schema([("v", pa.string()), ("l", pa.large_string()), ("n", pa.large_list(pa.string()))])
    columns = [values, values, [[value] for value in values]]
    batch = pa.record_batch([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)
    agrees(batch.slice(min(start, len(values)), length))


def test_a_layout_that_is_not_known_says_so() -> None:
    """A union is not measured, at any depth; its batches are looked at as Python objects instead."""
    union = pa.sparse_union([pa.field("a", pa.int32()), pa.field("b", pa.string())])
    for kind in (union, pa.list_(union), pa.struct([("u", union)]), pa.list_(union, 2), pa.string_view()):
        assert not BatchBytes(pa.schema([("v", kind)])).measurable
