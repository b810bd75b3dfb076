"""Millions of rows in and out, beside the peers.

Owns the sizes and what is wanted. Must never time the making of the rows.
"""

from __future__ import annotations

from ..figures import Bench, Figure
from ..load import Load
from .versus import Versus, compare

__all__ = ["peer_bulk"]

TARGET = 4.0  # times Quack
LARGEST_OF_XORQ = 1_000_000  # it appends in each round, and holds all that is uploaded or read


def peer_bulk(bench: Bench) -> list[Figure]:
    """Store lineitem-shaped rows in a new table from memory, and read them whole into an Arrow table."""
    figures: list[Figure] = []
    largest = max(bench.scale.lineitem_rows)
    for rows in bench.scale.lineitem_rows:
        # In this order in each round: what is read is what was stored just before.
        of_each = {"table": f"lineitem_{rows}", "shape": "lineitem", "rows": rows, "clients": 1}
        write = Load(kind="write", seconds=0.001, **of_each)  # type: ignore[arg-type]
        read = Load(kind="read", seconds=bench.scale.seconds / 3, **of_each)  # type: ignore[arg-type]
        lines = [
            Versus(load, peer, TARGET if peer == "quack" and rows == largest else None)
            for load in (write, read)
            for peer in ("quack", "xorq", "postgres")
            if peer != "xorq" or rows <= LARGEST_OF_XORQ
        ]
        figures += compare(bench, f"bulk_{rows}", lines, title=f"{rows:,} rows x 16 columns, ", plot=_plot)
    return figures


def _plot(load: Load) -> tuple[str, float]:
    return f"{'bulk read' if load.kind == 'read' else 'bulk write'} of 16 columns: rows", load.rows
