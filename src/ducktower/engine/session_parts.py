"""What sessions need of the engine, handed to them in one piece. Owns no behaviour."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..config import EngineConfig
from .calls import Caller
from .describing import Describer
from .guard import Guard
from .known_tables import KnownTables
from .leasing import Cursors
from .scripts import Scripts
from .words import Claim, Receipt, Target

__all__ = ["Parts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The engine's parts, as sessions use them."""

    config: EngineConfig
    catalog: str
    cursors: Cursors
    guard: Guard
    scripts: Scripts
    describer: Describer
    known_tables: KnownTables
    put: Callable[[Target, Any, Caller | None, Claim | None], Receipt]
    """Store rows durably, through the commit queue when they are few; with a claim once."""
    committed: Callable[[], object]
    """Count a commit."""
    was_read: Callable[[], object]
    """Count a query."""
    tables_changed: Callable[[], None]
    """Say that tables were made, dropped or altered."""
