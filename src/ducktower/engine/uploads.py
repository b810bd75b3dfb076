"""How large one upload may be, and one row of it. Owns the count of its bytes as they come. Must never hold a batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from ..config import EngineConfig
from ..errors import LimitExceeded, coded_text
from .row_limit import RowLimit
from .streams import chained

__all__ = ["UploadLimit"]


class UploadLimit:
    """One upload's limits. Used by the threads that read it, one at a time."""

    def __init__(self, config: EngineConfig) -> None:
        self._bytes_max = config.upload_bytes_max
        self._rows = RowLimit(config.row_bytes_max, "a row of the upload")
        self._error: LimitExceeded | None = None

    def bounded(self, reader: Any) -> Any:
        """Return what `reader` gives as a native reader that fails past the limit of the whole."""
        if self._bytes_max is None:
            return reader
        return chained((), reader, total_bytes_max=self._bytes_max, on_limit=self._passed)

    def rows(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches; raise LimitExceeded at one with a row past the limit of a row."""
        for batch in batches:
            try:
                self._rows.check(batch)
            except LimitExceeded as error:
                self._error = error  # who pulls may lose its class
                raise
            yield batch

    def _passed(self) -> str:
        self._error = LimitExceeded(f"the upload has more than {self._bytes_max} bytes, the limit of one call")
        return coded_text(self._error)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Raise the limits' own error for whatever their passing made fail within the block."""
        try:
            yield
        except Exception as error:
            if self._error is not None and error is not self._error:
                raise self._error from error
            raise
