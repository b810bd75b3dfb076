"""The engine: owns one DuckDB database and knows nothing of Flight."""

from .appending import Appending
from .calls import Caller
from .engine import Engine
from .words import Executed, Receipt, Target

__all__ = ["Appending", "Caller", "Engine", "Executed", "Receipt", "Target"]
