"""The engine: owns one DuckDB database and knows nothing of Flight."""

from .access import LOCAL, Principal, Role
from .appending import Appending
from .calls import Caller
from .checks import Check
from .describing import Description
from .engine import Engine
from .parameters import charged_bytes
from .prepared import Prepared
from .session import Session
from .session_loads import Ingest
from .sessions import Sessions
from .trail import Trail
from .words import Executed, Named, Receipt, Target

__all__ = [
    "LOCAL",
    "Appending",
    "Caller",
    "Check",
    "Description",
    "Engine",
    "Executed",
    "Ingest",
    "Named",
    "Prepared",
    "Principal",
    "Receipt",
    "Role",
    "Session",
    "Sessions",
    "Target",
    "Trail",
    "charged_bytes",
]
