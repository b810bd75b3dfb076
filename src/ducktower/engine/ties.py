"""Which tables foreign keys tie together: a row that breaks one tells what is in the other table.

A row that is refused because it refers to nothing says which keys the other table has not, a row that cannot be changed
because something refers to it says which it has. Where a token may not see that table, such writes are not for it.

Owns the ties as they are now, until a table is made, dropped or altered. Must never know a statement.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..errors import Forbidden
from .parse_tree import folded

__all__ = ["Ties", "tied"]

# Foreign keys stay within a schema. The table that is referred to has an entry, too, without columns.
_KEYS = """
SELECT schema_name, table_name, referenced_table FROM duckdb_constraints()
WHERE database_name = $catalog AND constraint_type = 'FOREIGN KEY' AND len(referenced_column_names) > 0
"""


class _Tie(NamedTuple):
    schema: str
    refers: str
    referred: str


class Ties:
    """Safe from any thread; each call uses the cursor that it is given."""

    def __init__(self) -> None:
        # Found out by whoever asks first, and set as one object.
        self._known: frozenset[_Tie] | None = None
        self._version = 0

    def forget(self) -> None:
        """Say that tables were made, dropped or altered."""
        self._version += 1
        self._known = None

    def others(self, cursor: Any, catalog: str, schema: str, table: str, *, adds: bool, anew: bool) -> set[str]:
        """Return the tables of that schema of which a write to `table` may tell something.

        One that only `adds` rows meets those that it refers to, any other also those that refer to it. Within a
        transaction they are read `anew`.
        """
        known, version = self._known, self._version
        if known is None or anew:
            known = frozenset(_Tie(*map(folded, row)) for row in cursor.execute(_KEYS, {"catalog": catalog}).fetchall())
            if version == self._version and not anew:
                self._known = known
        here = folded(schema), folded(table)
        found = {tie.referred for tie in known if (tie.schema, tie.refers) == here}
        if not adds:
            found |= {tie.refers for tie in known if (tie.schema, tie.referred) == here}
        return found


def tied(label: str) -> Forbidden:
    """Return the error for a write that could tell of a table that the principal may not use; it does not name that."""
    return Forbidden(
        f'table "{label}" is tied by a foreign key to one that this token may not use, so it only reads it'
    )
