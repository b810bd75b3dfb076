"""A query's result as a stream fit for the wire, on a cursor that was leased for it.

Owns how a statement becomes such a stream. Must never begin or end a transaction: callers own it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..config import EngineConfig
from ..errors import coded_text
from .batch_bytes import batch_rows
from .block_cache import BlockCache
from .calls import Call
from .carried import carried
from .failures import translate_text
from .listings import hide_ledger
from .parameters import Parameters
from .row_limit import RowLimit
from .streams import Probe, Streamed, bounded

__all__ = ["stream"]


def stream(
    cursor: Any,
    statement: Any,
    parameters: Parameters,
    call: Call,
    config: EngineConfig,
    release: Callable[[], None],
    cache: BlockCache,
    *,
    whole_bytes_max: int = 0,
) -> Streamed:
    """Run a query; return its result as a native stream whose first batch is computed already.

    `release` is called once, when the result ended or was dropped, by the thread that does it. A result of up to
    `whole_bytes_max` is taken whole, and `release` is called at once.
    """
    streams = False

    def released() -> None:
        try:
            release()
        finally:
            if streams:
                cache.end()

    hide_ledger(cursor, statement.query)
    relation = cursor.sql(statement, params=parameters)
    types = relation.types
    relation = carried(relation, types)
    rows, exact = batch_rows(types, config.batch_bytes_max)
    trail = call.caller.trail

    def error_text(raw: str) -> str:
        return coded_text(translate_text(raw, call))

    probe = Probe()
    streamed = bounded(
        relation.to_arrow_reader(rows),
        exact=exact,
        batch_bytes_max=config.batch_bytes_max,
        on_release=released,
        error_text=error_text,
        rows=RowLimit(config.row_bytes_max, "a row of the result"),
        probe=probe,
        whole_bytes_max=whole_bytes_max,
        total_bytes_max=config.result_bytes_max,
        on_end=None if trail is None else trail.ended,
    )
    if streamed.rows < 0:  # else it was taken whole
        if trail is not None:
            trail.begins()
        cache.begin()
        streams = True
        call.streams(probe, config.slow_reader_seconds)
    return streamed
