"""The engine: owns one DuckDB database and knows nothing of Flight."""

from .appending import Appending
from .calls import Caller
from .describing import Description
from .engine import Engine
from .parameters import charged_bytes
from .prepared import Prepared
from .session import Session
from .session_loads import Ingest
from .sessions import Sessions
from .words import Executed, Receipt, Target

__all__ = [
    "Appending",
    "Caller",
    "Description",
    "Engine",
    "Executed",
    "Ingest",
    "Prepared",
    "Receipt",
    "Session",
    "Sessions",
    "Target",
    "charged_bytes",
]
