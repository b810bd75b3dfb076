"""Native streams: batches put before, the end noticed once, errors named, batches bounded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest

import ducktower
from ducktower.engine.batch_bytes import batch_rows
from ducktower.engine.streams import bounded, chained
from ducktower.errors import coded_text, from_coded_text

SCHEMA = pa.schema([("i", pa.int64())])
BATCH_BYTES_MAX = 100_000


def numbers(start: int, count: int = 10) -> pa.RecordBatch:
    """Return a batch of consecutive numbers."""
    return pa.record_batch([pa.array(range(start, start + count), pa.int64())], schema=SCHEMA)


def stream(batches: int, fail_after: int | None = None) -> pa.RecordBatchReader:
    """Return a native stream of `batches` batches, which breaks after `fail_after` of them."""

    def make() -> Iterator[pa.RecordBatch]:
        for index in range(batches):
            if index == fail_after:
                raise pa.ArrowInvalid("the source broke")
            yield numbers(index * 10)

    return pa.RecordBatchReader.from_batches(SCHEMA, make())


class Released:
    """Counts releases."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def coded(raw: str) -> str:
    """Name the error as the engine does."""
    return coded_text(ducktower.InvalidSQL(f"named: {raw}"))


@pytest.fixture
def released() -> Released:
    """Return a counter of releases."""
    return Released()


class TestChained:
    """`chained`: batches put before a stream."""

    @pytest.mark.parametrize("ahead", [0, 1, 2, 5])
    @pytest.mark.parametrize("behind", [0, 1, 5])
    def test_nothing_is_lost_or_changed(self, ahead: int, behind: int, released: Released) -> None:
        """Whatever was read ahead comes first, then the rest, once each."""
        before = [numbers(1000 + 10 * i) for i in range(ahead)]
        table = chained(before, stream(behind), on_release=released).read_all()
        assert table.column("i").to_pylist() == [
            *range(1000, 1000 + 10 * ahead),
            *range(10 * behind),
        ]
        gc.collect()
        assert released.times == 1

    def test_a_drained_stream_is_released_once(self, released: Released) -> None:
        """Draining, closing and dropping the reader release it once in all."""
        reader = chained([numbers(0)], stream(2), on_release=released)
        reader.read_all()
        reader.close()
        del reader
        gc.collect()
        assert released.times == 1

    @pytest.mark.parametrize("read", [0, 1, 2, 3])
    def test_a_stream_dropped_half_way_is_released_once(self, read: int, released: Released) -> None:
        """Dropping the reader at any point releases what is behind it."""
        reader = chained([numbers(0), numbers(10)], stream(5), on_release=released)
        for _ in range(read):
            reader.read_next_batch()
        assert released.times == 0
        del reader
        gc.collect()
        assert released.times == 1

    def test_a_moved_stream_is_released_once(self, released: Released) -> None:
        """A consumer that imports the C struct moves it; the release still comes once, at its end."""
        moved = pa.RecordBatchReader.from_stream(chained([numbers(0)], stream(1), on_release=released))
        assert moved.read_all().num_rows == 20
        del moved
        gc.collect()
        assert released.times == 1

    def test_a_failure_is_named_and_releases_once(self, released: Released) -> None:
        """A stream that breaks after good batches gives its text the code, and its lease back."""
        reader = chained([numbers(0)], stream(5, fail_after=2), on_release=released, error_text=coded)
        for _ in range(3):
            reader.read_next_batch()
        with pytest.raises(pa.ArrowException) as failure:
            reader.read_next_batch()
        error = from_coded_text(str(failure.value))
        assert isinstance(error, ducktower.InvalidSQL)
        assert "the source broke" in error.message
        del reader, failure
        gc.collect()
        assert released.times == 1

    def test_a_naming_that_fails_leaves_the_text(self, released: Released) -> None:
        """An error while the error is named must not hide the first one."""

        def broken(raw: str) -> str:
            raise ValueError(raw)

        reader = chained([], stream(1, fail_after=0), on_release=released, error_text=broken)
        with pytest.raises(pa.ArrowException, match="the source broke"):
            reader.read_next_batch()

    def test_a_release_that_fails_is_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        """The release runs inside Arrow, where nobody could catch: it is logged and goes no further."""

        def broken() -> None:
            raise ValueError("mine")

        reader = chained([], stream(1), on_release=broken)
        reader.read_all()
        del reader
        gc.collect()
        assert "cannot clean up after a stream" in caplog.text

    def test_dictionaries_structs_and_nulls_survive(self, released: Released) -> None:
        """Batches read ahead keep dictionaries, children and validity when they are handed over."""
        schema = pa.schema(
            [
                ("e", pa.dictionary(pa.int8(), pa.string())),
                ("s", pa.struct([("a", pa.int32()), ("l", pa.list_(pa.string()))])),
            ]
        )
        rows = [
            {"e": "x", "s": {"a": 1, "l": ["p", None]}},
            {"e": None, "s": None},
            {"e": "y", "s": {"a": None, "l": []}},
        ]
        batch = pa.RecordBatch.from_pylist(rows, schema=schema)
        rest = pa.RecordBatchReader.from_batches(schema, iter([batch.slice(1), batch]))
        table = chained([batch, batch.slice(2)], rest, on_release=released).read_all()
        assert table.to_pylist() == [*rows, *rows[2:], *rows[1:], *rows]


class TestBounded:
    """`bounded`: a result fit for the wire."""

    def bounded(self, reader: Any, released: Released, *, exact: bool = True) -> Any:
        return bounded(
            reader, exact=exact, batch_bytes_max=BATCH_BYTES_MAX, on_release=released, error_text=coded
        ).reader

    @pytest.mark.parametrize("batches", [0, 1])
    def test_a_short_result_holds_nothing(self, batches: int, released: Released) -> None:
        """A result of one batch is released before the consumer takes it: a slow client holds no cursor."""
        reader = self.bounded(stream(batches), released)
        assert released.times == 1
        assert reader.schema == SCHEMA
        assert reader.read_all().num_rows == 10 * batches
        del reader
        gc.collect()
        assert released.times == 1

    def test_a_long_result_is_released_at_its_end(self, released: Released) -> None:
        """Until then its lease is out."""
        reader = self.bounded(stream(5), released)
        assert released.times == 0
        assert reader.read_all().column("i").to_pylist() == list(range(50))
        del reader
        gc.collect()
        assert released.times == 1

    @pytest.mark.parametrize("batches", [1, 2, 4])
    def test_wide_batches_are_cut(self, batches: int, released: Released) -> None:
        """A batch over the limit is cut into pieces below it, and no row is lost or moved."""
        wide = pa.schema([("i", pa.int64()), ("v", pa.string())])

        def make() -> Iterator[pa.RecordBatch]:
            for start in range(0, batches * 1000, 1000):
                rows = range(start, start + 1000)
                yield pa.record_batch([pa.array(rows, pa.int64()), pa.array(["x" * 900 for _ in rows])], schema=wide)

        reader = self.bounded(pa.RecordBatchReader.from_batches(wide, make()), released, exact=False)
        got = list(reader)
        assert max(batch.nbytes for batch in got) <= BATCH_BYTES_MAX
        assert [i for batch in got for i in batch.column("i").to_pylist()] == list(range(batches * 1000))
        del reader, got
        gc.collect()
        assert released.times == 1

    def test_rows_that_grow_wide_later_are_cut_too(self, released: Released) -> None:
        """The limit holds for every batch, not only for those like the first."""
        wide = pa.schema([("v", pa.string())])

        def make() -> Iterator[pa.RecordBatch]:
            for width in (1, 1, 1, 1000, 1000):
                yield pa.record_batch([pa.array(["x" * width] * 1000)], schema=wide)

        reader = self.bounded(pa.RecordBatchReader.from_batches(wide, make()), released, exact=False)
        assert max(batch.nbytes for batch in reader) <= BATCH_BYTES_MAX

    @pytest.mark.parametrize("fail_after", [0, 1])
    def test_a_failure_within_the_first_batches_is_raised(self, fail_after: int, released: Released) -> None:
        """What fails before anything was sent is raised by the call itself."""
        with pytest.raises(pa.ArrowException, match="the source broke"):
            self.bounded(stream(5, fail_after=fail_after), released)
        assert released.times == 0

    @pytest.mark.parametrize("width", [1, 900])
    def test_a_failure_in_the_stream_is_named(self, width: int, released: Released) -> None:
        """Also where batches are cut in Python, a later failure carries the code."""
        wide = pa.schema([("v", pa.string())])

        def make() -> Iterator[pa.RecordBatch]:
            for _ in range(4):
                yield pa.record_batch([pa.array(["x" * width] * 1000)], schema=wide)
            raise pa.ArrowInvalid("the source broke")

        reader = self.bounded(pa.RecordBatchReader.from_batches(wide, make()), released, exact=False)
        with pytest.raises(pa.ArrowException) as failure:
            reader.read_all()
        assert isinstance(from_coded_text(str(failure.value)), ducktower.InvalidSQL)
        del reader, failure
        gc.collect()
        assert released.times == 1


def test_rows_of_a_batch_follow_the_width() -> None:
    """Fixed widths give an exact number of rows, others a small one that is not sure to fit."""
    import duckdb

    def rows(*types: str) -> tuple[int, bool]:
        return batch_rows([duckdb.type(kind) for kind in types], 3 * 1024 * 1024)

    assert rows("BIGINT") == (65_536, True)
    assert rows(*["HUGEINT"] * 100) == (3 * 1024 * 1024 * 8 // (100 * (128 + 1)), True)
    assert rows("BIGINT", "VARCHAR")[0] < 65_536
    assert rows("BIGINT", "VARCHAR")[1] is False
    assert rows("INTEGER[]")[1] is False
    assert rows("STRUCT(a INTEGER)")[1] is False
