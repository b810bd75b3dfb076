"""The columns of tables that were looked up lately, until any table is made, dropped or altered.

Owns that memory. It is for inserts by position, which need the names of columns each time. Must never be asked by
a session that sees other tables than everybody does.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from ..errors import TableNotFound
from .inserts import Column, table_columns
from .leasing import Cursors
from .words import Target

__all__ = ["KnownTables"]

_TABLES_MAX = 1_024


class KnownTables:
    """Safe from any thread."""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._version = 0
        self._columns: OrderedDict[Target, list[Column]] = OrderedDict()

    def forget(self) -> None:
        """Say that a table was made, dropped or altered. What is being looked up meanwhile is not kept."""
        with self._lock:
            self._version += 1
            self._columns.clear()

    def columns(self, target: Target) -> list[Column] | None:
        """Return a table's columns, or None when it is not there."""
        with self._lock:
            known = self._columns.get(target)
            version = self._version
        if known is not None:
            return known
        try:
            with self._cursors.open("internal", "description", target.label, None) as (lease, _):
                known = table_columns(lease.cursor, self._cursors.database.catalog, target)
        except TableNotFound:
            return None
        with self._lock:
            if version == self._version:
                self._columns[target] = known
                if len(self._columns) > _TABLES_MAX:
                    self._columns.popitem(last=False)
        return known
