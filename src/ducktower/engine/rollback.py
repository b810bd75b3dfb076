"""ROLLBACK that is known to have taken place.

To DuckDB it is a statement like others: it can find no memory, and an interrupt can hit it. Then the transaction is
still open, and what the cursor runs next becomes a part of it: a statement that should have been its own transaction is
never committed, and sees rows that nobody stored (docs/decisions, rollbacks that fail).

Owns how often it is tried. Must never be asked while another thread uses the cursor.
"""

from __future__ import annotations

from typing import Any

import duckdb

__all__ = ["rolled_back"]

_TRIES = 100


def rolled_back(cursor: Any) -> bool:
    """Roll back what is open, if anything is. False when DuckDB would not: only to close the cursor does it then."""
    for _ in range(_TRIES):
        try:
            cursor.execute("ROLLBACK")
        except duckdb.TransactionException:
            return True  # nothing was open
        except duckdb.Error:
            continue  # a call that is to end is interrupted again and again, and memory becomes free
        return True
    return False
