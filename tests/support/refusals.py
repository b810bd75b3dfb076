"""Whether a call was refused for want of rights, however the client was told."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa
import pyarrow.flight as flight

import ducktower

__all__ = ["forbidden", "is_known"]


def forbidden(call: Callable[..., object], *arguments: object) -> bool:
    """Whether a call is FORBIDDEN; any other failure is raised on.

    The code is looked for in the text: pyarrow has no class for it in every call (GetSchema's errors are of none).
    """
    try:
        call(*arguments)
    except ducktower.Forbidden:
        return True
    except (flight.FlightError, pa.ArrowException) as error:
        if "[FORBIDDEN] " in str(error):
            return True
        raise
    return False


def is_known(client: ducktower.FlightClient) -> bool:
    """Whether the server has noticed the client's token, which may be a new one."""
    try:
        client.health()
    except ducktower.Unauthenticated:
        return False
    return True
