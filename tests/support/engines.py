"""An engine on a real file, without a server, and its sessions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from ducktower.config import EngineConfig
from ducktower.engine import Engine, Session

__all__ = ["batches", "opened", "rows"]


@contextmanager
def opened(database: Path, **settings: Any) -> Iterator[Engine]:
    """Open an engine for the time of a block."""
    engine = Engine(EngineConfig(database=str(database), **settings))
    try:
        yield engine
    finally:
        engine.close(5)


def rows(session: Session, sql: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """Ask, and return the rows as Python values."""
    with session.query(sql, parameters).reader as reader:
        table = reader.read_all()
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def batches(count: int, rows_each: int = 1_000) -> Any:
    """Return a reader of `count` batches: i BIGINT counting up, v VARCHAR."""
    schema = pa.schema([("i", pa.int64()), ("v", pa.string())])

    def make() -> Iterator[Any]:
        for number in range(count):
            values = range(number * rows_each, (number + 1) * rows_each)
            yield pa.record_batch([pa.array(values, pa.int64()), pa.array([f"v{i}" for i in values])], schema=schema)

    return pa.RecordBatchReader.from_batches(schema, make())
