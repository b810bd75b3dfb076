"""Who calls, and in which role.

Owns the three roles, in their order, and the error for what a role may not do. Must never know statements, tables or
the wire: `guard` decides about statements, `patterns` about tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import Forbidden, InvalidArgument

__all__ = ["LOCAL", "ROLES", "Principal", "Role"]

Role = Literal["reader", "writer", "owner"]
ROLES: tuple[Role, ...] = get_args(Role)
_RANK = {role: rank for rank, role in enumerate(ROLES)}
_WHO = {"writer": "a writer or an owner", "owner": "an owner"}


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who calls. `tables` are shell-style patterns, "table" or "schema.table"; none means every table."""

    name: str = ""
    """Empty: this machine's user, served openly."""
    role: Role = "owner"
    tables: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise InvalidArgument(f"role {self.role!r} is none of {', '.join(ROLES)}")
        # One text is one pattern, not as many as it has characters; a list would have no hash.
        object.__setattr__(self, "tables", (self.tables,) if isinstance(self.tables, str) else tuple(self.tables))
        if not all(self.tables):
            raise InvalidArgument("a pattern of tables needs at least one character")

    @property
    def limited(self) -> bool:
        """Whether there are tables that this principal does not see."""
        return bool(self.tables)

    @property
    def only_reads(self) -> bool:
        """Whether the principal's statements run in transactions that only read."""
        return self.role == "reader"

    def oversees(self, other: Principal) -> bool:
        """Whether the principal may see and end what `other` runs: its own, and an owner of all tables everybody's.

        A call's text has names and values of the tables that it is about.
        """
        return self.name == other.name or (self.role == "owner" and not self.limited)

    def may(self, role: Role) -> bool:
        """Whether the principal has that role or a higher one."""
        return _RANK[self.role] >= _RANK[role]

    def require(self, role: Role, what: str) -> None:
        """Raise Forbidden, saying what is not allowed and who may, unless the principal has that role or a higher."""
        if _RANK[self.role] < _RANK[role]:
            raise Forbidden(f"a {self.role} may not {what}; {_WHO[role]} may")


LOCAL = Principal()
"""Who calls within this process, and everybody on a server that is open on purpose."""
