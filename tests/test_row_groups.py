"""How rows become messages: whole row groups where they fit, bounded bytes where they do not, no row lost or moved."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

import ducktower
from ducktower.row_groups import MESSAGE_BYTES, messages
from ducktower.row_groups import messages_of_stream as of_stream

GROUP = 122_880
BOUND = 32 * 1024 * 1024


def narrow(rows: int, per_batch: int) -> pa.Table:
    """Return rows of 28 bytes in batches of `per_batch`."""
    table = pa.table({"id": pa.array(range(rows), pa.int64()), "text": pa.array(["0123456789abcdef"] * rows)})
    return pa.Table.from_batches(table.to_batches(per_batch))


def wide(rows: int) -> pa.Table:
    """Return rows of 10 kB."""
    return pa.table({"id": range(rows), "text": ["x" * 10_000] * rows})


@pytest.mark.parametrize("per_batch", [1_000, 65_536, 200_000, 1_000_000])
def test_whole_row_groups(per_batch: int) -> None:
    """Rows in batches of any size travel in messages of whole row groups; only the last has fewer."""
    table = narrow(500_000, per_batch)
    for sent in (list(messages(table)), list(of_stream(table.to_batches()))):
        assert all(batch.num_rows % GROUP == 0 for batch in sent[:-1])
        assert len(sent) == math.ceil(500_000 / GROUP)
        assert pa.Table.from_batches(sent).equals(table)


def test_wide_rows() -> None:
    """Rows of which a row group is too large travel in messages of about 4 MiB."""
    table = wide(3_000)
    for sent in (list(messages(table)), list(of_stream(table.to_batches(7)))):
        assert max(batch.nbytes for batch in sent) <= MESSAGE_BYTES
        assert pa.Table.from_batches(sent).equals(table)


def test_a_few_wide_rows_after_many_narrow_ones() -> None:
    """The bound holds where rows are far wider than their average."""
    table = pa.concat_tables([narrow(2_000_000, 100_000), wide(5_000)])
    for sent in (list(messages(table)), list(of_stream(table.to_batches()))):
        assert max(batch.nbytes for batch in sent) <= BOUND
        assert pa.Table.from_batches(sent).equals(table)


def test_a_row_larger_than_a_message() -> None:
    """A single row is never cut."""
    table = pa.table({"text": ["x" * (BOUND + 1), "y", "z" * (BOUND + 1)]})
    assert pa.Table.from_batches(messages(table)).equals(table)


def test_rows_without_bytes() -> None:
    """Columns of nulls have no bytes: rows are counted all the same."""
    table = pa.table({"nothing": pa.nulls(10)})
    assert [batch.num_rows for batch in messages(table)] == [10]
    assert [batch.num_rows for batch in of_stream(table.to_batches(3))] == [10]


def test_no_rows() -> None:
    """Nothing gives no message."""
    assert not list(messages(narrow(3, 3).slice(3)))
    assert not list(of_stream(batch.slice(3) for batch in narrow(3, 3).to_batches()))


def test_what_arrow_cannot_join() -> None:
    """Batches of a type that Arrow cannot join go as they are."""
    batches = [
        pa.record_batch({"either": pa.DictionaryArray.from_arrays(pa.array([0, 0]), pa.array([[value]]))})
        for value in (1, 2)
    ]
    assert [sent.num_rows for sent in messages(pa.Table.from_batches(batches))] == [2, 2]


def test_row_groups_in_the_table(client: ducktower.FlightClient) -> None:
    """What arrives in small batches is stored in whole row groups, by ingest of a table and of a reader."""
    table = narrow(300_000, 10_000)
    for name, data in (("whole", table), ("stream", table.to_reader())):
        client.ingest(name, data, mode="create")
        groups = client.query(f"SELECT DISTINCT row_group_id AS id FROM pragma_storage_info('{name}')")
        assert groups.num_rows == 3
        assert client.query(f"SELECT count(*) AS rows FROM {name}")["rows"][0].as_py() == 300_000
