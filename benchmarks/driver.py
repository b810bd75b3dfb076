"""The ADBC driver, for the measurements that go through it.

Owns the one place that imports it: it brings pandas and polars with it, which would cost every process of every
measurement a second or two. Must never time connecting.
"""

from __future__ import annotations

from typing import Any

__all__ = ["driver"]


def driver(url: str) -> Any:
    """Return an autocommitting connection of the driver, to be used as a context manager."""
    import adbc_driver_flightsql.dbapi as adbc

    return adbc.connect(url, autocommit=True)
