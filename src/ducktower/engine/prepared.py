"""A prepared statement: parsed once, described once, run as often as its client likes.

Owns the parameters that are bound to it. Must never run anything itself: its session does, in the transaction that
is open then, so that it outlives transactions.
"""

from __future__ import annotations

import secrets
import threading
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ..errors import InvalidArgument, LimitExceeded
from . import statements, value_inserts
from .bound_values import refuse_unknown_fields
from .calls import Caller
from .describing import Description
from .parameters import Parameters, Rows, charged_bytes
from .session_runs import Ran
from .streams import in_pieces
from .words import Claim, Named

if TYPE_CHECKING:
    from .session import Session

__all__ = ["Prepared"]


class Prepared:
    """Safe from any thread, though its client is expected to bind and to run in turn."""

    def __init__(
        self, session: Session, sql: str, script: list[Any], description: Description, bound_bytes_max: int
    ) -> None:
        self.handle = secrets.token_bytes(16)
        self.sql = sql
        self._session = session
        self._script = script
        self._names = description.parameter_schema.names
        self._bound_bytes_max = bound_bytes_max
        self._insert = value_inserts.parametrised(sql) if self._names else None
        self._literals = None if self._names or not description.is_update else value_inserts.literals(sql)
        # Guarded by _lock: everything below.
        self._lock = threading.Lock()
        self._description = description
        self._bound: Rows | None = None
        self._bound_bytes = 0

    @property
    def description(self) -> Description:
        """What the statement returns and takes; bound values may have settled what was open."""
        with self._lock:
            return self._description

    @property
    def bound_bytes(self) -> int:
        """What the parameters that are bound take of the limit."""
        with self._lock:
            return self._bound_bytes

    def bind(self, table: Any) -> None:
        """Keep a pyarrow.Table of parameters for the next runs; a table without columns takes them away.

        Raises InvalidArgument when there are more or fewer than the statement has, LimitExceeded when its session
        would hold more than `bound_bytes_max`.
        """
        rows = self._rows(table)
        charged = charged_bytes(table)
        self._session.check_room_for_bound(self, charged)
        description = self.description
        if rows is not None and len(rows) and not description.settled:
            settled = self._session.redescribe(self._script, next(iter(rows)))
            description = settled._replace(parameter_schema=description.parameter_schema)
        with self._lock:
            self._bound = rows
            self._bound_bytes = charged
            self._description = description

    def query(self, caller: Caller | None = None) -> Ran:
        """Run with the bound parameters; return the result.

        Several rows of parameters run it once for each, and their results follow each other.
        """
        with self._lock:
            bound = self._bound
        if bound is None:
            self._want_parameters()
            return self._run(None, caller)
        self._check_fields(bound)
        if len(bound) == 1:
            return self._run(next(iter(bound)), caller)
        if statements.is_query(self._script[-1]):
            return self._run_for_each(bound, caller)
        return self._run(bound, caller)

    def update(self, parameters: Any = None, caller: Caller | None = None, named: Named | None = None) -> int:
        """Run with a pyarrow.Table of parameters, or the bound ones; return the changed rows, -1 when not counted.

        Many rows are all stored or none. A plain parametrised INSERT takes them as one Arrow table. What is `named`
        takes effect once.
        """
        rows = None if parameters is None else self._rows(parameters)
        if rows is None:
            with self._lock:
                rows = self._bound
        claim = self._session.claim(named, caller, self.sql, rows)
        if rows is None:
            self._want_parameters()
            return self._without_parameters(caller, claim)
        if not len(rows) and claim is None:
            return 0
        if self._insert is not None and len(self._insert.order) == rows.table.num_columns:
            stored = self._session.insert(self._insert, rows.table, caller, claim)
            if stored is not None:
                return stored
        self._check_fields(rows)
        sent: Parameters | Rows = next(iter(rows)) if len(rows) == 1 else rows
        return self._counted(sent, caller, claim)

    def close(self) -> None:
        """Forget the statement; twice is harmless."""
        self._session.close_prepared(self.handle)

    def _without_parameters(self, caller: Caller | None, claim: Claim | None) -> int:
        if self._literals is not None:
            stored = self._session.insert(*self._literals, caller, claim)
            if stored is not None:
                return stored
        return self._counted(None, caller, claim)

    def _counted(self, parameters: Parameters | Rows, caller: Caller | None, claim: Claim | None) -> int:
        ran = self._run(parameters, caller, claim)
        ran.reader.close()
        return ran.rows

    def _run(self, parameters: Parameters | Rows, caller: Caller | None, claim: Claim | None = None) -> Ran:
        return self._session.run(self._script, self.sql, parameters, caller, claim)

    def _run_for_each(self, rows: Rows, caller: Caller | None) -> Ran:
        """Run once for each row; the results follow each other, and are held in whole up to a bound."""
        bytes_max = self._session.config.returned_bytes_max
        tables = [pa.Table.from_batches([], schema=self.description.dataset_schema)]
        nbytes = 0
        for parameters in rows:
            with self._run(parameters, caller).reader as reader:
                for batch in reader:
                    nbytes += batch.nbytes
                    if nbytes > bytes_max:
                        raise LimitExceeded(f"the results for all parameters have over {bytes_max} bytes")
                    tables.append(pa.Table.from_batches([batch]))
        table = pa.concat_tables(tables[1:] or tables, promote_options="permissive")
        return Ran(table.num_rows, in_pieces(table, self._session.config.batch_bytes_max), table.nbytes)

    def _rows(self, table: Any) -> Rows | None:
        charged = charged_bytes(table)
        if charged > self._bound_bytes_max:
            raise LimitExceeded(f"the parameters have {charged} bytes, the limit is {self._bound_bytes_max}")
        if not table.num_columns and not self._names:
            return None
        return Rows(table, self._names) if table.num_columns else None

    def _check_fields(self, rows: Rows) -> None:
        refuse_unknown_fields(rows.table.schema, self.description.parameter_schema)

    def _want_parameters(self) -> None:
        if self._names:
            raise InvalidArgument(f"the statement has {len(self._names)} parameters, none are bound")
