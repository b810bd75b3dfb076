"""Whether a server got its cursors back."""

from __future__ import annotations

import ducktower

from .waiting import until


def all_returned(client: ducktower.FlightClient) -> None:
    """Wait until no call runs and no cursor is leased, but for the one that commits groups."""
    until(
        lambda: client.statistics()["cursors"] <= 1 and not client.sessions(),
        "the return of every cursor",
    )
