"""How large one upload may be. Owns the count of its bytes as they come. Must never hold a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ..errors import LimitExceeded, coded_text
from .streams import chained

__all__ = ["UploadLimit"]


class UploadLimit:
    """One upload's limit. Used by the threads that read it, one at a time."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._error: LimitExceeded | None = None

    def bounded(self, reader: Any) -> Any:
        """Return what `reader` gives as a native reader that fails past the limit."""
        return chained((), reader, total_bytes_max=self._bytes_max, on_limit=self._passed)

    def _passed(self) -> str:
        self._error = LimitExceeded(f"the upload has more than {self._bytes_max} bytes, the limit of one call")
        return coded_text(self._error)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Raise the limit's own error for whatever its passing made fail within the block."""
        try:
            yield
        except Exception as error:
            if self._error is not None:
                raise self._error from error
            raise
