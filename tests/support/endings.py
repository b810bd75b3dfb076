"""How a stream that fails half way tells its client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

import ducktower
from ducktower.errors import DucktowerError, from_coded_text


def fails_with(kind: type[DucktowerError], reader: Iterable[Any]) -> DucktowerError:
    """Read on until the stream fails, which it must, and return the error.

    A `pyarrow.RecordBatchReader` raises an OSError with our code in its text; a Python generator our own class.
    Either way it is one clean text.
    """

    def read_on() -> None:
        for _ in reader:
            pass

    with pytest.raises((ducktower.DucktowerError, OSError)) as caught:
        read_on()
    error = caught.value if isinstance(caught.value, DucktowerError) else from_coded_text(str(caught.value))
    assert type(error) is kind, caught.value
    assert "Traceback" not in str(caught.value)
    return error
