"""The engine: owns one DuckDB database and knows nothing of Flight."""

from .calls import Caller
from .engine import Engine
from .words import Executed, Receipt, Target

__all__ = ["Caller", "Engine", "Executed", "Receipt", "Target"]
